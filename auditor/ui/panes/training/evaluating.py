"""What the features of the chosen dictionaries are good for: the measures to take, and their figures side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QGridLayout, QStackedWidget, QVBoxLayout, QWidget

from auditor.base.config import Config, read_config
from auditor.base.errors import AuditorError
from auditor.project import Artefact
from auditor.ui import theme
from auditor.ui.bridge import LiveJob, while_alive
from auditor.ui.forms import Form
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

MEASURES = {
    "probing": ("Probing", "How well a few features alone tell labelled classes apart."),
    "tpp": ("TPP", "Targeted probe perturbation: whether taking out a class's features hurts its probe alone."),
    "scr": ("SCR", "Spurious correlation removal: whether taking out features sets a probe right that a second label "
            "misled."),
    "absorption": ("Absorption", "How often a letter's feature is silent because a word's feature speaks for it."),
    "ravel": ("RAVEL", "Whether exchanging an attribute's features between cities, or people, changes it and leaves "
              "others."),
}  # fmt: skip
_FIRST = ("probing", "absorption")
_HERE = ("store", "samples", "label", "classes", "spurious", "pairs_of_values", "k", "n", "words", "entities",
         "ranking", "exchange", "pairs", "splits", "model", "context", "seed")  # fmt: skip
_NONE = "Choose a dictionary in the table below, or several with Ctrl held down."
_UNDONE = {"failed": "They were not evaluated; the reason is said below.", "cancelled": "Stopped."}
_BROKEN = "Broken off; the reason is said below."
_CELL, _OF, _FIGURE, _N = 206, 148, 214, 96
_LONG, _HEAD, _TAIL = 22, 12, 8


class Evaluating(QWidget):
    """Prefilled with the dictionaries that are chosen; `pin` adds the result with this id to the case."""

    def __init__(self, session: Session, pin: Callable[[str], object]) -> None:
        super().__init__()
        self._session, self._pin = session, pin
        self._chosen: list[Artefact] = []
        self._result = ""
        self._live: LiveJob | None = None
        self.form: Form | None = None
        self.table: BigTable | None = None
        self.checks = {name: self._check(name) for name in MEASURES}
        self.start_button = controls.button("Evaluate", lambda: session.attempt(self.start), primary=True, icon="play")
        self.settings_button = controls.button("Settings", slim=True, tip="Show the settings, or the figures")
        self.settings_button.setCheckable(True)
        self.settings_button.toggled.connect(self._turn)
        self.pin_button = controls.button("Add to case", lambda: self._pin(self._result), slim=True, icon="pin",
                                          tip="Add these figures, with their baselines, to the case")  # fmt: skip
        self._title = ElidedLabel(role="strong", mode=Qt.TextElideMode.ElideMiddle)
        self.told = PlainLabel(wrap=True)
        self._place = QVBoxLayout()
        measures = QGridLayout()
        measures.setContentsMargins(0, 0, 0, 0)
        measures.setVerticalSpacing(theme.space("tight"))
        measures.setHorizontalSpacing(theme.space("medium"))
        measures.setColumnStretch(1, 1)
        for at, (name, check) in enumerate(self.checks.items()):
            measures.addWidget(check, at, 0, Qt.AlignmentFlag.AlignTop)
            measures.addWidget(PlainLabel(MEASURES[name][1], "small", wrap=True), at, 1)
        inside = controls.box(controls.column(measures, controls.line(), self._place, None, gap="small"))
        inside.setContentsMargins(0, 0, theme.space("small"), 0)
        self._figures = QVBoxLayout()
        self._figures.setContentsMargins(0, 0, 0, 0)
        self._pages = QStackedWidget()
        self._pages.addWidget(controls.scrolled(inside))
        self._pages.addWidget(controls.box(self._figures))
        head = controls.row(self._title, self.settings_button, self.pin_button, self.start_button, gap="tight")
        head.setStretch(0, 1)
        whole = controls.column(head, self.told, self._pages, gap="small")
        whole.setStretch(2, 1)
        self.setLayout(whole)
        self.settings_button.setChecked(True)
        self._say("")
        self.show_dictionaries(())

    def load(self) -> None:
        """Fetch the verb's settings, once."""
        if self.form is None:
            self._session.config_class("compare", self._show_form)

    def show_dictionaries(self, chosen: Sequence[Artefact]) -> None:
        """Offer to evaluate these."""
        self._chosen = list(chosen)
        names = ", ".join(artefact.name if len(chosen) == 1 else _short(artefact.name) for artefact in chosen)
        self._title.setText(names or _NONE)
        self._title.set_role("strong" if chosen else "muted")
        self._mark()

    def forget(self) -> None:
        """Show nothing of a project that is closed."""
        controls.clear(self._figures)
        self.table, self._result, self._live = None, "", None
        self.settings_button.setChecked(True)
        self._turn(True)
        self._say("")
        self.show_dictionaries(())

    def start(self) -> None:
        """Evaluate the chosen dictionaries; AuditorError where no measure is chosen or a setting is wrong."""
        wanted = [name for name, check in self.checks.items() if check.isChecked()]
        if not wanted:
            raise AuditorError("No measure is chosen.", "Tick one or more.")
        if self.form is None or not self._chosen:
            raise AuditorError("The settings are not there yet.", "Wait a moment and start again.")
        values = {**self.form.values(), "dictionaries": [held.id for held in self._chosen], "evaluate": wanted}
        what = self._chosen[0].name if len(self._chosen) == 1 else f"{len(self._chosen)} dictionaries"
        live = self._session.run_task("compare", read_config(self.form.kind, values), f"Evaluate {what}")
        self._live = live
        self._say("Evaluating… The figures come here; the jobs below show how far it is.")
        self._mark()
        live.done.connect(while_alive(self._done, live))
        live.ended.connect(while_alive(self._ended, live))

    def show_figures(self, result: Mapping[str, Any]) -> None:
        """Lay out what the verb gave: one line a figure and contestant, the dictionaries side by side."""
        figures = result.get("figures")
        if not figures:
            return
        made = result.get("artefacts") or ()
        self._result = str(made[0]) if made else ""
        controls.clear(self._figures)
        self.table = _table(figures)
        notes = PlainLabel(
            "\n".join(str(held["note"]) for held in result.get("notes") or ()), "small", wrap=True, selectable=True
        )
        area = controls.scrolled(controls.box(controls.column(notes, None, gap="")))
        self._figures.addWidget(self.table, 3)
        self._figures.addWidget(area, 1)
        self.settings_button.setChecked(False)
        self._say(_lacking(result))
        self._mark()

    def _check(self, name: str) -> QCheckBox:
        title, told = MEASURES[name]
        made = QCheckBox(title)
        made.setAccessibleDescription(told)
        made.setToolTip(told)
        made.setChecked(name in _FIRST)
        return made

    def _show_form(self, kind: type[Config]) -> None:
        if self.form is None:
            self.form = Form(kind, self._session)
            self.form.show_only(_HERE)
            self._place.addWidget(self.form)
            self._mark()

    def _turn(self, settings: bool) -> None:
        self._pages.setCurrentIndex(0 if settings or self.table is None else 1)

    def _done(self, live: LiveJob, result: Mapping[str, Any]) -> None:
        if live is self._live:
            self.show_figures(result)

    def _ended(self, live: LiveJob) -> None:
        if live is not self._live:
            return  # its project was closed meanwhile
        self._live = None
        if live.outcome in _UNDONE:
            kept: dict[str, Any] = next((told["kept"] for told in reversed(live.warnings) if "kept" in told), {})
            self.show_figures(kept)
            ended = _BROKEN if kept and live.outcome == "failed" else _UNDONE[live.outcome]
            self._say(f"{ended} {_lacking(kept)}".strip())
        self._mark()

    def _say(self, sentence: str) -> None:
        self.told.setText(sentence)
        self.told.setVisible(bool(sentence))

    def _mark(self) -> None:
        """Grey what cannot be done now."""
        self.start_button.setEnabled(bool(self._chosen) and self.form is not None and self._live is None)
        self.settings_button.setVisible(self.table is not None)
        self.pin_button.setVisible(bool(self._result))


