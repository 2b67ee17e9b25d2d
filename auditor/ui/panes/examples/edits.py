"""The page that composes edits of the network and tests them together against the unedited network and controls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QUndoCommand
from PySide6.QtWidgets import QFileDialog, QListWidget, QListWidgetItem, QMenu, QVBoxLayout, QWidget

from auditor.analysis.editing import KINDS, EditSpec, read_edits, written
from auditor.base.config import Config, read_config
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic
from auditor.ui import theme
from auditor.ui.forms import Form
from auditor.ui.panes.examples.experiment import config_class
from auditor.ui.panes.examples.trial import Trial
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel, menu_text, visible

SETTINGS = ("model", "dictionary", "samples", "prompt", "n", "measure", "target", "n_random", "context", "seed",
            "each", "adapter")  # fmt: skip
_MERGED = 71
_HEIGHT = 132


@dataclass(frozen=True)
class Entry:
    """One edit of the list, as its form holds it: it may be incomplete, and may be switched off."""

    kind: str
    values: Mapping[str, Any]
    on: bool = True

    def spec(self) -> EditSpec:
        """AuditorError names what is missing or wrong."""
        return read_config(KINDS.get(self.kind), dict(self.values))

    @property
    def sweeps(self) -> bool:
        """Whether it stands for several edits that are tested one by one."""
        try:
            return self.spec().sweeps
        except AuditorError:
            return False

    @property
    def told(self) -> str:
        try:
            return self.spec().describe()
        except AuditorError as error:
            return f"{KINDS.get(self.kind).title}: {error.message}"


class EditsPage(QWidget):
    """A list of edits in their order, a form for the chosen one, and the run of those that are switched on.

    Adding, changing, moving, switching and removing are steps of the window's undo.
    """

    closed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.entries: tuple[Entry, ...] = ()
        self.form: Form | None = None
        self.settings: Form | None = None
        self.list = QListWidget()
        self.list.setAccessibleName("Edits, in their order")
        self.list.setWordWrap(True)
        self.list.setFixedHeight(theme.px(_HEIGHT))
        self.list.currentRowChanged.connect(self._chosen)
        self.list.itemChanged.connect(self._switched)
        self._add = controls.button("Add an edit", icon="plus")
        menu = QMenu(self._add)
        for kind in KINDS.names():
            menu.addAction(menu_text(KINDS.get(kind).title), partial(self.add, kind))
        self._add.setMenu(menu)
        files = (
            controls.tool("folder-open", "Open a list of edits…", self._open_file),
            controls.tool("save", "Save this list…", self._save_file),
        )
        self._tools = [
            controls.tool("chevron-up", "Earlier", partial(self.shift, -1)),
            controls.tool("chevron-down", "Later", partial(self.shift, 1)),
            controls.tool("trash-2", "Remove", self.remove),
        ]
        self.trial = Trial(session, self._config)
        self._place, self._below = QVBoxLayout(), QVBoxLayout()
        head = controls.row(PlainLabel("Edit the network", "pane"), None,
                            controls.tool("x", "Back to the feature", self.closed.emit))  # fmt: skip
        inside = controls.column(
            head, PlainLabel("The edits act together, from the top down, in one run that is compared with the unedited "
                             "one and with controls of equal size; one that names several, as head * or blocks.*.z, is "
                             "tested one by one. The model itself is never changed.", "muted",
                             wrap=True),
            controls.row(self._add, None, *files, *self._tools), self.list, self._place, controls.line(),
            PlainLabel("Test on", "heading"), self._below, self.trial, None, gap="medium", margin="small",
        )  # fmt: skip
        self.setLayout(controls.column(controls.scrolled(controls.box(inside))))
        self._draw()

    def open(self) -> None:
        """Make the settings ready, once."""
        if self.settings is None:
            self._session.read("edits.form", config_class, self._show, self.trial.failed)

    def add(self, kind: str, **values: Any) -> None:
        """Put an edit behind the chosen one, or at the end."""
        at = self.list.currentRow() + 1 or len(self.entries)
        made = Entry(kind, {**self._start(kind), **values})
        self._push(f"add “{KINDS.get(kind).title}”", [*self.entries[:at], made, *self.entries[at:]], at)

    def shift(self, by: int) -> None:
        """Move the chosen edit earlier (−1) or later (1)."""
        at, to = self.list.currentRow(), self.list.currentRow() + by
        if at >= 0 and 0 <= to < len(self.entries):
            new = list(self.entries)
            new[at], new[to] = new[to], new[at]
            self._push("move an edit", new, to)

    def remove(self) -> None:
        """Take the chosen edit out of the list."""
        at = self.list.currentRow()
        if at >= 0:
            self._push("remove an edit", [*self.entries[:at], *self.entries[at + 1 :]], min(at, len(self.entries) - 2))

    def switch(self, at: int, on: bool) -> None:
        """Leave an edit out of the run, or take it in again."""
        new = list(self.entries)
        new[at] = replace(new[at], on=on)
        self._push("switch an edit on" if on else "switch an edit off", new, at)

    def lines(self) -> tuple[str, ...]:
        """The edits that are on, as the command line takes them. AuditorError for one that is not complete."""
        return tuple(written(entry.spec()) for entry in self.entries if entry.on)

    def load(self, path: str) -> None:
        """Take the edits of a .toml or .json file in place of these."""

        def taken(specs: Sequence[EditSpec]) -> None:
            made = [Entry(spec.kind, spec.model_dump()) for spec in specs]
            self._push("open a list of edits", made, 0)

        self._session.read("edits.file", partial(read_edits, [path]), taken, self.trial.failed)

    def save(self, path: str) -> None:
        """Write the edits that are on as a .json file, which the command line takes, too."""
        text = json.dumps(self.lines(), indent=1, ensure_ascii=False) + "\n"
        write_atomic(Path(path), text.encode())
        self._session.say(f"The list is in “{Path(path).name}”.")

    def _open_file(self) -> None:
        path = QFileDialog.getOpenFileName(self, "Open a list of edits", "", "Edits (*.toml *.json)")[0]
        if path:
            self.load(path)

    def _save_file(self) -> None:
        path = QFileDialog.getSaveFileName(self, "Save this list", "edits.json", "Edits (*.json)")[0]
        if path:
            self._session.attempt(partial(self.save, path))

    def put(self, entries: Sequence[Entry], at: int, keep_form: bool = False) -> None:
        """Show this list, with one of it chosen."""
        self.entries = tuple(entries)
        self._draw(at)
        if not keep_form:
            self._chosen(at)

    def _push(self, title: str, entries: Sequence[Entry], at: int) -> None:
        self._session.undo.push(_Step(self, title, self.entries, tuple(entries), at))

    def _draw(self, at: int = -1) -> None:
        self.list.blockSignals(True)
        self.list.clear()
        for number, entry in enumerate(self.entries, 1):
            item = QListWidgetItem(visible(f"{number}. {entry.told}"))
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if entry.on else Qt.CheckState.Unchecked)
            self.list.addItem(item)
        self.list.setCurrentRow(at)
        self.list.blockSignals(False)
        for tool in self._tools:
            tool.setEnabled(at >= 0)
        self.trial.allow(self.settings is not None and any(entry.on for entry in self.entries))
        self._offer_plan()

    def _offer_plan(self) -> None:
        """Many edits one by one may take long: their start can be planned."""
        each = self.settings is not None and bool(self.settings.values().get("each"))
        self.trial.plan_button.setVisible(each or any(entry.on and entry.sweeps for entry in self.entries))

    def _chosen(self, at: int) -> None:
        """The form of the chosen edit."""
        controls.clear(self._place)
        self.form = None
        for tool in self._tools:
            tool.setEnabled(at >= 0)
        if not 0 <= at < len(self.entries):
            return
        entry = self.entries[at]
        self.form = form = Form(KINDS.get(entry.kind), self._session, entry.values)
        for name in ("hook", "source"):
            if name in form.kind.model_fields:
                form.offer(name, self._offered)
        form.changed.connect(self._changed)
        self._place.addWidget(form)

    def _changed(self) -> None:
        at, form = self.list.currentRow(), self.form
        if form is None or at < 0 or form.values() == dict(self.entries[at].values):
            return
        new = list(self.entries)
        new[at] = replace(new[at], values=form.values())
        self._session.undo.push(_Step(self, "change an edit", self.entries, tuple(new), at, form=True))

    def _switched(self, item: QListWidgetItem) -> None:
        self.switch(self.list.row(item), item.checkState() == Qt.CheckState.Checked)

    def _show(self, kind: type[Config]) -> None:
        self.settings = Form(kind, self._session, {})
        self.settings.show_only(SETTINGS)
        self.settings.changed.connect(self._offer_plan)
        self.settings.tell("prompt", "The one text to test on, where no samples are chosen.")
        self.settings.tell("samples", "Drawn from at random; means and draws of edits come from them, too.")
        self.settings.tell("model", "Empty: the newest, or that of the chosen dictionary.")
        self._below.addWidget(self.settings)
        self._draw(self.list.currentRow())

    def _config(self) -> tuple[Config, str]:
        if self.settings is None:
            raise AuditorError("The settings are not there yet.", "Wait a moment and start again.")
        lines = self.lines()
        if not lines:
            raise AuditorError("No edit is switched on.", "Add one, or switch one on.")
        config = self.settings.value().model_copy(update={"edit": lines})
        return config, f"Test {len(lines)} edit{'s' if len(lines) > 1 else ''}"

    def _offered(self) -> list[str]:
        """The hook points, and before them what stands for one of every block."""
        hooks = self._hooks()
        each = dict.fromkeys(re.sub(r"blocks\.\d+\.", "blocks.*.", hook) for hook in hooks)
        return [*(name for name in each if "*" in name), *hooks]

    def _hooks(self) -> list[str]:
        """Hook points of the model that is chosen below, else of the newest, as far as the catalogue names them."""
        held = self._session.artefacts("model")
        ref = self.settings.values().get("model") if self.settings is not None else ""
        found = next((a for a in held if ref in (a.id, a.name)), held[-1] if held else None)
        told = found.meta.get("hook_points") or () if found is not None else ()
        return [str(point["hook"]) for point in told if isinstance(point, Mapping)]

    def _start(self, kind: str) -> dict[str, Any]:
        """Where a new edit begins: in the middle of the network, at the feature that is selected."""
        found: dict[str, Any] = {}
        fields, feature = KINDS.get(kind).model_fields, self._session.feature
        hooks = self._hooks()
        outputs = [hook for hook in hooks if hook.endswith("resid_post")]
        if "hook" in fields and outputs:
            found["hook"] = outputs[len(outputs) // 2]
        heads = [hook for hook in hooks if hook.endswith(".z")]
        if "source" in fields and heads:
            found["source"] = heads[(len(heads) - 1) // 2]
            stack, _, number = found["source"].removesuffix(".z").rpartition(".")
            following = f"{stack}.{int(number) + 1}"
            found["target"] = f"{following}.mlp" if f"{following}.mlp_out" in hooks else "final_norm"
        if kind == "feature" and feature is not None:
            found |= {"dictionary": feature[0], "feature": feature[1]}
        return found


class _Step(QUndoCommand):
    """One change of the list. Changes in the form of one edit that follow one another are one step."""

    def __init__(
        self, page: EditsPage, title: str, before: tuple[Entry, ...], after: tuple[Entry, ...], at: int,
        *, form: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(title)
        self.page, self.before, self.after, self.at, self.form = page, before, after, at, form
        self._typed = form

    def id(self) -> int:
        return _MERGED if self.form else -1

    def mergeWith(self, other: QUndoCommand) -> bool:
        if not isinstance(other, _Step) or other.at != self.at or other.page is not self.page:
            return False
        self.after = other.after
        return True

    def redo(self) -> None:
        typed, self._typed = self._typed, False
        self.page.put(self.after, self.at, keep_form=typed)

    def undo(self) -> None:
        self.page.put(self.before, min(self.at, len(self.before) - 1))
