"""“What fires on…”: a text or image to run, the order of what fires, and where in it the chosen feature fires."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QPlainTextEdit, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.panes.features.source import Fired
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.patch_view import PatchView
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel
from auditor.ui.widgets.token_view import TokenView

ORDERS = {"rare": "rare first", "relative": "relative to max", "activation": "activation"}
_IMAGE = 2
_FILES = "Images and sounds (*.png *.jpg *.jpeg *.webp *.wav)"
_LINES = 66


class FiresBox(QWidget):
    """Asks for an input with `asked`, then shows it; `position_chosen` (−1: all) narrows to one token or patch."""

    asked = Signal()
    closed = Signal()
    position_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.image: Path | None = None
        self._fired: Fired | None = None
        self._places: list[int] = []
        self._patches: list[int] = []
        self._make()
        self.edit.installEventFilter(self)

    @property
    def text(self) -> str:
        return self.edit.toPlainText()

    @property
    def order(self) -> str:
        return str(self._order.currentData())

    def set_image(self, path: Path | None) -> None:
        """Take an image in place of the one before, and ask."""
        self.image = path
        self._image_name.setText(path.name if path is not None else "")
        self._image_row.setVisible(path is not None)
        if path is not None:
            self.asked.emit()

    def working(self) -> None:
        self._tell("Running it through the model…")
        self._find.setEnabled(False)

    def failed(self, error: Exception) -> None:
        hint = error.hint if isinstance(error, AuditorError) else "This is a fault of the program."
        self._tell(f"{error} {hint}" if hint not in str(error) else str(error), bad=True)
        self._find.setEnabled(True)

    def show_fired(self, fired: Fired) -> None:
        """Show the input's tokens and picture; nothing is coloured until a feature is chosen."""
        self._fired = fired
        self._find.setEnabled(True)
        found = fired.fires
        kinds = np.asarray(found.kinds)
        self._places = [at for at, token in enumerate(found.tokens) if token and kinds[at] != _IMAGE]
        self._patches = np.flatnonzero(kinds == _IMAGE).tolist() if found.grid else []
        self._token_area.setVisible(bool(self._places))
        self.picture.setVisible(fired.picture is not None)
        self.picture.set_image(fired.picture)
        self._tell(f"{numbers.count(len(found))} features fire. Click a token to see those at it."
                   if found else "No feature of this dictionary fires on it.")  # fmt: skip
        self.colour(-1)

    def colour(self, feature: int, at: int = -1) -> None:
        """Colour the input by the activations of `feature`; `at` marks a position."""
        if self._fired is None:
            return
        found = self._fired.fires
        fire = next((held for held in found if held.feature == feature), None)
        values = fire.values if fire is not None else (0.0,) * len(found.kinds)
        high = max(values, default=0.0)
        focus = self._places.index(at) if at in self._places else -1
        self.tokens.set_tokens([found.tokens[p] for p in self._places], [values[p] for p in self._places],
                               high=high, focus=focus)  # fmt: skip
        need = self.tokens.heightForWidth(max(theme.px(80), self.width() - theme.px(24)))
        self._token_area.setFixedHeight(min(theme.px(_LINES), need + theme.px(2)))
        if self._patches and found.grid is not None:
            patches = np.zeros(found.grid[0] * found.grid[1])
            for position in self._patches:
                if 0 <= found.units[position] < len(patches):
                    patches[found.units[position]] = values[position]
            self.picture.set_patches(patches.reshape(found.grid), high=high)
        else:
            self.picture.set_patches(None)

    def token_at(self, position: int) -> str:
        """What stands at a position, for a chip."""
        if self._fired is None or position < 0:
            return ""
        return self._fired.fires.tokens[position] or f"patch {int(self._fired.fires.units[position]) + 1}"

    def clear(self) -> None:
        """Forget the input's answer; the text stays."""
        self._fired, self._places, self._patches = None, [], []
        self._token_area.hide()
        self.picture.hide()
        self._tell("")

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.edit and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            plain = not event.modifiers() & Qt.KeyboardModifier.ShiftModifier
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and plain:
                self.asked.emit()
                return True
        return False

    def _make(self) -> None:
        self.edit = QPlainTextEdit()
        self.edit.setPlaceholderText("Type a text and press Enter (Shift+Enter for a new line), or drop an image here")
        self.edit.setAccessibleName("Text to run")
        self.edit.setTabChangesFocus(True)
        for part in (self.edit, self.edit.viewport()):
            part.setAcceptDrops(False)  # else it takes an image's drop from the pane, and does nothing with it
        self.edit.setFixedHeight(theme.px(52))
        self._order = QComboBox()
        for key, title in ORDERS.items():
            self._order.addItem(title, key)
        self._order.setAccessibleName("Order of what fires")
        self._order.setToolTip("Rare first: relative activation × rarity, so that features which fire everywhere "
                               "do not lead")  # fmt: skip
        self._order.activated.connect(lambda _: self.asked.emit() if self._fired is not None else None)
        self._find = controls.button("Find", self.asked.emit, primary=True)
        self._status = PlainLabel("", "small", wrap=True)
        self._status.hide()
        self._image_name = ElidedLabel("", "muted")
        self._image_row = controls.box(
            controls.row(self._image_name, controls.tool("x", "Run without the image", self._without_image))
        )
        self._image_row.hide()
        self.tokens = TokenView()
        self.tokens.token_clicked.connect(lambda token: self.position_chosen.emit(self._places[token]))
        self._token_area = controls.scrolled(self.tokens)
        self._token_area.setFixedHeight(theme.px(_LINES))
        self.picture = PatchView(side=96)
        self.picture.patch_clicked.connect(self._patch)
        for part in (self._token_area, self.picture):
            part.hide()
        head = controls.row(
            PlainLabel("What fires on…", "strong"), None, self._order,
            controls.button("Image…", self._browse, icon="image"), self._find,
            controls.tool("x", "Close and show all features", self.closed.emit),
        )  # fmt: skip
        parts = (head, self.edit, self._image_row, self._status, controls.row(self.picture, self._token_area))
        self.setLayout(controls.column(*parts, gap="tight"))

    def _browse(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose an image or a sound", "", _FILES)
        if chosen:
            self.set_image(Path(chosen))

    def _without_image(self) -> None:
        self.set_image(None)
        if self.text.strip():
            self.asked.emit()

    def _patch(self, patch: int) -> None:
        units = self._fired.fires.units if self._fired is not None else np.zeros(0)
        place = next((p for p in self._patches if int(units[p]) == patch), -1)
        if place >= 0:
            self.position_chosen.emit(place)

    def _tell(self, text: str, *, bad: bool = False) -> None:
        self._status.set_role("bad" if bad else "small")
        self._status.setText(text)
        self._status.setVisible(bool(text))
