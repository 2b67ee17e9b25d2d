"""Writing rows into a store and reading them back: every row, every batch, every sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import Store, StoredSample, StoreWriter

WIDTH = 24
HOOKS = {"blocks.1.resid_post": WIDTH, "vision.embed": 7}
META = {"model": {"name": "m", "digest": "0" * 64}, "config": {"seed": 3}}


def append_batch(writer: StoreWriter, number: int, count: int = 40) -> dict[str, np.ndarray]:
    """Batch `number`: a text whose first position is special, and an image; every row tells its own number."""
    rng = np.random.default_rng(number)
    half = count // 2
    columns = {
        "sample": np.repeat([0, 1], [half, count - half]),
        "unit": np.concatenate([np.arange(half), np.arange(count - half)]),
        "kind": np.concatenate([[3], np.full(half - 1, 1), np.full(count - half, 2)]),
        "token": np.concatenate([np.arange(half) + 1000 * number, np.full(count - half, -1)]),
    }
    rows = {hook: rng.normal(size=(count, width)).astype(np.float32) for hook, width in HOOKS.items()}
    text = StoredSample(f"t{number}", text=f"text {number} é", tokens=[f" w{i}" for i in range(half)])
    image = StoredSample(f"i{number}", "g", caption="a cat", image=b"WEBP%d" % number, grid=(4, 5), labels={"a": "b"})
    writer.append([text, image], rows, **columns)
    return rows | columns


@pytest.fixture
def store(tmp_path: Path) -> tuple[Store, list[dict[str, np.ndarray]]]:
    with StoreWriter(tmp_path / "a.store", HOOKS, META, shard_bytes=10_000) as writer:
        batches = [append_batch(writer, number) for number in range(30)]
        return writer.finish(), batches


def whole(batches: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([batch[name] for batch in batches])


def test_that_rows_come_back_as_written(store) -> None:
    opened, batches = store
    assert opened.complete and opened.n_rows == 1200 and opened.n_samples == 60
    assert len(list(opened.path.glob("shard-*.h5"))) > 5
    picks = np.random.default_rng(0).integers(0, 1200, 300)
    mask = np.zeros(1200, dtype=bool)
    mask[picks] = True
    for hook in HOOKS:
        wanted = whole(batches, hook).astype(np.float16).astype(np.float32)
        for index in (slice(None), slice(55, 777), slice(3, 1100, 7), slice(-5, None), picks, mask, [-1, 0], []):
            numbers = np.array(index, dtype=int) if isinstance(index, list) else index
            got = opened.rows(index, hook)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, wanted[numbers])
    for name in ("unit", "kind", "token"):
        np.testing.assert_array_equal(getattr(opened.positions(), name), whole(batches, name))
    np.testing.assert_array_equal(opened.positions(slice(70, 90)).sample, [3] * 10 + [4] * 10)
    with pytest.raises(IndexError):
        opened.rows([1200], "vision.embed")
    with pytest.raises(AuditorError, match="several hook points"):
        opened.rows([0])


def test_that_every_row_leads_to_its_sample_and_token(store) -> None:
    opened, _ = store
    for number in range(60):
        sample = opened.sample(number)
        where = opened.positions(slice(sample.first_row, sample.first_row + sample.n_rows))
        assert sample.n_rows == 20 and set(where.sample) == {number} and sample.batch == number // 2
    text, image = opened.sample(14), opened.sample(15)
    assert (text.id, text.text, text.tokens[3], text.image) == ("t7", "text 7 é", " w3", None)
    assert (image.id, image.caption, image.grid, image.image) == ("i7", "a cat", (4, 5), b"WEBP7")
    assert image.labels == {"a": "b"}
    assert opened.tokens_around(text.first_row + 1, 2) == ([" w0", " w1", " w2", " w3"], 1)
    assert opened.counts() == {"text": 570, "image": 600, "special": 30}


def test_that_an_epoch_of_batches_holds_each_wanted_row_once(store, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.shuffle.BLOCK_BYTES", 500)
    monkeypatch.setattr("auditor.store.shuffle.WINDOW_BYTES", 9000)
    opened, batches = store
    rows = whole(batches, "blocks.1.resid_post").astype(np.float16)
    kind = whole(batches, "kind")
    for kinds, codes in ((("text", "image"), (1, 2)), (("image",), (2,)), (("special",), (3,))):
        got = np.concatenate(
            list(opened.batches(64, seed=5, hook="blocks.1.resid_post", kinds=kinds, epochs=1, dtype="float16"))
        )
        wanted = rows[np.isin(kind, codes)]
        assert opened.n_batch_rows(kinds) == len(wanted) == len(got)
        assert not (got == wanted).all()
        np.testing.assert_array_equal(got[np.lexsort(got.T)], wanted[np.lexsort(wanted.T)])


def test_that_batches_go_on_exactly_where_they_stopped(store, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.shuffle.BLOCK_BYTES", 500)
    monkeypatch.setattr("auditor.store.shuffle.WINDOW_BYTES", 9000)
    opened, _ = store

    def take(start: int, count: int, seed: int = 5) -> list[np.ndarray]:
        source = opened.batches(100, seed=seed, hook="vision.embed", start=start)
        return [batch for batch, _ in zip(source, range(count), strict=False)]

    straight = take(0, 40)  # over three epochs of 1170 rows
    assert all(batch.shape == (100, 7) and batch.dtype == np.float32 for batch in straight)
    for start in (1, 11, 12, 23, 36):
        np.testing.assert_array_equal(np.stack(take(start, 40 - start)), np.stack(straight[start:]))
    assert (take(0, 1, seed=6)[0] != straight[0]).any()


def test_that_several_hook_points_come_side_by_side_with_each_row_whole(store, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.shuffle.BLOCK_BYTES", 500)
    monkeypatch.setattr("auditor.store.shuffle.WINDOW_BYTES", 9000)
    opened, batches = store
    hooks = ["vision.embed", "blocks.1.resid_post"]
    both = np.concatenate([whole(batches, name).astype(np.float16) for name in hooks], axis=1)
    wanted = both[np.isin(whole(batches, "kind"), (1, 2))]
    got = np.concatenate(list(opened.batches(64, seed=5, hook=hooks, epochs=1, dtype="float16")))
    assert not (got == wanted).all()
    np.testing.assert_array_equal(got[np.lexsort(got.T)], wanted[np.lexsort(wanted.T)])
    later = next(opened.batches(64, seed=5, hook=hooks, start=7))
    assert later.dtype == np.float32
    np.testing.assert_array_equal(later, got[7 * 64 : 8 * 64].astype(np.float32))
    with pytest.raises(AuditorError, match="no hook point"):
        next(opened.batches(64, hook=["vision.embed", "vision.none"]))


def test_that_the_order_of_batches_is_the_one_that_stopped_trainings_rely_on(store) -> None:
    opened, batches = store
    token = dict(zip(map(bytes, whole(batches, "vision.embed").astype(np.float16)), range(1200), strict=True))
    first = next(opened.batches(8, seed=5, hook="vision.embed", dtype="float16"))
    assert [token[bytes(row)] for row in first] == [802, 253, 944, 1143, 164, 609, 1049, 1034]


def test_that_the_same_rows_make_the_same_bytes(tmp_path) -> None:
    digests = set()
    for name, place in (("a", "/here"), ("b", "/there")):
        with StoreWriter(tmp_path / name, HOOKS, META, shard_bytes=9000, places={"model": place}) as writer:
            for number in range(8):
                append_batch(writer, number)
            store = writer.finish()
        assert store.meta["model"] == {"name": "m", "digest": "0" * 64, "path": place}
        digests.add((store.digest, *(file.read_bytes() for file in sorted((tmp_path / name).glob("shard*")))))
    assert len(digests) == 1


def test_that_a_batch_that_cannot_be_stored_is_refused_with_its_place(tmp_path) -> None:
    for bad, hint in ((np.nan, "NaN"), (np.inf, "NaN"), (-np.inf, "NaN"), (-70000.0, "-?70000")):
        with StoreWriter(tmp_path / "a.store", {"h": 3}, {}) as writer:
            rows = np.ones((5, 3), dtype=np.float32)
            rows[3, 1] = bad
            sample = np.array([0, 0, 1, 1, 1])
            for unit, place in (
                (np.array([0, 1, 0, -1, 2]), "a special position"), (np.array([0, 1, 0, 1, 2]), "position 1"),
            ):  # fmt: skip
                with pytest.raises(AuditorError, match=f"{hint}.*hook point h, sample “second”, {place}"):
                    writer.append(
                        [StoredSample("first"), StoredSample("second")], {"h": rows}, sample, unit, np.ones(5),
                        np.ones(5),
                    )  # fmt: skip
            writer.flush()
            assert writer.n_samples == 0
    with StoreWriter(tmp_path / "b.store", {"h": 3}, {}, dtype="float32") as writer:
        rows[3, 1] = 70000
        writer.append([StoredSample("s")], {"h": rows}, np.zeros(5, int), unit, np.ones(5), np.ones(5))
        assert writer.finish().rows([3])[0, 1] == 70000


def test_that_the_disk_begins_with_rows_every_eight_mebibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr("auditor.store.open_shard.begin_writing", begun.append)
    rows, one = np.zeros((1024, 1024), np.float32), np.ones(1024)
    with StoreWriter(tmp_path / "a.store", {"h": 1024}, META) as writer:
        for batch in range(9):  # of 2 MiB as they are stored
            writer.append([StoredSample("s")], {"h": rows}, 0 * one, one, one, one)
            assert len(begun) == (batch + 1) // 4
        assert writer.finish().n_rows == 9 * 1024