def _lacking(result: Mapping[str, Any]) -> str:
    """A sentence on what was not measured; empty where all was."""
    missing = result.get("not_measured") or ()
    named = ", ".join(f"{MEASURES[one['measure']][0]} of {_short(one['dictionary'])}" for one in missing)
    return f"Kept, but not all was measured; the notes say why. Missing: {named}." if named else ""


def _table(figures: Sequence[Mapping[str, Any]]) -> BigTable:
    """A line a measure, figure and contestant; a column a dictionary, with interval and spread over splits."""
    names = list(dict.fromkeys(str(one["dictionary"]) for one in figures))
    keys = list(dict.fromkeys((one["measure"], one["name"], one["of"]) for one in figures))
    held = {(one["measure"], one["name"], one["of"], one["dictionary"]): one for one in figures}
    rows = np.zeros(len(keys), [(name, "O") for name in ("figure", "of", "n", *(f"d{at}" for at in range(len(names))))])
    for at, key in enumerate(keys):
        title = MEASURES[key[0]][0] if key[0] in MEASURES else str(key[0])
        found = [held.get((*key, name)) for name in names]
        counts = dict.fromkeys(f"{numbers.count(one['n'])} {one['unit']}" for one in found if one)
        rows[at] = (f"{title}: {key[1]}", str(key[2]), " / ".join(counts), *map(_cell, found))
    told = "95 % interval over samples and splits, ± standard deviation over the splits"
    columns = (
        Column("figure", "figure", width=_FIGURE), Column("of", "of", width=_OF, role=_weight),
        *(Column(f"d{at}", _short(name), width=_CELL, left=True, tip=f"{name}: {told}")
          for at, name in enumerate(names)),
        Column("n", "n", width=_N, tip="What the figure was measured on"),
    )  # fmt: skip
    made = BigTable(columns)
    made.setAccessibleName("Figures of the evaluation")
    made.set_rows(rows)
    return made


def _short(name: str) -> str:
    """A name as a heading: its start and its end, by which dictionaries differ."""
    return name if len(name) <= _LONG else f"{name[:_HEAD]}…{name[-_TAIL:]}"


def _weight(of: str) -> str:
    return "" if of == "dictionary" else "muted"


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "–"
    estimate, low, high, spread = (numbers.short(one[name]) for name in ("estimate", "low", "high", "spread"))
    return f"{estimate} [{low}, {high}] ± {spread}"
