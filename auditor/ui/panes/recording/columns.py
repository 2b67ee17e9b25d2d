"""Which column of a table is what: said in a line, and chosen below it."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QGridLayout, QSizePolicy, QWidget

from auditor.data.columns import OPTIONS, ROLES, Columns
from auditor.ui import theme
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, tooltip, visible

_TITLES = {"text": "Text", "messages": "Conversation", "image": "Image", "label": "Label", "group": "Group",
           "unread": "Not read"}  # fmt: skip
_TIPS = {
    "text": "What the network reads; beside images, their caption",
    "messages": "Lists of messages, written by the model's own chat template",
    "image": "Bytes, or paths beside the file",
    "label": "Kept as “label” for contrasts; all other columns are kept under their own names",
    "group": "What must stay on one side of a split",
}


class ColumnChoice(QWidget):
    """`chosen` carries the option of a role and the column that the person chose for it ("" to guess)."""

    chosen = Signal(str, str)

    def __init__(self) -> None:
        super().__init__()
        self.told = ElidedLabel("", "small")
        self.change = controls.button("Change", link=True, tip="Choose the columns")
        self.change.setCheckable(True)
        self._grid = controls.box(self._choices())
        self._grid.hide()
        self.change.toggled.connect(self._grid.setVisible)
        whole = controls.column(controls.row(self.told, self.change), self._grid, gap="tight")
        self.setLayout(whole)
        self.hide()

    def show_columns(self, columns: Columns | None) -> None:
        """Tell what is what; None for what is no table. A choice that is open stays open."""
        self.setVisible(columns is not None)
        if columns is None:
            self.change.setChecked(False)
            return
        told = columns.told()
        self.told.setText("; ".join(f"{_TITLES[role]}: {name}" for role, name in told.items()))
        for role, box in self.boxes.items():
            held = str(getattr(columns, role))
            guessed = held if held and role in columns.guessed else ""
            box.blockSignals(True)
            box.clear()
            box.addItem(f"{visible(guessed)} (guessed)" if guessed else "none" if not held else "guess", "")
            for name in columns.names:
                box.addItem(visible(name), name)
            box.setCurrentIndex(max(box.findData(held), 0) if held and not guessed else 0)
            box.setToolTip(tooltip(_TIPS[role]))
            box.blockSignals(False)

    def _choices(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(theme.space("small"))
        grid.setVerticalSpacing(theme.space("tight"))
        grid.setColumnStretch(1, 1)
        self.boxes: dict[str, QComboBox] = {}
        for row, role in enumerate(ROLES):
            box = QComboBox()
            # A column may have a name of any length.
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(8)
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            box.setAccessibleName(f"Column of the {_TITLES[role].lower()}")
            box.activated.connect(lambda _, role=role, box=box: self.chosen.emit(OPTIONS[role], str(box.currentData())))
            label = PlainLabel(_TITLES[role], "small")
            label.setBuddy(box)
            grid.addWidget(label, row, 0)
            grid.addWidget(box, row, 1)
            self.boxes[role] = box
        return grid
