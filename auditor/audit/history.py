"""An open case on disk: every change is saved at once, and every change by a person can be undone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from auditor.audit.case import Case, now
from auditor.base.digest import sha256_file
from auditor.base.errors import AuditorError

KEPT = 200


@dataclass(frozen=True)
class Step:
    """One change: what was done, in words, and the case before it."""

    title: str
    before: Case


@dataclass
class CaseFile:
    """The case at `path` with its undo and redo; each change is on the disk before the call returns."""

    path: Path
    case: Case
    done: list[Step] = field(default_factory=list)
    undone: list[Step] = field(default_factory=list)
    _digest: str = ""

    @classmethod
    def create(cls, path: Path | str, case: Case) -> CaseFile:
        """Write a new case; AuditorError where the file exists."""
        if Path(path).exists():
            raise AuditorError(f"“{Path(path).name}” exists already.", "Open it, or choose another name.")
        opened = cls(Path(path), case)
        opened._write(case)
        return opened

    @classmethod
    def open(cls, path: Path | str) -> CaseFile:
        """Open the case at `path`."""
        case = Case.load(path)
        return cls(Path(path), case, _digest=sha256_file(path))

    def apply(self, title: str, case: Case, when: str = "") -> Case:
        """Make `case` the current one, with the claimed time set, and save it; `title` is what Undo will name."""
        before = self.case
        self._write(case.changed(claimed_time=when or now()))
        self.done = [*self.done[-KEPT + 1 :], Step(title, before)]
        self.undone = []
        return self.case

    def undo(self) -> str | None:
        """Go back one change and save; its title, or None where there is nothing to undo."""
        return self._step(self.done, self.undone)

    def redo(self) -> str | None:
        """Do the undone change again and save; its title, or None."""
        return self._step(self.undone, self.done)

    def _step(self, source: list[Step], target: list[Step]) -> str | None:
        if not source:
            return None
        step, current = source[-1], self.case
        self._write(step.before)
        source.pop()
        target.append(Step(step.title, current))
        return step.title

    def _write(self, case: Case) -> None:
        # Another program may have written the file since; its work must not be lost without a word.
        if self._digest and self.path.exists() and sha256_file(self.path) != self._digest:
            raise AuditorError(
                f"“{self.path.name}” was changed by another program since it was opened.",
                "Open the case again, then repeat the last change.",
            )
        case.save(self.path)
        self.case = case
        self._digest = sha256_file(self.path)
