"""Buttons, cards, rows and headings with the spacing and looks of the theme."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtWidgets import (
    QBoxLayout,
    QFrame,
    QHBoxLayout,
    QLayout,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from auditor.ui import theme
from auditor.ui.widgets.plain_text import PlainLabel, menu_text, tooltip

L = TypeVar("L", bound=QBoxLayout)
Part = QWidget | QLayout | int | None


def button(
    text: str, act: Callable[[], object] | None = None, *, primary: bool = False, flat: bool = False,
    link: bool = False, slim: bool = False, icon: str = "", tip: str = "",
) -> QPushButton:  # fmt: skip
    """A push button; `primary` for the one next step of a pane, `link` to read as text in a line, `slim` for a row."""
    made = QPushButton(menu_text(text))
    for name, value in (("primary", primary), ("flat", flat), ("link", link), ("slim", slim)):
        if value:
            made.setProperty(name, True)
    if icon:
        theme.set_icon(made, icon, "on_accent" if primary else "accent" if link else "text")
    if tip:
        made.setToolTip(tooltip(tip))
    if act is not None:
        made.clicked.connect(lambda _=False: act())
    return made


def tool(icon: str, name: str, act: Callable[[], object] | None = None, *, checkable: bool = False) -> QToolButton:
    """A small button with an icon; `name` is said on hover and to screen readers."""
    made = QToolButton()
    theme.set_icon(made, icon)
    made.setToolTip(tooltip(name))
    made.setAccessibleName(name)
    made.setCheckable(checkable)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    if act is not None:
        made.clicked.connect(lambda _=False: act())
    return made


def row(*parts: Part, gap: str = "small", margin: str = "") -> QHBoxLayout:
    """Parts side by side; an int is a stretch of that weight, None a stretch of 1."""
    return _filled(QHBoxLayout(), parts, gap, margin)


def column(*parts: Part, gap: str = "small", margin: str = "") -> QVBoxLayout:
    """Parts one below another; an int is a stretch of that weight, None a stretch of 1."""
    return _filled(QVBoxLayout(), parts, gap, margin)


def box(layout: QLayout, name: str = "") -> QWidget:
    """A bare widget that holds `layout`."""
    made = QWidget()
    if name:
        made.setObjectName(name)
    made.setLayout(layout)
    return made


def card(*parts: Part, gap: str = "small") -> QFrame:
    """A framed surface with parts one below another."""
    made = QFrame()
    made.setObjectName("card")
    made.setLayout(column(*parts, gap=gap, margin="medium"))
    return made


def heading(text: str) -> PlainLabel:
    """A small heading over a group."""
    return PlainLabel(text, "heading")


def line() -> QFrame:
    """A hairline."""
    made = QFrame()
    made.setObjectName("line")
    return made


def clear(layout: QLayout) -> None:
    """Take every widget out of `layout` and delete it, nested layouts too."""
    while (item := layout.takeAt(0)) is not None:
        widget, nested = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif nested is not None:
            clear(nested)


class _Tall(QScrollArea):
    """Never narrower than its content, so that it scrolls up and down alone."""

    def minimumSizeHint(self) -> QSize:
        inside = self.widget()
        wide = inside.minimumSizeHint().width() if inside is not None else 0
        return QSize(wide + self.verticalScrollBar().sizeHint().width(), super().minimumSizeHint().height())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)


def scrolled(content: QWidget, *, tall: bool = False) -> QScrollArea:
    """`content` in a scroll area without a frame; it scrolls sideways only where it cannot become narrower, and never
    where it is `tall`: it then keeps the width that the content needs."""
    made = _Tall() if tall else QScrollArea()
    if tall:
        made.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    made.setWidgetResizable(True)
    made.setFrameShape(QFrame.Shape.NoFrame)
    content.setObjectName(content.objectName() or "scrolled")
    made.setWidget(content)
    made.viewport().setAutoFillBackground(False)
    return made


def _filled(layout: L, parts: tuple[Part, ...], gap: str, margin: str) -> L:
    edge = theme.space(margin) if margin else 0
    layout.setContentsMargins(edge, edge, edge, edge)
    layout.setSpacing(theme.space(gap) if gap else 0)
    for part in parts:
        if part is None:
            layout.addStretch(1)
        elif isinstance(part, int):
            layout.addStretch(part)
        elif isinstance(part, QLayout):
            layout.addLayout(part)
        else:
            layout.addWidget(part)
    return layout
