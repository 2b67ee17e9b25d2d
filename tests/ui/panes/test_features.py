"""The features pane over a real small index: search, sort, what fires, selection, labels and its empty states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from auditor.ui.panes.features import Features
from auditor.ui.panes.features.source import LabelFinder, run_fires
from auditor.ui.session import Session

Take = Callable[[Session], None]


@pytest.fixture
def pane(qtbot: QtBot, indexed: Session, take_commands: Take) -> Features:
    take_commands(indexed)
    made = Features(indexed)
    indexed.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(560, 520)
    made.show()
    qtbot.waitUntil(lambda: made.state == "ready", timeout=20_000)
    return made


def quiet(pane: Features, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not pane.session.reading, timeout=60_000)


def ask(pane: Features, qtbot: QtBot, text: str) -> list[int]:
    pane.bar.set_text(text)
    quiet(pane, qtbot)
    return [int(row) for row in pane.table.order]


def test_that_all_features_are_listed_with_their_figures(pane: Features) -> None:
    assert pane._opened is not None
    assert pane.table.model().rowCount() == 128 and pane.bar.count.text() == "128 of 128"
    assert np.array_equal(pane._opened.rows["density"], pane._opened.index.table["density"].astype(float))


def test_that_typing_searches_live_and_shows_count_and_chips(pane: Features, qtbot: QtBot) -> None:
    assert pane._opened is not None
    table = pane._opened.index.table
    qtbot.keyClicks(pane.bar.edit, "max>1 live:yes")
    wanted = np.flatnonzero((table["max_act"] > 1) & (table["fires_text"] + table["fires_image"] > 0))
    qtbot.waitUntil(lambda: len(pane.table.order) == len(wanted) < 128)
    assert pane.bar.chips() == ["max>1", "live:yes"] and pane.bar.count.text() == f"{len(wanted)} of 128"
    pane.bar.show_answer(pane._answer)  # type: ignore[arg-type]
    assert ask(pane, qtbot, "like:5")[0] == 5


def test_that_a_word_that_cannot_be_read_is_named_beside_the_box(pane: Features, qtbot: QtBot) -> None:
    before = ask(pane, qtbot, "max>1")
    after = ask(pane, qtbot, "max>1 densty<0.1")
    assert "densty" in pane.bar.fault.text() and pane.bar.fault.isVisible() and after == before
    assert pane.state == "ready"
    ask(pane, qtbot, "max>1")
    assert not pane.bar.fault.isVisible()


def test_that_the_keyboard_selects_a_feature_everywhere(pane: Features, qtbot: QtBot) -> None:
    assert pane._opened is not None
    pane.table.setFocus()
    with qtbot.waitSignal(pane.session.feature_selected) as told:
        qtbot.keyClick(pane.table, Qt.Key.Key_Down)
    assert told.args == [pane._opened.dictionary, pane.table.selected]
    assert pane.session.find(pane._opened.dictionary).kind == "dictionary"


def test_that_a_feature_chosen_elsewhere_is_shown_in_the_table(pane: Features) -> None:
    assert pane._opened is not None
    pane.session.select_feature(pane._opened.dictionary, 97)
    assert pane.table.selected == 97
    assert [int(i.data()) for i in pane.table.selectionModel().selectedRows()] == [97]


def test_that_a_header_sorts_and_the_order_outlives_a_filter(pane: Features, qtbot: QtBot) -> None:
    pane.table.horizontalHeader().setSortIndicator(6, Qt.SortOrder.DescendingOrder)
    ids = ask(pane, qtbot, "live:yes")
    assert pane._opened is not None
    largest = pane._opened.index.table["max_act"][ids]
    assert len(ids) > 20 and (np.diff(largest) <= 0).all()


def test_that_only_what_fires_on_a_text_is_shown(pane: Features, qtbot: QtBot) -> None:
    assert pane._opened is not None
    pane.fire("The old padlock on the door")
    quiet(pane, qtbot)
    assert pane._fired is not None and len(pane._fired.fires) > 5
    shown = [int(row) for row in pane.table.order]
    assert shown == [fire.feature for fire in pane._fired.fires]
    assert not pane.table.isColumnHidden(2) and pane.session.feature == (pane._opened.dictionary, shown[0])
    here = pane._opened.rows["activation"][shown]
    assert np.allclose(here, [fire.activation for fire in pane._fired.fires])
    token = 3
    position = pane.fires._places[token]
    pane.fires.tokens.token_clicked.emit(token)
    assert [int(r) for r in pane.table.order] == [feature for feature, _ in pane._fired.fires.at(position)]
    pane.close_fires()
    assert len(pane.table.order) == 128 and pane.table.isColumnHidden(2)


def test_that_an_image_can_be_run(pane: Features, qtbot: QtBot, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "red.png"
    Image.new("RGB", (80, 60), (200, 30, 30)).save(path)
    pane.fire(image=path)
    quiet(pane, qtbot)
    assert pane._fired is not None and pane._fired.picture is not None, pane.fires._status.text()
    pane.fires.picture.patch_clicked.emit(0)
    assert len(pane.table.order) == 8
    pane.fire(image=tmp_path / "lost.png")
    quiet(pane, qtbot)
    assert "lost.png" in pane.fires._status.text() and pane.state == "ready"


def test_that_the_part_of_an_image_that_the_network_sees_is_shown(
    indexed: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from PIL import Image

    from auditor.features.fires import Fires
    from auditor.tasks import opening

    path = tmp_path / "wide.png"
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[10:30, 20:60] = 255
    Image.fromarray(pixels).save(path)
    found, run = Fires(), opening.fires
    found.seen = (0.25, 0.25, 0.75, 0.75)
    monkeypatch.setattr(opening, "fires", lambda *given: (run(*given)[0], found))
    picture = run_fires(indexed.project, "", "", path, "rare").picture
    assert picture is not None and picture.shape == (20, 40, 3) and bool((picture == 255).all())


def test_that_an_image_dropped_anywhere_on_the_pane_reaches_it(pane: Features, qtbot: QtBot) -> None:
    pane.open_fires()
    qtbot.wait(20)
    for widget in (pane.fires.edit, pane.fires.edit.viewport(), pane.bar.edit, pane.table.viewport(), pane.fires):
        taker: QWidget | None = widget
        while taker is not None and not taker.acceptDrops():
            taker = taker.parentWidget()
        assert taker is pane, f"{type(widget).__name__} keeps the drop"


def test_that_a_search_can_stand_in_a_case(pane: Features, qtbot: QtBot) -> None:
    pane.bar.set_text("density>0.01")
    qtbot.waitUntil(lambda: not pane.session.reading)
    with qtbot.waitSignal(pane.session.evidence_offered, timeout=20_000) as told:
        pane.add_to_case()
    (fields,) = told.args
    assert fields["kind"] == "search" and "density>0.01" in fields["title"]
    assert [row[0] for row in fields["table"].rows] == pane.table.order[:50].tolist()
    assert fields["choice"].seen == len(pane.table.order) and fields["inputs"]


def test_that_the_palette_finds_features_by_label_and_number(pane: Features) -> None:
    assert pane._opened is not None
    feature = next(i for i, label in enumerate(pane._opened.labels) if len(label) > 4)
    groups = dict(pane.session.commands.search(pane._opened.labels[feature]))
    assert any(hit.title.startswith(f"{feature} ") for hit in groups["Features"])
    hit = dict(pane.session.commands.search("feature 77"))["Features"][0]
    hit.run()
    assert pane.session.feature == (pane._opened.dictionary, 77)


def test_that_a_million_labels_are_searched_within_a_key_press() -> None:
    import time

    finder = LabelFinder([f"word{i % 977} other{i % 13}" for i in range(1_000_000)])
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert finder.find("nowhere", 12) == []
        assert finder.find("word5 other5", 2) == [5, 12706]
        took.append(time.perf_counter() - began)
    assert min(took) < 0.2


def test_that_closing_the_project_lets_go_of_the_index(pane: Features, qtbot: QtBot) -> None:
    pane.session.close_project()
    quiet(pane, qtbot)
    assert pane.state == "empty" and pane._opened is None and pane.table.model().rowCount() == 0


def test_that_without_an_index_the_way_to_one_is_offered(
    project_session: Session, qtbot: QtBot, take_commands: Take, indexed_folder: Path
) -> None:
    take_commands(project_session)
    pane = Features(project_session)
    project_session.pane_of = lambda _: pane
    qtbot.addWidget(pane)
    pane.show()
    assert pane.state == "empty"
    assert project_session.project is not None
    for kind in ("store", "dictionary"):
        held = next((indexed_folder / f"{kind}s" if kind == "store" else indexed_folder / "dictionaries").iterdir())
        project_session.project.add(kind, kind, held)
    project_session.refresh()
    project_session.commands.run("run.index")
    qtbot.waitUntil(lambda: pane.form.form is not None, timeout=30_000)
    assert pane.state == "ready" and pane.form.form is not None
    pane.form.form.set("top", 3)
    pane.form.start()
    qtbot.waitUntil(lambda: pane._opened is not None, timeout=60_000)
    assert pane.state == "ready" and len(pane.table.order) == 128
