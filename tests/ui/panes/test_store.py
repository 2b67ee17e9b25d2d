"""The store pane: figures of the chosen store, any row back to its text or picture, the check, export and training."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from auditor.ui.panes.store import StorePane
from auditor.ui.session import Session
from tests.ui.panes.conftest import HOOK

Take = Callable[[Session], None]
SIZE = (1026, 594)  # the pane's part of a window of 1280 × 720


def written(folder: Path, name: str, rows: np.ndarray, hooks: tuple[str, ...] = ("h",), finish: bool = True) -> Path:
    """A store of texts of ten tokens each; a BOS in front, ten times as long."""
    from auditor.store import StoredSample, StoreWriter

    n = len(rows) // 10
    kind = np.tile(np.array([3] + [1] * 9), n)
    words = [f" word{number}" for number in range(10)]
    samples = [StoredSample(f"sample {at}", group="g" * 60 if at % 2 else "a", tokens=words) for at in range(n)]
    with StoreWriter(folder / f"{name}.store", dict.fromkeys(hooks, rows.shape[1]), {"model": {"name": "m"}},
                     "float32") as writer:  # fmt: skip
        writer.append(samples, dict.fromkeys(hooks, rows), np.repeat(np.arange(n), 10), np.tile(np.arange(10), n), kind,
                      np.tile(np.arange(10), n))  # fmt: skip
        writer.finish() if finish else writer.flush()
    return folder / f"{name}.store"


@pytest.fixture
def pane(qtbot: QtBot, indexed: Session, take_commands: Take) -> StorePane:
    take_commands(indexed)
    made = StorePane(indexed)
    indexed.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(*SIZE)
    made.show()
    settled(made, qtbot)
    return made


def settled(pane: StorePane, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=30_000)
    qtbot.waitUntil(lambda: pane.state != "working" and not pane.session.busy, timeout=30_000)


def choose(pane: StorePane, qtbot: QtBot, path: Path) -> str:
    assert pane.session.project is not None
    artefact = pane.session.project.add("store", path.stem, path)
    pane.session.refresh()
    pane.session.select_artefact(artefact.id)
    settled(pane, qtbot)
    return artefact.id


def test_that_figures_and_dimensions_are_those_of_the_store(pane: StorePane, qtbot: QtBot, tmp_path: Path) -> None:
    from auditor.store import open_store

    store = open_store(pane.session.artefacts("store")[0].path)
    assert pane.state == "ready" and pane.hook.currentData() == HOOK
    assert pane.figures.text("rows").startswith(str(store.n_rows)) and "576" in pane.figures.text("width")
    kind = store.positions().kind
    usual = store.rows(kind != 3)
    assert pane.figures.text("looked at").startswith(str(len(usual)))
    held = pane.dimensions.table.model().array  # type: ignore[attr-defined]
    np.testing.assert_allclose(held["rms"], np.sqrt((usual.astype(np.float64) ** 2).mean(0)), rtol=1e-3)
    rows = np.random.default_rng(1).normal(size=(200, 12)).astype("f4")
    rows[:, 4], rows[:, 9] = 0.25, rows[:, 9] + 50
    rows[::10] *= 10
    choose(pane, qtbot, written(tmp_path, "a name that is far too long for the head of a pane " * 3, rows))
    assert pane.dimensions.told.text().replace("\u202f", "") == "1 outlier (9), 1 dead of 12, over 180 ordinary rows"
    table = pane.dimensions.table
    assert [int(table.order[0]), int(table.order[-1])] == [9, 4]
    assert "special" in pane.norms.told.text().lower() and "n = 20" in pane.norms.told.text()
    assert pane.counts.tokens.model().rowCount() == 9 and "9 different tokens" in pane.counts.told_tokens.text()
    groups = pane.counts.groups.model().array  # type: ignore[attr-defined]
    assert {(row["what"], row["value"], int(row["rows"])) for row in groups} == {
        ("kind", "text", 180), ("kind", "special", 20), ("group", "a", 100), ("group", "g" * 60, 100)
    }  # fmt: skip
    assert pane.check_button.mapTo(pane, pane.check_button.rect().topRight()).x() < pane.width()


def test_that_a_row_is_shown_in_its_text_and_coloured_by_a_dimension(
    pane: StorePane, qtbot: QtBot, tmp_path: Path
) -> None:
    rows = np.random.default_rng(1).normal(size=(200, 12)).astype("f4")
    rows[137, 7] = 90
    choose(pane, qtbot, written(tmp_path, "texts", rows))
    pane.row.number.setText("137")
    pane.row.number.returnPressed.emit()
    settled(pane, qtbot)
    assert pane.row.sample.text().startswith("Sample sample 13 ") and "Position 8 of 10 (text)" in pane.row.told.text()
    assert "word7" in pane.row.told.text() and "token 7" in pane.row.told.text()
    assert f"norm {np.linalg.norm(rows[137]):.1f}" in pane.row.told.text()
    table = pane.row.largest
    assert int(table.model().array["dimension"][0]) == 7  # type: ignore[attr-defined]
    table.selectRow(0)
    assert "dimension 7" in pane.row.colours.text()
    assert pane.row.tokens.describe(7).splitlines()[0].endswith("90.0")
    pane.row.tokens.token_clicked.emit(2)
    settled(pane, qtbot)
    assert pane.row.number.text() == "132"
    pane.row.number.clear()
    qtbot.keyClick(pane.row.number, Qt.Key.Key_Return)
    assert pane.row.number.text() == "132"
    pane.row.number.clear()
    qtbot.keyClicks(pane.row.number, "200")
    with qtbot.waitSignal(pane.session.message, timeout=5000) as told:
        qtbot.keyClick(pane.row.number, Qt.Key.Key_Return)
    assert told.args[1:3] == ["The store “texts” has no row 200.", "Rows are 0 to 199."]
    pane.session.commands.run("store.random")
    settled(pane, qtbot)
    assert 0 <= int(pane.row.number.text()) < 200


def test_that_a_row_of_a_picture_marks_its_patch(pane: StorePane, qtbot: QtBot) -> None:
    from auditor.store import open_store

    store = open_store(pane.session.artefacts("store")[0].path)
    number = int(np.flatnonzero(store.positions().kind == 2)[3])
    pane.show_row(number)
    settled(pane, qtbot)
    unit, grid = int(store.positions(slice(number, number + 1)).unit[0]), store.sample_of(number).grid
    assert grid is not None and pane.row.picture.isVisible() and not pane.row.tokens.isVisible()
    row, column = divmod(unit, grid[1])
    assert f"Patch in row {row + 1}, column {column + 1} of {grid[0]} × {grid[1]}" in pane.row.told.text()
    pane.row.picture.patch_clicked.emit(unit + 1)
    settled(pane, qtbot)
    assert pane.row.number.text() == str(number + 1)


@pytest.mark.parametrize("full", ["text", "vision"])
def test_that_a_hook_point_without_rows_shows_none(pane: StorePane, qtbot: QtBot, tmp_path: Path, full: str) -> None:
    from auditor.store import StoredSample, StoreWriter
    from auditor.store.reader import Positions
    from auditor.store.samples import View

    rows, ones = np.random.default_rng(0).normal(size=(10, 6)), np.ones(10, int)
    path, groups = tmp_path / "two.store", {"text": ["h"], "vision": ["vision.h"]}
    of, bare = ("h", "vision.h") if full == "text" else ("vision.h", "h")
    with StoreWriter(path, {"h": 6, "vision.h": 6}, {}, "float32", groups=groups) as writer:
        at = {group: Positions(*[ones[:0]] * 4) for group in groups}
        at[full] = Positions(0 * ones, np.arange(10), ones, ones)
        sample = StoredSample("a", views={"text": View(), "vision": View()})
        writer.append_groups([sample], {of: rows, bare: rows[:0]}, at)
        writer.finish()
    choose(pane, qtbot, path)
    pane.hook.setCurrentIndex(pane.hook.findData(of))
    pane._look()
    settled(pane, qtbot)
    assert pane.state == "ready" and pane.row._row is not None
    pane.hook.setCurrentIndex(pane.hook.findData(bare))
    pane._look()
    settled(pane, qtbot)
    assert pane.state == "ready" and pane.figures.text("rows").startswith("0")
    pane.show_row(-1)
    settled(pane, qtbot)
    assert pane.row._row is None and pane.row.sample.text() == "No sample has a position at this hook point."
    assert not (pane.row.told.text() or pane.row.number.text() or pane.row._text.isVisible() or len(rows_of(pane)))
    assert not pane.row.random.isEnabled() and pane.figures.text("looked at") == "0"
    pane.hook.setCurrentIndex(pane.hook.findData(of))
    pane._look()
    settled(pane, qtbot)
    assert pane.row.random.isEnabled() and pane.row._text.isVisible() and len(rows_of(pane)) == 6


def rows_of(pane: StorePane) -> np.ndarray:
    return pane.row.largest.model().array  # type: ignore[attr-defined, no-any-return]


def test_that_millions_of_norms_are_summed_up_off_the_window_s_thread(
    pane: StorePane, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[threading.Thread, int]] = []
    own = np.quantile

    def noted(*given: Any) -> Any:
        asked.append((threading.current_thread(), len(given[0])))
        return own(*given)

    monkeypatch.setattr(np, "quantile", noted)
    rows = np.random.default_rng(1).normal(size=(2000, 12)).astype("f4")
    choose(pane, qtbot, written(tmp_path, "norms", rows))
    assert "n = 1\u202f800" in pane.norms.told.text()
    assert max(n for thread, n in asked if thread is not threading.main_thread()) == 1800
    assert max(n for thread, n in asked if thread is threading.main_thread()) <= 24  # of the tables that are in view


def test_that_damage_is_found_and_a_sound_store_is_said_to_be_sound(
    pane: StorePane, qtbot: QtBot, tmp_path: Path
) -> None:
    path = written(tmp_path, "checked", np.random.default_rng(1).normal(size=(200, 12)).astype("f4"))
    choose(pane, qtbot, path)
    for damage, told in ((False, "as it was recorded"), (True, "is not what was recorded")):
        if damage:
            shard = path / "shard-00000.h5"
            data = bytearray(shard.read_bytes())
            at = json.loads((path / "manifest.json").read_text())["shards"][0]["datasets"]["rows/h"]["offset"]
            data[at + 40] ^= 1
            shard.write_bytes(bytes(data))
        with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
            pane.session.commands.run("store.check")
        qtbot.waitUntil(lambda told=told: told in pane.checking.told.text(), timeout=10_000)
        assert pane.checking.isVisible() and not pane.checking.running
    assert "rows 0" in pane.checking.told.text()


def test_that_a_hook_point_is_exported_and_a_store_is_trained_on(
    pane: StorePane, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(1).normal(size=(200, 12)).astype("f4")
    chosen = choose(pane, qtbot, written(tmp_path, "two", rows, hooks=("g", "h")))
    pane.hook.setCurrentIndex(1)
    pane.hook.activated.emit(1)
    settled(pane, qtbot)
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.export_to(str(tmp_path / "out.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rows)
    asked: list[str] = []
    monkeypatch.setattr(pane.session.commands, "run", asked.append)
    pane.session.select_artefact(pane.session.artefacts("store")[0].id)
    settled(pane, qtbot)
    pane.session.select_artefact(chosen)
    settled(pane, qtbot)
    pane.train()
    assert asked == ["train.store"] and pane.session.artefact == chosen


def test_that_a_store_that_is_empty_gone_or_not_finished_is_told(pane: StorePane, qtbot: QtBot, tmp_path: Path) -> None:
    import shutil

    rows = np.random.default_rng(1).normal(size=(200, 12)).astype("f4")
    choose(pane, qtbot, written(tmp_path, "half", rows, finish=False))
    assert pane.state == "ready" and "not finished" in pane.figures.text("rows")
    gone = written(tmp_path, "gone", rows)
    assert pane.session.project is not None
    artefact = pane.session.project.add("store", "gone", gone)
    shutil.rmtree(gone)
    pane.session.refresh()
    pane.session.select_artefact(artefact.id)
    settled(pane, qtbot)
    assert pane.state == "failed"
    pane.session.close_project()
    assert pane.state == "empty"
