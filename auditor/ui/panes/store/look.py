"""A look at one row: the text with its token marked or the picture with its patch, and the row's largest numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QRegularExpression, Qt, QTimer, Signal
from PySide6.QtGui import QRegularExpressionValidator
from PySide6.QtWidgets import QLineEdit, QSplitter, QWidget

from auditor.ui import theme
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.patch_view import PatchView
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, token_text
from auditor.ui.widgets.token_view import TokenView

if TYPE_CHECKING:
    from auditor.store.facts import Facts
    from auditor.store.row import Row

_NUMBER = np.dtype([("dimension", np.int32), ("size", np.float32), ("value", np.float32), ("times", np.float32)])
_SHOWN = 24


class RowLook(QWidget):
    """Shows a row; `wanted` carries the number of another that is to be shown, −1 for any."""

    wanted = Signal(int)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._row: Row | None = None
        self._rows = 0
        self._rms: np.ndarray | None = None
        self._dimension = -1
        self.number = QLineEdit()
        self.number.setAccessibleName("Row number")
        self.number.setFixedWidth(theme.px(110))
        self.number.setValidator(QRegularExpressionValidator(QRegularExpression("[0-9]{0,15}")))
        self.number.returnPressed.connect(self._asked)
        self._of = PlainLabel("", "muted")
        back = controls.tool("chevron-left", "The row before", lambda: self._step(-1))
        on = controls.tool("chevron-right", "The next row", lambda: self._step(1))
        self.random = controls.button("Random row", lambda: self.wanted.emit(-1), slim=True, icon="shuffle")
        self.sample = ElidedLabel("", "strong")
        self.told = PlainLabel("", wrap=True)
        self.colours = PlainLabel("", "small", wrap=True)
        self.tokens = TokenView()
        self.tokens.token_clicked.connect(self._go)
        self.picture = PatchView()
        self.picture.patch_clicked.connect(self._go_patch)
        self._text = controls.scrolled(self.tokens)
        self._text.setAccessibleName("Text of the sample")
        self.largest = BigTable(
            (
                Column("dimension", "dim.", text=str, width=52, tip="Number of the dimension"),
                Column("value", "value", width=80, tip="The number in this row"),
                Column("times", "× RMS", width=76, tip="Its magnitude over the dimension's root mean square"),
                Column("size", "", text=lambda _: "", bar=True, reach=1, width=80, tip="Its magnitude"),
            ),
            session.read,
        )
        self.largest.setAccessibleName("Largest numbers of the row")
        self.largest.row_selected.connect(self._colour_by)
        head = controls.row(PlainLabel("Row"), self.number, self._of, back, on, self.random, None)
        upper = controls.column(self.sample, self.told, self._text, self.picture, self.colours, gap="tight")
        upper.setStretch(2, 1)
        upper.setStretch(3, 1)
        lower = controls.column(controls.heading("Largest numbers of this row"), self.largest, gap="tight")
        lower.setStretch(1, 1)
        split = QSplitter(Qt.Orientation.Vertical)
        split.addWidget(controls.box(upper))
        split.addWidget(controls.box(lower))
        split.setSizes([theme.px(250), theme.px(170)])
        split.setChildrenCollapsible(False)
        whole = controls.column(head, split, gap="small")
        whole.setStretch(1, 1)
        self.setLayout(whole)

    def show_facts(self, facts: Facts) -> None:
        """Take what numbers are compared with, and how many rows there are."""
        self._rows, self._rms = facts.rows, facts.dimensions["rms"]
        self._row, self._dimension = None, -1  # the row that is shown may be of another hook point
        self._of.setText(f"of {numbers.count(facts.rows)}")
        self.number.setEnabled(facts.rows > 0)
        self.random.setEnabled(facts.rows > 0)
        if not facts.rows:
            self._bare()

    def _bare(self) -> None:
        """There is no row: say so, and show none of another hook point."""
        for label in (self.told, self.colours):
            label.setText("")
        self.sample.setText("No sample has a position at this hook point.")
        self.number.clear()
        self.picture.hide()
        self._text.hide()
        self.largest.set_rows(np.zeros(0, _NUMBER))

    def colour_by(self, dimension: int) -> None:
        """Colour the tokens or patches by a dimension, −1 for the norms of their rows."""
        self._dimension = dimension
        if self._row is not None:
            self._paint(self._row)

    def show_row(self, row: Row) -> None:
        """Show one."""
        self._row = row
        self.number.setText(str(row.number))
        group = f"   group {row.sample.group}" if row.sample.group else ""
        labels = "".join(f"   {name} {value}" for name, value in row.sample.labels.items())
        self.sample.setText(f"Sample {row.sample.id}{group}{labels}")
        self.told.setText(f"{_place(row)}   norm {numbers.figure(row.norm)}")
        picked = row.largest(_SHOWN)
        held = np.zeros(len(picked), _NUMBER)
        held["dimension"], held["value"], held["size"] = picked, row.values[picked], np.abs(row.values[picked])
        if self._rms is not None:
            rms = self._rms[picked]
            held["times"] = np.divide(held["size"], rms, out=np.full(len(picked), np.nan, np.float32), where=rms > 0)
        self.largest.set_rows(held)
        self._paint(row)

    def _paint(self, row: Row) -> None:
        by_norm = self._dimension < 0
        of = np.linalg.norm(row.beside, axis=1) if by_norm else row.beside[:, self._dimension]
        usual = of[row.kinds != 3] if (row.kinds != 3).any() else of  # an attention sink would pale all others
        low, high = float(usual.min()), float(usual.max())
        if low < 0 < high or not by_norm:  # numbers of both signs: a scale about 0
            high = max(abs(low), abs(high)) or 1.0
            low = -high if low < 0 else 0.0
        grid = row.patches(of)
        self.picture.setVisible(grid is not None)
        self._text.setVisible(grid is None)
        if grid is not None:
            self.picture.set_image(row.sample.image)
            self.picture.set_patches(grid, low=low, high=high)
            self.picture.choose(row.unit)
        else:
            words = row.tokens or tuple(f" #{unit}" for unit in row.units)
            self.tokens.set_tokens(words, of.tolist(), low=low, high=high, focus=row.here)
            QTimer.singleShot(0, self, self._to_focus)
        what = "the norm of its row" if by_norm else f"dimension {self._dimension}"
        more = "; choose a number below to colour by its dimension" if by_norm else ""
        self.colours.setText(
            f"Coloured by {what}, {numbers.figure(low)} to {numbers.figure(high)}. Choose one to see its row{more}."
        )

    def _to_focus(self) -> None:
        """Scroll to the row's token, once the text has found its height."""
        if self._row is not None:
            place = self.tokens.area_of(self._row.here).center()
            self._text.ensureVisible(0, round(place.y()), 0, theme.px(40))

    def _colour_by(self, place: int) -> None:
        self.colour_by(int(self.largest.model().array["dimension"][place]))  # type: ignore[attr-defined]

    def _go(self, token: int) -> None:
        if self._row is not None:
            self.wanted.emit(self._row.first + token)

    def _go_patch(self, patch: int) -> None:
        if self._row is not None:
            found = np.flatnonzero((self._row.units == patch) & (self._row.kinds == 2))
            if len(found):
                self.wanted.emit(self._row.first + int(found[0]))

    def _asked(self) -> None:
        """The row whose number was typed; which row is shown, where none was."""
        if self.number.text():
            self.wanted.emit(int(self.number.text()))
        elif self._row is not None:
            self.number.setText(str(self._row.number))

    def _step(self, by: int) -> None:
        if self._row is not None and 0 <= self._row.number + by < self._rows:
            self.wanted.emit(self._row.number + by)


def _place(row: Row) -> str:
    """Where the row stands in its sample."""
    if row.kind == "image" and row.sample.grid is not None and (place := row.sample.place(row.unit)) is not None:
        picture, line, column = place
        where = f"Patch in row {line + 1}, column {column + 1}"
        if row.sample.panels:
            count = 1 + max(panel[0] for panel in row.sample.panels)
            return f"{where} of picture {picture + 1} of {count}"
        return f"{where} of {row.sample.grid[0]} × {row.sample.grid[1]}"
    where = f"Position {row.number - row.sample.first_row + 1} of {row.sample.n_rows} ({row.kind})"
    word = f" “{token_text(row.tokens[row.here])}”" if row.tokens else ""
    return f"{where}{word}{f', token {row.token}' if row.token >= 0 else ''}"
