"""Figures, each under its name and with what it is measured against: what a recording or a training takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QSize
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QLayout

from auditor.ui import theme
from auditor.ui.widgets.plain_text import PlainLabel

_NONE = "–"
_CELL = 76


@dataclass(frozen=True)
class Figure:
    """A value as it is written, what it stands against (“of 40 GB free”), and whether it is within that."""

    value: str
    against: str = ""
    fits: bool = True
    tip: str = ""


class Figures(QFrame):
    """Named figures in a card, side by side or in two lines where there is no room; each is “–” until it is known."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.setObjectName("card")
        self._grid = grid = QGridLayout(self)
        grid.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)  # it may become narrower, and takes two lines
        edge = theme.space("small")
        grid.setContentsMargins(theme.space("medium"), edge, theme.space("medium"), edge)
        grid.setHorizontalSpacing(theme.space("medium"))
        grid.setVerticalSpacing(0)
        self._values: dict[str, tuple[PlainLabel, PlainLabel]] = {}
        self._cells: list[tuple[PlainLabel, PlainLabel, PlainLabel]] = []
        for name in names:
            held = (PlainLabel(_NONE, "strong"), PlainLabel("", "small"))
            self._values[name] = held
            self._cells.append((PlainLabel(name, "heading"), *held))
        self._columns = 0
        self._lay(len(names))

    def minimumSizeHint(self) -> QSize:
        """Of half as many side by side as there are."""
        few = -(-len(self._cells) // 2)
        return QSize(self._needed(few), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.LayoutRequest:
            self._fit()
        return super().event(event)

    def _needed(self, columns: int) -> int:
        """Pixels that so many columns need."""
        widths = [theme.px(_CELL)] * columns
        for number, cell in enumerate(self._cells):
            wide = max(label.sizeHint().width() for label in cell)
            widths[number % columns] = max(widths[number % columns], wide)
        edges = self._grid.contentsMargins()
        return sum(widths) + self._grid.horizontalSpacing() * (columns - 1) + edges.left() + edges.right()

    def _fit(self) -> None:
        whole = len(self._cells)
        self._lay(whole if self._needed(whole) <= self.width() else -(-whole // 2))

    def _lay(self, columns: int) -> None:
        if columns == self._columns:
            return
        self._columns = columns
        for at in range(len(self._cells)):
            self._grid.setColumnStretch(at, 1 if at < columns else 0)
            self._grid.setColumnMinimumWidth(at, theme.px(_CELL) if at < columns else 0)
        for number, cell in enumerate(self._cells):
            for row, label in enumerate(cell):
                self._grid.addWidget(label, 4 * (number // columns) + row, number % columns)
        self._grid.setRowMinimumHeight(3, theme.space("tight") if columns < len(self._cells) else 0)

    def show_figures(self, figures: Mapping[str, Figure]) -> None:
        """Write these; the others are not known."""
        for name, (value, against) in self._values.items():
            figure = figures.get(name, Figure(_NONE))
            value.setText(figure.value if figure.fits else f"{figure.value}, too much")
            value.set_role("strong" if figure.fits else "bad")
            against.setText(figure.against)
            for label in (value, against):
                label.set_tip(figure.tip)

    def text(self, name: str) -> str:
        """What is written under a name."""
        value, against = self._values[name]
        return f"{value.text()} {against.text()}".strip()
