"""A table over a numpy structured array and an order array: a million rows, sorted by a click, bars in cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import (
    QAbstractTableModel,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QRect,
    Qt,
    Signal,
)
from PySide6.QtGui import QFontMetrics, QKeyEvent, QPainter, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from auditor.ui import theme
from auditor.ui.widgets.numbers import count, figure
from auditor.ui.widgets.plain_text import tooltip, visible

Index = QModelIndex | QPersistentModelIndex
Offload = Callable[[str, Callable[[], Any], Callable[[Any], object]], object]
_BAR = Qt.ItemDataRole.UserRole + 1
_OFFLOAD_FROM = 100_000
_REACH = 0.9  # a full bar: a few outliers would leave every other row without a bar
_LOOKED_AT = 256
_SPREAD = 20_000
_PADDING = 20


@dataclass(frozen=True)
class Column:
    """One column: `field` of the array; `text` writes a value; `bar` draws its part of the column's 90th percentile, or
    of the quantile `reach`: 1 where the few largest are what matters.

    `values` gives a column that the array lacks, indexed by row, such as labels. `tip` says what the number is, and
    the field `told` what is to be said of each. `role` gives a value's colour. A click on a `link` is told.
    """

    field: str
    title: str
    text: Callable[[Any], str] | None = None
    bar: bool = False
    reach: float = _REACH
    width: int = 80
    tip: str = ""
    values: Sequence[Any] | NDArray[Any] | None = None
    left: bool = False
    told: str = ""
    role: Callable[[Any], str] | None = None
    link: bool = False


class BigTableModel(QAbstractTableModel):
    """Rows of `array`, shown in the order of `order` (row numbers of the array)."""

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = list(columns)
        self.array: NDArray[Any] = np.zeros(0, dtype=[("id", np.int64)])
        self.order: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self._largest: list[float] = [1.0] * len(self.columns)

    def set_rows(self, array: NDArray[Any], order: NDArray[Any] | None = None) -> None:
        self.beginResetModel()
        self.array = array
        self.order = np.arange(len(array), dtype=np.intp) if order is None else np.asarray(order, dtype=np.intp)
        self._largest = [self._reach(column) for column in self.columns]
        self.endResetModel()

    def set_order(self, order: NDArray[Any]) -> None:
        """Show these rows of the array in this order."""
        if len(order) == len(self.order):
            self.order = np.asarray(order, dtype=np.intp)
            self.layoutChanged.emit()
        else:
            self.beginResetModel()
            self.order = np.asarray(order, dtype=np.intp)
            self.endResetModel()

    def column_values(self, column: Column) -> NDArray[Any]:
        """The whole column, one value a row of the array."""
        return self.array[column.field] if column.values is None else np.asarray(column.values)

    def longest(self, column: Column, width: Callable[[str], int]) -> int:
        """Width of the widest text of a column of numbers, from its extremes and some rows between; 0 for words."""
        if column.values is not None or self._is_left(column) or not len(self.array):
            return 0
        values = self.array[column.field]
        some = _spread(values, _SPREAD)
        small = some[np.isfinite(some) & (some != 0)]
        kept = [*_spread(values, _LOOKED_AT).tolist(), np.fmin.reduce(values), np.fmax.reduce(values)]
        if len(small):
            kept.append(small[np.abs(small).argmin()])  # the one with the longest exponent
        return max(width(self._text(column, value)) for value in kept)

    def rowCount(self, parent: Index = QModelIndex()) -> int:
        return 0 if parent.isValid() else len(self.order)

    def columnCount(self, parent: Index = QModelIndex()) -> int:
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        column = self.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(column, self._value(column, index.row()))
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if self._is_left(column) else Qt.AlignmentFlag.AlignRight
            return Qt.AlignmentFlag.AlignVCenter | side
        if role == _BAR and column.bar:
            part = float(self._value(column, index.row())) / self._largest[index.column()]
            return min(1.0, max(0.0, part)) if np.isfinite(part) else 0.0
        if role == Qt.ItemDataRole.ForegroundRole:
            return self._ink(column, index.row())
        if role == Qt.ItemDataRole.ToolTipRole:
            text = self._text(column, self._value(column, index.row()))
            told = str(self.array[column.told][self.order[index.row()]]) if column.told else ""
            return tooltip("\n".join(part for part in (text, told or column.tip) if part))
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or section >= len(self.columns):
            return None
        column = self.columns[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.title
        if role == Qt.ItemDataRole.ToolTipRole:
            return tooltip(column.tip or column.title)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if self._is_left(column) else Qt.AlignmentFlag.AlignRight
            return Qt.AlignmentFlag.AlignVCenter | side
        return None

    def _value(self, column: Column, row: int) -> Any:
        at = self.order[row]
        return self.array[column.field][at] if column.values is None else column.values[at]

    def _ink(self, column: Column, row: int) -> Any:
        wanted = column.role(self._value(column, row)) if column.role is not None else "accent" if column.link else ""
        return theme.color(wanted) if wanted else None

    def _is_left(self, column: Column) -> bool:
        if column.left or column.values is not None or column.field not in (self.array.dtype.names or ()):
            return True
        return self.array.dtype[column.field].kind not in "iuf"

    def _reach(self, column: Column) -> float:
        if not column.bar or not len(self.array):
            return 1.0
        held = self.column_values(column)
        values = (held if column.reach == 1 else _spread(held, _SPREAD)).astype(np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return 1.0
        return float(np.quantile(values, column.reach)) or float(values.max()) or 1.0

    @staticmethod
    def _text(column: Column, value: Any) -> str:
        if column.text is not None:
            return visible(column.text(value))
        if isinstance(value, (bool, np.bool_)):
            return "yes" if value else "no"
        if isinstance(value, (int, np.integer)):
            return count(int(value))
        if isinstance(value, (float, np.floating)):
            return figure(float(value))
        return visible(str(value))


class BigTable(QTableView):
    """The table itself. Signals carry row numbers of the array, whatever the order on screen.

    `offload` (a session's `read`) sorts large tables off the GUI thread. With `many`, several rows can be chosen.
    """

    row_selected = Signal(int)
    row_activated = Signal(int)
    rows_chosen = Signal()
    link_clicked = Signal(int, str)

    def __init__(
        self, columns: Sequence[Column], offload: Offload | None = None, parent: QWidget | None = None, *,
        many: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self._rows = BigTableModel(columns)
        self._at = self._widest = -1
        self._offload = offload
        self.setModel(self._rows)
        self.setItemDelegate(_Bars(self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        modes = QAbstractItemView.SelectionMode
        self.setSelectionMode(modes.ExtendedSelection if many else modes.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setFrameShape(QTableView.Shape.NoFrame)
        self._dress_headers(columns)
        self.selectionModel().currentRowChanged.connect(self._current)
        self.selectionModel().selectionChanged.connect(lambda *_: self.rows_chosen.emit())
        self.clicked.connect(self._clicked)
        self.activated.connect(lambda index: self.row_activated.emit(int(self._rows.order[index.row()])))
        theme.signals.changed.connect(self._resize_rows)

    def set_rows(self, array: NDArray[Any], order: NDArray[Any] | None = None) -> None:
        """Show a structured array, in `order` where given (row numbers)."""
        self.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self._at = -1
        self._rows.set_rows(array, order)
        self._make_room()

    def set_order(self, order: NDArray[Any]) -> None:
        """Show these rows, in this order: the answer of a search or a sort. The selected row stays selected."""
        kept = self._at
        self._rows.set_order(order)
        if kept >= 0:
            self.select(kept)

    @property
    def order(self) -> NDArray[np.intp]:
        """Row numbers of the array as they are shown."""
        return self._rows.order

    @property
    def selected(self) -> int:
        """Row number of the selected row, −1 for none."""
        return self._at

    @property
    def chosen(self) -> list[int]:
        """Row numbers of all chosen rows, in the order on screen."""
        places = sorted(index.row() for index in self.selectionModel().selectedRows())
        return [int(self._rows.order[place]) for place in places]

    def choose(self, rows: Sequence[int]) -> None:
        """Choose these rows of the array, silently, as far as they are shown."""
        self.select(rows[0] if rows else -1)
        flags = QItemSelectionModel.SelectionFlag
        for row in rows[1:]:
            for place in np.flatnonzero(self._rows.order == row):
                index = self._rows.index(int(place), 0)
                self.selectionModel().select(index, flags.Select | flags.Rows)

    def select(self, row: int) -> None:
        """Select a row of the array, silently, and scroll to it; nothing where it is not shown."""
        places = np.flatnonzero(self._rows.order == row)
        self._at = row
        if len(places):
            self.selectRow(int(places[0]))
            self.scrollTo(self._rows.index(int(places[0]), 0))
        else:
            self.clearSelection()

    def sort(self, section: int, order: Qt.SortOrder) -> None:
        """Sort what is shown by a column; equal rows keep their order."""
        if section < 0:
            return
        values = self._rows.column_values(self._rows.columns[section])
        shown, falling = self._rows.order, order == Qt.SortOrder.DescendingOrder
        if self._offload is not None and len(shown) > _OFFLOAD_FROM:
            self._offload(f"sort {id(self)}", lambda: sorted_order(values, shown, falling), self.set_order)
        else:
            self.set_order(sorted_order(values, shown, falling))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._at >= 0:
            self.row_activated.emit(self._at)
            return
        super().keyPressEvent(event)

    def _clicked(self, index: QModelIndex) -> None:
        column = self._rows.columns[index.column()]
        if column.link:
            self.link_clicked.emit(int(self._rows.order[index.row()]), column.field)

    def _current(self, index: QModelIndex) -> None:
        if index.isValid():
            row = int(self._rows.order[index.row()])
            if row != self._at:
                self._at = row
                self.row_selected.emit(row)

    def _dress_headers(self, columns: Sequence[Column]) -> None:
        self._resize_rows()
        header = self.horizontalHeader()
        header.setSectionsClickable(True)
        header.setSortIndicatorShown(True)
        header.setHighlightSections(False)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        header.sortIndicatorChanged.connect(self.sort)
        for number, column in enumerate(columns):
            header.resizeSection(number, theme.px(column.width))
        self._make_room()
        self._widest = max(range(len(columns)), key=lambda number: columns[number].width)
        self._stretch()

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._stretch()
        super().resizeEvent(event)

    def _stretch(self) -> None:
        """The widest column takes the room that is left; where too little is, it keeps its width and the table
        scrolls."""
        header, number = self.horizontalHeader(), self._widest
        least = theme.px(self._rows.columns[number].width)
        others = sum(header.sectionSize(at) for at in range(header.count()) if at != number)
        fits = self.viewport().width() - others >= least
        modes = QHeaderView.ResizeMode
        header.setSectionResizeMode(number, modes.Stretch if fits else modes.Interactive)
        if not fits:
            header.resizeSection(number, least)

    def _make_room(self) -> None:
        """Widen the columns of numbers until none of these is cut: a number with an ellipsis is another number."""
        metrics, bold = QFontMetrics(theme.font("table")), QFontMetrics(theme.font("table", bold=True))
        for number, column in enumerate(self._rows.columns):
            widest = self._rows.longest(column, metrics.horizontalAdvance)
            need = max(widest, bold.horizontalAdvance(column.title)) + theme.px(_PADDING)
            if need > self.horizontalHeader().sectionSize(number):
                self.horizontalHeader().resizeSection(number, need)
        if self._widest >= 0:
            self._stretch()

    def _resize_rows(self) -> None:
        vertical = self.verticalHeader()
        vertical.setVisible(False)
        vertical.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        vertical.setMinimumSectionSize(theme.px(18))
        vertical.setDefaultSectionSize(theme.px(26))


def _spread(values: NDArray[Any], most: int) -> NDArray[Any]:
    """At most so many of the values, evenly spread: a table of a million rows opens in the GUI thread."""
    return values[:: -(-len(values) // most)] if len(values) > most else values


def sorted_order(values: NDArray[Any], shown: NDArray[np.intp], falling: bool) -> NDArray[np.intp]:
    """`shown` (row numbers) sorted by `values` of those rows, stably; NaN last either way."""
    part = values[shown]
    if part.dtype.kind == "O":
        part = part.astype(str)
    if not falling:
        return shown[np.argsort(part, kind="stable")]
    ranked = shown[::-1][np.argsort(part[::-1], kind="stable")][::-1]
    if part.dtype.kind == "f":
        missing = np.isnan(values[ranked])
        ranked = np.concatenate([ranked[~missing], ranked[missing]])
    return ranked


class _Bars(QStyledItemDelegate):
    """Draws a cell's bar under its number."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        super().paint(painter, option, index)
        part = index.data(_BAR)
        if part:
            area: QRect = option.rect
            room = area.width() - theme.px(12)
            wide = round(room * part)
            height = max(2, theme.px(3))
            bar = QRect(area.left() + theme.px(6), area.bottom() - height, wide, height)
            painter.fillRect(bar, theme.color("positive"))
