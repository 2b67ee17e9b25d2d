"""The card of a feature over a real small index: examples, figures, labels with undo, tokens and evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QPushButton, QWidget
from pytestqt.qtbot import QtBot

from auditor.ui.panes.examples import Examples
from auditor.ui.session import Session
from auditor.ui.widgets.plain_text import PlainLabel
from tests.ui.panes.conftest import TEXTS, pictures

Take = Callable[[Session], None]


@pytest.fixture
def pane(qtbot: QtBot, indexed: Session, take_commands: Take) -> Examples:
    take_commands(indexed)
    made = Examples(indexed)
    indexed.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(490, 620)
    made.show()
    assert made.state == "empty"
    choose(made, qtbot, both(made))
    return made


def table(pane: Examples) -> Any:
    from auditor.features import open_index

    with open_index(pane.session.artefacts("index")[-1].path) as index:
        return index.table


def both(pane: Examples) -> int:
    """A feature that fires often on text and on images."""
    held = table(pane)
    return int(np.minimum(held["fires_text"], held["fires_image"]).argmax())


def choose(pane: Examples, qtbot: QtBot, feature: int) -> None:
    pane.session.select_feature(pane.session.artefacts("dictionary")[-1].id, feature)
    qtbot.waitUntil(lambda: pane._card is not None and pane._card.feature.id == feature, timeout=20_000)
    quiet(pane, qtbot)
    assert pane.state == "ready"


def said(pane: Examples) -> list[str]:
    return [label.text() for label in pane.gallery.findChildren(PlainLabel) if label.isVisible()]


def quiet(pane: Examples, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not pane.session.reading, timeout=60_000)


def test_that_the_card_shows_text_and_images_on_one_scale(pane: Examples) -> None:
    card = pane._card
    assert card is not None
    f = card.feature
    top_text, top_image = f.examples_of("text", "top"), f.examples_of("image", "top")
    assert [held.example for held in pane.gallery.texts] == top_text and top_text
    assert [example for example, _ in pane.gallery.images] == top_image and top_image
    assert {held.view._high for held in pane.gallery.texts} == {f.max_act}
    assert {view._high for _, view in pane.gallery.images} == {f.max_act}
    assert all(not view._image.isNull() for _, view in pane.gallery.images)
    assert pane.head.number.text() == str(f.id)
    assert pane.histogram._counts["text"].sum() == f.fires_text
    assert [bar.text for bar in pane.raised.bars] == [token for token, _ in f.top_logits[:6]]
    assert [bar.key for bar in pane.near.bars] == [other for other, _ in f.nearest[:5]]


def test_that_at_720_pixels_figures_logits_texts_and_several_images_are_seen_at_once(
    pane: Examples, qtbot: QtBot
) -> None:
    pane.resize(478, 592)  # the pane's part of a window of 1280 × 720
    qtbot.wait(50)
    seen = pane._area.viewport().rect()

    def whole(widget: QWidget) -> bool:
        return seen.contains(widget.rect().translated(widget.mapTo(pane._area.viewport(), QPoint(0, 0))))

    assert whole(pane.histogram) and whole(pane.raised) and whole(pane.lowered) and whole(pane.gallery.legend)
    assert sum(whole(held) for held in pane.gallery.texts) >= min(3, len(pane.gallery.texts)) > 0
    choose(pane, qtbot, int(table(pane)["fires_image"].argmax()))
    qtbot.wait(50)
    assert len(pane.gallery.images) > 4
    assert sum(whole(view) for _, view in pane.gallery.images) >= 4
    assert pane._actions.height() <= 44
    columns = len({view.mapTo(pane, QPoint(0, 0)).x() for _, view in pane.gallery.images})
    pane.resize(780, 940)
    qtbot.wait(50)
    assert len({view.mapTo(pane, QPoint(0, 0)).x() for _, view in pane.gallery.images}) > columns


def test_that_a_modality_without_examples_says_so(pane: Examples, qtbot: QtBot) -> None:
    held = table(pane)
    for kind, column in (("image", "fires_image"), ("text", "fires_text")):
        lone = np.flatnonzero((held[column] == 0) & (held["fires_text"] + held["fires_image"] > 0))
        choose(pane, qtbot, int(lone[0]))
        wanted = f"Fires on no {kind} in this store."
        qtbot.waitUntil(lambda text=wanted: text in said(pane))  # type: ignore[misc]
    dead = np.flatnonzero(held["fires_text"] + held["fires_image"] == 0)
    if len(dead):
        choose(pane, qtbot, int(dead[0]))
        assert not pane.gallery.texts and not pane.gallery.images


def banded(pane: Examples) -> int:
    """A feature with texts drawn from bands of its firings."""
    from auditor.features import open_index

    bands = ("q90", "q50", "q10")
    with open_index(pane.session.artefacts("index")[-1].path) as index:
        often = np.argsort(-index.table["fires_text"], kind="stable")
        return next(int(f) for f in often if any(index.feature(int(f)).examples_of("text", band) for band in bands))


def test_that_other_groups_are_shown_with_how_they_were_chosen(pane: Examples, qtbot: QtBot) -> None:
    choose(pane, qtbot, banded(pane))
    pane.show_group("bands")
    assert {held.example.group for held in pane.gallery.texts} <= {"q90", "q50", "q10"}
    assert any("random" in text for text in said(pane))
    pane.show_group("miss")
    assert all(held.example.group == "miss" for held in pane.gallery.texts)


def test_that_a_click_on_a_token_lists_what_fires_there_and_leads_on(pane: Examples, qtbot: QtBot) -> None:
    card = pane._card
    assert card is not None
    example = pane.gallery.texts[0].example
    pane.gallery.texts[0].view.token_clicked.emit(example.peak)
    quiet(pane, qtbot)
    assert len(pane.here.bars) == 8 and not pane._here_box.isHidden()
    mine = next(bar for bar in pane.here.bars if bar.key == card.feature.id)
    assert mine.value == pytest.approx(example.peak_activation, rel=1e-2)
    other = next(bar.key for bar in pane.here.bars if bar.key != card.feature.id)
    pane.here.chosen.emit(other)
    qtbot.waitUntil(lambda: pane._card is not None and pane._card.feature.id == other)
    pane.session.back()
    qtbot.waitUntil(lambda: pane._card is not None and pane._card.feature.id == card.feature.id)


def test_that_a_click_on_a_patch_lists_what_fires_there(pane: Examples, qtbot: QtBot) -> None:
    card = pane._card
    assert card is not None
    example, view = pane.gallery.images[0]
    view.patch_clicked.emit(example.peak)
    quiet(pane, qtbot)
    mine = next(bar for bar in pane.here.bars if bar.key == card.feature.id)
    assert mine.value == pytest.approx(example.peak_activation, rel=1e-2)
    other = next(p for p, value in enumerate(example.activations) if value != example.peak_activation)
    view.patch_clicked.emit(other)
    quiet(pane, qtbot)
    there = {bar.key: bar.value for bar in pane.here.bars}.get(card.feature.id, 0.0)
    assert there == pytest.approx(example.activations[other], abs=card.feature.max_act / 255)


def test_that_without_the_store_the_text_is_run_again(pane: Examples, qtbot: QtBot) -> None:
    card = pane._card
    assert card is not None
    card.source._store_of_index = lambda: None  # type: ignore[method-assign]
    example = pane.gallery.texts[0].example
    pane.gallery.texts[0].view.token_clicked.emit(example.peak)
    quiet(pane, qtbot)
    mine = next(bar for bar in pane.here.bars if bar.key == card.feature.id)
    assert mine.value == pytest.approx(example.peak_activation, rel=0.3)


def test_that_without_the_store_the_image_is_run_again(pane: Examples, qtbot: QtBot, tmp_path: Path) -> None:
    card = pane._card
    assert card is not None
    card.source._store_of_index = lambda: None  # type: ignore[method-assign]
    example, view = pane.gallery.images[0]
    view.patch_clicked.emit(example.peak)
    quiet(pane, qtbot)
    assert "Neither the store of this index nor the image" in pane._here_told.text()
    manifest = []
    for sample in pictures():
        assert sample.image is not None
        Image.fromarray(sample.image.load()).save(tmp_path / f"{sample.id}.png")
        manifest.append(json.dumps({"id": sample.id, "file": f"{sample.id}.png", "caption": "a field"}))
    (tmp_path / "all.jsonl").write_text("\n".join(manifest), encoding="utf-8")
    card.source.project.add("samples", "pictures", tmp_path / "all.jsonl", meta={"with_image": 8})
    view.patch_clicked.emit(example.peak)
    quiet(pane, qtbot)
    mine = next(bar for bar in pane.here.bars if bar.key == card.feature.id)
    assert mine.value == pytest.approx(example.peak_activation, rel=1e-2)


def test_that_a_label_is_written_in_place_undone_and_done_again(pane: Examples, qtbot: QtBot) -> None:
    pane.label()
    assert pane.head.editing
    qtbot.keyClicks(pane.head.edit, "padlock, locked")
    qtbot.keyClick(pane.head.edit, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: pane.head.label.text() == "padlock, locked")
    assert not pane.head.automatic.isVisible()
    pane.session.undo.undo()
    qtbot.waitUntil(lambda: pane.head.label.text() != "padlock, locked")
    pane.session.undo.redo()
    qtbot.waitUntil(lambda: pane.head.label.text() == "padlock, locked")
    card = pane._card
    assert card is not None and card.source.index.human is not None
    assert [e.text for e in card.source.index.human.history(card.feature.id)][-1] == "padlock, locked"
    pane.star()
    qtbot.waitUntil(lambda: pane._card is not None and pane._card.star)


def test_that_escape_leaves_the_label_as_it_was(pane: Examples, qtbot: QtBot) -> None:
    before = pane.head.label.text()
    pane.label()
    qtbot.keyClicks(pane.head.edit, "nonsense")
    qtbot.keyClick(pane.head.edit, Qt.Key.Key_Escape)
    quiet(pane, qtbot)
    assert pane.head.label.text() == before and not pane.session.undo.canUndo()


def test_that_the_card_can_stand_in_a_case(pane: Examples, qtbot: QtBot) -> None:
    from auditor.audit.case import Case
    from auditor.audit.collect import add_evidence

    card = pane._card
    assert card is not None
    with qtbot.waitSignal(pane.session.evidence_offered, timeout=20_000) as told:
        pane.add_to_case()
    fields = told.args[0]
    _, piece = add_evidence(Case(title="Padlocks", author="A. Auditor"), **fields)
    assert piece.kind == "examples" and piece.figure == "E1.png" and piece.choice is not None
    assert piece.choice.shown == len(pane.gallery.texts) + len(pane.gallery.images)
    digests = {artefact.digest for artefact in pane.session.artefacts()}
    assert len(piece.inputs) == 4 and set(piece.inputs.values()) == digests
    assert piece.table is not None and ("density", card.feature.density) in [row[:2] for row in piece.table.rows]
    from auditor.features.build import BuildConfig

    assert BuildConfig(**piece.recipe.config).top == 6


def test_that_the_chosen_text_becomes_the_prompt(pane: Examples) -> None:
    example = pane.gallery.texts[1].example
    pane.gallery.texts[1].picked.emit()
    assert pane.session.example is example
    pane.trace()
    assert pane.session.prompt == "".join(example.tokens).strip()


def test_that_a_feature_that_is_not_there_fails_in_words(pane: Examples, qtbot: QtBot) -> None:
    pane.session.select_feature(pane.session.artefacts("dictionary")[-1].id, 9999)
    qtbot.waitUntil(lambda: pane.state == "failed")


def test_that_the_arrow_keys_do_not_pile_up_reads(pane: Examples, qtbot: QtBot) -> None:
    dictionary = pane.session.artefacts("dictionary")[-1].id
    for feature in range(40):
        pane.session.select_feature(dictionary, feature)
    qtbot.waitUntil(lambda: pane._card is not None and pane._card.feature.id == 39)


def test_that_closing_the_project_lets_go_of_the_index(pane: Examples, qtbot: QtBot) -> None:
    pane.session.close_project()
    quiet(pane, qtbot)
    assert pane.state == "empty" and pane._card is None


def test_that_the_test_page_runs_the_experiment_and_shows_its_null(
    pane: Examples, qtbot: QtBot, tmp_path: Path
) -> None:
    project, card = pane.session.project, pane._card
    assert project is not None and card is not None
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(TEXTS * 2))
    project.add("samples", "texts", texts)
    pane.session.refresh()
    pane.test()
    page = pane.experiment
    qtbot.waitUntil(lambda: page.form is not None, timeout=20_000)
    assert page.form is not None and page.form.values()["feature"] == card.feature.id
    for name, value in (("n", 4), ("n_null", 20), ("samples", "texts")):
        page.form.set(name, value)
    page.start()
    qtbot.waitUntil(lambda: page.trial.live is not None and not page.trial.live.live, timeout=120_000)
    assert page.trial.live is not None and page.trial.live.outcome == "done", page.trial.told.text()
    told = [label.text() for label in page.findChildren(PlainLabel)]
    assert any("features that fire as often" in text for text in told) and "p" in told
    offer = next(b for b in page.findChildren(QPushButton) if b.text() == "Add to case")
    with qtbot.waitSignal(pane.session.evidence_offered, timeout=20_000) as signal:
        offer.click()
    assert signal.args[0]["kind"] == "intervention" and signal.args[0]["metric"].null is not None


def test_that_the_row_of_a_patch_among_several_pictures_is_found_and_none_between_them(tmp_path: Path) -> None:
    from auditor.store import StoredSample, StoreWriter
    from auditor.ui.panes.examples.source import _row_of_patch

    before = StoredSample("a", text="x", tokens=[" x"])
    two = StoredSample("b", grid=(2, 5), panels=((0, 0, 0, 2, 2), (1, 0, 3, 2, 2)))
    units = np.array([0, 0, 5, 1, 6, 0, 3, 4, 8, 9], np.int32)
    kinds = np.array([1, 2, 2, 2, 2, 1, 2, 2, 2, 2], np.uint8)
    with StoreWriter(tmp_path / "a.store", {"h": 2}, {}) as writer:
        writer.append(
            [before, two], {"h": np.zeros((10, 2), np.float32)}, np.array([0] + [1] * 9), units, kinds,
            np.full(10, -1, np.int32),
        )  # fmt: skip
        store = writer.finish()
    assert [_row_of_patch(store, 7, patch) for patch in (0, 5, 6, 9, 2)] == [1, 2, 4, 9, None]
