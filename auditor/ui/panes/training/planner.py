"""What a training will take, each figure against what is free; from the form at once, measured when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.figures import Figure, Figures
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.sae.plan import Plan

_NAMES = ("rows", "memory", "disk", "time")
_TWO_LINES = 30
_UNKNOWN = "Plan tries a few steps on the store and measures what the whole will take."


class Planner(QWidget):
    """The figures, the buttons, and a line that says what is going on."""

    def __init__(
        self, plan: Callable[[], object], start: Callable[[], object], index: Callable[[], object],
        record: Callable[[], object],
    ) -> None:  # fmt: skip
        super().__init__()
        self.figures = Figures(_NAMES)
        self.told = PlainLabel(_UNKNOWN, "small", wrap=True)
        self.told.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.told.setMinimumHeight(theme.px(_TWO_LINES))  # the buttons below stay where they are
        self.start_button = controls.button("Train", start, primary=True, icon="play")
        self.plan_button = controls.button("Plan", plan, icon="gauge")
        self.index_button = controls.button("Index the features…", index, icon="list")
        self.record_button = controls.button("Record activations…", record, icon="database")
        self.index_button.hide()
        self.record_button.hide()
        buttons = controls.row(self.start_button, self.plan_button, self.index_button, self.record_button, None)
        self.setLayout(controls.column(self.figures, self.told, buttons, gap="small"))
        self._rows = Figure("–")

    def forget(self, seen: int, rows: int, bytes_: int, *, keep: bool = False) -> None:
        """The settings changed: `seen` rows in all of a store that has `rows`, weights of `bytes_`; the rest is to be
        measured."""
        passes = f"{numbers.figure(seen / rows)} passes" if rows else ""
        self._rows = Figure(numbers.count(seen), passes, tip="Rows that it sees, and how often it sees each")
        self.figures.show_figures({"rows": self._rows, "disk": Figure(numbers.size(bytes_), "weights")})
        if not keep:
            self.tell(_UNKNOWN)

    def without_store(self) -> None:
        """Nothing can be trained on: say so, and offer to record."""
        self.start_button.setEnabled(False)
        self.plan_button.setEnabled(False)
        self.record_button.show()
        self.figures.hide()
        self.tell("Nothing is recorded yet, and a dictionary learns from recorded activations.", "warn")

    def with_store(self) -> None:
        self.start_button.setEnabled(True)
        self.plan_button.setEnabled(True)
        self.record_button.hide()
        if self.figures.isHidden():
            self.figures.show()
            self.tell(_UNKNOWN)

    def measuring(self, on: bool) -> None:
        self.plan_button.setEnabled(not on)
        if on:
            self.tell("Trying a few steps…")

    def show_plan(self, plan: Plan) -> None:
        """Write what was measured."""
        self.measuring(False)
        self.figures.show_figures({
            "rows": self._rows,
            "memory": Figure(numbers.size(plan.bytes), f"of {numbers.size(plan.free_bytes)} free", plan.fits),
            "disk": Figure(numbers.size(plan.disk_bytes), "with checkpoint"),
            "time": Figure(numbers.duration(60 * plan.minutes), f"{numbers.figure(plan.step_ms, 'ms')} a step"),
        })  # fmt: skip
        if plan.fits:
            self.tell("It fits.")
        else:
            self.tell("It does not fit: choose fewer features or smaller batches.", "bad")

    def training(self) -> None:
        self.index_button.hide()
        self.tell("Training. You can go on working; the line at the bottom pauses and stops it.")

    def trained(self, result: Mapping[str, Any]) -> None:
        """Say what came of it, and offer the next step."""
        told = {"fvu": "FVU", "l0": "L0"}
        parts = [f"{title} {numbers.figure(float(result[name]))}" for name, title in told.items() if name in result]
        if "dead" in result:
            parts.append(f"dead {numbers.share(float(result['dead']))}")
        self.tell(f"Trained: {', '.join(parts)}." if parts else "Trained.", "good")
        self.index_button.show()

    def tell(self, sentence: str, role: str = "small") -> None:
        self.told.set_role(role)
        self.told.setText(sentence)
