"""Parts of a pane side by side where there is room for them, else the first ones behind one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from PySide6.QtCore import QEvent, QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QLayout, QSplitter, QStackedWidget, QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls


class Folding(QWidget):
    """As many parts stand side by side as fit, the last ones first; the others lie in one place with a button for each.

    `parts` are widgets by title; `wide` says how the width is shared out, and `least` how narrow a part may become, in
    pixels of the design.
    """

    def __init__(self, parts: Mapping[str, QWidget], wide: Sequence[int], least: int) -> None:
        super().__init__()
        self._parts, self._wide, self._least = dict(parts), wide, least
        self.folded = 0
        self._split = QSplitter(Qt.Orientation.Horizontal)
        self._split.setChildrenCollapsible(False)
        self._pages = QStackedWidget()
        self._buttons = {name: controls.button(name, partial(self.show_part, name), slim=True) for name in parts}
        for made in self._buttons.values():
            made.setCheckable(True)
        buttons = controls.row(*self._buttons.values(), None, gap="tight")
        edge = theme.space("medium")
        buttons.setContentsMargins(edge, edge, edge, 0)
        self._head = controls.box(buttons)
        inside = controls.column(self._head, self._pages, gap="")
        inside.setStretch(1, 1)
        self._place = controls.box(inside)
        self._split.addWidget(self._place)
        whole = controls.column(self._split, gap="")
        whole.setSizeConstraint(QLayout.SizeConstraint.SetNoConstraint)  # it may become narrower, and folds then
        self.setLayout(whole)
        self._shown = next(iter(parts))
        self._lay()

    def show_part(self, name: str) -> None:
        """Bring the part with this title to the front, where it lies behind another."""
        self._shown = name
        part = self._parts[name]
        if self._pages.indexOf(part) >= 0:
            self._pages.setCurrentWidget(part)
        for title, button in self._buttons.items():
            button.setChecked(title == name)

    def minimumSizeHint(self) -> QSize:
        """Of the narrowest way to lay them."""
        heights = [part.minimumSizeHint().height() for part in self._parts.values()]
        return QSize(self._needed(len(self._parts)), max(heights) + self._head.minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.LayoutRequest:  # what a part needs may have become more, or less
            self._fit()
        return super().event(event)

    def _needed(self, folded: int) -> int:
        """Pixels of width that are needed where so many parts lie behind one another."""
        least = theme.px(self._least)
        widths = [max(part.minimumSizeHint().width(), part.minimumWidth(), least) for part in self._parts.values()]
        if folded:
            widths = [max(*widths[:folded], self._head.minimumSizeHint().width()), *widths[folded:]]
        return sum(widths) + self._split.handleWidth() * (len(widths) - 1)

    def _fit(self) -> None:
        most = len(self._parts)
        folded = next((some for some in (0, *range(2, most)) if self._needed(some) <= self.width()), most)
        if folded != self.folded:
            self.folded = folded
            self._lay()

    def _lay(self) -> None:
        """Put every part where it belongs."""
        behind = list(self._parts)[: self.folded]
        for title, part in self._parts.items():
            self._buttons[title].setVisible(title in behind)
            if title in behind:
                self._pages.addWidget(part)
            else:
                self._split.addWidget(part)
                part.show()
        self._place.setVisible(bool(behind))
        wide = [max(self._wide[: self.folded], default=0), *self._wide[self.folded :]]
        for number, pixels in enumerate(wide):
            self._split.setStretchFactor(number, pixels // 10)
        self._split.setSizes([theme.px(pixels) for pixels in wide])
        if behind:
            self.show_part(self._shown if self._shown in behind else behind[0])
