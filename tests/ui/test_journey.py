"""From a model folder to a verified bundle in the window: real panes in the real window, on small real weights."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from auditor.base.paths import sample_data
from auditor.ui.bridge import LiveJob
from auditor.ui.forms import Form
from auditor.ui.panes.case import CasePane
from auditor.ui.panes.case.editors import CaseEditor, FindingEditor, QuestionEditor
from auditor.ui.panes.case.signing import SignPage
from auditor.ui.panes.case.verifying import VerifyPage
from auditor.ui.panes.examples import Examples
from auditor.ui.panes.features import Features
from auditor.ui.panes.recording import Recording
from auditor.ui.panes.training import Training
from auditor.ui.session import Session
from auditor.ui.widgets.plain_text import PlainLabel
from auditor.ui.window import Window

HOOK = "blocks.0.resid_post"


@pytest.fixture
def window(session: Session, qtbot: QtBot) -> Iterator[Window]:
    made = Window(session)
    qtbot.addWidget(made)
    made.show()
    yield made
    session.jobs.clear()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Forty-eight real texts."""
    with gzip.open(sample_data() / "texts" / "texts.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": row["text"]}) for row in rows[:: len(rows) // 48]), encoding="utf-8")
    return path


class Person:
    """Does in the window what a person does, and waits as one."""

    def __init__(self, window: Window, qtbot: QtBot) -> None:
        self.window, self.session, self.qtbot = window, window.session, qtbot

    def until(self, holds: Callable[[], object]) -> None:
        self.qtbot.waitUntil(lambda: bool(holds()), timeout=40_000)

    def work(self, start: Callable[[], object]) -> LiveJob:
        """Start a job; it must end well."""
        with self.qtbot.waitSignal(self.session.job_ended, timeout=120_000) as told:
            start()
        live: LiveJob = told.args[0]
        assert live.outcome == "done", f"{live.title}: {live.message} {live.hint} {live.trace}"
        return live

    def fill(self, form: Form | None, **values: Any) -> None:
        assert form is not None
        for name, value in values.items():
            form.set(name, value)

    def press(self, pane: Any, text: str) -> None:
        found = [b for b in pane.findChildren(QPushButton) if b.text() == text and b.isVisible() and b.isEnabled()]
        assert len(found) == 1, f"“{text}” is there {len(found)} times"
        self.qtbot.mouseClick(found[0], Qt.MouseButton.LeftButton)

    def command(self, name: str) -> None:
        command = self.session.commands.get(name)
        assert self.session.commands.usable(command), f"{name} cannot be used now"
        self.session.commands.run(name)

    def pane(self, name: str, kind: type[Any]) -> Any:
        found = self.session.open_pane(name)
        assert isinstance(found, kind)
        return found


def test_the_way_from_a_model_folder_to_a_verified_bundle(
    window: Window, qtbot: QtBot, tiny_llama_folder: Path, texts: Path, tmp_path: Path
) -> None:
    faults: list[str] = []
    window.session.message.connect(
        lambda level, text, hint, _: faults.append(f"{text} {hint}") if level == "bad" else 0
    )
    person = Person(window, qtbot)
    window.load_commands()
    window.session.create_project(tmp_path / "project", "Journey")
    record(person, tiny_llama_folder, texts)
    train(person)
    feature = index_and_choose(person)
    start_case(person)
    pin(person, feature)
    write_finding(person)
    sign_and_verify(person, tmp_path / "me.pem")
    assert not faults
    project = window.session.project
    assert project is not None and project.log.check() is None
    verbs = ["open", "open", "record", "train", "index", "report"]
    assert [(run.verb, run.status) for run in project.runs()] == [(verb, "done") for verb in verbs]


def record(person: Person, model: Path, texts: Path) -> None:
    person.window.show_layout("train")
    pane: Recording = person.pane("recording", Recording)
    assert pane.state == "empty"
    person.work(lambda: pane.open_path(model))
    person.work(lambda: pane.open_path(texts))
    person.until(lambda: pane.state == "ready" and pane.form is not None)
    assert pane.tree.topLevelItemCount() > 0
    person.fill(pane.form, hooks=(HOOK,), context=40, batch_size=8)
    person.work(lambda: person.command("record.start"))
    store = person.session.artefacts("store")[-1]
    assert store.meta["rows"] > 400 and store.path.is_dir()


def train(person: Person) -> None:
    pane: Training = person.pane("training", Training)
    person.until(lambda: pane.state == "ready")
    person.fill(pane.form, d_sae=256, k=8, steps=30, batch_size=256, evaluate_rows=512, device="cpu")
    live = person.work(lambda: person.press(pane, "Train"))
    assert live.metrics["loss"][0] and pane.table.model().rowCount() == 1
    assert person.session.artefacts("dictionary")[-1].meta["hook"] == HOOK


def index_and_choose(person: Person) -> int:
    """The feature that is chosen in the table after a search."""
    person.command("view.layout.explore")
    person.command("run.index")
    pane: Features = person.pane("features", Features)
    person.until(lambda: pane.form.form is not None)
    person.fill(pane.form.form, top=4, per_band=1)
    person.work(lambda: person.press(pane.form, "Index"))
    person.until(lambda: pane.state == "ready" and pane.bar.count.text() == "256 of 256")
    person.qtbot.keyClicks(pane.bar.edit, "live:yes id<100")
    assert pane.bar.text == "live:yes id<100"
    person.until(lambda: 0 < len(pane.table.order) <= 100 and not person.session.reading)
    pane.table.setFocus()
    person.qtbot.keyClick(pane.table, Qt.Key.Key_Down)
    assert person.session.feature is not None
    assert person.session.feature[1] in pane.table.order
    return person.session.feature[1]


def start_case(person: Person) -> None:
    person.command("case.new")
    pane: CasePane = person.pane("case", CasePane)
    editor = pane.detail.page
    assert isinstance(editor, CaseEditor)
    person.qtbot.keyClicks(editor.title, "What block 0 holds")
    person.qtbot.keyClicks(editor.author, "A. Auditor")
    person.press(pane, "Start the case")
    person.until(lambda: pane.open is not None and pane.state == "ready" and not pane.detail.editing)
    person.command("case.ask")
    question = pane.detail.page
    assert isinstance(question, QuestionEditor)
    question.hypothesis.setPlainText("One feature stands for one thing")
    question.null.setPlainText("It fires on anything")
    question.measure.setText("AUROC")
    question.threshold.setText("0.7")
    person.press(pane, "Save the question")
    pane.outline.select("Q1")
    seal = next(b for b in pane.detail.findChildren(QPushButton) if b.text().startswith("Seal"))
    person.qtbot.mouseClick(seal, Qt.MouseButton.LeftButton)
    assert pane.open is not None and pane.open.case.questions[0].sealed


def pin(person: Person, feature: int) -> None:
    person.command("view.layout.explore")
    card: Examples = person.pane("examples", Examples)
    person.until(lambda: card.state == "ready" and card.head.number.text() == str(feature))
    person.until(lambda: not person.session.reading)
    person.press(card, "Add to case")
    case: CasePane = person.window.docks.docks["case"].pane  # type: ignore[assignment]
    person.until(lambda: case.open is not None and len(case.open.case.evidence) == 1)
    assert case.open is not None
    piece = case.open.case.evidence[0]
    assert piece.kind == "examples" and f"{feature}" in piece.title and piece.figure
    assert (case.open.figures_folder / piece.figure).read_bytes().startswith(b"\x89PNG")


def write_finding(person: Person) -> None:
    person.command("case.find")
    pane: CasePane = person.pane("case", CasePane)
    finding = pane.detail.page
    assert isinstance(finding, FindingEditor)
    finding.title.setText("A feature")
    finding.claim.setPlainText("It fires on one kind of text.")
    finding.question.setCurrentIndex(finding.question.findData("Q1"))
    finding.evidence.item(0).setCheckState(Qt.CheckState.Checked)
    person.press(pane, "Save the finding")
    assert pane.open is not None and pane.open.case.findings[0].evidence == ("E1",)


def sign_and_verify(person: Person, key: Path) -> None:
    person.work(lambda: person.command("case.report"))
    pane: CasePane = person.pane("case", CasePane)
    person.command("case.sign")
    sign = pane.detail.page
    assert isinstance(sign, SignPage)
    sign.key.setText(str(key))
    sign.new.setChecked(True)
    person.press(pane, "Sign")
    person.until(lambda: key.exists() and sign.take.isEnabled())
    assert not sign.fault.isVisible(), sign.fault.text()
    person.command("case.verify")
    verify = pane.detail.page
    assert isinstance(verify, VerifyPage)
    assert Path(verify.bundle.text()) == person.session.artefacts("bundle")[-1].path
    person.press(pane, "Verify")
    person.until(lambda: verify._verdict is not None)
    told = [label.text() for label in verify.findChildren(PlainLabel)]
    assert "✓ The bundle is as it was signed." in told
