"""The recording pane: hook points, a look at the samples, what the recording takes, and what was just opened."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PySide6.QtCore import QEvent, QMimeData, QPoint, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QLineEdit, QMenu, QWidget
from pytestqt.qtbot import QtBot

from auditor.base.reporter import Reporter
from auditor.ui.panes.recording import Recording
from auditor.ui.panes.recording.look import look, start_of
from auditor.ui.session import Session
from auditor.ui.widgets import numbers
from auditor.ui.widgets.plain_text import PlainLabel
from tests.data.test_audio import tone
from tests.ui.panes.conftest import HOOK

Take = Callable[[Session], None]
SIZE = (1026, 594)  # the pane's part of a window of 1280 × 720


@pytest.fixture
def pane(qtbot: QtBot, indexed: Session, take_commands: Take, tiny_paired_folder: Path, tmp_path: Path) -> Recording:
    from auditor.models import open_model

    take_commands(indexed)
    assert indexed.project is not None
    model = open_model(tiny_paired_folder)
    points = [{"hook": p.name, "width": p.width, "axes": " × ".join(p.axes)} for p in model.hook_points.values()]
    facts = {"family": model.family, "hook_points": points}
    indexed.project.add("model", "a tiny paired model", tiny_paired_folder, digest=model.digest, meta=facts)
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"line {number} of the text" for number in range(30)), encoding="utf-8")
    indexed.project.add("samples", "lines", lines)
    indexed.refresh()
    made = Recording(indexed)
    indexed.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(*SIZE)
    made.show()
    qtbot.waitUntil(lambda: made.form is not None and not indexed.reading, timeout=30_000)
    return made


def shown(pane: Recording) -> list[str]:
    return [label.text() for label in pane.preview.findChildren(PlainLabel) if label.isVisible()]


def whole(pane: Recording, widget: QWidget) -> bool:
    return widget.isVisible() and pane.rect().contains(widget.rect().translated(widget.mapTo(pane, QPoint(0, 0))))


def test_that_what_it_takes_and_the_buttons_are_seen_without_scrolling_at_720_pixels(
    pane: Recording, qtbot: QtBot
) -> None:
    assert pane.form is not None
    planner = pane.planner
    assert all(whole(pane, part) for part in (planner.figures, planner.start_button, planner.plan_button))
    place = planner.start_button.mapTo(pane, QPoint(0, 0))
    for name, value in (("hooks", (HOOK,)), ("batch_size", 4), ("device", "cpu")):
        pane.form.set(name, value)
    pane.plan()
    assert not planner.plan_button.isEnabled() and "Measuring" in planner.told.text()
    qtbot.waitUntil(lambda: planner.plan_button.isEnabled(), timeout=60_000)
    assert planner.told.text().startswith("It fits. int8 ") and ", FVU " in planner.told.text()
    for name in ("positions", "disk", "memory", "time"):
        assert "–" not in planner.figures.text(name), name
    assert "of" in planner.figures.text("disk") and "free" in planner.figures.text("memory")
    qtbot.wait(20)
    assert planner.start_button.mapTo(pane, QPoint(0, 0)) == place


def test_that_a_plan_is_cancelled_at_once_and_can_be_asked_for_again(
    pane: Recording, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.store import plan as planning

    assert pane.form is not None
    for name, value in (("hooks", (HOOK,)), ("batch_size", 4), ("device", "cpu")):
        pane.form.set(name, value)
    going, ended = threading.Event(), threading.Event()

    def endless(config: object, model: object, samples: object, out: object, reporter: Reporter) -> None:
        going.set()
        try:
            while True:
                reporter.check()
                time.sleep(0.005)
        finally:
            ended.set()

    with monkeypatch.context() as patched:
        patched.setattr(planning, "plan", endless)
        pane.plan()
        planner = pane.planner
        assert planner.cancel_button.isVisible() and not planner.plan_button.isVisible()
        assert going.wait(30)
        planner.cancel_button.click()
        assert planner.plan_button.isEnabled() and planner.plan_button.isVisible()
        assert not planner.cancel_button.isVisible() and planner.told.text() == "The plan was cancelled."
        assert "recording.plan" not in pane.session.reading
        assert ended.wait(10)  # the work itself ends, too
        going.clear()
        pane.plan()
        assert going.wait(30)
        pane.form.set("context", 64)  # what is measured is no longer what is asked for
        assert "recording.plan" not in pane.session.reading and planner.told.text().startswith("Plan runs a few")
        assert planner.plan_button.isVisible() and not planner.cancel_button.isVisible()
    pane.plan()
    qtbot.waitUntil(lambda: planner.told.text().startswith("It fits."), timeout=60_000)


def test_that_a_plan_of_what_cannot_go_behind_a_store_is_refused_before_it_is_measured(
    pane: Recording, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.store import plan as planning

    planned, told = list[object](), list[str]()
    monkeypatch.setattr(planning, "plan", lambda config, *_: planned.append(config))
    monkeypatch.setattr(pane.planner, "show_plan", lambda _: pane.planner.measuring(False))
    pane.session.message.connect(lambda _, sentence, *__: told.append(sentence))
    assert pane.form is not None
    for name, value in (("append_to", "small"), ("store_dtype", "float32"), ("device", "cpu")):
        pane.form.set(name, value)
    pane.plan()
    qtbot.waitUntil(lambda: bool(told), timeout=20_000)
    assert "behind “small” must have its stored numbers" in told[0] and not planned
    pane.form.set("store_dtype", "float16")
    pane.plan()
    qtbot.waitUntil(lambda: bool(planned), timeout=20_000)
    assert planned[0].hooks == (HOOK,)  # the store's own, as the recording takes them
    assert len(told) == 1


def test_that_what_is_free_on_the_disk_is_asked_off_the_window_s_thread(
    pane: Recording, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.ui.panes.recording import planner as planning

    asked: list[threading.Thread] = []
    own = planning.shutil.disk_usage

    def usage(folder: Path) -> object:
        asked.append(threading.current_thread())
        return own(folder)

    assert pane.form is not None
    monkeypatch.setattr(planning.shutil, "disk_usage", usage)
    pane.form.set("context", 32)
    qtbot.waitUntil(lambda: bool(asked) and "recording.free" not in pane.session.reading, timeout=20_000)
    assert threading.main_thread() not in asked
    assert "free" in pane.planner.figures.text("disk") and "free" in pane.planner.figures.text("memory")


def test_that_what_a_recording_took_stands_beside_what_was_planned(pane: Recording) -> None:
    took = {"positions": 5120, "disk_mb": 3.1, "memory_mb": 900.0, "minutes": 0.5, "fvu": 2.3e-4, "clipped": 7}
    pane.planner.recorded({"rows": 5120, "took": took, "planned": {**took, "disk_mb": 2.9, "minutes": 0.4}})
    figures = pane.planner.figures
    assert figures.text("disk") == "3.10 MB 2.90 MB planned"
    assert figures.text("positions").startswith(numbers.count(5120))
    assert figures.text("time").endswith("planned") and "900 MB" in figures.text("memory")
    assert "FVU of 2.3e-04" in pane.planner.told.text() and "7 numbers were clipped" in pane.planner.told.text()


def test_that_the_runs_of_a_recording_that_went_on_are_told_apart(pane: Recording) -> None:
    parts = [{"positions": 5000, "minutes": 2.0}, {"positions": 70, "minutes": None}, {"positions": 50, "minutes": 0.5}]
    pane.planner.recorded({"rows": 5120, "took": {"disk_mb": 3.0}, "planned": {"disk_mb": 2.9}, "parts": parts})
    first, last = (f"{numbers.count(n)} positions in {numbers.duration(s)}" for n, s in ((5000, 120), (50, 30)))
    told = f"In 3 runs: {first}, 70 positions in a time not known, {last}."
    assert pane.planner.told.text().endswith(told)
    assert pane.planner.figures.text("disk") == "3.00 MB 2.90 MB planned"


def test_that_what_is_missing_of_a_recording_is_told(pane: Recording) -> None:
    pane.planner.recorded({"rows": 5120, "unreadable": 7, "repeats": 1, "no_rows_at": ["text_embeds", "embed"]})
    assert pane.planner.told.text() == (
        f"Recorded {numbers.count(5120)} positions. No sample has a position at text_embeds, embed. 7 that cannot be "
        "read were left out. 1 repeat was left out."
    )
    pane.planner.recorded({"rows": 3})
    assert pane.planner.told.text() == "Recorded 3 positions."


def test_that_a_text_file_is_shown_line_by_line_and_cut_as_the_person_says(pane: Recording, qtbot: QtBot) -> None:
    assert pane.form is not None
    whole = "line 0 of the text\nline 1 of the text\n"
    for by, told, first in (("file", "1 sample", whole), ("line", "30 samples", "line 0 of the text")):
        pane.preview.cut.setCurrentIndex(pane.preview.cut.findData(by))
        pane.preview.cut.activated.emit(pane.preview.cut.currentIndex())

        def arrived(told: str = told, first: str = first) -> bool:
            return told in shown(pane) and any(text.startswith(first) for text in shown(pane))

        qtbot.waitUntil(arrived, timeout=20_000)
    assert pane.form.values()["samples"] == "lines?by=line"
    assert pane.preview.cut.currentData() == "line"


def test_that_sounds_are_listed_by_what_they_are_and_how_long(tmp_path: Path) -> None:
    tone(tmp_path / "low.wav", 8_000, 0.5, 200.0)
    tone(tmp_path / "high.wav", 8_000, 1.25, 900.0)
    found = look(str(tmp_path))
    assert (found.count, found.sounds, found.images) == (2, 2, 0)
    assert [one.text for one in found.some] == ["high, sound of 1.2 s", "low, sound of 0.5 s"]


def test_that_the_start_of_a_text_says_where_it_was_cut() -> None:
    assert start_of("one\ntwo\nthree", 2) == "one\ntwo\n…"
    assert start_of("\n\none\n", 2) == "one"
    cut = start_of("x" * 5000, 3)
    assert cut.endswith("…") and len(cut) < 400


def test_that_the_tree_has_room_for_its_names_and_finds_and_ticks_a_hook_point(pane: Recording, qtbot: QtBot) -> None:
    assert pane.form is not None
    pane.hooks.word.setText(HOOK)
    seen = [item for item in pane.hooks._points() if not item.isHidden()]
    assert seen and all(HOOK in item.toolTip(0) for item in seen)
    found = next(item for item in seen if f">{HOOK}<" in item.toolTip(0))
    qtbot.wait(20)
    area = pane.tree.visualItemRect(found)
    room = pane.tree.columnWidth(0) - area.left()
    assert pane.tree.fontMetrics().horizontalAdvance(found.text(0)) + 28 < room
    found.setCheckState(0, Qt.CheckState.Checked)
    assert list(pane.form.values()["hooks"]) == [HOOK]
    pane.form.set("hooks", ())
    assert found.checkState(0) == Qt.CheckState.Unchecked


def test_that_all_hook_points_that_a_word_finds_are_ticked_at_once(pane: Recording) -> None:
    assert pane.form is not None
    assert pane.hooks.all_button.isHidden()
    pane.hooks.word.setText("resid_post")
    each = [item.data(0, Qt.ItemDataRole.UserRole) for item in pane.hooks._points() if not item.isHidden()]
    assert len(each) > 1 and pane.hooks.all_button.text() == f"Tick all {len(each)}"
    pane.hooks.all_button.click()
    assert pane.hooks._told.text() == f"{len(each)} chosen: {', '.join(each[:4])} and {len(each) - 4} more"
    assert list(pane.form.values()["hooks"]) == each and pane.hooks.all_button.text() == f"Untick all {len(each)}"
    pane.form.set("hooks", ("blocks.*.resid_post", "final_norm"))
    text = [name for name in each if name.startswith("blocks.")]
    assert pane.hooks._told.text() == f"{len(text) + 1} chosen: {', '.join(text)}, final_norm"
    first = next(item for item in pane.hooks._points() if item.data(0, Qt.ItemDataRole.UserRole) == text[0])
    first.setCheckState(0, Qt.CheckState.Unchecked)
    assert list(pane.form.values()["hooks"]) == [*text[1:], "final_norm"]
    pane.form.set("hooks", ("blocks.0.*",))
    first.setCheckState(0, Qt.CheckState.Unchecked)
    block = list(pane.form.values()["hooks"])
    assert len(block) > 3 and not [name for name in block if name.endswith("pattern")]
    pane.hooks.word.setText("blocks.*.z")
    assert pane.hooks.all_button.text() == f"Tick all {len(text)}" and pane.hooks._none.isHidden()
    pane.hooks.word.setText("resid_middle")
    assert pane.hooks.all_button.isHidden() and "called “resid_middle”" in pane.hooks._none.text()
    assert pane.hooks._none.isVisible()
    pane.hooks.word.setText("pattern")  # which no store keeps
    assert pane.hooks.all_button.isHidden()
    pane.hooks.word.clear()
    assert pane.hooks.all_button.isHidden()


def test_that_a_pane_made_anew_goes_on_with_what_was_put_in_and_what_runs(pane: Recording, qtbot: QtBot) -> None:
    before = Recording(pane.session)
    qtbot.waitUntil(lambda: before.form is not None, timeout=30_000)
    assert before.form is not None
    before.form.set_all({"hooks": (HOOK,), "context": 77, "samples": "lines?by=file"})
    values, stop = before.form.values(), threading.Event()
    before._follow(pane.session.run("Record", lambda reporter: {"waited": stop.wait(10)}))
    kept = before.kept()
    before.deleteLater()
    anew = Recording(pane.session)
    qtbot.addWidget(anew)
    anew.keep(kept)
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qtbot.waitUntil(lambda: anew.form is not None and not anew.session.reading, timeout=30_000)
    assert anew.form is not None
    assert anew.form.values() == values and not anew.planner.start_button.isEnabled()
    stop.set()
    qtbot.waitUntil(lambda: anew.planner.start_button.isEnabled(), timeout=10_000)


def test_that_samples_opened_here_are_chosen_here(pane: Recording, qtbot: QtBot, tmp_path: Path) -> None:
    assert pane.form is not None
    pane.form.set("samples", "lines?by=line")
    new = tmp_path / "new.txt"
    new.write_text("another text", encoding="utf-8")
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.open_path(new)
    assert pane.session.find(str(pane.form.values()["samples"])).name == "new"
    qtbot.waitUntil(lambda: "another text" in shown(pane), timeout=10_000)


def test_that_samples_are_opened_from_a_file_and_from_a_folder(
    pane: Recording, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "some").mkdir()
    for where, text in (("one.txt", "in a file"), ("some/two.txt", "in a folder")):
        (tmp_path / where).write_text(text, encoding="utf-8")
    for asks, answer, title, text in (
        ("getOpenFileName", (str(tmp_path / "one.txt"), ""), "A file…", "in a file"),
        ("getExistingDirectory", str(tmp_path / "some"), "A folder…", "in a folder"),
    ):
        monkeypatch.setattr(f"auditor.ui.panes.recording.QFileDialog.{asks}", lambda *_, told=answer: told)
        pane.choose_samples()
        menu = pane.findChild(QMenu)
        assert menu is not None and menu.isVisible()
        with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
            next(action for action in menu.actions() if action.text() == title).trigger()
        menu.close()
        qtbot.waitUntil(lambda text=text: text in shown(pane), timeout=10_000)  # type: ignore[misc]


def test_that_names_of_hook_points_have_the_room_that_there_is(pane: Recording) -> None:
    tree = pane.hooks.tree
    assert pane.hooks.width() > 240 and not tree.isColumnHidden(1) and not tree.isColumnHidden(2)
    for wide, hidden in ((220, [False, True]), (150, [True, True]), (300, [False, False])):
        pane.hooks.resize(wide, 300)
        assert [tree.isColumnHidden(column) for column in (1, 2)] == hidden and not tree.isColumnHidden(0)


def test_that_hook_points_that_another_model_had_are_told(pane: Recording) -> None:
    assert pane.form is not None
    pane.form.set("hooks", (HOOK, "blocks.99.z"))
    assert pane.hooks._told.text() == (
        f"1 chosen: {HOOK}. Not in this list: blocks.99.z (another name, or none of this model)"
    )
    pane.form.set("hooks", ("blocks.99.z",))
    assert pane.hooks._told.text() == "Not in this list: blocks.99.z (another name, or none of this model)"
    pane.form.set("hooks", (HOOK,))
    assert pane.hooks._told.text() == f"1 chosen: {HOOK}"


def test_that_a_folder_that_is_no_model_is_called_that(pane: Recording, qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.md").write_text("hello", encoding="utf-8")
    told: list[str] = []
    pane.session.message.connect(lambda level, text, hint, _: told.append(f"{level} {text} {hint}"))
    pane.open_model(tmp_path / "notes")
    qtbot.waitUntil(lambda: bool(told), timeout=10_000)
    assert told == [
        "bad “notes” is not the folder of a model. Such a folder holds config.json and weights as safetensors, "
        "or GGUF weights."
    ]
    assert not pane.session.jobs


def test_that_a_model_without_an_adapter_of_ours_says_so(pane: Recording, qtbot: QtBot, tmp_path: Path) -> None:
    from tests.models.test_generic import saved, xglm

    assert not pane._model_note.isVisible()
    saved(xglm, tmp_path / "strange")
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.open_model(tmp_path / "strange")
    assert "strange" in pane._model_name.text() and "xglm" in pane._model_name.text()
    assert pane._model_note.isVisible()
    assert "no adapter for “xglm”: hook points have the network's own names" in pane._model_note.text()
    assert "model.layers.1.fc1" in {item.data(0, Qt.ItemDataRole.UserRole) for item in pane.hooks._points()}
    pane.form.set("model", "a tiny paired model")  # type: ignore[union-attr]
    assert not pane._model_note.isVisible()


def test_that_the_base_of_an_adapter_is_asked_for(
    pane: Recording, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.models.peft.make_fixtures import FIXTURES

    asked: list[str] = []
    answers = iter(["", str(FIXTURES / "base-llama")])
    monkeypatch.setattr(
        "auditor.ui.panes.recording.QFileDialog.getExistingDirectory",
        lambda parent, title, place: (asked.append(title), next(answers))[1],
    )
    pane.open_model(FIXTURES / "lora")
    qtbot.waitUntil(lambda: len(asked) == 1 and not pane.session.reading, timeout=20_000)
    assert not pane.session.jobs
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.open_model(FIXTURES / "lora")
    assert asked == ["Open the base model of lora"] * 2
    assert pane._model_name.text().startswith("lora-on-base-llama")


def test_that_opening_the_first_model_is_said_while_it_lasts(
    project_session: Session, qtbot: QtBot, take_commands: Take, tiny_paired_folder: Path
) -> None:
    take_commands(project_session)
    pane = Recording(project_session)
    project_session.pane_of = lambda _: pane
    qtbot.addWidget(pane)
    pane.show()
    assert pane.state == "empty"
    with qtbot.waitSignal(project_session.job_ended, timeout=60_000):
        pane.open_path(tiny_paired_folder)
        assert pane.state == "working"
    assert pane.state == "ready"
    qtbot.waitUntil(lambda: not project_session.reading, timeout=30_000)
    pane.open_path(tiny_paired_folder / "nowhere")
    assert pane.state == "ready"
    qtbot.waitUntil(lambda: not project_session.busy, timeout=30_000)


def choose(pane: Recording, qtbot: QtBot, path: Path) -> None:
    """Take a file or folder into the project as samples, and wait until they were looked at."""
    assert pane.form is not None and pane.session.project is not None
    taken = pane.session.project.add("samples", path.name.split(".")[0], path)
    pane.session.refresh()
    pane.form.set("samples", taken.id)
    qtbot.waitUntil(lambda: pane._look is not None and not pane.session.reading, timeout=20_000)


def test_that_the_columns_of_a_table_are_told_and_chosen(pane: Recording, qtbot: QtBot, tmp_path: Path) -> None:
    assert pane.form is not None
    table = tmp_path / "table.csv"
    table.write_text("title,long,topic\none,the first of them,x\ntwo,the second of them,y\n", encoding="utf-8")
    choose(pane, qtbot, table)
    assert pane.preview.columns.told.text() == "Text: long (guessed)"
    qtbot.waitUntil(lambda: "the first of them" in shown(pane), timeout=10_000)
    for role, column in (("text", "title"), ("group", "topic")):
        pane.preview.columns.change.setChecked(True)
        box = pane.preview.columns.boxes[role]
        assert box.isVisible()
        box.setCurrentIndex(box.findData(column))
        box.activated.emit(box.currentIndex())
        qtbot.waitUntil(lambda: not pane.session.reading and pane._look is not None, timeout=20_000)
    assert pane.form.values()["samples"] == "table?field=title&group_field=topic"
    assert pane.preview.columns.told.text() == "Text: title; Group: topic"
    qtbot.waitUntil(lambda: "two" in shown(pane), timeout=10_000)
    box = pane.preview.columns.boxes["text"]
    box.setCurrentIndex(0)
    box.activated.emit(0)
    qtbot.waitUntil(lambda: "the second of them" in shown(pane), timeout=20_000)
    assert pane.form.values()["samples"] == "table?group_field=topic"


def test_that_options_stay_with_the_samples_that_were_chosen(pane: Recording, qtbot: QtBot, tmp_path: Path) -> None:
    assert pane.form is not None
    places = [tmp_path / name / "alike.csv" for name in ("first", "second")]
    for place in places:
        place.parent.mkdir()
        place.write_text(f"title,long\none,the first of {place.parent.name}\n", encoding="utf-8")
        choose(pane, qtbot, place)
    first = next(held for held in pane.session.artefacts("samples") if held.path == places[0])
    pane.form.set("samples", first.id)
    pane._option("field", "title")
    assert pane.form.values()["samples"] == f"{first.id}?field=title"
    found, _ = pane._chosen("samples")
    assert found is not None and found.path == places[0]


def test_that_what_cannot_be_read_is_counted_with_its_reasons(pane: Recording, qtbot: QtBot, tmp_path: Path) -> None:
    from tests.ui.panes.conftest import pictures

    folder = tmp_path / "some pictures"
    folder.mkdir()
    for sample in pictures(4):
        assert sample.image is not None
        (folder / f"{sample.id}.png").write_bytes(sample.image.encoded())
    (folder / "red-0.png").write_bytes((folder / "red-0.png").read_bytes()[:200])
    (folder / "none.png").touch()
    choose(pane, qtbot, folder)
    left_out = pane.preview.left_out
    assert left_out.told.text() == "1 cannot be read and is left out; of 4 looked at, 1 cannot be used"
    assert not left_out.reasons.isVisible()
    left_out.why.click()
    assert left_out.reasons.isVisible() and "“none.png” is empty." in left_out.reasons.text()
    assert "“red-0.png” is damaged" in left_out.reasons.text()
    qtbot.waitUntil(lambda: "Cannot be read: it will be left out." in shown(pane), timeout=10_000)


def test_that_texts_are_measured_in_tokens_against_the_context(pane: Recording, qtbot: QtBot) -> None:
    assert pane.form is not None
    qtbot.waitUntil(lambda: pane.preview.tokens.isVisible(), timeout=20_000)
    assert "30 texts looked at" in pane.preview.tokens.text() and "exceed" not in pane.preview.tokens.text()
    pane.form.set("context", 2)
    assert "100 % exceed the context" in pane.preview.tokens.text()


def drop(pane: Recording, qtbot: QtBot, path: Path) -> None:
    """Drag a file or folder in and let it go; it is opened."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    middle = pane.rect().center()
    buttons = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    enter = QDragEnterEvent(middle, *buttons)
    pane.dragEnterEvent(enter)
    assert enter.isAccepted()
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.dropEvent(QDropEvent(middle.toPointF(), *buttons))


