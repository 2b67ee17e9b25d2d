"""Batches gathered into given memory are those of a store; what sends them to a GPU is tested in tests/gpu."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.store import StoredSample, StoreWriter
from auditor.store.layout import MANIFEST


@pytest.fixture(scope="module", params=["float16", "float32"])
def store(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("feed") / "a.store"
    with StoreWriter(folder, {"a": 40, "b": 24}, {}, request.param, shard_bytes=60_000) as writer:
        for number in range(12):
            n = 150 + number
            columns = {"sample": np.zeros(n, int), "unit": np.arange(n), "kind": rng.choice([1, 2, 3], n),
                       "token": np.ones(n)}  # fmt: skip
            rows = {"a": rng.standard_normal((n, 40)), "b": rng.standard_normal((n, 24))}
            writer.append([StoredSample(f"s{number}")], rows, **columns)
        made = writer.finish()
    assert (folder / MANIFEST).exists()
    return made


@pytest.mark.parametrize("hook", ["a", ["b", "a"]])
def test_that_batches_in_given_memory_are_the_store_s(store, hook, monkeypatch):
    monkeypatch.setattr("auditor.store.shuffle.WINDOW_BYTES", 20_000)  # batches span windows
    slots = [np.empty((64, 64 if isinstance(hook, list) else 40), store.dtype) for _ in range(3)]
    asked = []

    def room(shape, dtype):
        assert shape == slots[0].shape and dtype == slots[0].dtype
        asked.append(len(asked))
        return slots[asked[-1] % 3]

    for start in (0, 5):
        asked.clear()
        plain = store.batches(64, seed=3, hook=hook, start=start)
        for number, batch in zip(range(40), store.batches(64, seed=3, hook=hook, start=start, room=room), strict=False):
            assert np.shares_memory(batch, slots[number % 3])
            np.testing.assert_array_equal(batch.astype(np.float32), next(plain))
    whole = [batch.copy() for batch in store.batches(64, hook=hook, epochs=1, room=room)]
    assert sum(map(len, whole)) == store.n_batch_rows() and len(whole[-1]) < 64
