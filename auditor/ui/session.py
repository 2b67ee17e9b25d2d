"""What all panes share: the open project, the selection with its history, jobs, reads, commands and messages."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QUndoStack

from auditor.base.config import ARTEFACT_KINDS, Config
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.jobs.runner import Runner
from auditor.project import settings
from auditor.project.catalogue import Artefact
from auditor.project.project import Project
from auditor.ui.bridge import Bridge, Bug, LiveJob
from auditor.ui.commands import Commands, Hit, score

if TYPE_CHECKING:
    from auditor.ui.pane import Pane

_HISTORY = 200
_GPU = "session.gpu"


class Session(QObject):
    """The shared ground of the panes; they meet here and nowhere else.

    A selection is made with `select_…` and heard through the signal; it arrives in every pane, the asking one too.
    """

    project_changed = Signal()
    catalogue_changed = Signal()
    feature_selected = Signal(str, int)
    artefact_selected = Signal(str)
    example_selected = Signal(object)
    prompt_changed = Signal(str)
    history_changed = Signal()
    needs_changed = Signal()
    evidence_offered = Signal(object)
    path_offered = Signal(object)
    verb_offered = Signal(str, object)
    message = Signal(str, str, str, str)
    status_changed = Signal(str, str)
    pane_wanted = Signal(str)
    layout_wanted = Signal(str)
    job_started = Signal(object)
    job_ended = Signal(object)
    gpu_looked_for = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.project: Project | None = None
        self.feature: tuple[str, int] | None = None
        self.artefact: str | None = None
        self.example: object | None = None
        self.prompt = ""
        self.no_gpu: str | None = None
        self.jobs: list[LiveJob] = []
        self.status: dict[str, str] = {}
        self.undo = QUndoStack(self)
        self.undo.indexChanged.connect(self._undo_moved)
        self._held: list[Artefact] | None = None
        self._known: list[Artefact] = []
        self.pane_of: Callable[[str], Pane] | None = None
        self.built: Callable[[str], object] | None = None
        self.commands = Commands(self.has, self.error, self, lack=self.lack)
        self.commands.add_provider("Artefacts", self._artefact_hits)
        self._bridge = Bridge(Runner(), self)
        self._bridge.ended.connect(self._job_ended)
        self._history: list[tuple[str, tuple[Any, ...]]] = []
        self._at = -1

    # the project

    def open_project(self, folder: Path | str) -> None:
        """Open a project in place of the present one."""
        self._hold(Project.open(folder))

    def create_project(self, folder: Path | str, name: str = "") -> None:
        self._hold(Project.create(folder, name))

    def close_project(self) -> None:
        """Stop its jobs and let go of it."""
        for live in self.jobs:
            if live.live:
                live.stop()
        if self.project is not None:
            self.project.close()
        self._forget()
        self.project_changed.emit()
        self.needs_changed.emit()

    def artefacts(self, kind: str | None = None) -> list[Artefact]:
        """What the project holds, oldest first; nothing without a project."""
        if self._held is None:
            self._held = self._read_catalogue()
        return [artefact for artefact in self._held if kind in (None, artefact.kind)]

    def _read_catalogue(self) -> list[Artefact]:
        """What it holds; what it held where it cannot be read now, since a full disk stops even readers."""
        if self.project is None:
            return []
        try:
            self._known = self.project.artefacts()
        except AuditorError as error:
            self.error(error)
        return self._known

    def refresh(self) -> None:
        """Read the catalogue again and tell every pane; call it after adding or renaming an artefact."""
        self._held = None
        self.catalogue_changed.emit()
        self.needs_changed.emit()

    def find(self, ref: str, kind: str | None = None) -> Artefact:
        """An artefact by id, name or path; AuditorError where there is none."""
        if self.project is None:
            raise AuditorError("No project is open.", "Open or create one first.")
        return self.project.find(ref, kind)

    # the selection

    def select_feature(self, dictionary: str, feature: int) -> None:
        """Choose a feature of the dictionary with this artefact id, everywhere."""
        self._go("feature", (dictionary, int(feature)))

    def select_artefact(self, artefact: str) -> None:
        self._go("artefact", (artefact,))

    def select_example(self, example: object) -> None:
        """Choose an example (a features.Example or a StoredSample); it is not part of the history."""
        self.example = example
        self.example_selected.emit(example)
        self.needs_changed.emit()

    def set_prompt(self, prompt: str) -> None:
        """Take a text as the prompt to trace."""
        if prompt != self.prompt:
            self._go("prompt", (prompt,))

    def back(self) -> None:
        self._travel(-1)

    def forward(self) -> None:
        self._travel(1)

    @property
    def can_go_back(self) -> bool:
        return self._at > 0

    @property
    def can_go_forward(self) -> bool:
        return self._at + 1 < len(self._history)

    def has(self, need: str) -> bool:
        """Whether a command's need is met: project, writable, feature, artefact, prompt, example, or a kind."""
        if need in ARTEFACT_KINDS:
            return bool(self.artefacts(need))
        return {
            "": True,
            "project": self.project is not None,
            "writable": self.project is not None and self.project.writable,
            "feature": self.feature is not None,
            "artefact": self.artefact is not None,
            "prompt": bool(self.prompt),
            "example": self.example is not None,
            "job": any(live.live for live in self.jobs),
            "undo": self.undo.canUndo(),
            "redo": self.undo.canRedo(),
            "back": self.can_go_back,
            "forward": self.can_go_forward,
        }[need]

    def lack(self, need: str) -> AuditorError:
        """Why a need is not met, as `has` knows them."""
        if self.project is None:
            return AuditorError("No project is open.", "Open or create one first.")
        if need == "writable":
            try:
                self.project.must_write()
            except AuditorError as error:
                return error
        if need in ARTEFACT_KINDS:
            return AuditorError(f"The project holds no {need} yet.", "Open or make one first.")
        if need in ("feature", "artefact", "example"):
            return AuditorError(f"No {need} is chosen.", "Choose one first.")
        return AuditorError("There is nothing that this could be done with now.")

    # work

    def run_task(self, name: str, config: Config, title: str = "") -> LiveJob:
        """Start a verb on the lane that runs in order; the job's signals tell how it goes.

        A failure is shown in the message strip as well; new artefacts come with `catalogue_changed`.
        """
        project = self.project
        if project is None:
            raise AuditorError("No project is open.", "Open or create one first.")
        project.must_write()
        from auditor.tasks import get_task, run_task

        def work(reporter: Reporter) -> dict[str, Any]:
            return run_task(name, project, config, reporter)

        return self.run(title or get_task(name).title, work)

    def config_class(self, name: str, then: Callable[[type[Config]], object]) -> None:
        """Deliver the settings class of a verb; loading it may load an engine, so it comes from the read thread."""
        from auditor.tasks import get_task

        self.read(f"config class {name}", lambda: get_task(name).config_class(), then)

    def run(self, title: str, work: Callable[[Reporter], dict[str, Any] | None]) -> LiveJob:
        """Start long work that is not a registered verb; it is listed among the jobs like one."""
        live = self._bridge.run(title, work)
        self.jobs.append(live)
        self.job_started.emit(live)
        self.needs_changed.emit()
        return live

    def read(
        self,
        key: str,
        function: Callable[[], Any],
        then: Callable[[Any], object],
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        """Call `function()` off the GUI thread and `then(value)` on it. Of one `key` the newest wins."""
        self._bridge.read(key, lambda _: function(), then, failed or self.error)

    def measure(
        self,
        key: str,
        function: Callable[[Reporter], Any],
        then: Callable[[Any], object],
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        """As `read`, of what takes seconds: no read waits for it, and `drop` takes it back."""
        self._bridge.read(key, function, then, failed or self.error, "measure")

    def look_for_gpu(self) -> None:
        """Find out why no GPU can be computed on: then `no_gpu` says it, or is empty where one can, and
        `gpu_looked_for` comes. It loads an engine, so it is asked for where someone wants one."""

        def take(why: str) -> None:
            self.no_gpu = why
            self.gpu_looked_for.emit()

        if self.no_gpu is None and _GPU not in self.reading:
            self.measure(_GPU, lambda _: _why_no_gpu(), take)

    def drop(self, key: str) -> None:
        """Take a read or a measurement back: nothing of it arrives any more."""
        self._bridge.drop(key)

    @property
    def reading(self) -> frozenset[str]:
        """Keys of the reads under way."""
        return self._bridge.reading

    @property
    def busy(self) -> bool:
        return self._bridge.busy

    # words to the person

    def error(self, error: Exception) -> None:
        """Show a failure in the strip: the sentence and hint of an AuditorError, else our bug with its trace."""
        if isinstance(error, AuditorError):
            self.message.emit("bad", error.message, error.hint, "")
            return
        trace = error.trace if isinstance(error, Bug) else "".join(traceback.format_exception(error))
        what = str(error) if isinstance(error, Bug) else f"{type(error).__name__}: {error}"
        self.message.emit("bad", f"A fault of the program: {what}", "Your files are as they were.", trace)

    def attempt(self, act: Callable[[], object]) -> bool:
        """Do it; what it raises is shown. Whether it went well."""
        try:
            act()
        except Exception as error:
            self.error(error)
            return False
        return True

    def say(self, sentence: str, level: str = "good") -> None:
        """Tell what was done; level is good or warn."""
        self.message.emit(level, sentence, "", "")

    def set_status(self, name: str, text: str) -> None:
        """Put a lasting fact into the status bar, such as `case`."""
        self.status[name] = text
        self.status_changed.emit(name, text)

    def open_pane(self, name: str) -> Pane:
        """Bring the pane with this id to the front, building it when needed."""
        if self.pane_of is None:
            raise RuntimeError("no window is listening")
        self.pane_wanted.emit(name)
        return self.pane_of(name)

    def offer_evidence(self, fields: dict[str, Any]) -> None:
        """“Add to case”: the case pane takes it; it is built first where no one has looked at it yet.

        `fields` are those of `auditor.audit.collect.add_evidence`.
        """
        if self.built is not None:
            self.built("case")
        self.evidence_offered.emit(fields)

    def offer_path(self, path: Path) -> None:
        """Take what lies at a path into the project: the recording pane does it, built first as for evidence."""
        if self.built is not None:
            self.built("recording")
        self.path_offered.emit(path)

    def offer_verb(self, name: str, values: Mapping[str, str]) -> None:
        """Show the form of a verb with these `values` filled in."""
        self.open_pane("verb")
        self.verb_offered.emit(name, values)

    def close(self) -> None:
        """End every thread and let go of the project."""
        self.undo.indexChanged.disconnect(self._undo_moved)
        self._bridge.close()
        if self.project is not None:
            self.project.close()
            self.project = None

    def _hold(self, project: Project) -> None:
        if self.project is not None:
            self.close_project()
        self.project, self._held, self._known = project, None, []
        settings.note_recent(project.folder)
        self.project_changed.emit()
        self.needs_changed.emit()
        if not project.writable:
            self.say(f"“{project.name}” is open in another program: it can be read here, not changed.", "warn")

    def _undo_moved(self, index: int) -> None:
        self.needs_changed.emit()

    def _forget(self) -> None:
        self.project = self.feature = self.artefact = self.example = None
        self.prompt, self._history, self._at, self._held = "", [], -1, None
        self.undo.clear()
        self.history_changed.emit()

    def _go(self, kind: str, values: tuple[Any, ...]) -> None:
        place = (kind, values)
        if not (0 <= self._at < len(self._history) and self._history[self._at] == place):
            self._history = [*self._history[: self._at + 1], place][-_HISTORY:]
            self._at = len(self._history) - 1
        self._arrive(place)

    def _travel(self, step: int) -> None:
        if 0 <= self._at + step < len(self._history):
            self._at += step
            self._arrive(self._history[self._at])

    def _arrive(self, place: tuple[str, tuple[Any, ...]]) -> None:
        kind, values = place
        if kind == "feature":
            self.feature = (values[0], values[1])
            self.feature_selected.emit(*values)
        elif kind == "artefact":
            self.artefact = values[0]
            self.artefact_selected.emit(values[0])
        else:
            self.prompt = values[0]
            self.prompt_changed.emit(values[0])
        self.history_changed.emit()
        self.needs_changed.emit()

    def _job_ended(self, live: LiveJob) -> None:
        if live.outcome == "failed":
            self.error(live.error())
        self.job_ended.emit(live)
        self.refresh()

    def _artefact_hits(self, query: str) -> list[Hit]:
        ranked = sorted(((score(query, a.name), a) for a in self.artefacts()), key=lambda pair: -pair[0])

        def choose(artefact: str) -> Callable[[], None]:
            return lambda: self.select_artefact(artefact)

        return [Hit(a.name, choose(a.id), a.kind, "box") for s, a in ranked if s > 0 and query][:12]


def _why_no_gpu() -> str:
    from auditor.models.device import device_named

    try:
        device_named("cuda")
    except AuditorError as error:
        return str(error)
    return ""
