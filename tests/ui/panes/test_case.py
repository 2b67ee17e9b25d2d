"""The case pane: from an empty project to questions, findings, a report, a signature and a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from auditor.audit.evidence import Metric, Null, Recipe
from auditor.ui.panes.case import CasePane
from auditor.ui.panes.case.editors import CaseEditor, FindingEditor, QuestionEditor
from auditor.ui.panes.case.signing import SignPage
from auditor.ui.panes.case.verifying import VerifyPage
from auditor.ui.session import Session
from auditor.ui.widgets.plain_text import PlainLabel
from tests.audit.sample import png


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
    texts = [label.text() for label in pane.detail.findChildren(PlainLabel)]
    assert any("<img src='file:///etc/passwd'><b>x</b>" in text for text in texts)
    assert not any("\u202e" in text for text in texts)


@pytest.fixture
def bundled(pane: CasePane, qtbot: QtBot) -> CasePane:
    """A case with a contrary piece of evidence, a finding that rests on two, and an unsigned bundle."""
    start_case(pane, qtbot)
    pane.session.evidence_offered.emit(effect() | {"figure": png(40, 30, b"\xc8" * 3600), "figure_alt": "a square"})
    pane.session.evidence_offered.emit(effect(0.0) | {"title": "Ablating it elsewhere", "contrary": True})
    from auditor.audit.case import Finding

    long = "A feature of a padlock, of locks in general, and of what one does with the key once the door is open"
    rests = {"evidence": ("E1",), "counter_evidence": ("E2",)}
    pane.detail._put(
        "Write F1", Finding(id="F1", title=long, claim="c", status="inconclusive", severity="info", **rests)
    )
    with qtbot.waitSignal(pane.session.job_ended, timeout=60_000):
        pane.write_report()
    quiet(pane, qtbot)
    return pane


def quiet(pane: CasePane, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=30_000)
    QApplication.processEvents()  # what was put into a layout is shown with the next event


def words(widget: QWidget) -> list[str]:
    return [label.text() for label in widget.findChildren(PlainLabel) if label.isVisible()]


def sign_page(pane: CasePane, key: Path) -> SignPage:
    pane.sign()
    page = pane.detail.page
    assert isinstance(page, SignPage)
    page.key.setText(str(key))
    page.new.setChecked(True)
    return page


def signed(pane: CasePane, qtbot: QtBot, key: Path) -> str:
    """Sign the newest bundle with a new key; its fingerprint."""
    sign_page(pane, key).take.click()
    quiet(pane, qtbot)
    from auditor.audit import verify

    return verify(pane.session.artefacts("bundle")[-1].path).signers[0].fingerprint


def verdict_of(pane: CasePane, qtbot: QtBot, path: Path, author: str = "") -> tuple[VerifyPage, list[str]]:
    pane.verify_bundle()
    page = pane.detail.page
    assert isinstance(page, VerifyPage)
    page.bundle.setText(str(path))
    page.author.setText(author)
    page.take.click()
    quiet(pane, qtbot)
    return page, words(page)


def test_that_every_row_of_the_outline_is_as_high_as_its_whole_title_needs(bundled: CasePane, qtbot: QtBot) -> None:
    outline = bundled.outline
    for width in (600, 320):
        bundled._split.setSizes([width, 700])
        qtbot.waitUntil(lambda width=width: abs(outline.width() - width) < 60)
        outline.doItemsLayout()
        [item] = outline.findItems("F1", Qt.MatchFlag.MatchStartsWith | Qt.MatchFlag.MatchRecursive)
        room = outline.visualItemRect(item)
        needed = outline.fontMetrics().boundingRect(
            0, 0, room.width() - 30, 1000, int(Qt.TextFlag.TextWordWrap), item.text(0)
        )
        assert room.height() >= needed.height()
    assert "A feature of a padlock" in item.toolTip(0)


def test_that_contrary_evidence_is_marked_wherever_it_stands(bundled: CasePane, qtbot: QtBot) -> None:
    for key, mark in (("case", "▲ E2 speaks against it"), ("F1", "▲ speaks against"), ("evidence", "▲ speaks against"),
                      ("E2", "▲ speaks against the claim")):  # fmt: skip
        bundled.outline.select(key)
        assert mark in words(bundled.detail), key


def test_that_the_board_shows_each_figure_and_what_is_missing_for_the_next_rung(
    bundled: CasePane, qtbot: QtBot
) -> None:
    from auditor.ui.panes.case.figures import Figure

    bundled.outline.select("evidence")
    quiet(bundled, qtbot)
    [figure] = bundled.detail.findChildren(Figure)
    assert not figure.empty
    assert any(text.startswith("Missing for “held out”") for text in words(bundled.detail))
    card = figure.parentWidget()
    assert card is not None
    qtbot.mouseClick(card, Qt.MouseButton.LeftButton)
    assert bundled.outline.current == "E1"


def test_that_a_new_key_does_not_stay_behind_when_signing_fails(
    bundled: CasePane, qtbot: QtBot, tmp_path: Path
) -> None:
    bundle = bundled.session.artefacts("bundle")[-1].path
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(bytes(data))
    page = sign_page(bundled, tmp_path / "new.pem")
    page.take.click()
    quiet(bundled, qtbot)
    assert page.fault.isVisible() and "cannot be signed" in page.fault.text() and page.take.isEnabled()
    assert not (tmp_path / "new.pem").exists() and not list(tmp_path.glob("*.partial"))
    page.key.setText(str(tmp_path / "nowhere" / "new.pem"))
    page.take.click()
    quiet(bundled, qtbot)
    assert "no folder" in page.fault.text() and not (tmp_path / "nowhere").exists()


def test_that_a_key_that_was_there_before_is_never_removed_or_overwritten(
    bundled: CasePane, qtbot: QtBot, tmp_path: Path
) -> None:
    (tmp_path / "old.pem").write_text("mine")
    page = sign_page(bundled, tmp_path / "old.pem")
    page.take.click()
    quiet(bundled, qtbot)
    assert "exists already" in page.fault.text() and (tmp_path / "old.pem").read_text() == "mine"


def test_that_the_passphrase_of_a_new_key_is_typed_twice(bundled: CasePane, qtbot: QtBot, tmp_path: Path) -> None:
    page = sign_page(bundled, tmp_path / "new.pem")
    page.passphrase.setText("padlock")
    page.again.setText("padlocc")
    page.take.click()
    assert "differ" in page.fault.text() and not (tmp_path / "new.pem").exists()
    page.again.setText("padlock")
    page.take.click()
    quiet(bundled, qtbot)
    assert not page.fault.isVisible() and "✓ Signed as author." in words(page)
    assert b"ENCRYPTED" in (tmp_path / "new.pem").read_bytes()


def test_that_the_verdict_compares_the_key_with_the_fingerprint_that_was_told(
    bundled: CasePane, qtbot: QtBot, tmp_path: Path
) -> None:
    fingerprint = signed(bundled, qtbot, tmp_path / "new.pem")
    path = bundled.session.artefacts("bundle")[-1].path
    good = "✓ The bundle is as it was signed."
    _, told = verdict_of(bundled, qtbot, path)
    assert good in told and any("Compare the fingerprint" in text for text in told)
    spaced = " ".join(fingerprint.upper()[at : at + 4] for at in range(0, 64, 4))
    page, told = verdict_of(bundled, qtbot, path, spaced)
    assert good in told and "key of the author" in told and not any("Compare the fing" in text for text in told)
    _, told = verdict_of(bundled, qtbot, path, "0" * 64)
    assert "✗ Do not rely on this bundle." in told
    page, _ = verdict_of(bundled, qtbot, path, "12ab")
    assert "64 hexadecimal digits" in page.fault.text()


def test_that_a_tampered_bundle_and_a_missing_one_are_refused_and_no_old_verdict_stays(
    bundled: CasePane, qtbot: QtBot, tmp_path: Path
) -> None:
    signed(bundled, qtbot, tmp_path / "new.pem")
    data = bytearray(bundled.session.artefacts("bundle")[-1].path.read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "tampered.audit.zip").write_bytes(bytes(data))
    page, told = verdict_of(bundled, qtbot, tmp_path / "tampered.audit.zip")
    assert "✗ Do not rely on this bundle." in told and "✗" in told
    page.bundle.setText(str(tmp_path / "missing.audit.zip"))
    assert "✗ Do not rely on this bundle." not in words(page)
    qtbot.keyClick(page.bundle, Qt.Key.Key_Return)
    assert "no such file" in page.fault.text()


def test_that_editing_a_question_keeps_the_whole_of_its_plan(pane: CasePane, qtbot: QtBot) -> None:
    from auditor.audit.case import Plan, Question

    start_case(pane, qtbot)
    plan = Plan(
        metric="AUROC", threshold=0.7, n=64, alpha=0.01, correction="bonferroni", family=200, note="on held-out"
    )
    question = Question(id="Q1", hypothesis="h", null_hypothesis="0", plan=plan, protocol="backdoor")
    pane.detail._put("Save Q1", question)
    pane.detail.edit_question("Q1")
    page = pane.detail.page
    assert isinstance(page, QuestionEditor)
    page.title.setText("Is it there?")
    page.take.click()
    assert pane.open is not None
    assert pane.open.case.questions[0] == question.model_copy(update={"title": "Is it there?"})


def test_that_a_form_that_is_begun_is_put_by_and_offered_again(pane: CasePane, qtbot: QtBot) -> None:
    start_case(pane, qtbot)
    pane.ask()
    begun = pane.detail.page
    assert isinstance(begun, QuestionEditor)
    qtbot.keyClicks(begun.title, "Half a question")
    pane.outline.select("report")
    assert any("is begun and not saved" in text for text in words(pane.detail))
    pane.ask()
    assert pane.detail.page is begun and begun.title.text() == "Half a question"
    begun.cancel.click()
    assert not pane.detail.editing and not any("is begun" in text for text in words(pane.detail))


def test_that_undo_takes_back_the_newest_change_even_when_it_was_pinned(pane: CasePane, qtbot: QtBot) -> None:
    from auditor.audit.case import Finding

    start_case(pane, qtbot)
    pane.detail._put("Save F1", Finding(id="F1", title="t", claim="c", status="inconclusive", severity="info"))
    pane.session.evidence_offered.emit(effect())
    assert pane.session.undo.undoText() == "Add evidence E1"
    with qtbot.waitSignal(pane.session.message) as told:
        pane.session.undo.undo()
    assert told.args is not None and "Undone: Add evidence E1" in told.args[1]
    assert pane.open is not None and not pane.open.case.evidence and pane.open.case.findings
    pane.session.undo.redo()
    assert [e.id for e in pane.open.case.evidence] == ["E1"]


def test_that_the_report_is_shown_as_it_would_be_printed_and_says_when_the_bundle_is_older(
    bundled: CasePane, qtbot: QtBot, tmp_path: Path
) -> None:
    from auditor.ui.panes.case.figures import Figure
    from auditor.ui.panes.case.report_page import ReportPage

    page = bundled.detail.page
    assert isinstance(page, ReportPage), "writing the report opens it"
    assert len(page.findChildren(Figure)) >= 2 and "not signed yet" in page.state.text()
    assert "has changed since" not in page.state.text()
    page.save(tmp_path / "copy.pdf")
    quiet(bundled, qtbot)
    assert (tmp_path / "copy.pdf").read_bytes().startswith(b"%PDF-")
    bundled.session.evidence_offered.emit(effect())
    bundled.outline.select("report")
    quiet(bundled, qtbot)
    page = bundled.detail.page
    assert isinstance(page, ReportPage) and "has changed since" in page.state.text()


def test_that_the_copies_beside_a_bundle_are_the_reports_inside_it(bundled: CasePane) -> None:
    from auditor.audit.verify import Archive

    path = bundled.session.artefacts("bundle")[-1].path
    stem = path.name.removesuffix(".audit.zip")
    with Archive(path) as archive:
        for ending in ("html", "pdf"):
            assert path.with_name(f"{stem}.{ending}").read_bytes() == archive.read(f"report.{ending}")
    assert "No log was attached" not in path.with_name(f"{stem}.html").read_text("utf-8")


def test_that_a_form_takes_the_keyboard_when_it_opens(pane: CasePane, qtbot: QtBot) -> None:
    start_case(pane, qtbot)
    for ask in (pane.ask, pane.write_finding):
        ask()
        editor = pane.detail.page
        assert isinstance(editor, QuestionEditor | FindingEditor)
        assert pane.window().focusWidget() is editor.title


def test_that_tab_goes_down_the_form_and_ends_at_its_button(pane: CasePane, qtbot: QtBot) -> None:
    start_case(pane, qtbot)
    pane.ask()
    editor = pane.detail.page
    assert isinstance(editor, QuestionEditor)
    fields = (editor.hypothesis, editor.null, editor.measure, editor.threshold, editor.n, editor.alpha,
              editor.correction, editor.family, editor.remark, editor.take, editor.cancel)  # fmt: skip
    for field in fields:
        focused = pane.window().focusWidget()
        assert focused is not None
        qtbot.keyClick(focused, Qt.Key.Key_Tab)
        assert pane.window().focusWidget() is field


def test_that_the_keyboard_stays_in_the_pane_when_a_form_is_left(pane: CasePane, qtbot: QtBot) -> None:
    start_case(pane, qtbot)
    pane.ask()
    editor = pane.detail.page
    assert isinstance(editor, QuestionEditor)
    editor.cancel.setFocus()
    editor.cancel.click()
    assert pane.window().focusWidget() is pane.detail


def test_that_a_narrow_pane_shows_every_button_whole(bundled: CasePane, qtbot: QtBot) -> None:
    bundled.resize(640, 600)
    qtbot.waitUntil(lambda: bundled.width() <= 680)
    QApplication.processEvents()
    for button in bundled.findChildren(QPushButton):
        if button.text() in ("Write the report", "Sign…", "Verify…", "Ask a question…") and button.isVisible():
            right = button.mapTo(bundled, button.rect().topRight()).x()
            assert right <= bundled.width() and button.width() >= button.sizeHint().width(), button.text()
