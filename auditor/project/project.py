"""The project folder: create, open (one writer, many readers), register artefacts, find them again."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

import auditor
from auditor.base.config import ARTEFACT_KINDS
from auditor.base.digest import digest_folder, sha256_file
from auditor.base.errors import AuditorError
from auditor.base.files import told
from auditor.base.paths import at_home, is_text, shown
from auditor.project.catalogue import Artefact, Catalogue, RunRecord
from auditor.project.log import Log

_PLACES = {  # kind: (folder, suffix)
    "model": ("models", ""),
    "samples": ("samples", ""),
    "store": ("stores", ".store"),
    "dictionary": ("dictionaries", ".sae"),
    "index": ("indices", ".index"),
    "result": ("results", ".json"),
    "case": ("cases", ".case.json"),
    "bundle": ("bundles", ".audit.zip"),
}
_LONGEST = 60  # characters of a name that go into its file's: a file name holds 255 bytes
_ending: set[Path] = set()  # closed here, while work in them is still stopping
_LIBRARIES = ("torch", "transformers", "numpy", "h5py", "safetensors", "scikit-learn", "scipy")


def is_project(folder: Path) -> bool:
    """Whether a project lies in this folder."""
    return (folder / "catalogue.sqlite").is_file()


class Project:
    """An open project. `writable` is False when another program holds it, or when it was opened for reading."""

    def __init__(self, folder: Path, lock: filelock.FileLock | None) -> None:
        self.folder = folder
        self._lock = lock
        self._working, self._closing, self._turn = 0, False, threading.Lock()
        self.writable = lock is not None
        self.catalogue = Catalogue(folder, self.writable)
        self.log = Log(folder / "log.jsonl", self.writable)

    @classmethod
    def create(cls, folder: Path | str, name: str = "") -> Project:
        """Make a project in a new or empty folder. AuditorError when something else lies there."""
        path = at_home(folder).resolve()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise AuditorError(f"“{path}” is not an empty folder.", "Choose a new folder for the project.")
        there = path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditorError(f"“{path}” cannot be made: {error.strerror}.", "Choose another folder.") from error
        lock = _hold(path)
        try:
            project = cls(path, lock)
            project.catalogue.set_setting("name", name or path.name)
            project.log.append("project created", name=name or path.name, version=auditor.__version__)
        except AuditorError:
            if lock is not None:
                lock.release()
            for item in path.iterdir():  # it was empty, so all in it is half a project
                item.unlink()
            if not there:
                path.rmdir()
            raise
        return project

    @classmethod
    def open(cls, folder: Path | str, write: bool = True) -> Project:
        """Open a project. While another program holds it, it opens for reading: look at `writable`. A run that a killed
        program left is noted as failed."""
        path = at_home(folder).resolve()
        if not is_project(path):
            raise AuditorError(
                f"“{path}” is not an Auditor project.", "Choose a project's folder, or create a new one."
            )
        if write and path in _ending:
            raise AuditorError(f"“{path.name}” is still being closed: a job in it stops.", "Try again in a moment.")
        lock = _hold(path) if write else None
        try:
            project = cls(path, lock)
        except AuditorError:
            if lock is not None:
                lock.release()
            raise
        if project.writable:
            with contextlib.suppress(AuditorError):  # on a full disk it can still be read
                for run in project.catalogue.end_broken():
                    project.log.append("run", id=run, status="failed", inputs={}, outputs=[])
        return project

    @functools.cached_property
    def name(self) -> str:
        """Read once: a window asks for it again and again, and a full disk stops even readers of the catalogue."""
        return self.catalogue.setting("name") or self.folder.name

    def artefacts(self, kind: str | None = None) -> list[Artefact]:
        return self.catalogue.artefacts(kind)

    def runs(self) -> list[RunRecord]:
        return self.catalogue.runs()

    def find(self, ref: str | Path, kind: str | None = None) -> Artefact:
        """The artefact with this id (or its beginning), name or path; the newest where names repeat."""
        held = self.artefacts(kind)
        text = str(ref)
        place = at_home(ref).resolve() if os.path.exists(at_home(ref)) else None
        for found in (
            [a for a in held if a.id == text],
            [a for a in held if a.name == text],
            [a for a in held if a.path == place],
            [a for a in held if len(text) >= 4 and a.id.startswith(text)],
        ):
            if found:
                return found[-1]
        names = ", ".join(artefact.name for artefact in held[-8:]) or "none yet"
        names += f" and {len(held) - 8} older ones" if len(held) > 8 else ""
        raise AuditorError(f"The project has no {kind or 'artefact'} called “{text}”.", f"There are: {names}.")

    def add(
        self,
        kind: str,
        name: str,
        path: Path | str,
        *,
        digest: str | None = None,
        run: str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Artefact:
        """Register an artefact; its digest is computed where it is not given."""
        self.must_write()
        if kind not in ARTEFACT_KINDS:
            raise ValueError(f"no artefact is a {kind!r}")
        place = Path(path)
        if not place.exists():
            raise AuditorError(f"“{place}” does not exist.", "Check the path.")
        if not is_text(place.resolve()):
            raise AuditorError(f"“{shown(place)}” cannot be kept: its name is no UTF-8.", "Rename the file or folder.")
        if digest is None:
            digest = digest_folder(place) if place.is_dir() else sha256_file(place)
        artefact = self.catalogue.add(kind, name, place, digest, run, meta or {})
        self.log.append("artefact", id=artefact.id, artefact_kind=kind, name=name, digest=digest, run=run or "")
        return artefact

    def renew(self, artefact: Artefact) -> Artefact:
        """Take the present digest of an artefact that people go on changing (a case)."""
        self.must_write()
        self.catalogue.set_digest(artefact.id, sha256_file(artefact.path))
        return self.find(artefact.id)

    def note(self, artefact: Artefact, **facts: Any) -> Artefact:
        """Put facts that were found later beside what is known of an artefact, which itself stays as it is."""
        self.must_write()
        self.catalogue.set_meta(artefact.id, {**artefact.meta, **facts})
        return self.find(artefact.id)

    def new_path(self, kind: str, name: str, suffix: str | None = None) -> Path:
        """A free path for a new artefact in the folder of its kind, which exists afterwards."""
        stem, ending = self._place(kind, name, suffix)
        path = stem.with_name(f"{stem.name}{ending}")
        number = 2
        while path.exists():
            path = stem.with_name(f"{stem.name}-{number}{ending}")
            number += 1
        return path

    def folder_of(self, kind: str) -> Path:
        """The folder in which artefacts of a kind are made, whether it is there or not."""
        return self.folder / _PLACES[kind][0]

    def keyed_path(self, kind: str, name: str, key: str) -> Path:
        """The path for an artefact with this name and key, whether it is taken or not."""
        stem, ending = self._place(kind, name, None)
        return stem.with_name(f"{stem.name}-{key}{ending}")

    def _place(self, kind: str, name: str, suffix: str | None) -> tuple[Path, str]:
        self.must_write()
        place, usual = _PLACES[kind]
        folder = self.folder / place
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise told(error, folder) from error
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_LONGEST] or kind
        return folder / stem, usual if suffix is None else suffix

    def must_write(self) -> None:
        """AuditorError while another program holds this project, or where nothing may be written."""
        if not self.writable and not os.access(self.folder, os.W_OK):
            raise AuditorError(
                f"“{self.name}” lies where nothing may be written, so it can only be read.",
                "Copy the project to a folder in which you may write.",
            )
        if not self.writable:
            raise AuditorError(
                f"“{self.name}” is open in another program, so it can only be read here.",
                "Close it there and open it again.",
            )

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, the project can be closed but not let go of: work that is stopped still keeps what it reached."""
        with self._turn:
            self._working += 1
        try:
            yield
        finally:
            with self._turn:
                self._working -= 1
                if self._closing and not self._working:
                    self._let_go()

    def close(self) -> None:
        """Give the project back to others, once what is at work in it has ended."""
        with self._turn:
            self._closing = True
            if not self._working:
                self._let_go()
            elif self._lock is not None:
                _ending.add(self.folder)

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        _ending.discard(self.folder)
        self.writable = self.catalogue.writable = self.log.writable = False

    def __enter__(self) -> Project:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def environment() -> dict[str, str]:
    """Versions that a run depends on, by name."""
    found = {"auditor": auditor.__version__, "python": platform.python_version(), "platform": sys.platform}
    found["machine"] = platform.machine()
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _hold(folder: Path) -> filelock.FileLock | None:
    lock = filelock.FileLock(folder / ".lock", thread_local=False)  # the last work in it may end in another thread
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    except OSError:
        return None  # a read-only medium: the project can still be read
    return lock
