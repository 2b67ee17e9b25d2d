"""The right side of the case pane: what is chosen in the outline, or the page that edits, signs or verifies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication, QFrame, QScrollArea, QVBoxLayout, QWidget
from shiboken6 import isValid

from auditor.ui import theme
from auditor.ui.panes.case import board, cards
from auditor.ui.panes.case.editors import CaseEditor, Editor, FindingEditor, QuestionEditor
from auditor.ui.panes.case.figures import Figure, load
from auditor.ui.panes.case.report_page import ReportPage
from auditor.ui.panes.case.signing import SignPage
from auditor.ui.panes.case.verifying import VerifyPage
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.audit.case import Case

Apply = Callable[[str, Callable[["Case"], "Case"]], None]
_WIDEST_FIGURE = 1100
_WIDEST_TEXT = 1040


class Detail(QScrollArea):
    """Shows one page at a time, `page` being its first part; `opened` asks the outline to choose a key.

    A form that a person has begun is put by when they look at something else, and offered again on each page.
    """

    opened = Signal(str)
    closed = Signal()

    def __init__(self, session: Session, apply: Apply) -> None:
        super().__init__()
        self.session = session
        self._apply = apply
        self._case: Case | None = None
        self._figures = Path()
        self._draft: tuple[Editor, QWidget] | None = None
        self._wide = False
        self.page: QWidget = self
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def set_case(self, case: Case, figures: Path) -> None:
        """Take the case that pages are about."""
        if self._case is not None and figures != self._figures:
            self._discard()
        self._case, self._figures = case, figures

    def show_item(self, key: str) -> None:
        """The page of the question, finding or piece of evidence `key`, of a whole group, or the summary."""
        if self._case is None:
            return
        case = self._case
        if key == "report":
            self._page(self._report(case))
            return
        wanted: board.Wanted = []
        if question := next((q for q in case.questions if q.id == key), None):
            parts = cards.question(case, question, self.seal, self.edit_question)
        elif finding := next((f for f in case.findings if f.id == key), None):
            parts = cards.finding(case, finding, self.opened.emit, self.edit_finding)
        elif piece := next((e for e in case.evidence if e.id == key), None):
            figure = Figure(piece.title) if piece.figure else None
            if piece.figure and figure is not None:
                wanted = [(piece.figure, figure)]
            parts = cards.evidence(case, piece, figure)
        elif key == "evidence":
            parts, wanted = board.evidence(case, self.opened.emit)
            self._wide = True
        elif key in ("findings", "questions"):
            parts = {"findings": board.findings, "questions": board.questions}[key](case, self.opened.emit)
        else:
            parts = cards.summary(case, self.opened.emit)
        self._page(*parts)
        self._fill(wanted)

    def _fill(self, wanted: board.Wanted) -> None:
        """Read the figures of a page off the GUI thread and put them in."""
        if not wanted:
            return
        paths = [(self._figures / name, theme.px(_WIDEST_FIGURE)) for name, _ in wanted]

        def arrived(images: list[QImage]) -> None:
            for (_, figure), image in zip(wanted, images, strict=True):
                if isValid(figure):
                    figure.set_image(image)

        self.session.read("case.figures", lambda: [load(path, widest) for path, widest in paths], arrived)

    def _report(self, case: Case) -> QWidget:
        bundles = self.session.artefacts("bundle")
        bundle = bundles[-1].path if bundles else None
        return ReportPage(self.session, case, self._figures, bundle, self.session.commands.run)

    # editing

    @property
    def editing(self) -> bool:
        """Whether a person is filling in a form, which nothing else may take away."""
        return isinstance(self.page, Editor)

    def edit_new_case(self, create: Callable[[str, str, str], None]) -> None:
        self._edit(CaseEditor(self.session, create))

    def edit_question(self, key: str = "") -> None:
        """The editor of the question `key`, or of a new one."""
        case = self._held()
        old = next((q for q in case.questions if q.id == key), None)
        self._edit(QuestionEditor(self.session, case, old, self._put))

    def edit_finding(self, key: str = "") -> None:
        """The editor of the finding `key`, or of a new one."""
        case = self._held()
        old = next((f for f in case.findings if f.id == key), None)
        self._edit(FindingEditor(self.session, case, old, self._put))

    def seal(self, key: str) -> None:
        """Bind a question to its plan."""
        question = self._held().find_question(key)
        if question is not None:
            self.session.attempt(lambda: self._put(f"Seal {key}", question.seal()))

    def _put(self, title: str, item: Any) -> None:
        self._apply(title, lambda case: case.put(item))
        self.opened.emit(item.id)

    # signing

    def sign_page(self, bundle: Path) -> None:
        page = SignPage(self.session, bundle, self._case.author if self._case else "")
        page.verify_wanted.connect(self.verify_page)
        self._edit(page)

    def verify_page(self, bundle: Path) -> None:
        self._edit(VerifyPage(self.session, bundle))

    # laying out

    def _held(self) -> Case:
        assert self._case is not None
        return self._case

    def _edit(self, page: Editor) -> None:
        if self._draft is not None and self._draft[0].heading == page.heading:
            page.deleteLater()
            self._go_on()
            return
        page.left.connect(self.closed)
        self._page(page)
        page.setFocus()

    def _page(self, *parts: QWidget) -> None:
        focused, old = QApplication.focusWidget(), self.widget()
        if focused is not None and old is not None and old.isAncestorOf(focused):
            self.setFocus()  # else the keyboard would go to whatever stands next in the window
        self._put_by()
        self.page = parts[0]
        content = QWidget()
        content.setObjectName("scrolled")
        column = QVBoxLayout(content)
        edge = theme.space("medium")
        column.setContentsMargins(edge, 0, edge, edge)
        column.setSpacing(edge)
        if self._draft is not None:
            column.addWidget(self._reminder(self._draft[0]))
        for part in parts:
            column.addWidget(part)
        column.addStretch(1)
        if self._wide:
            self._wide = False
        else:
            content.setMaximumWidth(theme.px(_WIDEST_TEXT))  # longer lines are hard to follow
        self.setWidget(content)

    # what is begun and not saved

    def _put_by(self) -> None:
        """Keep a form that a person has begun; anything else goes."""
        content, page = self.takeWidget(), self.page
        if content is None:
            return
        content.hide()
        if isinstance(page, Editor) and page.kept and page.dirty:
            self._discard()
            content.setParent(self)
            self._draft = (page, content)
        else:
            content.deleteLater()

    def _reminder(self, draft: Editor) -> QWidget:
        go_on = controls.button("Go on writing", self._go_on)
        forget = controls.button("Discard", self._drop, flat=True)
        told = PlainLabel(f"“{draft.heading}” is begun and not saved.", "warn")
        return controls.card(controls.box(controls.row(told, None, go_on, forget)))

    def _go_on(self) -> None:
        if self._draft is None:
            return
        draft, self._draft = self._draft, None
        self._put_by()
        self.page = draft[0]
        self.setWidget(draft[1])
        draft[1].show()
        draft[0].setFocus()

    def _drop(self) -> None:
        self._discard()
        self.closed.emit()

    def _discard(self) -> None:
        if self._draft is not None:
            self._draft[1].deleteLater()
            self._draft = None
