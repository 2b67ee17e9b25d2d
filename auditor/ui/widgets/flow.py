"""A layout that sets widgets side by side, in as many lines as they need."""

from __future__ import annotations

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtWidgets import QLayout, QLayoutItem, QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls


class Flow(QLayout):
    """Widgets side by side, in as many lines as they need."""

    def __init__(self, *widgets: QWidget, gap: str = "tight", margin: str = "") -> None:
        super().__init__()
        self._items: list[QLayoutItem] = []
        edge = theme.space(margin) if margin else 0
        self.setContentsMargins(edge, edge, edge, edge)
        self.setSpacing(theme.space(gap))
        for widget in widgets:
            self.addWidget(widget)

    def addItem(self, item: QLayoutItem) -> None:
        self._items.append(item)

    def count(self) -> int:
        return len(self._items)

    def itemAt(self, at: int) -> QLayoutItem | None:
        return self._items[at] if 0 <= at < len(self._items) else None

    def takeAt(self, at: int) -> QLayoutItem | None:
        return self._items.pop(at) if 0 <= at < len(self._items) else None

    def clear(self) -> None:
        """Take every widget away."""
        controls.clear(self)

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self._place(QRect(0, 0, width, 0), move=False)

    def sizeHint(self) -> QSize:
        return self.minimumSize()

    def minimumSize(self) -> QSize:
        edges = self.contentsMargins()
        size = QSize()
        for item in self._items:
            size = size.expandedTo(QSize(0, item.sizeHint().height()))
        return size.grownBy(edges)

    def expandingDirections(self) -> Qt.Orientation:
        return Qt.Orientation(0)

    def setGeometry(self, area: QRect) -> None:
        super().setGeometry(area)
        self._place(area, move=True)

    def _place(self, area: QRect, *, move: bool) -> int:
        edges = self.contentsMargins()
        area = area.marginsRemoved(edges)
        x, y, line, gap = area.x(), area.y(), 0, self.spacing()
        for item in self._items:
            need = item.sizeHint()
            width = min(need.width(), area.width())
            if x > area.x() and x + width > area.right() + 1:
                x, y, line = area.x(), y + line + gap, 0
            if move:
                item.setGeometry(QRect(x, y, width, need.height()))
            x, line = x + width + gap, max(line, need.height())
        return y + line - area.y() + edges.top() + edges.bottom()
