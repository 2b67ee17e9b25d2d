"""The facts of one dictionary, or of several side by side: then what differs, unless all is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QWidget

from auditor.project import Artefact
from auditor.ui import theme
from auditor.ui.panes.training.facts import lines_of
from auditor.ui.panes.training.kept import Kept
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_MOST = 4
_NAME = 120
_NONE = "Choose a dictionary in the table below, or several with Ctrl held down to see in what they differ."


class Sheet(QWidget):
    """`match` starts the comparison of two dictionaries' features; its answer comes to `show_match`."""

    def __init__(self, match: Callable[[str, str], object]) -> None:
        super().__init__()
        self._match = match
        self._held: list[tuple[Artefact, Kept]] = []
        self.all_button = controls.button("Everything", slim=True, tip="Also what is the same in all")
        self.all_button.setCheckable(True)
        self.all_button.toggled.connect(lambda _: self._fill())
        self.match_button = controls.button(
            "Match their features", self._start, slim=True, icon="scale",
            tip="Which features the two share, by decoder direction, beside what random directions would share",
        )  # fmt: skip
        self.told = PlainLabel(wrap=True)
        self._title = ElidedLabel(role="strong")
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, theme.space("small"), 0)
        self._grid.setHorizontalSpacing(theme.space("medium"))
        self._grid.setVerticalSpacing(theme.space("tight"))
        head = controls.row(self._title, self.all_button, self.match_button)
        head.setStretch(0, 1)
        area = controls.scrolled(controls.box(controls.column(self._grid, None, gap="")))
        whole = controls.column(head, self.told, area, gap="small")
        whole.setStretch(2, 1)
        self.setLayout(whole)
        self.show_dictionaries(())

    def show_dictionaries(self, held: Sequence[tuple[Artefact, Kept]]) -> None:
        """Show these side by side."""
        before = [artefact.id for artefact, _ in self._held]
        self._held = list(held[:_MOST])
        if before != [artefact.id for artefact, _ in self._held]:
            self.told.setText("")
        self.told.setVisible(bool(self.told.text()))
        self.all_button.setVisible(len(self._held) > 1)
        self.match_button.setVisible(len(self._held) == 2)
        self._title.set_role("strong" if held else "muted")
        more = f" (the first {_MOST} of {len(held)})" if len(held) > _MOST else ""
        self._title.setText(_NONE if not held else held[0][0].name if len(held) == 1 else f"What differs{more}")
        self._fill()

    def lines(self) -> list[tuple[str, ...]]:
        """What is written: the name of a line, then its text for each dictionary."""
        tables = [{line[:2]: line[2] for line in lines_of(*held)} for held in self._held]
        names = list(dict.fromkeys(name for table in tables for name in table))
        made = [(*name, *(table.get(name, "–") for table in tables)) for name in names]
        if len(self._held) > 1 and not self.all_button.isChecked():
            made = [line for line in made if len(set(line[2:])) > 1]
        return made

    def show_match(self, result: dict[str, Any]) -> None:
        """Say which share of the features two dictionaries have in common."""
        self.match_button.setEnabled(True)
        if "matched" not in result:
            return
        matched, low, high = (float(result[name]) for name in ("matched", "low", "high"))
        self._say(
            f"{numbers.share(matched)} [{numbers.share(low)}, {numbers.share(high)}] of {numbers.count(result['n'])} "
            f"features have a match in the other; of random directions {numbers.share(result['random_directions'])}. "
            f"The median cosine is {numbers.figure(result['median_cosine'])}. The result is in the project."
        )

    def unmatched(self) -> None:
        """The comparison was not finished; the reason is said elsewhere."""
        self.match_button.setEnabled(True)
        self._say("Their features were not compared.")

    def _start(self) -> None:
        if len(self._held) == 2:
            self.match_button.setEnabled(False)
            self._say("Comparing their features…")
            self._match(self._held[0][0].id, self._held[1][0].id)

    def _say(self, sentence: str) -> None:
        self.told.setText(sentence)
        self.told.show()

    def _fill(self) -> None:
        controls.clear(self._grid)
        for at in range(1, _MOST + 1):  # what fewer dictionaries leave free is theirs
            self._grid.setColumnStretch(at, int(at <= len(self._held)))
        several = len(self._held) > 1
        for at, (artefact, _) in enumerate(self._held):
            if several:
                name = ElidedLabel(artefact.name, "strong", mode=Qt.TextElideMode.ElideMiddle)
                self._grid.addWidget(name, 0, at + 1)
        self._grid.setColumnMinimumWidth(0, theme.px(_NAME))
        row, group = 1, ""
        for line in self.lines():
            if line[0] != group:
                group = line[0]
                self._grid.addWidget(controls.heading(group), row, 0)
                row += 1
            self._grid.addWidget(PlainLabel(line[1], "muted", wrap=True), row, 0, Qt.AlignmentFlag.AlignTop)
            for at, text in enumerate(line[2:]):
                self._grid.addWidget(PlainLabel(text, wrap=True, selectable=True), row, at + 1)
            row += 1
        if several and row == 1:
            self._grid.addWidget(PlainLabel("They agree in everything that is known of them.", "muted"), 1, 0, 1, -1)
