"""A line of figures, each under its name and with what it is measured against: what a recording or a training takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PySide6.QtWidgets import QFrame, QGridLayout

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
    """Named figures side by side in a card; each is “–” until it is known."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.setObjectName("card")
        grid = QGridLayout(self)
        edge = theme.space("small")
        grid.setContentsMargins(theme.space("medium"), edge, theme.space("medium"), edge)
        grid.setHorizontalSpacing(theme.space("medium"))
        grid.setVerticalSpacing(0)
        self._values: dict[str, tuple[PlainLabel, PlainLabel]] = {}
        for at, name in enumerate(names):
            held = (PlainLabel(_NONE, "strong"), PlainLabel("", "small"))
            self._values[name] = held
            for row, label in enumerate((PlainLabel(name, "heading"), *held)):
                grid.addWidget(label, row, at)
            grid.setColumnStretch(at, 1)
            grid.setColumnMinimumWidth(at, theme.px(_CELL))

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
