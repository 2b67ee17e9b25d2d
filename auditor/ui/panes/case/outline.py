"""The case's outline: questions, findings and evidence as a list that a person can walk through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QTreeWidget, QTreeWidgetItem, QWidget

from auditor.ui import theme
from auditor.ui.widgets.plain_text import tooltip, visible

if TYPE_CHECKING:
    from auditor.audit.case import Case

_KEY = Qt.ItemDataRole.UserRole


class Outline(QTreeWidget):
    """`chosen` tells the key of the chosen item: its id, or “case”."""

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setHeaderHidden(True)
        self.setIndentation(theme.space("medium"))
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setUniformRowHeights(True)
        self.setAccessibleName("Outline of the case")
        self.setMinimumWidth(theme.px(220))
        self.current = "case"
        self.currentItemChanged.connect(self._moved)

    def set_case(self, case: Case) -> None:
        """Show `case` and keep what was chosen, without a word."""
        from auditor.audit.ladder import ladder

        keep = self.current
        self.blockSignals(True)
        self.clear()
        self._add(self, "case", "Summary", "briefcase", case.title)
        findings = self._head("Findings", len(case.findings))
        for finding in case.findings:
            rung = ladder(case, finding).rung.title
            tip = f"{finding.id} · {finding.status} · {finding.severity} · {rung}"
            self._add(findings, finding.id, finding.title, _STATUS_ICON[finding.status], tip)
        questions = self._head("Questions", len(case.questions))
        for question in case.questions:
            icon = "lock" if question.sealed else "message-square-text"
            tip = "sealed" if question.sealed else "open: seal its plan before you look"
            self._add(questions, question.id, question.title or question.hypothesis, icon, tip)
        evidence = self._head("Evidence", len(case.evidence))
        for piece in case.evidence:
            icon = "triangle-alert" if piece.contrary else "pin"
            self._add(evidence, piece.id, piece.title, icon, f"{piece.kind}{', contrary' if piece.contrary else ''}")
        self.expandAll()
        self.select(keep)
        self.blockSignals(False)

    def select(self, key: str) -> None:
        """Choose the item with this key, else the summary."""
        items = self.findItems("*", Qt.MatchFlag.MatchWildcard | Qt.MatchFlag.MatchRecursive)
        by_key = {item.data(0, _KEY): item for item in items if item.data(0, _KEY)}
        item = by_key.get(key) or by_key.get("case")
        if item is None:
            return
        self.current = item.data(0, _KEY)
        if item is self.currentItem():
            self.chosen.emit(self.current)
        self.setCurrentItem(item)

    def _moved(self, item: QTreeWidgetItem | None, _: QTreeWidgetItem | None) -> None:
        key = item.data(0, _KEY) if item is not None else None
        if key:
            self.current = key
            self.chosen.emit(key)

    def _head(self, text: str, count: int) -> QTreeWidgetItem:
        item = QTreeWidgetItem(self, [f"{text} ({count})"])
        item.setFlags(Qt.ItemFlag.ItemIsEnabled)
        item.setForeground(0, theme.color("muted"))
        return item

    @staticmethod
    def _add(parent: QTreeWidget | QTreeWidgetItem, key: str, text: str, icon: str, tip: str) -> None:
        shown = text if key == "case" else f"{key}  {text}"
        item = QTreeWidgetItem(parent, [visible(shown)])
        item.setData(0, _KEY, key)
        item.setIcon(0, theme.icon(icon))
        item.setToolTip(0, tooltip(f"{text}\n{tip}"))


_STATUS_ICON = {"present": "circle-check", "absent": "circle-x", "inconclusive": "circle-question-mark"}
