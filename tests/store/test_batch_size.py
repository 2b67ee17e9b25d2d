"""How many samples are run at once where the settings leave that open."""

from __future__ import annotations

import json

import pytest
import torch

from auditor.base.errors import Stop
from auditor.base.reporter import Control, EventReporter, Reporter
from auditor.data import Sample, open_samples, text_sample
from auditor.store import batch_size
from auditor.store.batch_size import fastest, settled
from auditor.store.layout import UNFINISHED
from auditor.store.plan import plan
from auditor.store.recipe import checked_samples, cut
from auditor.store.record import RecordConfig, Recording, record
from tests.store.test_inputs import pictures

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


def test_that_what_fails_at_a_larger_size_alone_ends_the_trial() -> None:
    def limited(size: int) -> tuple[int, float]:  # as page-locked memory, or a kernel that counts in 32 bits
        if size > 32:
            raise RuntimeError("CUDA error: invalid argument")
        return size, 0.01

    assert fastest(SIZES, limited) == 32
    with pytest.raises(RuntimeError, match="invalid argument"):
        fastest([64, 128], limited)


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


@pytest.fixture
def offered(monkeypatch):
    """The sizes that are to be tried, of which the last one is taken."""
    found = list[int]()

    def last(sizes, tried):
        found.extend(sizes)
        return found[-1] if found else 16

    monkeypatch.setattr(batch_size, "_TRIED", ("cpu",))
    monkeypatch.setattr(batch_size, "fastest", last)
    return found


def test_that_no_batch_is_tried_which_has_most_of_the_positions_that_are_asked_for(tiny_llama, texts, offered) -> None:
    many = texts * 4  # of 600 an eighth is 75
    assert settled(config(), tiny_llama, many, [], Reporter()).batch_size == 64
    assert settled(config(max_tokens=40 * 256), tiny_llama, many, [], Reporter()).batch_size == 32
    offered.clear()
    assert settled(config(max_tokens=500), tiny_llama, many, [], Reporter()).batch_size == 16 and not offered


def test_that_packed_texts_are_counted_in_sequences(tiny_llama, offered) -> None:
    short = [text_sample("the cat sat", f"t{number}") for number in range(2400)]
    packed = Recording.of(config(pack=True), tiny_llama, short)
    assert offered == [16] and packed.config.batch_size == 16  # an eighth of the texts are 300
    assert 8 <= len(packed.batches) < 16 and max(map(len, packed.batches)) >= 8 * 16


def test_that_the_trial_of_a_plan_passes_over_what_cannot_be_read(tiny_paired, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(batch_size, "_TRIED", ("cpu",))
    monkeypatch.setattr(batch_size, "_TURNS", 1)
    hooks = ("vision.blocks.0.resid_post",)
    some = open_samples(pictures(tmp_path / "some", broken=4, fine=20))
    assert plan(config(hooks=hooks), tiny_paired, some, tmp_path).batch_size == 16
    none = open_samples(pictures(tmp_path / "none", broken=16, fine=0))
    assert batch_size._tried(config(batch_size=16), tiny_paired, none, list(hooks), Reporter()) == (0, 0.0)
    assert fastest(SIZES, lambda size: (0, 0.0)) == 16


def test_that_the_longest_text_of_all_is_among_what_is_tried(tiny_llama, monkeypatch) -> None:
    samples = [Sample(f"s{n}", text="a cat" if n != 150 else "a cat " * 18) for n in range(200)]
    monkeypatch.setattr(batch_size, "WINDOW_BATCHES", 1)
    pieces = cut(checked_samples(samples, tiny_llama, config()), tiny_llama, config(split_long=True))
    seen, real = [], batch_size.encode

    def encode(model, batch, settings):
        seen.append({sample.id for sample in batch})
        return real(model, batch, settings)

    monkeypatch.setattr(batch_size, "encode", encode)
    batch_size._tried(config(batch_size=4), tiny_llama, pieces, ["blocks.0.resid_post"], Reporter())
    assert len(seen) == 3 and "s150" in seen[0] and not any("s150" in ids for ids in seen[1:])
