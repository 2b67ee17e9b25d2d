"""What a training will take, each figure against what is free; from the form at once, measured when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from auditor.base.errors import AuditorError
from auditor.project import Project
from auditor.sae.train_config import TrainConfig
from auditor.ui import theme
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.figures import Figure, Figures
from auditor.ui.widgets.plain_text import PlainLabel, tooltip

if TYPE_CHECKING:
    from auditor.sae.plan import Plan

_NAMES = ("rows", "memory", "disk", "time")
_TWO_LINES = 30
_UNKNOWN = "Plan tries a few steps on the store and measures what the whole will take."


def measured(project: Project, config: TrainConfig) -> Plan:
    """Try a few steps of what `config` asks for; runs off the GUI thread."""
    from auditor.sae import load_any
    from auditor.sae.plan import plan
    from auditor.sae.scaling import names_of
    from auditor.store import open_store
    from auditor.store.joined import learned_from
    from auditor.tasks.splicing import splicing_of
    from auditor.tasks.task import resolve

    stores = [open_store(resolve(project, name, "store").path) for name in (config.store, *names_of(config.others))]
    source = learned_from(stores, config.hook)
    start = load_any(resolve(project, config.start_from, "dictionary").path) if config.start_from else None
    try:
        network = splicing_of(project, source, config)
    except AuditorError:  # the training says so, and does without
        network = None
    return plan(config, source, project.folder, start=start, network=network)


class Planner(QWidget):
    """The figures, the buttons, and a line that says what is going on."""

    def __init__(
        self, plan: Callable[[], object], cancel: Callable[[], object], start: Callable[[], object],
        index: Callable[[], object], record: Callable[[], object],
    ) -> None:  # fmt: skip
        super().__init__()
        self.figures = Figures(_NAMES)
        self.told = PlainLabel(_UNKNOWN, "small", wrap=True)
        self.told.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.told.setMinimumHeight(theme.px(_TWO_LINES))  # the buttons below stay where they are
        self.start_button = controls.button("Train", start, primary=True, icon="play")
        self.plan_button = controls.button("Plan", plan, icon="gauge")
        self.cancel_button = controls.button("Cancel", cancel, icon="x", tip="Stop measuring; nothing is kept of it")
        self.cancel_button.hide()
        self.index_button = controls.button("Index", index, icon="list",
                                            tip="Gather the examples and figures of its features")  # fmt: skip
        self.record_button = controls.button("Record activations…", record, icon="database")
        self.index_button.hide()
        self.record_button.hide()
        buttons = controls.row(self.start_button, self.plan_button, self.cancel_button, self.index_button,
                               self.record_button, None)  # fmt: skip
        self.setLayout(controls.column(self.figures, self.told, buttons, gap="small"))
        self._rows = Figure("–")
        self._plan: Plan | None = None
        self._streamed = False

    def forget(self, seen: int, rows: int, bytes_: int, *, keep: bool = False) -> None:
        """The settings changed: `seen` rows in all of a store that has `rows`, weights of `bytes_` (0: not known); the
        rest is to be measured."""
        self._plan = None
        self._streamed = False
        self.plan_button.setEnabled(True)
        self.plan_button.setToolTip("")
        passes = f"{numbers.figure(seen / rows)} passes" if rows else ""
        self._rows = Figure(numbers.count(seen), passes, tip="Rows that it sees, and how often it sees each")
        disk = Figure(numbers.size(bytes_), "weights") if bytes_ else Figure("–")
        self.figures.show_figures({"rows": self._rows, "disk": disk})
        if not keep:
            self.tell(_UNKNOWN)

    def streams(self, told: str) -> None:
        """The settings changed to those of a stream, which is not tried beforehand: say so."""
        self._plan = None
        self._rows = Figure("–")
        self.figures.show_figures({"rows": self._rows})
        self.plan_button.setEnabled(False)
        self.plan_button.setToolTip(tooltip(told))
        self._streamed = True
        self.tell(f"What streams from a model is not tried beforehand. {told}")

    def without_store(self, *, stream: bool) -> None:
        """Nothing is recorded: say so, and offer to record; `stream`: there is a model to learn from as it runs."""
        self.start_button.setEnabled(stream)
        self.plan_button.setEnabled(False)
        self.record_button.show()
        self.figures.hide()
        if stream:
            self.tell("Nothing is recorded yet. Record, or choose a model under “Stream from”.")
        else:
            self.tell("Nothing is recorded yet, and a dictionary learns from recorded activations.", "warn")

    def with_store(self) -> None:
        self.start_button.setEnabled(True)
        self.plan_button.setEnabled(not self._streamed)
        self.record_button.hide()
        if self.figures.isHidden():
            self.figures.show()
            self.tell(_UNKNOWN)

    def measuring(self, on: bool) -> None:
        self.plan_button.setEnabled(not on)
        self.plan_button.setVisible(not on)
        self.cancel_button.setVisible(on)
        if on:
            self.tell("Trying a few steps…")

    def show_plan(self, plan: Plan) -> None:
        """Write what was measured."""
        self._plan = plan
        self.measuring(False)
        self.figures.show_figures({
            "rows": self._rows,
            "memory": Figure(numbers.size(plan.bytes), f"of {numbers.size(plan.free_bytes)} free", plan.fits),
            "disk": Figure(numbers.size(plan.disk_bytes), "with checkpoint",
                           tip="Of all its dictionaries and their checkpoints while it trains"),
            "time": Figure(numbers.duration(60 * plan.minutes), f"{numbers.figure(plan.step_ms, 'ms')} a step",
                           tip="Of all steps, the looks into the model between them, and what comes after the last "
                               f"one: about {numbers.duration(60 * plan.after_minutes)} of it"),
        })  # fmt: skip
        if not plan.fits:
            self.tell("It does not fit: choose fewer features or smaller batches.", "bad")
        elif plan.free_disk_bytes and plan.disk_bytes > plan.free_disk_bytes:
            self.tell("The disk is too small for it: free some room, or choose fewer features.", "bad")
        else:
            self.tell("It fits.")

    def training(self) -> None:
        self.index_button.hide()
        self.tell("Training. You can go on working meanwhile.")

    def show_planned(self, told: Mapping[str, tuple[str, str]]) -> None:
        """Write what the training planned before its first step: by figure, as it is written."""
        tip = "What the training planned to take"
        self._show(told, lambda _name, _took, planned: Figure(planned or "–", "planned", tip=tip))

    def trained(self, result: Mapping[str, Any]) -> None:
        """Say what came of it, and offer the next step."""
        rows = result.get("dictionaries") or [result]
        told = {"fvu": ("FVU", numbers.figure), "l0": ("L0", numbers.figure), "dead": ("dead", numbers.share)}
        parts = [f"{title} {_spread([float(row[name]) for row in rows if name in row], write)}"
                 for name, (title, write) in told.items() if any(name in row for row in rows)]  # fmt: skip
        made = f"Trained {len(rows)} dictionaries" if len(rows) > 1 else "Trained"
        self.tell(f"{made}: {', '.join(parts)}." if parts else f"{made}.", "good")
        self.index_button.show()

    def show_truth(
        self, told: Mapping[str, tuple[str, str]], seconds: float = 0.0, *, shared: bool = False
    ) -> None:  # fmt: skip
        """Write what a training took beside what was planned: by figure, both as they are written. Where the
        dictionary does not tell, the `seconds` that were counted here stand beside the plan made here. `shared`: the
        memory is of other work too."""
        if "minutes" not in told and seconds:
            planned = numbers.duration(60 * self._plan.minutes) if self._plan is not None else ""
            told = {**told, "minutes": (numbers.duration(seconds), planned)}
        tip = "What the last training took, and what was planned before it"
        other = f"{tip}. Other work of this program, such as a plan, is in what it took."

        def write(name: str, took: str, planned: str) -> Figure:
            against = f"{planned} planned" if planned else "taken"
            return Figure(took or "–", against, tip=other if shared and name == "memory_mb" else tip)

        self._show(told, write)

    def _show(self, told: Mapping[str, tuple[str, str]], write: Callable[[str, str, str], Figure]) -> None:
        names = {"memory_mb": "memory", "disk_mb": "disk", "minutes": "time"}
        found = {shown: write(name, *told[name]) for name, shown in names.items() if name in told}
        if found:
            self.figures.show_figures({"rows": self._rows, **found})

    def tell(self, sentence: str, role: str = "small") -> None:
        self.told.set_role(role)
        self.told.setText(sentence)


def _spread(values: list[float], write: Callable[[float], str]) -> str:
    """One value, or the least and the greatest of several."""
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"