def test_that_a_dropped_folder_is_opened_and_chosen(pane: Recording, qtbot: QtBot, tmp_path: Path) -> None:
    assert pane.form is not None
    folder = tmp_path / "dropped"
    folder.mkdir()
    (folder / "a.py").write_text("import os\n\nprint(os.name)\n", encoding="utf-8")
    assert not any(line.acceptDrops() for line in pane.findChildren(QLineEdit))
    drop(pane, qtbot, folder)
    assert pane.session.find(str(pane.form.values()["samples"])).name == "dropped"
    qtbot.waitUntil(lambda: any(text.startswith("import os") for text in shown(pane)), timeout=20_000)


def test_that_a_column_that_holds_no_text_is_told_and_another_can_be_chosen(
    pane: Recording, qtbot: QtBot, tmp_path: Path
) -> None:
    table = tmp_path / "table.jsonl"
    table.write_text('{"said": "hello there", "n": 1}\n{"said": "good night", "n": 2}\n', encoding="utf-8")
    choose(pane, qtbot, table)
    box = pane.preview.columns.boxes["text"]
    box.setCurrentIndex(box.findData("n"))
    box.activated.emit(box.currentIndex())
    wrong = "Line 1 of “table.jsonl” has nothing under “n”."
    qtbot.waitUntil(lambda: wrong in pane.preview.told.text(), timeout=20_000)
    assert pane.preview.columns.isVisible() and pane.preview.columns.change.isVisible()
    box.setCurrentIndex(box.findData("said"))
    box.activated.emit(box.currentIndex())
    qtbot.waitUntil(lambda: "good night" in shown(pane), timeout=20_000)


