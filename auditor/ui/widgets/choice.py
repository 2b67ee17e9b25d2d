"""A box to choose one of several long names: it shortens the name in its middle, never the figure behind it."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QComboBox, QSizePolicy, QStyle, QStyleOptionComboBox, QStylePainter

from auditor.ui import theme
from auditor.ui.widgets.plain_text import tooltip

_TAIL = Qt.ItemDataRole.UserRole + 1


class Choice(QComboBox):
    """A combo box as wide as its place; the open list is as wide as its names, the whole name is said on hover."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(theme.px(140))
        self.currentIndexChanged.connect(lambda _: self.setToolTip(tooltip(self.currentText())))

    def add(self, name: str, data: Any, tail: str = "") -> None:
        """Offer `name`; `tail` stands behind it and is never cut."""
        self.addItem(f"{name}{tail}", data)
        self.setItemData(self.count() - 1, tail, _TAIL)

    def shown(self) -> str:
        """What the closed box says in the room that it has."""
        option = self._option()
        room = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, self
        )
        tail = str(self.currentData(_TAIL) or "")
        name = self.currentText().removesuffix(tail)
        metrics = self.fontMetrics()
        left = room.width() - theme.px(8) - metrics.horizontalAdvance(tail)
        return metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, left) + tail

    def showPopup(self) -> None:
        self.view().setMinimumWidth(max(self.width(), self.view().sizeHintForColumn(0) + theme.px(32)))
        super().showPopup()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QStylePainter(self)
        option = self._option()
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        option.currentText = self.shown()
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()

    def _option(self) -> QStyleOptionComboBox:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        return option
