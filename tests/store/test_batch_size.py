"""How many samples are run at once where the settings leave that open."""

from __future__ import annotations

import json

import pytest
import torch

from auditor.base.errors import Stop
from auditor.base.reporter import Control, EventReporter, Reporter
from auditor.store import batch_size
from auditor.store.batch_size import fastest, settled
from auditor.store.layout import UNFINISHED
from auditor.store.plan import plan
from auditor.store.record import RecordConfig, Recording, record

SIZES = [16, 32, 64, 128, 256]


def config(**changes):
    return RecordConfig(**{"model": "tiny", "samples": "texts", "context": 40, "split_long": False} | changes)


def test_that_batches_grow_while_the_rate_grows_and_not_beyond() -> None:
    tried = []

    def small(size: int) -> tuple[int, float]:  # a network that takes 20 ms to call, and then .1 ms a sample
        tried.append(size)
        return size, 0.020 + 0.0001 * size

    assert fastest(SIZES, small) == 256  # from 3,902 to 5,614 a second at the last step
    assert tried == SIZES
    tried.clear()
    assert fastest(SIZES, lambda size: (size, max(small(size)[1], size / 4000))) == 128 and tried == SIZES
    assert fastest(SIZES, lambda size: (size, size / 1000)) == 16


def test_that_a_batch_of_a_second_is_large_enough() -> None:
    tried = []

    def slow(size: int) -> tuple[int, float]:  # weights that come from main memory for each batch
        tried.append(size)
        return size, 0.9 + 0.002 * size

    assert fastest(SIZES, slow) == 64 and tried == [16, 32, 64]


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize(("fits", "found"), [(8, 16), (16, 16), (64, 64)])
def test_that_the_last_size_that_fits_into_the_memory_is_taken(error, fits, found) -> None:
    def trial(size: int) -> tuple[int, float]:
        if size > fits:
            raise error
        return size, 0.01

    assert fastest(SIZES, trial) == found


def test_that_a_size_that_was_chosen_and_that_of_a_cpu_need_no_trial(tiny_llama, texts, monkeypatch) -> None:
    monkeypatch.setattr(batch_size, "launch", None)
    assert settled(config(batch_size=5), tiny_llama, texts, [], Reporter()).batch_size == 5
    assert settled(config(), tiny_llama, texts, [], Reporter()).batch_size == 16
    assert Recording.of(config(), tiny_llama, texts).config.batch_size == 16
    assert len(Recording.of(config(), tiny_llama, texts).batches[0]) == 16


def test_that_a_plan_a_recording_and_its_store_have_the_size_that_was_tried(
    tiny_llama, texts, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(batch_size, "_TRIED", ("cpu",))
    monkeypatch.setattr(batch_size, "_TURNS", 1)
    monkeypatch.setattr(batch_size, "USUAL", 4)
    seen = []

    def rated(sizes, tried):
        seen.extend((size, *tried(size)) for size in sizes)
        return 8

    monkeypatch.setattr(batch_size, "fastest", rated)
    estimate = plan(config(), tiny_llama, texts, tmp_path)
    sizes, positions, seconds = zip(*seen, strict=True)
    assert estimate.batch_size == 8
    assert list(sizes) == [4 << n for n in range(len(sizes))] and sizes[-1] <= len(texts) < 2 * sizes[-1]
    assert min(positions) > 16 and min(seconds) > 0
    store = record(config(), tiny_llama, texts, tmp_path / "a.store")
    assert store.meta["config"]["batch_size"] == 8
    assert store.digest == record(config(batch_size=8), tiny_llama, texts, tmp_path / "b.store").digest


def test_that_an_interrupted_recording_goes_on_with_the_size_it_was_begun_with(tiny_llama, texts, tmp_path) -> None:
    whole = record(config(batch_size=3), tiny_llama, texts, tmp_path / "whole.store")

    class Stopped(EventReporter):
        def metric(self, step, **values):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(config(batch_size=3), tiny_llama, texts, tmp_path / "a.store", Stopped(lambda event: None))
    assert (tmp_path / "a.store" / UNFINISHED).exists()
    told = json.loads((tmp_path / "a.store" / UNFINISHED).read_text("utf-8"))
    assert told["meta"]["config"]["batch_size"] == 3
    assert record(config(), tiny_llama, texts, tmp_path / "a.store").digest == whole.digest


def test_that_a_trial_can_be_cancelled(tiny_llama, texts, monkeypatch) -> None:
    monkeypatch.setattr(batch_size, "_TRIED", ("cpu",))
    monkeypatch.setattr(batch_size, "_TURNS", 1)
    control = Control()
    control.cancel()
    with pytest.raises(Stop):
        settled(config(), tiny_llama, texts, ["blocks.0.resid_post"], EventReporter(lambda event: None, control))
