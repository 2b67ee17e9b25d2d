"""Text and image examples of a feature side by side, on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QRect, Signal
from PySide6.QtGui import QImage, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFrame, QGridLayout, QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.panes.examples.legend import Legend
from auditor.ui.widgets import controls
from auditor.ui.widgets.numbers import figure
from auditor.ui.widgets.patch_view import PatchView
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel
from auditor.ui.widgets.token_view import TokenView

if TYPE_CHECKING:
    from auditor.features.examples import Example
    from auditor.features.feature import Feature

GROUPS = {
    "top": ("Top", ("top",), "The strongest firings, in order."),
    "bands": ("Bands", ("q90", "q50", "q10"), "Drawn at random from bands of its firings, so that weak ones show."),
    "miss": ("Near misses", ("miss",), "Samples that hold its strongest word, but where it is silent."),
}
_ORDER = {"top": "strongest first", "bands": "drawn at random in bands", "miss": "hold its word, but it is silent"}
_BANDS = {"q90": "99–90 % band", "q50": "90–50 % band", "q10": "50–10 % band"}
_SIDE = 78
_STRENGTH = 0.65
_COLUMNS = 2
_MOST_COLUMNS = 5
_PART = 0.46
_NOTHING = 104
_SIDE_BY_SIDE = 150


class Gallery(QWidget):
    """`asked` carries (example, token or patch number); `picked` the text example that was chosen."""

    asked = Signal(object, int)
    picked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[_Text] = []
        self.images: list[tuple[Example, PatchView]] = []
        self._heat = True
        self._columns = _COLUMNS
        self._captioned: dict[int, QWidget] = {}
        self._band_names: list[PlainLabel] = []
        self.legend = Legend()
        self._text_head = PlainLabel("text", "heading")
        self._image_head = PlainLabel("images", "heading")
        self._text_side = QVBoxLayout()
        self._image_side = QGridLayout()
        for side in (self._text_side, self._image_side):
            side.setContentsMargins(0, 0, 0, 0)
            side.setSpacing(theme.space("small"))
        self.eye = controls.tool("eye", "Show the heat map on images", checkable=True)
        self.eye.setChecked(True)
        self.eye.toggled.connect(self._toggle)
        left = controls.column(self._text_head, self._text_side, None, gap="tight")
        right = controls.column(self._image_head, self._image_side, None, gap="tight")
        self._stacked = theme.scale() > _SIDE_BY_SIDE
        sides: QBoxLayout = (controls.column if self._stacked else controls.row)(left, right, gap="medium")
        sides.setStretch(0, 1)
        self.setLayout(controls.column(sides, None, gap=""))

    def show_group(self, feature: Feature, name: str, high: float) -> list[Example]:
        """Show the examples of a group on the scale 0…`high`; the image examples, whose pictures are still to come."""
        _, groups, _ = GROUPS[name]
        controls.clear(self._text_side)
        controls.clear(self._image_side)
        self.texts, self.images = [], []
        self._captioned, self._band_names = {}, []
        self.legend.set_scale(high)
        texts = [e for group in groups for e in feature.examples_of("text", group)]
        images = [e for group in groups for e in feature.examples_of("image", group)]
        self._text_head.setText(f"text  {len(texts)}, {_ORDER[name]}" if texts else "text")
        self._image_head.setText(f"images  {len(images)}" if images else "images")
        self._show_texts(texts, high)
        self._show_images(images, high)
        if not texts:
            self._text_side.addWidget(_nothing("text", feature.fires_text, name))
        if not images:
            self._image_side.addWidget(_nothing("image", feature.fires_image, name), 0, 0)
        self.eye.setVisible(bool(images))
        return images

    def set_pictures(self, pictures: dict[str, QImage]) -> None:
        """Put the decoded thumbnails in."""
        for example, view in self.images:
            if example.sample_id in pictures:
                view.set_image(pictures[example.sample_id])

    def place(self, widget: QWidget, example: Example) -> None:
        """Stand `widget` below a text example, or below the images where the example is one."""
        self.take_back(widget)
        for at, held in enumerate(self.texts):
            if held.example is example:
                self._text_side.insertWidget(self._text_side.indexOf(self.texts[at]) + 1, widget)
                return
        self._image_side.addWidget(widget, self._image_side.rowCount(), 0, 1, self._columns)

    def take_back(self, widget: QWidget) -> None:
        """Take away what `place` put in; it is hidden, not deleted."""
        self._text_side.removeWidget(widget)
        self._image_side.removeWidget(widget)
        widget.setParent(self)
        widget.hide()

    def pick(self, example: Example | None) -> None:
        """Mark the text example that commands are about."""
        for held in self.texts:
            held.mark(held.example is example)

    def _show_texts(self, examples: Sequence[Example], high: float) -> None:
        before = ""
        for example in examples:
            if example.group in _BANDS and example.group != before:
                self._text_side.addWidget(PlainLabel(_BANDS[example.group], "small"))
            before = example.group
            held = _Text(example, high)
            held.view.token_clicked.connect(lambda token, e=example: self.asked.emit(e, token))
            held.picked.connect(lambda e=example: self.picked.emit(e))
            held.view.token_clicked.connect(lambda _, e=example: self.picked.emit(e))
            self.texts.append(held)
            self._text_side.addWidget(held)

    def _show_images(self, examples: Sequence[Example], high: float) -> None:
        for example in examples:
            view = PatchView(side=_SIDE)
            view.setAccessibleName(f"Image example {example.sample_id}")
            if example.grid is not None and len(example.activations) == example.grid[0] * example.grid[1]:
                view.set_patches(np.array(example.activations).reshape(example.grid), high=high)
            view.set_strength(_STRENGTH if self._heat else 0.0)
            view.patch_clicked.connect(lambda patch, e=example: self.asked.emit(e, patch))
            self.images.append((example, view))
            self._captioned[id(view)] = _captioned(example, view)
        self._lay_images()

    def _lay_images(self) -> None:
        """Put the images into as many columns as fit, each band below its name."""
        at, before = 0, ""
        for label in self._band_names:
            label.hide()
            label.deleteLater()
        self._band_names = []
        for example, view in self.images:
            if example.group in _BANDS and example.group != before:
                at = -(-at // self._columns) * self._columns
                label = PlainLabel(_BANDS[example.group], "small")
                self._band_names.append(label)
                self._image_side.addWidget(label, at // self._columns, 0, 1, self._columns)
                at += self._columns
            before = example.group
            self._image_side.addWidget(self._captioned[id(view)], at // self._columns, at % self._columns)
            at += 1

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        step = theme.px(_SIDE) + theme.space("small")
        fitting = min(_MOST_COLUMNS, max(_COLUMNS, int(self.width() * _PART) // step))
        if fitting != self._columns and not self._stacked:
            self._columns = fitting
            for _, view in self.images:
                self._image_side.removeWidget(self._captioned[id(view)])
            self._lay_images()

    def _toggle(self, on: bool) -> None:
        self._heat = on
        theme.set_icon(self.eye, "eye" if on else "eye-off")
        for _, view in self.images:
            view.set_strength(_STRENGTH if on else 0.0)


class _Text(QFrame):
    """One text example: its tokens, and below where it comes from."""

    picked = Signal()

    def __init__(self, example: Example, high: float) -> None:
        super().__init__()
        self.example = example
        self.view = TokenView(lines=4)
        self.view.set_tokens(example.tokens, example.activations, high=high, focus=example.peak)
        self._told = ElidedLabel(_where(example), "small")
        inside = controls.column(self.view, self._told, gap="")
        inside.setContentsMargins(theme.px(6), theme.px(2), theme.px(2), theme.px(2))
        self.setLayout(inside)
        self._marked = False

    def mark(self, on: bool) -> None:
        if on != self._marked:
            self._marked = on
            self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.picked.emit()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        ink = theme.color("accent" if self._marked else "border")
        painter.fillRect(QRect(0, theme.px(2), theme.px(2), self.height() - theme.px(4)), ink)
        painter.end()


def _captioned(example: Example, view: PatchView) -> QWidget:
    which = f"picture {example.picture}: " if example.picture else ""
    told = ElidedLabel(which + (example.caption or example.sample_group or example.sample_id), "small")
    told.setFixedWidth(theme.px(_SIDE))
    held = controls.box(controls.column(view, told, gap=""))
    held.setToolTip("")
    view.setAccessibleDescription(f"peak {figure(example.peak_activation)}, {_where(example)}")
    return held


def _where(example: Example) -> str:
    parts = [f"peak {figure(example.peak_activation)}" if example.group != "miss" else "silent"]
    parts += [part for part in (example.sample_group, example.sample_id) if part]
    return "  ·  ".join(parts)


def _nothing(kind: str, fires: int, name: str) -> PlainLabel:
    """Why a side is empty, in words."""
    if not fires and name != "miss":
        text = f"Fires on no {kind} in this store."
    elif name == "miss":
        text = f"No near miss among the {kind}s." if kind == "image" else "No near miss among the texts."
    else:
        text = f"No {kind} example in these bands." if name == "bands" else f"No {kind} example was kept."
    made = PlainLabel(text, "muted", wrap=True)
    made.setMinimumWidth(theme.px(_NOTHING))
    return made
