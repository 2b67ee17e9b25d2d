"""A form from a Config: what it shows, what it gives back, and what it says is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QComboBox, QLineEdit, QSpinBox, QWidget
from pytestqt.qtbot import QtBot

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.ui.forms import Form
from auditor.ui.session import Session


class Settings(Config):
    store: str = field(title="Store", help="The rows to learn from.", artefact="store")
    arch: str = field("topk", title="Architecture", choices=("topk", "relu"))
    k: int = field(32, title="Active features", unit="features", ge=1, le=512)
    rate: float = field(3e-3, title="Learning rate", ge=1e-6, le=1)
    batch: int | None = field(None, title="Batch")
    hooks: tuple[str, ...] = field((), title="Hook points")
    tied: bool = field(True, title="Tied start")
    seed: int = field(0, title="Seed", advanced=True, ge=0)
    at_most: int = field(0, title="Rows at most", unit="rows", ge=0, help="0: all.", zero="all")


@pytest.fixture
def form(project_session: Session, qtbot: QtBot) -> Form:
    project = project_session.project
    assert project is not None
    path = project.new_path("store", "train-300k")
    path.write_bytes(b"rows")
    project.add("store", "train-300k", path)
    project_session.refresh()
    made = Form(Settings, project_session)
    qtbot.addWidget(made)
    return made


def editor(form: Form, name: str) -> QWidget:
    found: QWidget = form._fields[name].editor
    return found


def test_that_defaults_come_back_as_they_are_declared(form: Form, project_session: Session) -> None:
    stored = project_session.artefacts("store")[0]
    made = form.value()
    assert made == Settings(store=stored.id)


def test_that_edits_come_back_with_their_types(form: Form) -> None:
    form.set("arch", "relu")
    form.set("k", 7)
    form.set("rate", 1e-5)
    form.set("batch", 4096)
    form.set("hooks", ("blocks.1.resid_post", "blocks.2.resid_post"))
    form.set("tied", False)
    made = form.value()
    assert isinstance(made, Settings)
    assert (made.arch, made.k, made.rate, made.batch, made.tied) == ("relu", 7, 1e-5, 4096, False)
    assert made.hooks == ("blocks.1.resid_post", "blocks.2.resid_post")


def test_that_what_is_wrong_is_said_beside_the_field(form: Form) -> None:
    form.set("rate", 7)
    assert form._fields["rate"].note.text() == "At most 1"
    assert editor(form, "rate").property("invalid")
    with pytest.raises(AuditorError, match=r"Learning rate.*at most 1"):
        form.value()
    form.set("rate", "some")
    assert form._fields["rate"].note.text() == "This is not a number"
    form.set("rate", 0.5)
    assert form._fields["rate"].note.text() == ""
    assert not editor(form, "rate").property("invalid")


def test_that_a_missing_artefact_is_asked_for(project_session: Session, qtbot: QtBot) -> None:
    made = Form(Settings, project_session)
    qtbot.addWidget(made)
    with pytest.raises(AuditorError, match=r"Store.*needed"):
        made.value()


def test_that_bounds_units_choices_and_help_are_those_of_the_config(form: Form) -> None:
    k, arch = editor(form, "k"), editor(form, "arch")
    assert isinstance(k, QSpinBox) and isinstance(arch, QComboBox)
    assert (k.minimum(), k.maximum(), k.suffix()) == (1, 512, " features")
    assert [arch.itemText(i) for i in range(arch.count())] == ["topk", "relu"]
    assert form._fields["store"].note.text() == "The rows to learn from."
    assert isinstance(editor(form, "batch"), QLineEdit)


def test_that_a_picker_follows_the_catalogue_and_keeps_its_choice(form: Form, project_session: Session) -> None:
    project = project_session.project
    assert project is not None
    first = project_session.artefacts("store")[0]
    path: Path = project.new_path("store", "later")
    path.write_bytes(b"more")
    project.add("store", "later", path)
    project_session.refresh()
    picker = editor(form, "store")
    assert isinstance(picker, QComboBox)
    assert [picker.itemText(i).split("  ·")[0] for i in range(picker.count())] == ["later", "train-300k"]
    assert form.values()["store"] == first.id


def test_that_advanced_settings_are_folded_until_one_of_them_is_wrong(form: Form) -> None:
    assert editor(form, "seed").parentWidget() is not None
    assert editor(form, "seed").isHidden() or not form._fold.isChecked()
    form._mark({"seed": "at least 0"})
    assert form._fold.isChecked()


def test_that_items_which_hold_commas_are_kept_apart_by_semicolons(project_session: Session, qtbot: QtBot) -> None:
    from auditor.tasks.experiment import ExperimentConfig

    made = Form(ExperimentConfig, project_session)
    qtbot.addWidget(made)
    lines = ("scale embed at=2,3", "weight a.weight index=3,:")
    made.set("edit", lines)
    shown = made.value()
    assert isinstance(shown, ExperimentConfig) and shown.edit == lines


class Placed(Config):
    device: str = field("auto", title="Device", choices=["auto", "cpu", "cuda"])


@pytest.mark.parametrize("there", [False, True])
def test_that_a_gpu_that_is_not_there_is_told_beside_the_device(
    session: Session, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    made = Form(Placed, session)
    qtbot.addWidget(made)
    assert not session.reading  # nobody wants one
    with qtbot.waitSignal(session.gpu_looked_for, timeout=30_000):
        made.set("device", "cuda")
    told = made._fields["device"].note.text()
    assert told == ("" if there else "This machine has no usable NVIDIA GPU. Choose the device auto or cpu.")
    if there:
        assert made.value() == Placed(device="cuda")
    else:
        with pytest.raises(AuditorError, match="“Device”: This machine has no usable"):
            made.value()
    made.set("device", "cpu")
    assert made.value() == Placed(device="cpu") and not made._fields["device"].note.text()


def test_that_a_whole_number_says_what_0_means_and_takes_others(form: Form, qtbot: QtBot) -> None:
    most = editor(form, "at_most")
    assert isinstance(most, QSpinBox)
    assert most.text() == "all" and form.value().at_most == 0  # type: ignore[attr-defined]
    most.setFocus()
    most.selectAll()
    qtbot.keyClicks(most, "250")
    assert most.text() == "250 rows" and form.value().at_most == 250  # type: ignore[attr-defined]
    form.set("at_most", 0)
    assert most.text() == "all"
    seed = editor(form, "seed")
    assert isinstance(seed, QSpinBox) and seed.text() == "0"


class Brought(Config):
    path: str = field("", title="Path")
    name: str = field("", title="Name")


def test_that_a_dropped_file_is_a_path_where_one_is_asked_for_and_never_text(
    session: Session, qtbot: QtBot, tmp_path: Path
) -> None:
    made = Form(Brought, session)
    qtbot.addWidget(made)
    assert not editor(made, "name").acceptDrops()  # it goes to the pane, which takes it in
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(tmp_path / "a b.npy"))])
    given = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    place = editor(made, "path")
    for event in (QDragEnterEvent(place.rect().center(), *given), QDropEvent(place.rect().center(), *given)):
        QApplication.sendEvent(place, event)
        assert event.isAccepted()
    assert made.values()["path"] == str(tmp_path / "a b.npy")
