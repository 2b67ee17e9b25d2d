"""What a verb is: a declared function with a config class, whose every run leaves a record in the project."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.config import Config, read_config
from auditor.base.errors import AuditorError, Stop
from auditor.base.files import no_more_files, too_many_files
from auditor.base.paths import at_home
from auditor.base.registry import Registry
from auditor.base.reporter import Reporter
from auditor.project import Artefact, Project
from auditor.project.project import environment
from auditor.tasks.present import present_digest

if TYPE_CHECKING:
    from auditor.sae.distributed import Ranks

# A new verb is one new module here and one line in this list.
MODULES = (
    "open",
    "record",
    "train",
    "index",
    "trace",
    "experiment",
    "compare",
    "import_",
    "doctor",
    "export",
    "report",
)
_tasks: Registry[Task] = Registry("verb")


@dataclass(frozen=True)
class Task:
    """A verb: `config` names its settings as “module:Class”, so that listing verbs loads no engine."""

    name: str
    title: str
    help: str
    config: str
    function: Callable[[Run, Any], dict[str, Any]]

    def config_class(self) -> type[Config]:
        module, name = self.config.split(":")
        found: type[Config] = getattr(importlib.import_module(module), name)
        return found

    def read(self, values: dict[str, Any]) -> Config:
        """The settings as this verb's config; AuditorError names the first that is wrong."""
        return read_config(self.config_class(), values)


@dataclass
class Run:
    """One run of a verb: where it reads from, where it registers, to whom it reports, and `remarks` on how it went, for
    its record. `ranks` are the processes that share it, None where it is this one alone; only the first has a Run.
    `onto` are the places where it is to go on, empty where it may be anywhere."""

    project: Project
    reporter: Reporter
    id: str
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: list[Artefact] = field(default_factory=list)
    ranks: Ranks | None = None
    remarks: list[str] = field(default_factory=list)
    onto: Collection[Path] = ()
    _present: dict[str, str] = field(default_factory=dict, repr=False)

    def input(self, ref: str | Path, kind: str) -> Artefact:
        """The artefact that `ref` names in the project, or the path itself, registered on the way; the newest of its
        kind where `ref` is empty. Notes its digest."""
        artefact = resolve(self.project, ref, kind)
        self.reads(artefact)
        return artefact

    def reads(self, artefact: Artefact) -> None:
        """Note that this is read, with its digest: as it is now (`found`), where something of it was written since the
        project took it in."""
        if artefact.id not in self._present:
            self.found(artefact, present_digest(artefact))
        self.inputs[artefact.name] = self._present[artefact.id]

    def digest_of(self, artefact: Artefact) -> str:
        """That of an artefact as this run found it, or as the project holds it where it was not read."""
        return self._present.get(artefact.id, artefact.digest)

    def keyed_path(self, kind: str, name: str, key: str) -> Path:
        """The same `key` (a digest of settings and inputs) gives the same place, so that an interrupted run finds what
        it had reached."""
        return self.project.keyed_path(kind, name, key[:8])

    def begins(self, places: Sequence[Path], config: Config) -> None:
        """Note that this run works at `places`, and the settings that go on there if it ends early, whatever else the
        project holds by then. AuditorError where it was to go on elsewhere: at none of them."""
        if self.onto and not set(places) & set(self.onto):
            raise AuditorError(
                f"These settings no longer lead to what was begun, but to “{places[0].stem}”.",
                "An input or the program has changed since: remove what is left, and start anew.",
            )
        for place in places:
            self.project.catalogue.begin_at(self.id, place, config.model_dump(mode="json"))

    def must_be_forgotten(self, kind: str, path: Path) -> None:
        """AuditorError where the project knows the finished artefact at `path`. It does not where the program ended, or
        the disk was full, before it was registered; then it is registered now instead of made again."""
        if any(held.path == path for held in self.project.artefacts(kind)):
            raise AuditorError(
                f"The project has a{'n' if kind == 'index' else ''} {kind} with these settings already: “{path.stem}”.",
                "Change a setting, such as the seed, to make another.",
            )

    def output(self, kind: str, name: str, path: Path, *, digest: str | None = None, **meta: Any) -> Artefact:
        """Register what this run made. Where that fails, what took seconds is removed; what took hours is kept, and
        the same command registers it."""
        try:
            artefact = self.project.add(kind, name, path, digest=digest, run=self.id, meta=meta)
        except AuditorError:
            if kind in ("result", "bundle") and path.is_relative_to(self.project.folder):
                path.unlink(missing_ok=True)
            raise
        self.outputs.append(artefact)
        return artefact

    def found(self, artefact: Artefact, digest: str) -> None:
        """What an input that was read now is: where it is no longer what the project took in, the person is told, and
        the record has what it is."""
        self._present[artefact.id] = self.inputs[artefact.name] = digest
        if artefact.digest and digest != artefact.digest:
            are = "are" if artefact.kind == "samples" else "is"
            self.warn(
                f"The {artefact.kind} “{artefact.name}” {are} no longer what was opened: sha256 {artefact.digest[:8]}… "
                f"then, {digest[:8]}… now. Open it again if that was meant."
            )

    def warn(self, sentence: str) -> None:
        """Tell the person of it, now and in the run's record; nothing where it is empty or was told."""
        if sentence and sentence not in self.remarks:
            self.remarks.append(sentence)
            self.reporter.partial("warning", message=sentence)

    def opens(self, model: Artefact) -> None:
        """Tell which model is opened, which may take minutes, and from where: now, and in the run's record, which has
        its digest too."""
        self.reads(model)
        place = f"the model “{model.name}” from {model.path}"
        if (sentence := f"Opened {place}.") not in self.remarks:
            self.remarks.append(sentence)
            self.reporter.partial("opens", model=model.name, place=str(model.path), message=f"Opening {place}…")

    def kept(self, told: dict[str, Any], sentence: str, error: Exception) -> None:
        """Tell of what is kept of work that `error` ends: `told`, as the result would have been."""
        told = told | {"artefacts": [artefact.id for artefact in self.outputs]}
        self.reporter.partial("warning", message=sentence, kept=told)
        if isinstance(error, AuditorError | Stop):
            error.kept = {"kept": sentence, **told}