def test_that_a_dropped_folder_of_samples_with_several_pictures_shows_their_parts(
    pane: Recording, qtbot: QtBot, tmp_path: Path
) -> None:
    tmp_path = tmp_path / "several"
    tmp_path.mkdir()
    for number in range(6):
        Image.new("RGB", (20, 12), (40 * number, 90, 90)).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
    talk = [{"role": "user", "content": [{"type": "text", "text": "Which is red?"}, {"type": "image"}]}]
    rows = [
        {"id": "six", "text": "<image> then <image>", "images": [f"{number}.png" for number in range(6)]},
        {"id": "parts", "parts": ["a ", {"image": "1.png"}, " and ", {"image": "2.png"}]},
        {"id": "talk", "messages": talk, "images": ["3.png"]},
        {"id": "bad", "parts": ["a ", {"image": "1.png"}, {"image": "bad.png"}]},
        {"id": "gone", "parts": ["a ", {"image": "../elsewhere.png"}]},
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = look(str(tmp_path / "set.jsonl"))
    assert (found.count, found.images, found.conversations) == (4, 4, 1)
    six, parts, said, bad = found.some
    assert (len(six.pngs), six.pictures, six.text) == (4, 6, "<image> then <image>")
    assert (len(parts.pngs), parts.text) == (2, "a <image> and <image>")
    assert (len(said.pngs), said.text) == (1, "user: Which is red?<image>")
    assert bad.broken and not bad.pngs
    assert found.skips.count == 1 and "which is not there" in found.skips.first[0]
    assert found.faults.count == 1 and "bad.png" in found.faults.first[0]
    drop(pane, qtbot, tmp_path)
    qtbot.waitUntil(lambda: any(text == "+ 2" for text in shown(pane)), timeout=30_000)
    assert "a <image> and <image>" in shown(pane) and "Cannot be read: it will be left out." in shown(pane)


def test_that_a_plan_of_no_position_does_not_say_that_it_fits(pane: Recording) -> None:
    from auditor.store.plan import Plan

    some = Plan(rows=5, bytes=100, free_bytes=10**9, minutes=0.1, probed=4, batch_size=4, formats={"int8": (50, 1e-4)})
    for plan, said in ((some, "It fits."), (replace(some, rows=0, bytes=0), "No sample has a position")):
        pane.planner.show_plan(plan)
        assert pane.planner.told.text().startswith(said)


def test_that_a_plan_that_does_not_fit_says_by_how_much_and_what_to_do(pane: Recording) -> None:
    from auditor.store.plan import Plan

    disk = Plan(rows=5, bytes=2_300_000_000, free_bytes=10**8, minutes=0.1, probed=4, formats={"int8": (50, 1e-4)})
    memory = Plan(rows=5, bytes=1, free_bytes=9, minutes=0.1, probed=4, memory_bytes=9 * 10**9, free_memory_bytes=10**9)
    for plan, needs, choose in ((disk, "2.3 GB and 100.0 MB are free", "int8"), (memory, "9.0 GB of memory", "batch")):
        pane.planner.show_plan(plan)
        told = pane.planner.told
        assert needs in told.text() and choose in told.text() and told.property("role") == "bad"


def test_that_why_a_recording_or_a_plan_failed_is_said_beside_its_button(
    pane: Recording, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pane.form is not None
    pane.form.set_all({"hooks": ("blocks.77.z",), "device": "cpu"})
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.start()
    wrong = "has no hook point “blocks.77.z”."
    qtbot.waitUntil(lambda: wrong in pane.planner.told.text(), timeout=5000)
    assert pane.planner.told.text().startswith("It was not recorded. ") and "It has " in pane.planner.told.text()
    pane.plan()
    qtbot.waitUntil(lambda: pane.planner.told.text().startswith("It could not be measured. "), timeout=60_000)
    assert wrong in pane.planner.told.text()


def test_that_a_recording_that_is_paused_or_waits_for_the_disk_says_so_and_why_it_cannot_be_started(
    pane: Recording, qtbot: QtBot
) -> None:
    go, waiting = threading.Event(), "waiting: the disk is full, 12.0 MB more must be free in stores"

    def work(reporter: Reporter) -> dict[str, object]:
        while not go.wait(0.01):
            reporter.step(1, 9, waiting)
        return {"rows": 3, "artefacts": [pane.session.artefacts("store")[0].id]}

    live = pane.session.run("Record", work)
    pane._follow(live)
    planner = pane.planner
    assert not planner.start_button.isEnabled() and "among the jobs" in planner.start_button.toolTip()
    qtbot.waitUntil(lambda: "12.0 MB more must be free" in planner.told.text(), timeout=5000)
    live.pause()
    qtbot.waitUntil(lambda: planner.told.text().startswith("Paused."), timeout=5000)
    go.set()
    live.resume()
    qtbot.waitUntil(lambda: planner.start_button.isEnabled(), timeout=5000)
    assert planner.start_button.toolTip() == "" and planner.told.text() == "Recorded 3 positions."
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pane.session.commands, "run", asked.append)
        planner.look_button.click()
    assert asked == ["store.show"] and pane.session.artefact == pane.session.artefacts("store")[0].id


def test_that_samples_that_the_model_cannot_read_are_told_before_anything_is_planned(
    pane: Recording, qtbot: QtBot, tmp_path: Path
) -> None:
    from auditor.data.skipped import Skips
    from auditor.ui.panes.recording.look import Look

    sounds = Look(4, [], Skips(), Skips(), sounds=4)
    captioned = Look(4, [], Skips(), Skips(), images=4, texts=4)
    assert [look.unread_by({"text"}) for look in (sounds, captioned)] == ["sounds", ""]
    assert Look(4, [], Skips(), Skips(), texts=4).unread_by({"image"}) == "texts"
    Image.new("RGB", (20, 12), (40, 90, 90)).save(tmp_path / "one.png")
    model = pane._chosen("model")[0]
    assert model is not None and pane.session.project is not None
    for reads, told in ((["text"], True), (["image", "text"], False)):
        pane.session.project.note(model, modalities=reads)
        pane.session.refresh()
        pane._looked_at = ("", None)
        choose(pane, qtbot, tmp_path / "one.png")
        assert ("The model reads no images" in pane.preview.told.text()) == told


def test_that_labels_and_groups_of_samples_are_seen_as_they_are_chosen(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("text,topic,place\nof ships,sea,far\n", encoding="utf-8")
    assert look(str(table)).some[0].name.endswith("  ·  topic sea  ·  place far")
    shown = look(f"{table}?label_field=topic&group_field=place").some[0].name
    assert "group far" in shown and "label sea" in shown
