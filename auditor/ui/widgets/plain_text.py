"""Text from files that nobody vouches for: never rich text, and what is invisible is made visible."""

from __future__ import annotations

import html
import unicodedata

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QFontMetrics, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QLabel, QSizePolicy, QStyle, QStyleOption, QStylePainter, QWidget

_BLANKS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u034f")
_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡"}


def visible(text: str, *, keep: str = "") -> str:
    """`text` with every control, bidi, zero-width and other unseen character written out; `keep` may stay.

    Line feeds become ⏎, tabs ⇥, other C0 controls their picture, the rest `⟦U+202E⟧`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep else _shown(c, i and text[i - 1]) for i, c in enumerate(text))


def _shown(char: str, before: str | int) -> str:
    if char in _SIGNS:
        return _SIGNS[char]
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code in (0xFE0E, 0xFE0F) and isinstance(before, str) and ord(before) > 0x2000:
        return char
    selector = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
    if char in _BLANKS or selector or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"):
        return f"⟦U+{code:04X}⟧"
    return char


def token_text(token: str) -> str:
    """A token for display: as `visible`, and a combining mark at its head stands on a dotted circle."""
    shown = visible(token)
    return "◌" + shown if shown and unicodedata.combining(shown[0]) else shown


def tooltip(text: str) -> str:
    """`text` for `setToolTip`, where Qt would otherwise guess whether it is rich text."""
    return f'<p style="white-space:pre-wrap">{html.escape(visible(text, keep=chr(10)))}</p>' if text else ""


def menu_text(text: str) -> str:
    """`text` for menus and buttons, where & would mark a key."""
    return visible(text).replace("&", "&&")


class PlainLabel(QLabel):
    """A label that shows exactly its characters. `role` picks the look: muted, small, pane, page, strong, mono…"""

    def __init__(
        self, text: str = "", role: str = "", *, wrap: bool = False, selectable: bool = False,
        parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(wrap)
        if selectable:
            self.setTextInteractionFlags(
                Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
            )
        if role:
            self.setProperty("role", role)
        self.setText(text)

    def setText(self, text: str) -> None:
        super().setText(visible(text, keep="\n"))

    def set_role(self, role: str) -> None:
        """Change the look."""
        if self.property("role") != role:
            self.setProperty("role", role)
            self.style().unpolish(self)
            self.style().polish(self)

    def set_tip(self, text: str) -> None:
        """Say on hover, as plain text."""
        self.setToolTip(tooltip(text))


class ElidedLabel(PlainLabel):
    """A one-line label that shortens itself to the room there is and says the whole on hover."""

    def __init__(
        self, text: str = "", role: str = "", *, mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
        parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        super().__init__(text, role, parent=parent)
        self._mode = mode
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def setText(self, text: str) -> None:
        super().setText(visible(text))

    def minimumSizeHint(self) -> QSize:
        return QSize(self.fontMetrics().averageCharWidth() * 4, super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:
        return QSize(self.fontMetrics().horizontalAdvance(self.text()) + 2, super().sizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        cut = self.fontMetrics().horizontalAdvance(self.text()) > self.width()
        self.setToolTip(tooltip(self.text()) if cut else "")
        super().resizeEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QStylePainter(self)
        option = QStyleOption()
        option.initFrom(self)
        painter.drawPrimitive(QStyle.PrimitiveElement.PE_Widget, option)
        shown = QFontMetrics(self.font()).elidedText(self.text(), self._mode, self.width())
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignVCenter | self.alignment()), shown)
