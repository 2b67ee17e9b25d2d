"""Where it is known how many rows will come, several hook points lie side by side without holes from the start."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.base.errors import Stop
from auditor.data import ImageRef, Sample
from auditor.store import open_store
from auditor.store.open_shard import OpenShard
from auditor.store.record import Recording, record
from auditor.store.replay import replay
from tests.store.test_drawn import Stops
from tests.store.test_record import config as config_of

HOOKS = ("blocks.0.resid_post", "blocks.1.resid_post", "blocks.1.q")


def config(**changes):
    return config_of(**{"hooks": HOOKS, "split_long": True, "context": 24} | changes)


@pytest.fixture
def copied(monkeypatch) -> list[str]:
    """Shards that were written anew without holes."""
    names, copy = list[str](), OpenShard._copy
    monkeypatch.setattr(OpenShard, "_copy", lambda shard, *rest: names.append(shard.name) or copy(shard, *rest))
    return names


@pytest.mark.parametrize(
    "changes", [{}, {"pack": True}, {"max_tokens": 900}, {"split_long": False, "pack": True}, {"context": 64}]
)
def test_that_as_many_rows_come_as_are_expected(changes, tiny_llama, texts, copied, tmp_path) -> None:
    settings = config(**changes)
    recording = Recording.of(settings, tiny_llama, texts[:60])
    store = record(settings, tiny_llama, texts[:60], tmp_path / "a.store")
    assert recording._rows_of(recording.batches) == store.n_rows and copied == []
    assert [shard.file for shard in store.manifest.shards] == ["shard-00000.h5"]
    store.check()


def test_that_a_recording_of_several_shards_goes_on_to_the_same_bytes(
    tiny_llama, texts, copied, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("auditor.store.writer.SHARD_BYTES", 6_000_000)
    straight = record(config(), tiny_llama, texts, tmp_path / "a.store")
    assert len(straight.manifest.shards) > 1 and copied == []
    with pytest.raises(Stop):
        record(config(), tiny_llama, texts, tmp_path / "b.store", Stops())
    assert 0 < open_store(tmp_path / "b.store").n_rows < straight.n_rows
    assert record(config(), tiny_llama, texts, tmp_path / "b.store").digest == straight.digest
    assert replay(straight, tiny_llama, texts, 3).equal
    behind = record(config(seed=1), tiny_llama, texts[:40], tmp_path / "c.store", base=straight)
    assert behind.n_rows > straight.n_rows and copied == []


@pytest.mark.parametrize("told", [40, 700, 10**6])
def test_that_a_wrong_expectation_costs_nothing_but_holes(told, tiny_llama, texts, tmp_path, monkeypatch) -> None:
    wanted = record(config(), tiny_llama, texts[:60], tmp_path / "a.store")
    monkeypatch.setattr(Recording, "_rows_of", lambda recording, batches: told)
    store = record(config(), tiny_llama, texts[:60], tmp_path / "b.store")
    assert len(store.manifest.shards) <= 3 and store.n_rows == wanted.n_rows
    for hook in HOOKS:
        np.testing.assert_array_equal(store.rows(slice(None), hook), wanted.rows(slice(None), hook))
    store.check()


def test_that_nothing_is_expected_of_samples_whose_rows_are_not_counted(tiny_paired, texts) -> None:
    picture = Sample("picture", text="the cat", image=ImageRef.of(np.zeros((32, 32, 3), np.uint8)))
    hooks = ("blocks.0.resid_post", "blocks.0.mlp_out")
    for samples, asked in (([*texts[:5], picture], hooks), ([picture], ("vision.blocks.0.resid_post",))):
        recording = Recording.of(config(hooks=asked, context=40), tiny_paired, samples)
        assert recording._rows_of(recording.batches) is None
