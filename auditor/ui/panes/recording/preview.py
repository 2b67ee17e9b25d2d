"""A look at a set of samples: how many there are, and the first lines, the picture or the length of some of them."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QComboBox, QLabel, QSizePolicy, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_SHOWN = 8
_LINES = 4
_LINES_OF_ONE = 40
_CHARACTERS = 160
_SIDE = 56
_CUTS = {
    "paragraph": "A sample is a paragraph or line",
    "line": "A sample is a line",
    "file": "A sample is the whole file",
}


@dataclass(frozen=True)
class Shown:
    """One sample: its name, the start of its text (or caption, or what a sound is and how long), and its picture as
    PNG bytes or None."""

    name: str
    text: str
    png: bytes | None


@dataclass(frozen=True)
class Look:
    """Facts of a set of samples, and some of them, spread over the whole."""

    count: int
    images: int
    sounds: int
    some: list[Shown]


def look(spec: str) -> Look:
    """Open the samples at a path, which may end in options, and take some; runs off the GUI thread."""
    from auditor.data import open_samples

    samples = open_samples(spec)
    step = max(1, len(samples) // _SHOWN)
    picked = [samples[at] for at in range(0, len(samples), step)][:_SHOWN]
    lines = _LINES_OF_ONE if len(samples) == 1 else _LINES
    some = []
    for sample in picked:
        text = sample.text or str(sample.labels.get("caption") or sample.group)
        if sample.audio is not None:
            text = f"{text}, sound of {sample.audio.seconds:.1f} s"
        png = sample.image.thumbnail(2 * _SIDE) if sample.image else None
        some.append(Shown(sample.id, start_of(text, lines), png))
    images, sounds = (sum(x is not None for x in (getattr(s, kind) for s in samples)) for kind in ("image", "audio"))
    return Look(len(samples), images, sounds, some)


def start_of(text: str, lines: int) -> str:
    """The first `lines` lines of a text, each cut to what can be read at a glance; “…” says that more follows."""
    rows = text.strip("\n").splitlines()
    shown = [row if len(row) <= _CHARACTERS else row[:_CHARACTERS].rstrip() + "…" for row in rows[:lines]]
    return "\n".join([*shown, "…"] if len(rows) > lines else shown)


class Preview(QWidget):
    """Shows a Look, what is being opened, or why it cannot be; `cut_chosen` carries what a text file is cut by."""

    cut_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.told = PlainLabel("", "muted", wrap=True)
        self.cut = QComboBox()
        self.cut.setAccessibleName("What one sample of the text file is")
        for by, title in _CUTS.items():
            self.cut.addItem(title, by)
        self.cut.activated.connect(lambda _: self.cut_chosen.emit(str(self.cut.currentData())))
        self.cut.hide()
        self._column = controls.column(gap="small")
        inside = controls.column(self._column, None, gap="")
        inside.setContentsMargins(0, 0, theme.space("small"), 0)
        area = controls.scrolled(controls.box(inside))
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        whole = controls.column(self.cut, self.told, area, gap="small")
        whole.setStretch(2, 1)
        self.setLayout(whole)

    def show_cut(self, by: str | None) -> None:
        """Offer how a text file is cut, `by` being in use; None for what is no text file."""
        self.cut.setVisible(by is not None)
        self.cut.setCurrentIndex(self.cut.findData(by or "paragraph"))

    def say(self, sentence: str) -> None:
        """Nothing to show, and why."""
        controls.clear(self._column)
        self.told.set_role("muted")
        self.told.setText(sentence)

    def fail(self, error: Exception) -> None:
        self.say(f"{error.message} {error.hint}" if isinstance(error, AuditorError) else str(error))
        self.told.set_role("bad")

    def show_look(self, found: Look) -> None:
        images = f", {numbers.count(found.images)} with an image" if found.images else ""
        sounds = f", {numbers.count(found.sounds)} of sound" if found.sounds else ""
        self.say(f"{numbers.count(found.count)} {'sample' if found.count == 1 else 'samples'}{images}{sounds}")
        for sample in found.some:
            self._column.addWidget(self._card(sample))

    def _card(self, sample: Shown) -> QWidget:
        body = PlainLabel(sample.text, wrap=True)
        body.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)  # a word of code may be very long
        text = controls.column(body, ElidedLabel(sample.name, "small"), None, gap="")
        line = controls.row(gap="small")
        if sample.png is not None:
            line.addWidget(_picture(sample.png), 0, Qt.AlignmentFlag.AlignTop)
        line.addLayout(text, 1)
        return controls.card(controls.box(line))


def _picture(png: bytes) -> QLabel:
    made = QLabel()
    pixmap = QPixmap()
    pixmap.loadFromData(png, "PNG")
    side = theme.px(_SIDE)
    made.setPixmap(pixmap.scaled(
        side, side, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    ))  # fmt: skip
    made.setFixedWidth(side)
    return made
