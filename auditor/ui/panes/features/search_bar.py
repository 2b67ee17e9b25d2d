"""The search line of the features pane: live, with the error beside it and a chip for each condition."""

from __future__ import annotations

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QLineEdit, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.panes.features.source import Answer
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.plain_text import PlainLabel, visible

_PAUSE_MS = 120
_CHIP = 36
_HINT = 100


class SearchBar(QWidget):
    """`changed` comes a moment after the last key; `show_answer` puts count, chips or the error beside the box."""

    changed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.edit = QLineEdit()
        self.edit.setPlaceholderText("Search: padlock  modality:both  density<0.01  max>5  like:12")
        self.edit.setAccessibleName("Search the features")
        self.edit.setClearButtonEnabled(True)
        self.edit.setAcceptDrops(False)
        self.count = PlainLabel("", "muted")
        self.fault = PlainLabel("", "bad", wrap=True)
        self.fault.hide()
        self._chips = Flow()
        self._chip_box = controls.box(self._chips)
        self._chip_box.hide()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PAUSE_MS)
        self._timer.timeout.connect(lambda: self.changed.emit(self.text))
        self.edit.textChanged.connect(lambda _: self._timer.start())
        self.edit.returnPressed.connect(self._now)
        self.setLayout(controls.column(controls.row(self.edit, self.count), self.fault, self._chip_box, gap="tight"))

    @property
    def text(self) -> str:
        return self.edit.text()

    def set_text(self, text: str) -> None:
        """Search for this now."""
        self.edit.setText(text)
        self._now()

    def add(self, part: str) -> None:
        """Search for this as well."""
        self.set_text(f"{self.text.strip()} {part}".strip())

    def chips(self) -> list[str]:
        """What the chips say, in order."""
        return [chip.text() for chip in self._chip_box.findChildren(PlainLabel) if not chip.isHidden()]

    def show_count(self, shown: int, of: int) -> None:
        self.count.setText(f"{numbers.count(shown)} of {numbers.count(of)}")

    def show_answer(self, answer: Answer) -> None:
        """Chips for each piece of the query, or the sentence that names the word which cannot be read."""
        self._tell(answer.error)
        self._chips.clear()
        if answer.error is None:
            for part, rest in zip(answer.parts, answer.rests, strict=True):
                self._chips.addWidget(self._chip(part, rest))
        self._chip_box.setVisible(self._chips.count() > 0)
        self._chip_box.updateGeometry()

    def _chip(self, part: str, rest: str) -> QWidget:
        shown = visible(part)
        label = PlainLabel(shown if len(shown) <= _CHIP else shown[: _CHIP - 1] + "…")
        label.setObjectName("chip")
        label.set_tip(part)
        away = controls.tool("x", f"Search without {part}", lambda: self.set_text(rest))
        theme.set_icon(away, "x", "muted", 11)
        return controls.box(controls.row(label, away, gap=""))

    def _tell(self, error: AuditorError | None) -> None:
        self.fault.setText(f"{error.message} {_short(error.hint)}".strip() if error is not None else "")
        self.fault.set_tip(f"{error.message}\n{error.hint}" if error is not None else "")
        self.fault.setVisible(error is not None)
        if bool(self.edit.property("invalid")) != (error is not None):
            self.edit.setProperty("invalid", error is not None)
            self.edit.style().unpolish(self.edit)
            self.edit.style().polish(self.edit)

    def _now(self) -> None:
        self._timer.stop()
        self.changed.emit(self.text)


def _short(hint: str) -> str:
    """The first sentence of a long hint; the rest is said on hover."""
    if len(hint) <= _HINT:
        return hint
    end = min((at for at in (hint.find("? "), hint.find(". ")) if at >= 0), default=-1)
    return hint[: end + 1] if 0 <= end < _HINT else "Hover here for what is allowed."
