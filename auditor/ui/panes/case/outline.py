"""The case's outline: summary, findings, questions, evidence and report as a list that a person can walk through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QSize, Qt, Signal
from PySide6.QtGui import QBrush, QFontMetrics, QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from auditor.ui import theme
from auditor.ui.widgets.plain_text import tooltip, visible

if TYPE_CHECKING:
    from auditor.audit.case import Case

_KEY = Qt.ItemDataRole.UserRole
GROUPS = ("findings", "questions", "evidence")


class Outline(QTreeWidget):
    """`chosen` tells the key of the chosen item: an id, or “case”, “findings”, “questions”, “evidence”, “report”."""

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setHeaderHidden(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setIndentation(theme.space("small"))
        self.setRootIsDecorated(False)
        self.setItemsExpandable(False)
        self.setWordWrap(True)
        self.setItemDelegate(_Wrapped(self))
        self.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QTreeWidget.ScrollMode.ScrollPerPixel)
        self.setAccessibleName("Outline of the case")
        self.setMinimumWidth(theme.px(200))
        self.current = "case"
        self.currentItemChanged.connect(self._moved)
        theme.signals.changed.connect(self._dress)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(310), theme.px(300))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.scheduleDelayedItemsLayout()  # other lines, other heights

    def set_case(self, case: Case) -> None:
        """Show `case` and keep what was chosen, without a word."""
        from auditor.audit.ladder import ladder

        keep = self.current
        self.blockSignals(True)
        self.clear()
        self._add(self, "case", "Summary", "briefcase", case.title)
        self._add(self, "report", "Report", "file-text", "The report as it would be printed, and its bundle")
        findings = self._head("findings", len(case.findings), "Every finding with its ladder")
        for finding in case.findings:
            rung = ladder(case, finding).rung.title
            tip = f"{finding.status} · {finding.severity} · {rung}"
            self._add(findings, finding.id, finding.title, _STATUS_ICON[finding.status], tip)
        questions = self._head("questions", len(case.questions), "Every question with its plan")
        for question in case.questions:
            icon = "lock" if question.sealed else "message-square-text"
            tip = "sealed" if question.sealed else "open: seal its plan before you look"
            self._add(questions, question.id, question.title or question.hypothesis, icon, tip)
        evidence = self._head("evidence", len(case.evidence), "The board: every figure as it was pinned")
        for piece in case.evidence:
            against = "\nspeaks against the claim" if piece.contrary else ""
            icon = "triangle-alert" if piece.contrary else "pin"
            item = self._add(evidence, piece.id, piece.title, icon, f"{piece.kind.replace('_', ' ')}{against}")
            item.setData(0, _AGAINST, piece.contrary)
        self._dress()
        self.expandAll()
        self.select(keep)
        self.blockSignals(False)

    def select(self, key: str) -> None:
        """Choose the item with this key, else the summary."""
        by_key = {item.data(0, _KEY): item for item in self._items()}
        item = by_key.get(key) or by_key.get("case")
        if item is None:
            return
        self.current = item.data(0, _KEY)
        if item is self.currentItem():
            self.chosen.emit(self.current)
        self.setCurrentItem(item)

    def _items(self) -> list[QTreeWidgetItem]:
        return self.findItems("*", Qt.MatchFlag.MatchWildcard | Qt.MatchFlag.MatchRecursive)

    def _moved(self, item: QTreeWidgetItem | None, _: QTreeWidgetItem | None) -> None:
        key = item.data(0, _KEY) if item is not None else None
        if key:
            self.current = key
            self.chosen.emit(key)

    def _head(self, key: str, count: int, tip: str) -> QTreeWidgetItem:
        item = QTreeWidgetItem(self, [f"{key.capitalize()} ({count})"])
        item.setData(0, _KEY, key)
        item.setToolTip(0, tip)
        return item

    def _dress(self) -> None:
        """Colours and icons of the theme."""
        for item in self._items():
            if item.data(0, _KEY) in GROUPS:
                item.setForeground(0, QBrush(theme.color("muted")))
                item.setFont(0, theme.font("small", bold=True))
            else:
                against = bool(item.data(0, _AGAINST))
                item.setIcon(0, theme.icon(item.data(0, _ICON), "bad" if against else "text"))

    @staticmethod
    def _add(parent: QTreeWidget | QTreeWidgetItem, key: str, text: str, icon: str, tip: str) -> QTreeWidgetItem:
        shown = text if key in ("case", "report") else f"{key}  {text}"
        item = QTreeWidgetItem(parent, [visible(shown)])
        item.setData(0, _KEY, key)
        item.setData(0, _ICON, icon)
        item.setToolTip(0, tooltip(f"{shown}\n{tip}"))
        return item


class _Wrapped(QStyledItemDelegate):
    """Rows as high as their whole title needs at the width there is."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        size = super().sizeHint(option, index)
        view = self.parent()
        if not isinstance(view, QTreeWidget):
            return size
        inset = view.indentation() * (2 if index.parent().isValid() else 1)
        icon = theme.px(26) if index.data(Qt.ItemDataRole.DecorationRole) is not None else 0
        width = view.viewport().width() - inset - icon - theme.px(14)
        metrics = QFontMetrics(index.data(Qt.ItemDataRole.FontRole) or view.font())
        text = str(index.data(Qt.ItemDataRole.DisplayRole))
        wrap = int(Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignLeft)
        high = metrics.boundingRect(0, 0, max(40, width), 10_000, wrap, text).height()
        return QSize(size.width(), max(theme.px(26), high + theme.px(10)))


_ICON, _AGAINST = Qt.ItemDataRole(Qt.ItemDataRole.UserRole + 1), Qt.ItemDataRole(Qt.ItemDataRole.UserRole + 2)
_STATUS_ICON = {"present": "circle-check", "absent": "circle-x", "inconclusive": "circle-question-mark"}
