"""A look at a set of samples: how many there are, what was left out, and the first lines, the picture or the length of
some of them."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QComboBox, QLabel, QSizePolicy, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.panes.recording.columns import ColumnChoice
from auditor.ui.panes.recording.look import SIDE, Look, Shown
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_CUTS = {
    "paragraph": "A sample is a paragraph or line",
    "line": "A sample is a line",
    "file": "A sample is the whole file",
}


class LeftOut(QWidget):
    """How many items cannot be read, and behind a link the first reasons."""

    def __init__(self) -> None:
        super().__init__()
        self.told = PlainLabel("", "warn", wrap=True)
        self.why = controls.button("Why", link=True, tip="The first reasons")
        self.why.setCheckable(True)
        self.reasons = PlainLabel("", "small", wrap=True, selectable=True)
        self.reasons.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)  # names may be very long
        self.reasons.hide()
        self.why.toggled.connect(self.reasons.setVisible)
        head = controls.row(self.told, self.why)
        head.setStretch(0, 1)
        self.setLayout(controls.column(head, self.reasons, gap="tight"))
        self.hide()

    def show_of(self, found: Look) -> None:
        """Tell what cannot be read of a Look; hidden where there is nothing to tell."""
        parts = []
        if found.skips.count:
            are = "is" if found.skips.count == 1 else "are"
            parts.append(f"{numbers.count(found.skips.count)} cannot be read and {are} left out")
        if found.faults.count:
            looked_at, faulty = numbers.count(found.looked_at), numbers.count(found.faults.count)
            parts.append(f"of {looked_at} looked at, {faulty} cannot be used")
        self.setVisible(bool(parts))
        told = "; ".join(parts)
        self.told.setText(told[:1].upper() + told[1:])
        first = [*found.skips.first, *found.faults.first]
        more = found.skips.count + found.faults.count - len(first)
        rest = [f"… and {numbers.count(more)} more"] if more else []
        self.reasons.setText("\n".join([*(f"· {reason}" for reason in first), *rest]))


class Preview(QWidget):
    """Shows a Look, what is being opened, or why it cannot be; `cut_chosen` carries what a text file is cut by,
    `column_chosen` an option and the column that a person chose for it."""

    cut_chosen = Signal(str)
    column_chosen = Signal(str, str)

    def __init__(self) -> None:
        super().__init__()
        self.told = PlainLabel("", "muted", wrap=True)
        self.cut = QComboBox()
        self.cut.setAccessibleName("What one sample of the text file is")
        for by, title in _CUTS.items():
            self.cut.addItem(title, by)
        self.cut.activated.connect(lambda _: self.cut_chosen.emit(str(self.cut.currentData())))
        self.cut.hide()
        self.columns = ColumnChoice()
        self.columns.chosen.connect(self.column_chosen)
        self.left_out = LeftOut()
        self.tokens = PlainLabel("", "small", wrap=True)
        self.tokens.hide()
        self._column = controls.column(gap="small")
        inside = controls.column(self.left_out, self._column, None, gap="small")
        inside.setContentsMargins(0, 0, theme.space("small"), 0)
        area = controls.scrolled(controls.box(inside))
        area.setAccessibleName("Some of the samples")
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        whole = controls.column(self.cut, self.columns, self.told, self.tokens, area, gap="small")
        whole.setStretch(4, 1)
        self.setLayout(whole)

    def show_cut(self, by: str | None) -> None:
        """Offer how a text file is cut, `by` being in use; None for what is no text file."""
        self.cut.setVisible(by is not None)
        self.cut.setCurrentIndex(self.cut.findData(by or "paragraph"))

    def say(self, sentence: str) -> None:
        """Nothing to show, and why."""
        controls.clear(self._column)
        self.tokens.hide()
        self.left_out.hide()
        self.told.set_role("muted")
        self.told.setText(sentence)

    def fail(self, error: Exception) -> None:
        self.say(f"{error.message} {error.hint}" if isinstance(error, AuditorError) else str(error))
        self.told.set_role("bad")

    def show_look(self, found: Look, context: int, unread: str = "") -> None:
        """`context` is what a text may have in tokens before it is cut; `unread` what the samples are where the model
        reads none of that."""
        kinds = ((found.images, "with an image"), (found.sounds, "of sound"), (found.conversations, "conversations"))
        told = "".join(f", {numbers.count(count)} {what}" for count, what in kinds if count)
        self.say(f"{numbers.count(found.count)} {'sample' if found.count == 1 else 'samples'}{told}")
        if unread:
            self.told.set_role("warn")
            other = "choose other samples, or another model"
            self.told.setText(f"{self.told.text()}. The model reads no {unread}: {other}.")
        self.columns.show_columns(found.columns)
        self.left_out.show_of(found)
        if found.tokens:
            self.tokens.setText(_lengths(found.tokens, context))
            self.tokens.show()
        for sample in found.some:
            self._column.addWidget(self._card(sample))

    def _card(self, sample: Shown) -> QWidget:
        body = PlainLabel(sample.text, "warn" if sample.broken else "", wrap=True)
        body.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)  # a word of code may be very long
        text = controls.column(body, ElidedLabel(sample.name, "small"), None, gap="")
        line = controls.row(gap="small")
        pictures = [_picture(png) for png in sample.pngs]
        if len(pictures) == 1:
            line.addWidget(pictures[0], 0, Qt.AlignmentFlag.AlignTop)
        line.addLayout(text, 1)
        if len(pictures) < 2:
            return controls.card(controls.box(line))
        more = sample.pictures - len(pictures)
        beside = [*pictures, PlainLabel(f"+ {numbers.count(more)}", "small"), None] if more else [*pictures, None]
        return controls.card(controls.box(controls.column(controls.row(*beside, gap="small"), line, gap="small")))


def _lengths(tokens: list[int], context: int) -> str:
    """How long texts are, and how many are longer than the context."""
    ordered = sorted(tokens)
    middle, longest = ordered[len(ordered) // 2], ordered[-1]
    over = sum(count > context for count in ordered)
    told = f"{numbers.count(middle)} tokens in the middle, {numbers.count(longest)} at most"
    of = f" ({numbers.count(len(ordered))} {'text' if len(ordered) == 1 else 'texts'} looked at)"
    return f"{told}; {numbers.share(over / len(ordered))} exceed the context{of}" if over else f"{told}{of}"


def _picture(png: bytes) -> QLabel:
    made = QLabel()
    pixmap = QPixmap()
    pixmap.loadFromData(png, "PNG")
    side = theme.px(SIDE)
    made.setPixmap(pixmap.scaled(
        side, side, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    ))  # fmt: skip
    made.setFixedWidth(side)
    return made
