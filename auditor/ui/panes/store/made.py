"""How a store was made, as named lines."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_NAME = 132


class Made(QWidget):
    """Lines under headings; what is too long is said whole on hover."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = controls.column(gap="tight")
        inside = controls.column(self._lines, None, gap="")
        inside.setContentsMargins(0, 0, theme.space("small"), 0)
        self.setLayout(controls.column(controls.scrolled(controls.box(inside))))

    def show_lines(self, lines: Sequence[tuple[str, str, str]]) -> None:
        """Write (heading, name, text)."""
        controls.clear(self._lines)
        above = None
        for group, name, text in lines:
            if group != above:
                self._lines.addWidget(controls.heading(group.replace("_", " ").capitalize() or "The store"))
                above = group
            label = ElidedLabel(name.replace("_", " "), "small")
            label.setFixedWidth(theme.px(_NAME))
            held = ElidedLabel(text, mode=Qt.TextElideMode.ElideMiddle)
            self._lines.addWidget(controls.box(controls.row(label, held)))
        if not lines:
            self._lines.addWidget(PlainLabel("Nothing is told of how it was made.", "muted"))
