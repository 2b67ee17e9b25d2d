"""What a recording will take, each figure against what is free; measured when asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.figures import Figure, Figures
from auditor.ui.widgets.plain_text import PlainLabel, tooltip

if TYPE_CHECKING:
    from auditor.store.plan import Plan

_NAMES = ("positions", "disk", "memory", "time")
_TWO_LINES = 30
_UNKNOWN = "Plan runs a few batches of these samples and measures what the whole will take."


class Planner(QWidget):
    """The figures, the buttons, and a line that says what is going on."""

    def __init__(self, plan: Callable[[], object], cancel: Callable[[], object], start: Callable[[], object]) -> None:
        super().__init__()
        self.figures = Figures(_NAMES)
        self.told = PlainLabel(_UNKNOWN, "small", wrap=True)
        self.told.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.told.setMinimumHeight(theme.px(_TWO_LINES))  # the buttons below stay where they are
        self.plan_button = controls.button("Plan", plan, icon="gauge")
        self.cancel_button = controls.button("Cancel", cancel, icon="x", tip="Stop measuring; nothing is kept of it")
        self.cancel_button.hide()
        self.start_button = controls.button("Record", start, primary=True, icon="play")
        self.look_button = controls.tool("database", "Look at the recorded store")
        self.look_button.hide()
        self.train_button = controls.button("Train a dictionary…", icon="chart-line")
        self.train_button.hide()
        self.pin_button = controls.tool("pin", "Add the recording to the case")
        self.pin_button.hide()
        buttons = controls.row(self.start_button, self.plan_button, self.cancel_button, self.train_button,
                               self.look_button, self.pin_button, None)  # fmt: skip
        self.setLayout(controls.column(self.figures, self.told, buttons, gap="small"))
        self._planned: dict[str, float] = {}
        self._free: dict[str, str] = {}

    def forget(self) -> None:
        """The settings changed: nothing is known but what is free."""
        self._planned = {}
        self.tell(_UNKNOWN)
        self.figures.show_figures({name: Figure("–", self._free.get(name, "")) for name in ("disk", "memory")})

    def show_free(self, free: tuple[int, int]) -> None:
        """What is free on the disk and in memory, in bytes; a plan says it, too."""
        self._free = dict(zip(("disk", "memory"), (f"{numbers.size(size)} free" for size in free), strict=True))
        if not self._planned:
            self.figures.show_figures({name: Figure("–", told) for name, told in self._free.items()})

    def measuring(self, on: bool) -> None:
        """A plan is being measured, or no longer."""
        if on:
            self.tell("Measuring a few batches…")
        self.plan_button.setEnabled(not on)
        self.plan_button.setVisible(not on)
        self.cancel_button.setVisible(on)

    def show_plan(self, plan: Plan) -> None:
        """Write what was measured."""
        self.measuring(False)
        self._planned = plan.facts()
        told = f"Measured on {numbers.count(plan.probed)} samples, {numbers.count(plan.batch_size)} at once."
        self.figures.show_figures({
            "positions": Figure(numbers.count(plan.rows), "estimated", tip=f"Rows of the store. {told}"),
            "disk": Figure(numbers.size(plan.bytes), f"of {numbers.size(plan.free_bytes)} free",
                           plan.fits, f"{told} {_formats(plan)}"),
            "memory": Figure(numbers.size(plan.memory_bytes), f"of {numbers.size(plan.free_memory_bytes)} free",
                             plan.fits_memory,
                             "What this program holds while a batch runs, the network included."),
            "time": Figure(numbers.duration(60 * plan.minutes), "on this machine", tip=told),
        })  # fmt: skip
        if not plan.rows:
            self.tell("No sample has a position at these hook points: there would be nothing to record.", "bad")
        else:
            try:
                plan.must_fit()
                some = f"{numbers.count(plan.pieces)} of {numbers.count(plan.of)} samples have so many positions. "
                self.tell(f"It fits. {some if plan.pieces < plan.of else ''}{_formats(plan)}")
            except AuditorError as error:  # as the start would say it
                self.tell(str(error), "bad")

    def tell(self, sentence: str, role: str = "small") -> None:
        self.told.set_role(role)
        self.told.setText(sentence)

    def recording(self, on: bool) -> None:
        """A second start of the same would only wait behind the first."""
        self.start_button.setEnabled(not on)
        self.start_button.setToolTip(tooltip("What was started is not done yet: it is among the jobs." if on else ""))
        if on:
            for made in (self.look_button, self.train_button, self.pin_button):
                made.hide()
            self.going("running", "")

    def going(self, state: str, note: str) -> None:
        """Say how a recording stands: its state, and what it says that it is at."""
        if state == "paused":
            self.tell("Paused. Resume, in the line at the bottom, goes on.", "warn")
        elif note.startswith("waiting"):
            self.tell(f"{note[:1].upper()}{note[1:]}. It goes on by itself once there is room.", "warn")
        else:
            self.tell("Recording. You can go on working; the line at the bottom says how far it is.")

    def recorded(self, result: Mapping[str, Any]) -> None:
        """Say what came of it, and what it took beside what was planned; offer the next step."""
        rows = result.get("rows")
        said = f"Recorded{f' {numbers.count(rows)} positions' if isinstance(rows, int) else ''}."
        took = result.get("took", {})
        if "fvu" in took:
            clipped = numbers.count(round(took["clipped"]))
            said += f" int8 costs an FVU of {took['fvu']:.1e}; {clipped} numbers were clipped."
        said += _in_runs(result.get("parts") or ())
        missing = _missing(result)
        self.tell(f"{said}{missing}", "warn" if missing else "good")
        self._show_truth(took, {**self._planned, **result.get("planned", {})})
        for made in (self.look_button, self.train_button, self.pin_button):
            made.show()

    def _show_truth(self, took: Mapping[str, float], planned: Mapping[str, float]) -> None:
        ways: dict[str, tuple[str, Callable[[float], str]]] = {
            "positions": ("positions", lambda n: numbers.count(round(n))),
            "disk_mb": ("disk", lambda mb: numbers.size(round(mb * 1e6))),
            "memory_mb": ("memory", lambda mb: numbers.size(round(mb * 1e6))),
            "minutes": ("time", lambda minutes: numbers.duration(60 * minutes)),
        }
        found = {}
        for name, (shown, write) in ways.items():
            if name in took:
                beside = f"{write(planned[name])} planned" if name in planned else "taken"
                found[shown] = Figure(write(took[name]), beside, tip="What it took, and what was planned before it")
        if found:
            self.figures.show_figures(found)


def _in_runs(parts: Sequence[Mapping[str, Any]]) -> str:
    """What each of several runs recorded, and how long it took, where that is known."""
    told = [
        f"{numbers.count(round(part['positions']))} positions "
        + (f"in {numbers.duration(60 * part['minutes'])}" if part["minutes"] is not None else "in a time not known")
        for part in parts
    ]
    return f" In {len(told)} runs: {', '.join(told)}." if told else ""


def free_of(folder: Path) -> tuple[int, int]:
    """Bytes free on the folder's disk and in memory; a disk that sleeps or is far away may take its time."""
    return shutil.disk_usage(folder).free, psutil.virtual_memory().available


def _missing(result: Mapping[str, Any]) -> str:
    """What was asked for and is not in the store."""
    said = ""
    if result.get("no_rows_at"):
        said += f" No sample has a position at {', '.join(result['no_rows_at'])}."
    if count := result.get("unreadable"):
        said += f" {numbers.count(count)} that cannot be read {'was' if count == 1 else 'were'} left out."
    if count := result.get("repeats"):
        said += f" {numbers.count(count)} {'repeat was' if count == 1 else 'repeats were'} left out."
    return said


def _formats(plan: Plan) -> str:
    """What ways to store numbers cost, on disk and in what is lost."""
    said = []
    for name in ("int8", "bfloat16", "float32"):
        if name in plan.formats:
            size, fvu = plan.formats[name]
            said.append(f"{name} {numbers.size(size)}{f', FVU {fvu:.0e}' if fvu else ''}")
    return f"{'; '.join(said)}." if said else ""
