"""The pages on which a person starts a case, asks a question or writes a finding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QFormLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPlainTextEdit,
    QSizePolicy,
    QWidget,
)
from shiboken6 import isValid

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel, tooltip, visible

if TYPE_CHECKING:
    from auditor.audit.case import Case, Finding, Question

Put = Callable[[str, Any], None]
_STOPS = (QLineEdit, QPlainTextEdit, QComboBox, QListWidget, QAbstractButton)


class Editor(QWidget):
    """A form with a title, rows, and the one button that takes it; a fault is told under it.

    `dirty` tells whether a person has put something in; `left` comes with Cancel. Where `kept`, an unfinished form
    is put by while a person looks at something else.
    """

    left = Signal()
    kept = True

    def __init__(self, session: Session, title: str, verb: str) -> None:
        super().__init__()
        self.session = session
        self.heading = title
        self.dirty = False
        self.form = QFormLayout()
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.form.setHorizontalSpacing(theme.space("large"))
        self.form.setVerticalSpacing(theme.space("small"))
        self.fault = PlainLabel("", "bad", wrap=True)
        self.fault.hide()
        self.take = controls.button(verb, self._take, primary=True)
        self.cancel = controls.button("Cancel", self._leave)
        self.body = controls.column(PlainLabel(title, "page"), gap="medium")
        self.body.addLayout(self.form)
        self.body.addWidget(self.fault)
        self.body.addLayout(controls.row(self.take, self.cancel, None))
        self.setLayout(self.body)

    def showEvent(self, event: QShowEvent) -> None:
        """Tab goes down the form and then to the buttons, which were made first."""
        super().showEvent(event)
        rows = [self.form.itemAt(row, QFormLayout.ItemRole.FieldRole) for row in range(self.form.rowCount())]
        parts = [part for item in rows if item is not None and (part := item.widget()) is not None]
        stops = [stop for part in parts for stop in (part, *part.findChildren(QWidget)) if isinstance(stop, _STOPS)]
        for before, after in pairwise((*stops, self.take, self.cancel)):
            QWidget.setTabOrder(before, after)

    def line(self, title: str, text: str = "", hint: str = "", *beside: QWidget) -> QLineEdit:
        edit = QLineEdit(text)
        edit.setPlaceholderText(hint)
        edit.setAccessibleName(title)
        edit.textChanged.connect(self._touch)
        if not self.kept:
            edit.returnPressed.connect(self._enter)
        if self.focusProxy() is None:
            self.setFocusProxy(edit)  # whoever opens the form can type at once
        self.form.addRow(PlainLabel(title), controls.box(controls.row(edit, *beside)) if beside else edit)
        return edit

    def text(self, title: str, text: str = "", hint: str = "", lines: int = 4) -> QPlainTextEdit:
        edit = QPlainTextEdit(text)
        edit.setPlaceholderText(hint)
        edit.setAccessibleName(title)
        edit.setTabChangesFocus(True)
        edit.setFixedHeight(theme.px(18 * lines + 6))
        edit.textChanged.connect(self._touch)
        self.form.addRow(PlainLabel(title), edit)
        return edit

    def choice(self, title: str, values: list[tuple[str, str]], chosen: str = "") -> QComboBox:
        box = QComboBox()
        box.setAccessibleName(title)
        for value, shown in values:
            box.addItem(visible(shown), value)
        box.setCurrentIndex(max(0, box.findData(chosen)))
        box.currentIndexChanged.connect(self._touch)
        self.form.addRow(PlainLabel(title), box)
        return box

    def ticks(self, title: str, values: list[tuple[str, str]], chosen: tuple[str, ...], hint: str = "") -> QListWidget:
        made = QListWidget()
        made.setAccessibleName(title)
        made.setTextElideMode(Qt.TextElideMode.ElideRight)
        made.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        made.setFixedHeight(theme.px(28 * min(max(2, len(values)), 7) + 10))
        for value, shown in values:
            item = QListWidgetItem(visible(shown), made)
            item.setData(Qt.ItemDataRole.UserRole, value)
            item.setToolTip(tooltip(shown))
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if value in chosen else Qt.CheckState.Unchecked)
        made.itemChanged.connect(self._touch)
        self.form.addRow(PlainLabel(title), made if values else PlainLabel("Nothing is pinned yet.", "muted"))
        if hint:
            self.note(hint)
        return made

    def note(self, text: str) -> PlainLabel:
        """A line of explanation below the last row."""
        told = PlainLabel(text, "small", wrap=True)
        told.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self.form.addRow(PlainLabel(""), told)
        return told

    def read(self, key: str, work: Callable[[], Any], then: Callable[[Any], object]) -> None:
        """Compute off the GUI thread; nothing arrives once the page is gone, and a failure is told on it."""

        def arrived(value: Any) -> None:
            if isValid(self):
                then(value)

        def failed(error: Exception) -> None:
            if isValid(self):
                self.failed(error)
            else:
                self.session.error(error)

        self.session.read(key, work, arrived, failed)

    def failed(self, error: Exception) -> None:
        """Tell why it could not be done."""
        if isinstance(error, AuditorError):
            self._tell(str(error))
        else:
            self.session.error(error)

    def accept(self) -> None:
        """Take what was entered; AuditorError or ValueError is told to the person."""

    def _touch(self, *_: object) -> None:
        self.dirty = True

    def _enter(self) -> None:
        if self.take.isEnabled():
            self._take()

    def _leave(self) -> None:
        self.dirty = False
        self.left.emit()

    def _take(self) -> None:
        self.fault.hide()
        dirty, self.dirty = self.dirty, False  # what is taken is not put by as unfinished
        try:
            self.accept()
            return
        except AuditorError as error:
            self._tell(str(error))
        except ValueError as error:
            from pydantic import ValidationError

            from auditor.audit.case import first_fault

            self._tell(first_fault(error) if isinstance(error, ValidationError) else str(error))
        self.dirty = dirty

    def _tell(self, sentence: str) -> None:
        self.fault.setText(sentence)
        self.fault.show()


class CaseEditor(Editor):
    """Starts a case."""

    def __init__(self, session: Session, create: Callable[[str, str, str], None]) -> None:
        super().__init__(session, "New case", "Start the case")
        self._create = create
        self.title = self.line("Title", hint="What is audited, and for whom")
        self.author = self.line("Author", hint="Who answers for it")
        self.organisation = self.line("Organisation")

    def accept(self) -> None:
        title, author = self.title.text().strip(), self.author.text().strip()
        if not title or not author:
            raise AuditorError("A case needs a title and an author.")
        self._create(title, author, self.organisation.text().strip())


class QuestionEditor(Editor):
    """Asks a question, with the plan that will decide it."""

    def __init__(self, session: Session, case: Case, old: Question | None, put: Put) -> None:
        from auditor.audit.case import Plan

        super().__init__(session, f"Question {old.id}" if old else "Ask a question", "Save the question")
        self._case, self._old, self._put = case, old, put
        plan = old.plan if old else Plan(metric="AUROC", threshold=0.0, n=100)
        self.title = self.line("Title", old.title if old else "", "In one line")
        self.hypothesis = self.text("Hypothesis", old.hypothesis if old else "", "What would be true of the model", 3)
        self.null = self.text("Null hypothesis", old.null_hypothesis if old else "", "What holds if it is not", 3)
        self.note("The plan: what will decide, written before anyone looks. Sealing binds the question to it.")
        self.measure = self.line("Metric", plan.metric if old else "", "The figure that decides, such as AUROC")
        self.threshold = self.line("Smallest effect that counts", f"{plan.threshold:g}" if old else "", "Such as 0.7")
        self.n = self.line("Cases at least", str(plan.n))
        self.alpha = self.line("α", f"{plan.alpha:g}", "Chance of a false alarm that is accepted")
        self.correction = self.choice("Correction for many comparisons", _CORRECTIONS, plan.correction)
        self.family = self.line("Comparisons", str(plan.family), "How many figures are looked through")
        self.remark = self.line("Note", plan.note)

    def accept(self) -> None:
        from auditor.audit.case import Plan, Question

        if not self.hypothesis.toPlainText().strip() or not self.null.toPlainText().strip():
            raise AuditorError("A question needs a hypothesis and a null hypothesis.")
        if not self.measure.text().strip():
            raise AuditorError("A plan needs a metric.", "Name the figure that decides.")
        plan = Plan(
            metric=self.measure.text(), threshold=_number(self.threshold, "Smallest effect"),
            n=_whole(self.n, "Cases"), alpha=_number(self.alpha, "α"), correction=self.correction.currentData(),
            family=_whole(self.family, "Comparisons"), note=self.remark.text(),
        )  # fmt: skip
        key = self._old.id if self._old else self._case.next_id("questions")
        question = Question(
            id=key, title=self.title.text(), hypothesis=self.hypothesis.toPlainText(),
            null_hypothesis=self.null.toPlainText(), plan=plan, protocol=self._old.protocol if self._old else "",
        )  # fmt: skip
        self._put(f"Save {key}", question)


_CORRECTIONS = [("benjamini-hochberg", "Benjamini–Hochberg"), ("bonferroni", "Bonferroni"), ("none", "none")]


class FindingEditor(Editor):
    """Writes a finding; its rung follows from the evidence that is ticked."""

    def __init__(self, session: Session, case: Case, old: Finding | None, put: Put) -> None:
        from auditor.audit.case import SEVERITIES

        super().__init__(session, f"Finding {old.id}" if old else "Write a finding", "Save the finding")
        self._case, self._old, self._put = case, old, put
        self.title = self.line("Title", old.title if old else "", "In one line")
        self.claim = self.text("Claim", old.claim if old else "", "The whole claim, so that it could be refuted")
        states = [(s, s) for s in ("present", "absent", "inconclusive")]
        self.status = self.choice("Status", states, old.status if old else "inconclusive")
        self.severity = self.choice("Severity", [(s, s) for s in SEVERITIES], old.severity if old else "info")
        self.note("High and critical cannot be signed without counter-evidence, limits and a recipe.")
        questions = [("", "none")] + [(q.id, f"{q.id}  {q.title or q.hypothesis}") for q in case.questions]
        self.question = self.choice("Question", questions, (old.question or "") if old else "")
        pieces = [(e.id, f"{e.id}  {e.title}{'  ▲ speaks against' if e.contrary else ''}") for e in case.evidence]
        self.evidence = self.ticks("Evidence", pieces, old.evidence if old else ())
        told = (
            "What was gathered to refute the claim, whatever it gave. The confidence follows by rule from both lists."
        )
        self.counter = self.ticks("Counter-evidence", pieces, old.counter_evidence if old else (), told)
        self.limits = self.text("Limits", old.limits if old else "", "Where the claim ends", 3)
        self.recipe = self.text("Recipe", old.recipe if old else "", "How to make it again", 3)

    def accept(self) -> None:
        from auditor.audit.case import Finding

        key = self._old.id if self._old else self._case.next_id("findings")
        if not self.title.text().strip() or not self.claim.toPlainText().strip():
            raise AuditorError("A finding needs a title and a claim.")
        finding = Finding(
            id=key, title=self.title.text(), claim=self.claim.toPlainText(), status=self.status.currentData(),
            severity=self.severity.currentData(), question=self.question.currentData() or None,
            evidence=_ticked(self.evidence), counter_evidence=_ticked(self.counter),
            limits=self.limits.toPlainText(), recipe=self.recipe.toPlainText(),
            location=self._old.location if self._old else {},
        )  # fmt: skip
        self._put(f"Save {key}", finding)


def _ticked(made: QListWidget) -> tuple[str, ...]:
    items = [made.item(at) for at in range(made.count())]
    return tuple(i.data(Qt.ItemDataRole.UserRole) for i in items if i.checkState() == Qt.CheckState.Checked)


def _number(edit: QLineEdit, name: str) -> float:
    try:
        return float(edit.text().replace(",", "."))
    except ValueError:
        raise AuditorError(f"“{name}” is not a number.", "Write it with digits, such as 0.7.") from None


def _whole(edit: QLineEdit, name: str) -> int:
    value = _number(edit, name)
    if value != int(value) or value < 1:
        raise AuditorError(f"“{name}” is not a whole number above 0.")
    return int(value)
