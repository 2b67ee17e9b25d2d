"""Stores of several models over the same samples, read as one."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import StoredSample, StoreWriter
from auditor.store.joined import in_all, joined

META = {"model": {"name": "m", "digest": "0" * 64}, "samples": {"name": "s", "digest": "1" * 64, "count": 40}}


def written(path, width, number, *, dtype="float16", samples=40, shift=0, ids="s", shard_bytes=3000):
    """A store whose rows start with their own number, and hold `number` and then noise."""
    rng = np.random.default_rng(number)
    hooks = {"blocks.1.resid_post": width, "other": 3}
    with StoreWriter(path, hooks, META, dtype=dtype, shard_bytes=shard_bytes) as writer:
        for sample in range(samples):
            held = [StoredSample(f"{ids}{sample}", text=f"text {sample}", tokens=[f"t{i}" for i in range(6)])]
            rows = rng.standard_normal((6, width)).astype(np.float32)
            rows[:, 0], rows[:, 1] = np.arange(6) + 6 * sample, number
            units = np.arange(6)
            columns = {"sample": np.zeros(6), "unit": units, "kind": np.where(units == 0, 3, 1), "token": units + shift}
            named = {"blocks.1.resid_post": rows, "other": rows[:, :3]}
            writer.append(held, named, **{name: column.astype(np.int64) for name, column in columns.items()})
        return writer.finish()


def test_that_rows_of_all_stores_come_side_by_side_and_belong_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.shuffle.BLOCK_BYTES", 300)
    monkeypatch.setattr("auditor.store.shuffle.WINDOW_BYTES", 3000)
    stores = [written(tmp_path / "base.store", 5, 7), written(tmp_path / "tuned.store", 9, 8, dtype="float32")]
    both = joined(stores)
    shards = [len(list(store.path.glob("*.h5"))) for store in stores]
    assert 1 < shards[0] < shards[1] and stores[0].samples_digest != stores[1].samples_digest
    hooks = ["base/blocks.1.resid_post", "tuned/blocks.1.resid_post"]
    assert in_all(both.hook_points, "blocks.1.resid_post") == ", ".join(hooks)
    several = in_all(both.hook_points, "tuned/other, blocks.1.resid_post, none")
    assert several == ", ".join(["tuned/other", *hooks, "none"])
    assert both.hook_points == {hooks[0]: 5, "base/other": 3, hooks[1]: 9, "tuned/other": 3}
    assert both.dtype == "float32" and both.counts() == stores[0].counts() and both.complete
    assert both.sample(3).id == "s3" and both.sample_of(20).id == "s3"
    picks = np.random.default_rng().integers(0, 240, 50)
    for store, hook in zip(stores, hooks, strict=True):
        for index in (slice(None), slice(33, 99), picks):
            np.testing.assert_array_equal(both.rows(index, hook), store.rows(index, "blocks.1.resid_post"))
    seen = np.concatenate(list(both.batches(16, seed=2, hook=hooks, epochs=1)))
    assert seen.shape == (200, 14)
    np.testing.assert_array_equal(seen[:, 0], seen[:, 5])  # the same row of both
    assert set(seen[:, 1]) == {7} and set(seen[:, 6]) == {8}
    assert sorted(seen[:, 0]) == [n for n in range(240) if n % 6]
    later = list(islice(both.batches(16, seed=2, hook=hooks, start=5), 3))
    np.testing.assert_array_equal(np.concatenate(later), seen[80:128])


def test_that_the_digest_names_all_stores_in_order_and_equal_names_are_told_apart(tmp_path) -> None:
    (tmp_path / "x").mkdir()
    one, two = written(tmp_path / "a.store", 5, 1), written(tmp_path / "x/a.store", 5, 2)
    assert one.samples_digest == two.samples_digest
    assert len({joined(pair).digest for pair in ([one, two], [two, one], [one, one])}) == 3
    assert list(joined([one, two]).hook_points)[::2] == ["a/blocks.1.resid_post", "a#2/blocks.1.resid_post"]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"samples": 39}, "240 rows of 40 samples and 234 of 39"),
        ({"shift": 1}, r"different positions from row 0 on \(token\)"),
        ({"ids": "z"}, "number 0 is s0 and z0"),
    ],
)
def test_that_stores_of_other_samples_or_positions_are_refused(tmp_path, other, told) -> None:
    one, two = written(tmp_path / "a.store", 5, 1), written(tmp_path / "b.store", 5, 1, **other)
    with pytest.raises(AuditorError, match=told):
        joined([one, two])