def resolve(project: Project, ref: str | Path, kind: str) -> Artefact:
    """The artefact that `ref` names in the project, or the file or folder at that path, registered on the way once it
    has been read as one of its kind; the newest of its kind where `ref` is empty."""
    if not str(ref):
        held = project.artefacts(kind)
        if not held:
            raise AuditorError(f"The project has no {kind} yet.", "Name one, or make one first.")
        return held[-1]
    try:
        return project.find(ref, kind)
    except AuditorError:
        path = at_home(ref)
        if not path.exists() or not project.writable:
            raise
        from auditor.tasks.open import take_in

        return take_in(project, kind, path.resolve())


def task(name: str, *, title: str, config: str) -> Callable[[Callable[[Run, Any], dict[str, Any]]], Task]:
    """Declare a verb. Its function's docstring is its help."""

    def declare(function: Callable[[Run, Any], dict[str, Any]]) -> Task:
        text = " ".join((function.__doc__ or "").split())
        return _tasks.add(name, Task(name, title, text, config, function))

    return declare


def tasks() -> list[Task]:
    """All verbs, in the order of MODULES."""
    for module in MODULES:
        importlib.import_module(f"auditor.tasks.{module}")
    return [_tasks.get(module.rstrip("_")) for module in MODULES]


def get_task(name: str) -> Task:
    """The verb called `name`; AuditorError lists the verbs there are."""
    tasks()
    return _tasks.get(name)


def must_have_device(config: Config) -> None:
    """AuditorError where the settings ask for a GPU that is not there, to be told before anything is made."""
    device = str(getattr(config, "device", "auto"))
    if device not in ("auto", "cpu"):
        from auditor.models.device import device_named

        device_named(device)


def run_task(
    name: str, project: Project, config: Config, reporter: Reporter, ranks: Ranks | None = None,
    onto: Collection[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """Run a verb and record the run: settings, digests of what went in, versions, what came out, how it ended.

    The result holds plain values; "artefacts" in it lists the ids of what was registered.
    """
    chosen = get_task(name)
    project.must_write()
    must_have_device(config)
    settings = config.model_dump(mode="json")
    with project.at_work():
        begun = project.catalogue.begin_run(name, settings, environment())
        run = Run(project, reporter, begun, ranks=ranks, onto=onto)
        try:
            result = chosen.function(run, config)
        except (Stop, KeyboardInterrupt):
            _end_anyhow(run, "cancelled", "stopped by the person")
            raise
        except BaseException as error:
            if isinstance(error, OSError) and too_many_files(error):
                _end_anyhow(run, "failed", str(no_more_files()))
                raise no_more_files() from error
            _end_anyhow(run, "failed", str(error))
            raise
        _end(run, "done", " ".join(run.remarks))
    return {**result, "run": run.id, "artefacts": [artefact.id for artefact in run.outputs]}


def _end_anyhow(run: Run, status: str, message: str) -> None:
    with contextlib.suppress(AuditorError):  # on a full disk even this fails, and the first fault is the one to tell
        _end(run, status, message)


def _end(run: Run, status: str, message: str) -> None:
    ids = [artefact.id for artefact in run.outputs]
    run.project.catalogue.end_run(run.id, status, run.inputs, ids, message)
    run.project.log.append("run", id=run.id, status=status, inputs=run.inputs, outputs=ids)
