"""Work on the project's cases: create, open, pin evidence, change, undo; the window and the command line share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from auditor.audit.case import Case, Subject, first_fault, now
from auditor.audit.collect import add_evidence
from auditor.audit.evidence import Evidence, Record
from auditor.audit.history import CaseFile
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic
from auditor.project import Artefact, Project
from auditor.project.project import environment
from auditor.tasks.result import Result

R = TypeVar("R", bound=Record)


class OpenCase:
    """A case of a project, open for work; every change is on the disk and in the log before the call returns."""

    def __init__(self, project: Project, artefact: Artefact, file: CaseFile) -> None:
        self.project = project
        self.artefact = artefact
        self.file = file

    @property
    def case(self) -> Case:
        return self.file.case

    @property
    def figures_folder(self) -> Path:
        """Where the pictures of the case's evidence lie."""
        return self.artefact.path.with_name(self.artefact.path.name.removesuffix(".case.json") + ".figures")

    def figures(self) -> dict[str, bytes]:
        """The bytes of every figure that the case's evidence names; AuditorError where one is lost."""
        names = [piece.figure for piece in self.case.evidence if piece.figure]
        try:
            return {name: (self.figures_folder / name).read_bytes() for name in names}
        except OSError as error:
            lost = Path(str(error.filename)).name
            raise AuditorError(f"The figure “{lost}” of this case is missing.", "Pin its evidence again.") from error

    def change(self, title: str, case: Case) -> Case:
        """Take `case` as the new state; `title` is what Undo will name."""
        self.project.must_write()
        changed = self.file.apply(title, case)
        self._note(title)
        return changed

    def pin(
        self, result: Result, *, question: str | None = None, contrary: bool | None = None, **more: Any
    ) -> Evidence:
        """Add a result as evidence, with its figure."""
        fields = result.evidence() | {"question": question} | more
        if contrary is not None:
            fields["contrary"] = contrary
        return self.pin_fields(fields)

    def pin_fields(self, fields: dict[str, Any]) -> Evidence:
        """Add evidence from the fields that `add_evidence` takes; `figure` is PNG or SVG bytes."""
        self.project.must_write()
        case, piece = add_evidence(self.case, **fields)
        if piece.figure:
            write_atomic(self.figures_folder / piece.figure, fields["figure"])
        self.change(f"Add evidence {piece.id}", case)
        return piece

    def undo(self) -> str | None:
        return self._step(self.file.undo(), "Undo")

    def redo(self) -> str | None:
        return self._step(self.file.redo(), "Redo")

    def _step(self, title: str | None, verb: str) -> str | None:
        if title is not None:
            self._note(f"{verb}: {title}")
        return title

    def _note(self, title: str) -> None:
        self.artefact = self.project.renew(self.artefact)
        self.project.log.append("case changed", case=self.artefact.id, change=title, digest=self.artefact.digest)


def create_case(project: Project, title: str, author: str, **fields: Any) -> OpenCase:
    """A new case whose subjects are the project's models."""
    project.must_write()
    if not title.strip() or not author.strip():
        raise AuditorError("A case needs a title, and an author who answers for it.", "Give both.")
    subjects = tuple(
        Subject(name=a.name, kind="model", digest=a.digest, files=a.meta.get("files", {}))
        for a in project.artefacts("model")
    )
    started = {"subjects": subjects, "environment": environment(), "claimed_start": now(), "claimed_time": now()}
    case = checked(Case, title=title, author=author).changed(**(started | fields))
    path = project.new_path("case", title)
    file = CaseFile.create(path, case)
    try:
        return OpenCase(project, project.add("case", title, path), file)
    except AuditorError:
        path.unlink()  # a case that the project does not know would lie in the way of the next of its name
        raise


def open_case(project: Project, ref: str = "") -> OpenCase:
    """The case that `ref` names, or the newest one."""
    artefact = project.find(ref, "case") if ref else _newest(project)
    return OpenCase(project, artefact, CaseFile.open(artefact.path))


def checked(kind: type[R], **fields: Any) -> R:
    """A question, finding or case of these fields; AuditorError says which of them does not fit."""
    try:
        return kind(**fields)
    except ValidationError as error:
        told = f"This is not a {kind.__name__.lower()} that can be kept: {first_fault(error)}."
        raise AuditorError(told, "Change it and try again.") from None


def _newest(project: Project) -> Artefact:
    cases = project.artefacts("case")
    if not cases:
        raise AuditorError("The project has no case yet.", "Start one: auditor case new, or “New case…” in the window.")
    return cases[-1]
