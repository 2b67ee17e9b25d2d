"""The right side of the case pane: what is chosen in the outline, or the page that edits, signs or verifies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.panes.case import cards
from auditor.ui.panes.case.editors import CaseEditor, Editor, FindingEditor, QuestionEditor
from auditor.ui.panes.case.signing import SignPage, VerifyPage
from auditor.ui.session import Session

if TYPE_CHECKING:
    from auditor.audit.case import Case

Apply = Callable[[str, Callable[["Case"], "Case"]], None]


class Detail(QScrollArea):
    """Shows one page at a time, `page` being its first part; `opened` asks the outline to choose a key."""

    opened = Signal(str)

    def __init__(self, session: Session, apply: Apply) -> None:
        super().__init__()
        self.session = session
        self._apply = apply
        self._case: Case | None = None
        self._figures = Path()
        self.page: QWidget = self
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def set_case(self, case: Case, figures: Path) -> None:
        """Take the case that pages are about."""
        self._case, self._figures = case, figures

    def show_item(self, key: str) -> None:
        """The page of the question, finding or piece of evidence `key`, or the summary."""
        if self._case is None:
            return
        case = self._case
        for question in case.questions:
            if question.id == key:
                self._page(*cards.question(case, question, self.seal, self.edit_question))
                return
        for finding in case.findings:
            if finding.id == key:
                self._page(*cards.finding(case, finding, self.opened.emit, self.edit_finding))
                return
        for piece in case.evidence:
            if piece.id == key:
                self._page(*cards.evidence(case, piece, self._picture(piece.figure)))
                return
        self._page(*cards.summary(case, self.opened.emit))

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
            self._put(f"Seal {key}", question.seal())

    def _put(self, title: str, item: Any) -> None:
        self._apply(title, lambda case: case.put(item))
        self.opened.emit(item.id)

    # signing

    def sign_page(self, bundle: Path) -> None:
        self._edit(SignPage(self.session, bundle))

    def verify_page(self, bundle: Path) -> None:
        self._edit(VerifyPage(self.session, bundle))

    # laying out

    def _held(self) -> Case:
        assert self._case is not None
        return self._case

    def _edit(self, page: QWidget) -> None:
        self._page(page)
        page.setFocus()

    def _page(self, *parts: QWidget) -> None:
        self.page = parts[0]
        content = QWidget()
        content.setObjectName("scrolled")
        column = QVBoxLayout(content)
        edge = theme.space("medium")
        column.setContentsMargins(edge, 0, edge, edge)
        column.setSpacing(edge)
        for part in parts:
            column.addWidget(part)
        column.addStretch(1)
        self.setWidget(content)

    def _picture(self, name: str | None) -> QWidget | None:
        if not name:
            return None
        path = self._figures / name
        pixmap = _svg(path) if path.suffix == ".svg" else QPixmap(str(path))
        return cards.picture(pixmap) if not pixmap.isNull() else None


def _svg(path: Path) -> QPixmap:
    """An SVG figure of the case at twice its size. `figure_kind` has refused any that could load something else."""
    from PySide6.QtCore import QByteArray
    from PySide6.QtGui import QPainter
    from PySide6.QtSvg import QSvgRenderer

    from auditor.audit.figures import figure_kind
    from auditor.base.errors import AuditorError

    try:
        data = path.read_bytes()
        figure_kind(data)
    except (OSError, AuditorError):
        return QPixmap()
    renderer = QSvgRenderer(QByteArray(data))
    size = renderer.defaultSize() * 2
    pixmap = QPixmap(size)
    pixmap.fill(Qt.GlobalColor.white)
    painter = QPainter(pixmap)
    renderer.render(painter)
    painter.end()
    pixmap.setDevicePixelRatio(2.0)
    return pixmap
