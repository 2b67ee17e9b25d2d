"""Figures of a store against numpy over all its rows, and a look at a row back to its sample."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import Store, StoredSample, StoreWriter, facts
from auditor.store.row import row_of

WIDTH, PER = 24, 20


def store_of(folder, samples: int, dtype: str = "float32") -> tuple[Store, np.ndarray, np.ndarray]:
    """A store with one outlier dimension (3), one dead (5) and a sink in front of each sample; rows and token ids."""
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(samples, PER, WIDTH)).astype("f4")
    rows[..., 3] += 30
    rows[..., 5] = 0.5
    rows[:, 0] *= 100
    tokens = rng.integers(0, 9, (samples, PER))
    kind = np.ones((samples, PER), int)
    kind[:, 0] = 3
    made = [
        StoredSample(
            f"s{number}", group=f"g{number % 2}", tokens=[f" t{token}" for token in tokens[number]],
            labels={"language": "en" if number % 3 else "de"},
        )
        for number in range(samples)
    ]  # fmt: skip
    with StoreWriter(folder / "a.store", {"h": WIDTH}, {}, dtype) as writer:
        sample, unit = np.repeat(np.arange(samples), PER), np.tile(np.arange(PER), samples)
        writer.append(made, {"h": rows.reshape(-1, WIDTH)}, sample, unit, kind.reshape(-1), tokens.reshape(-1))
        return writer.finish(), rows.reshape(-1, WIDTH), tokens


def test_that_figures_of_dimensions_are_those_of_the_ordinary_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(facts, "BLOCK_ROWS", 64)
    store, rows, _ = store_of(tmp_path, 40)
    found = facts.look(store)
    usual = np.delete(rows.reshape(40, PER, WIDTH), 0, axis=1).reshape(-1, WIDTH).astype(np.float64)
    assert (found.n, found.rows, found.width) == (len(usual), 800, WIDTH)
    held = found.dimensions
    np.testing.assert_allclose(held["rms"], np.sqrt((usual**2).mean(0)), rtol=1e-5)
    np.testing.assert_allclose(held["mean"], usual.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(held["std"], usual.std(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(held["largest"], np.abs(usual).max(0), rtol=1e-6)
    assert found.of("outlier") == [3] and found.of("dead") == [5] and held["times"][3] > 20
    np.testing.assert_allclose(np.sort(found.norms["special"]), np.sort(np.linalg.norm(rows[::PER], axis=1)), rtol=1e-5)
    assert len(found.norms["text"]) == len(usual)


def test_that_a_large_store_is_looked_at_in_parts_spread_over_it_and_n_is_told(tmp_path, monkeypatch) -> None:
    store, *_ = store_of(tmp_path, 60)
    monkeypatch.setattr(facts, "BLOCK_ROWS", 20)
    monkeypatch.setattr(facts, "MOST_BYTES", 20 * WIDTH * 4 * 10)
    monkeypatch.setattr(facts, "MOST_TOKEN_ROWS", 200)
    monkeypatch.setattr(facts, "MOST_SAMPLES", 12)
    found, again = facts.look(store, seed=4), facts.look(store, seed=4)
    assert found.n == 10 * (PER - 1) and found.rows == 1200 and found.of("outlier") == [3]
    np.testing.assert_array_equal(found.dimensions, again.dimensions)
    assert (facts.look(store, seed=5).dimensions["mean"] != found.dimensions["mean"]).any()
    held = facts.contents(store)
    assert (held.n_samples, held.n_tokens, held.rows) == (12, 10 * (PER - 1), 1200)
    assert sum(held.groups.values()) == 12 * PER and set(held.groups) == {"g0", "g1"}


def test_that_tokens_groups_and_labels_are_counted(tmp_path) -> None:
    store, _, tokens = store_of(tmp_path, 30)
    held = facts.contents(store)
    ids, counts = np.unique(tokens[:, 1:], return_counts=True)
    assert held.kinds == {"text": 30 * (PER - 1), "special": 30} and held.n_tokens == 30 * (PER - 1)
    assert {i: count for i, _, count in held.tokens} == dict(zip(ids.tolist(), counts.tolist(), strict=True))
    assert all(text == f" t{i}" for i, text, _ in held.tokens) and held.distinct == len(ids)
    assert [count for *_, count in held.tokens] == sorted(counts.tolist(), reverse=True)
    assert held.groups == {"g0": 15 * PER, "g1": 15 * PER}
    assert held.labels == {"language": {"en": 20 * PER, "de": 10 * PER}}


def test_that_the_summary_is_plain(tmp_path) -> None:
    import json

    told = json.loads(json.dumps(facts.summary(store_of(tmp_path, 8, "float16")[0])))
    (figures,), (outlier,) = told["figures"], told["outlier_dimensions"]
    assert (figures["hook"], figures["n"], figures["dead"], outlier["dimension"]) == ("h", 8 * (PER - 1), 1, 3)
    assert told["numbers"] == "float16" and told["bytes"] > 8 * PER * 48
    assert {(row["by"], row["value"]) for row in told["rows_by"]} >= {("group", "g0"), ("label language", "de")}


def test_that_a_row_is_found_with_its_sample_and_what_stands_beside_it(tmp_path, monkeypatch) -> None:
    store, rows, tokens = store_of(tmp_path, 6)
    row = row_of(store, None, 47)
    assert (row.sample.id, row.here, row.kind, row.unit, row.token) == ("s2", 7, "text", 7, tokens[2, 7])
    np.testing.assert_array_equal(row.values, rows[47])
    np.testing.assert_array_equal(row.beside, rows[40:60])
    assert row.tokens[7] == f" t{tokens[2, 7]}" and row.largest(1)[0] == 3 and row.patches(row.beside[:, 0]) is None
    assert row.norm == pytest.approx(float(np.linalg.norm(rows[47])), rel=1e-6)
    monkeypatch.setattr("auditor.store.row.MOST_NUMBERS", 4 * WIDTH)  # of a long sample only what is near is read
    near = row_of(store, "h", 47)
    np.testing.assert_array_equal(near.beside[near.here], rows[47])
    assert len(near.beside) == 4 and near.tokens[near.here] == row.tokens[7] and near.first <= 47
    for number in (-1, 120):
        with pytest.raises(AuditorError, match="no row"):
            row_of(store, None, number)


def test_that_values_lie_where_their_patches_are(tmp_path) -> None:
    with StoreWriter(tmp_path / "a.store", {"h": 2}, {}) as writer:
        values = np.arange(14, dtype="f4").reshape(7, 2)
        unit, kind = np.arange(-1, 6), np.array([3, 2, 2, 2, 2, 2, 2])
        writer.append([StoredSample("p", grid=(2, 3))], {"h": values}, np.zeros(7, int), unit, kind, np.full(7, -1))
        store = writer.finish()
    row = row_of(store, None, 4)
    found = row.patches(row.beside[:, 0])
    np.testing.assert_array_equal(found, [[2, 4, 6], [8, 10, 12]])
    assert found.reshape(-1)[row.unit] == row.values[0]


def test_that_hook_points_with_other_positions_are_looked_at_as_their_own_group_has_them(tmp_path) -> None:
    from auditor.store.reader import Positions
    from auditor.store.samples import View

    rng = np.random.default_rng(3)
    text, patches = rng.normal(size=(30, 4)).astype("f4"), rng.normal(size=(18, 6)).astype("f4") + 5
    groups = {"text": ["t"], "vision": ["v"]}
    with StoreWriter(tmp_path / "a.store", {"t": 4, "v": 6}, {}, "float32", groups=groups) as writer:
        at = {
            "text": Positions(np.repeat([0, 1], 15), np.tile(np.arange(15), 2), np.ones(30, int), np.arange(30)),
            "vision": Positions(np.repeat([0, 1], 9), np.tile(np.arange(9), 2), np.full(18, 2), np.full(18, -1)),
        }
        views = {"text": View(), "vision": View(grid=(3, 3))}
        samples = [StoredSample(name, views=views) for name in "ab"]
        writer.append_groups(samples, {"t": text, "v": patches}, at)
        store = writer.finish()
    found, other = facts.look(store, "v"), facts.look(store, "t")
    assert (found.rows, found.n, other.rows) == (18, 18, 30) and set(found.norms) == {"image"}
    np.testing.assert_allclose(found.dimensions["mean"], patches.mean(0), rtol=1e-5)
    assert facts.contents(store, "v").kinds == {"image": 18} and facts.contents(store, "v").n_tokens == 0
    np.testing.assert_array_equal(row_of(store, "v", 12).values, patches[12])
    assert row_of(store, "v", 12).patches(np.arange(9.0)) is not None and row_of(store, "t", 2).sample.grid is None
    assert {row["hook"]: row["rows"] for row in facts.summary(store)["figures"]} == {"t": 30, "v": 18}
