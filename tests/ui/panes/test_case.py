"""The case pane: from an empty project to questions, findings, a report, a signature and a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from auditor.audit.evidence import Metric, Null, Recipe
from auditor.ui.panes.case import CasePane
from auditor.ui.panes.case.editors import CaseEditor, FindingEditor, QuestionEditor
from auditor.ui.panes.case.signing import SignPage, VerifyPage
from auditor.ui.session import Session


@pytest.fixture
def pane(qtbot: QtBot, project_session: Session) -> CasePane:
    for command in CasePane.commands(project_session):
        project_session.commands.add(command)
    made = CasePane(project_session)
    project_session.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(1100, 700)
    made.show()
    return made


def effect(estimate: float = 0.31) -> dict[str, object]:
    null = Null(n=100, mean=0.01, quantiles={"0.95": 0.05}, p=0.0099, description="features of equal density")
    metric = Metric(
        name="drop in log probability", estimate=estimate, interval=(0.21, 0.42), n=120, unit="nats", null=null,
        baseline={"random direction": 0.02},
    )  # fmt: skip
    return {
        "kind": "intervention",
        "title": "Ablating feature 7",
        "recipe": Recipe(verb="experiment"),
        "metric": metric,
    }


def start_case(pane: CasePane, qtbot: QtBot) -> None:
    pane.new_case()
    editor = pane.detail.page
    assert isinstance(editor, CaseEditor)
    qtbot.keyClicks(editor.title, "Padlocks")
    qtbot.keyClicks(editor.author, "A. Auditor")
    editor.take.click()
    qtbot.waitUntil(lambda: pane.open is not None and pane.state == "ready")


def test_that_an_empty_project_says_what_to_do(pane: CasePane) -> None:
    assert pane.state == "empty"


def test_that_a_case_needs_a_title_and_says_so_beside_the_form(pane: CasePane, qtbot: QtBot) -> None:
    pane.new_case()
    editor = pane.detail.page
    assert isinstance(editor, CaseEditor)
    editor.take.click()
    assert "title and an author" in editor.fault.text() and editor.fault.isVisible()


def test_the_way_from_a_question_to_a_verified_bundle(pane: CasePane, qtbot: QtBot, tmp_path: Path) -> None:
    start_case(pane, qtbot)
    pane.ask()
    question = pane.detail.page
    assert isinstance(question, QuestionEditor)
    question.hypothesis.setPlainText("Feature 7 carries padlocks")
    question.null.setPlainText("It does no more than features of its density")
    question.measure.setText("drop in log probability")
    question.threshold.setText("0,1")
    question.n.setText("100")
    question.take.click()
    assert pane.open is not None and [q.id for q in pane.open.case.questions] == ["Q1"]
    pane.detail.seal("Q1")
    assert pane.open.case.questions[0].sealed

    pane.session.evidence_offered.emit(effect() | {"question": "Q1"})
    assert [e.id for e in pane.open.case.evidence] == ["E1"] and not pane.open.case.evidence[0].exploratory

    pane.write_finding()
    finding = pane.detail.page
    assert isinstance(finding, FindingEditor)
    finding.title.setText("Padlock feature")
    finding.claim.setPlainText("Ablating feature 7 lowers the probability of lock.")
    finding.status.setCurrentText("present")
    finding.evidence.item(0).setCheckState(finding.evidence.item(0).checkState().Checked)
    finding.take.click()
    assert pane.open.case.findings[0].evidence == ("E1",)

    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.write_report()
    bundle = pane.session.artefacts("bundle")[-1].path
    pane.sign()
    sign = pane.detail.page
    assert isinstance(sign, SignPage)
    sign.key.setText(str(tmp_path / "key.pem"))
    sign.new.setChecked(True)
    sign.take.click()
    qtbot.waitUntil(sign.take.isEnabled, timeout=20_000)
    assert not sign.fault.isVisible(), sign.fault.text()
    pane.verify_bundle()
    verify = pane.detail.page
    assert isinstance(verify, VerifyPage) and verify.bundle.text() == str(bundle)
    verify.take.click()
    qtbot.waitUntil(lambda: verify._verdict is not None, timeout=20_000)
    from auditor.audit import verify as check

    assert check(bundle).ok


def test_that_a_change_can_be_undone_and_done_again(pane: CasePane, qtbot: QtBot) -> None:
    start_case(pane, qtbot)
    pane.session.evidence_offered.emit(effect())
    assert pane.open is not None
    from auditor.audit.case import Finding

    pane.detail._put("Write F1", Finding(id="F1", title="t", claim="c", status="inconclusive", severity="info"))
    assert len(pane.open.case.findings) == 1
    pane.session.undo.undo()
    assert not pane.open.case.findings
    pane.session.undo.redo()
    assert len(pane.open.case.findings) == 1
    assert pane.session.project is not None and pane.session.project.log.check() is None


def test_that_hostile_text_stays_text(pane: CasePane, qtbot: QtBot) -> None:
    start_case(pane, qtbot)
    assert pane.open is not None
    hostile = effect() | {"title": "<img src='file:///etc/passwd'><b>x</b>\u202eabc"}
    pane.session.evidence_offered.emit(hostile)
    from auditor.ui.widgets.plain_text import PlainLabel

    texts = [label.text() for label in pane.detail.findChildren(PlainLabel)]
    assert any("<img src='file:///etc/passwd'><b>x</b>" in text for text in texts)
    assert not any("\u202e" in text for text in texts)
