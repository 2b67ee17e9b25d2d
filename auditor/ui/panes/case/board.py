"""The evidence board: every figure as it was pinned, under the finding that rests on it, and where that one stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QFrame, QWidget

from auditor.ui import theme
from auditor.ui.panes.case.cards import figures_told, finding_line, ladder_strip, seal_told
from auditor.ui.panes.case.figures import Figure
from auditor.ui.widgets import controls
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, tooltip

if TYPE_CHECKING:
    from auditor.audit.case import Case, Finding
    from auditor.audit.evidence import Evidence

Open = Callable[[str], object]
Wanted = list[tuple[str, Figure]]
_WIDE, _TALL = 268, 118


def findings(case: Case, opened: Open) -> list[QWidget]:
    """Every finding with its ladder and what is missing for its next rung."""
    if not case.findings:
        return [PlainLabel("Findings", "page"), PlainLabel("No finding is written yet: “Write a finding…”.", "muted")]
    return [PlainLabel("Findings", "page"), *(finding_line(case, item, opened) for item in case.findings)]


def questions(case: Case, opened: Open) -> list[QWidget]:
    """Every question with its plan, whether it is sealed, and what answers it."""
    parts: list[QWidget] = [PlainLabel("Questions", "page")]
    if not case.questions:
        told = "No question is asked yet: “Ask a question…”, then seal its plan before you look."
        return [*parts, PlainLabel(told, "muted", wrap=True)]
    for item in case.questions:
        answers = ", ".join(f.id for f in case.findings if f.question == item.id)
        head = controls.row(
            PlainLabel(item.id, "mono"), ElidedLabel(item.title or item.hypothesis, "strong"),
            controls.button("Open", partial(opened, item.id), flat=True),
        )  # fmt: skip
        sealed = PlainLabel(seal_told(item), "good" if item.sealed else "warn", wrap=True)
        plan = f"{item.plan.metric}, at least {item.plan.threshold:g} on {item.plan.n} cases"
        answered = PlainLabel(f"Plan: {plan}. Answered by {answers or 'no finding yet'}.", "muted", wrap=True)
        parts.append(controls.card(controls.box(head), sealed, answered))
    return parts


def evidence(case: Case, opened: Open) -> tuple[list[QWidget], Wanted]:
    """The board, and the figures' names with the pictures to fill in."""
    wanted: Wanted = []
    parts: list[QWidget] = [PlainLabel("Evidence", "page")]
    if not case.evidence:
        told = "Nothing is pinned yet. Every figure and table of the program has “Add to case” (key C)."
        return [*parts, PlainLabel(told, "muted", wrap=True)], wanted
    for finding in case.findings:
        parts.append(_group(case, finding, opened, wanted))
    used = {id for f in case.findings for id in (*f.evidence, *f.counter_evidence)}
    rest = [piece for piece in case.evidence if piece.id not in used]
    if rest:
        cards = Flow(*(_Pinned(piece, "", opened, wanted) for piece in rest), gap="small")
        parts.append(controls.box(controls.column(controls.heading("No finding rests on these"), controls.box(cards))))
    return parts, wanted


def _group(case: Case, finding: Finding, opened: Open, wanted: Wanted) -> QWidget:
    from auditor.audit.ladder import ladder

    standing = ladder(case, finding)
    parts: list[QWidget] = [
        controls.box(controls.row(PlainLabel(finding.id, "mono"), ElidedLabel(finding.title, "pane"))),
        ladder_strip(int(standing.rung)),
    ]
    if standing.next and standing.missing:
        told = f"Missing for “{standing.next.title}”: {' '.join(standing.missing)}"
        parts.append(PlainLabel(told, "muted", wrap=True))
    sides = [("for", id) for id in finding.evidence] + [("counter-evidence", id) for id in finding.counter_evidence]
    cards = [_Pinned(case.find_evidence(id), side, opened, wanted) for side, id in sides]
    parts.append(controls.box(Flow(*cards, gap="small")) if cards else PlainLabel("It rests on nothing yet.", "warn"))
    return controls.box(controls.column(*parts, gap="tight"))


class _Pinned(QFrame):
    """One piece of evidence; a click or Enter opens it."""

    def __init__(self, piece: Evidence, side: str, opened: Open, wanted: Wanted) -> None:
        super().__init__()
        self._open = partial(opened, piece.id)
        self.setObjectName("card")
        self.setFixedSize(theme.px(_WIDE), theme.px(_TALL + 98))
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAccessibleName(f"{piece.id} {piece.title}")
        self.setToolTip(tooltip(f"{piece.id}  {piece.title}"))
        room = QSize(theme.px(_WIDE - 26), theme.px(_TALL))
        shown: QWidget
        if piece.figure:
            shown = Figure(piece.title, room)
            wanted.append((piece.figure, shown))
        else:
            shown = PlainLabel(piece.note or "No figure.", "muted", wrap=True)
            shown.setFixedSize(room)
            shown.setAlignment(Qt.AlignmentFlag.AlignTop)
        against = PlainLabel("▲ speaks against", "bad") if piece.contrary else PlainLabel(side, "small")
        self.setLayout(controls.column(
            shown, controls.row(PlainLabel(piece.id, "mono"), None, against), ElidedLabel(piece.title, "strong"),
            ElidedLabel(figures_told(piece), "muted"), gap="tight", margin="medium",
        ))  # fmt: skip

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self._open()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self._open()
        else:
            super().keyPressEvent(event)
