"""The pages on which a person starts a case, asks a question or writes a finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtWidgets import QComboBox, QFormLayout, QLineEdit, QListWidget, QListWidgetItem, QPlainTextEdit, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel, visible

if TYPE_CHECKING:
    from auditor.audit.case import Case, Finding, Question

Put = Callable[[str, Any], None]


class Editor(QWidget):
    """A form with a title, rows, and the one button that takes it; a fault is told under it."""

    def __init__(self, session: Session, title: str, verb: str) -> None:
        super().__init__()
        self.session = session
        self.form = QFormLayout()
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.form.setHorizontalSpacing(theme.space("large"))
        self.form.setVerticalSpacing(theme.space("small"))
        self.fault = PlainLabel("", "bad", wrap=True)
        self.fault.hide()
        self.take = controls.button(verb, self._take, primary=True)
        body = controls.column(PlainLabel(title, "page"), gap="medium")
        body.addLayout(self.form)
        body.addWidget(self.fault)
        body.addLayout(controls.row(self.take, None))
        self.setLayout(body)

    def line(self, title: str, text: str = "", hint: str = "") -> QLineEdit:
        edit = QLineEdit(text)
        edit.setPlaceholderText(hint)
        edit.setAccessibleName(title)
        self.form.addRow(PlainLabel(title), edit)
        return edit

    def text(self, title: str, text: str = "", hint: str = "") -> QPlainTextEdit:
        edit = QPlainTextEdit(text)
        edit.setPlaceholderText(hint)
        edit.setAccessibleName(title)
        edit.setTabChangesFocus(True)
        edit.setFixedHeight(theme.px(76))
        self.form.addRow(PlainLabel(title), edit)
        return edit

    def choice(self, title: str, values: list[tuple[str, str]], chosen: str = "") -> QComboBox:
        box = QComboBox()
        box.setAccessibleName(title)
        for value, shown in values:
            box.addItem(visible(shown), value)
        box.setCurrentIndex(max(0, box.findData(chosen)))
        self.form.addRow(PlainLabel(title), box)
        return box

    def ticks(self, title: str, values: list[tuple[str, str]], chosen: tuple[str, ...]) -> QListWidget:
        from PySide6.QtCore import Qt

        made = QListWidget()
        made.setAccessibleName(title)
        made.setFixedHeight(theme.px(96))
        for value, shown in values:
            item = QListWidgetItem(visible(shown), made)
            item.setData(Qt.ItemDataRole.UserRole, value)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if value in chosen else Qt.CheckState.Unchecked)
        self.form.addRow(PlainLabel(title), made)
        return made

    def accept(self) -> None:
        """Take what was entered; AuditorError or ValueError is told to the person."""

    def _take(self) -> None:
        try:
            self.accept()
        except AuditorError as error:
            self._tell(str(error))
        except ValueError as error:
            from pydantic import ValidationError

            from auditor.audit.case import first_fault

            self._tell(first_fault(error) if isinstance(error, ValidationError) else str(error))

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
        super().__init__(session, "Question", "Save the question")
        self._case, self._old, self._put = case, old, put
        self.title = self.line("Title", old.title if old else "")
        self.hypothesis = self.text("Hypothesis", old.hypothesis if old else "", "What would be true of the model")
        self.null = self.text("Null hypothesis", old.null_hypothesis if old else "", "What holds if it is not")
        self.measure = self.line("Metric", old.plan.metric if old else "", "The figure that decides, such as AUROC")
        self.threshold = self.line("Smallest effect that counts", str(old.plan.threshold) if old else "")
        self.n = self.line("Cases", str(old.plan.n) if old else "100")

    def accept(self) -> None:
        from auditor.audit.case import Plan, Question

        plan = Plan(
            metric=self.measure.text(), threshold=_number(self.threshold, "Smallest effect"), n=_whole(self.n, "Cases")
        )
        key = self._old.id if self._old else self._case.next_id("questions")
        question = Question(
            id=key, title=self.title.text(), hypothesis=self.hypothesis.toPlainText(),
            null_hypothesis=self.null.toPlainText(), plan=plan,
        )  # fmt: skip
        self._put(f"Save {key}", question)


class FindingEditor(Editor):
    """Writes a finding; its rung follows from the evidence that is ticked."""

    def __init__(self, session: Session, case: Case, old: Finding | None, put: Put) -> None:
        from auditor.audit.case import SEVERITIES

        super().__init__(session, "Finding", "Save the finding")
        self._case, self._old, self._put = case, old, put
        self.title = self.line("Title", old.title if old else "")
        self.claim = self.text("Claim", old.claim if old else "", "The whole claim, so that it could be refuted")
        states = [(s, s) for s in ("present", "absent", "inconclusive")]
        self.status = self.choice("Status", states, old.status if old else "inconclusive")
        self.severity = self.choice("Severity", [(s, s) for s in SEVERITIES], old.severity if old else "info")
        questions = [("", "none")] + [(q.id, f"{q.id}  {q.title or q.hypothesis}") for q in case.questions]
        self.question = self.choice("Question", questions, (old.question or "") if old else "")
        pieces = [(e.id, f"{e.id}  {e.title}") for e in case.evidence]
        self.evidence = self.ticks("Evidence", pieces, old.evidence if old else ())
        self.counter = self.ticks("Counter-evidence", pieces, old.counter_evidence if old else ())
        self.limits = self.text("Limits", old.limits if old else "", "Where the claim ends")
        self.recipe = self.text("Recipe", old.recipe if old else "", "How to make it again")

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
    from PySide6.QtCore import Qt

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
