"""What a project holds: its artefacts and the runs that made them, in one SQLite file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from auditor.base.errors import AuditorError
from auditor.base.files import no_more_files
from auditor.base.paths import shown
from auditor.project.migrations import migrate

_BEGUN_SINCE = 2  # the first version of the schema that has the table
_ROOM = 1 << 20  # SQLite writes a page, its log and an index of the log; less than this free is a full disk
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Artefact:
    """One file or folder that a run made or a person brought: `path` is absolute, `digest` its SHA-256."""

    id: str
    kind: str
    name: str
    path: Path
    digest: str
    created: str
    run: str | None
    meta: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """How an artefact came to be: verb, settings, digests of what went in, versions, times, and how it ended."""

    id: str
    verb: str
    config: dict[str, Any]
    inputs: dict[str, str]
    outputs: list[str]
    environment: dict[str, str]
    status: str
    started: str
    ended: str
    message: str


class Catalogue:
    """Reads and writes the catalogue of the project in `folder`; each call is its own transaction, from any thread."""

    def __init__(self, folder: Path, writable: bool) -> None:
        self.folder = folder
        self.writable = writable
        self.path = folder / "catalogue.sqlite"
        if writable:
            with self._open() as db:
                migrate(db)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        mode = "rwc" if self.writable else "ro"
        if not self.writable and not os.access(self.folder, os.W_OK):
            mode += "&immutable=1"  # on a read-only medium SQLite cannot make the files that readers share
        try:
            db = sqlite3.connect(f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=10, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise self._told(error) from error
        try:
            db.row_factory = sqlite3.Row
            if self.writable:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
            yield db
        except sqlite3.DatabaseError as error:
            raise self._told(error) from error
        finally:
            db.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A connection on which all statements take effect together, or none does."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    def _told(self, error: sqlite3.DatabaseError) -> AuditorError:
        name, code = self.folder.name, getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind of fault
        match code:
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if _room(self.folder) < _ROOM:
                return AuditorError(
                    f"The disk is full: the catalogue of “{name}” could not be written.",
                    "Free some room, then start again.",
                )
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR if not _may_open():
                return no_more_files()
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return AuditorError(f"Another program is writing to the catalogue of “{name}”.", "Try again.")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return AuditorError(
                    f"The catalogue of “{name}” may not be written.", "Choose a folder in which you may write."
                )
        return self._damaged(str(error))

    def _damaged(self, how: str) -> AuditorError:
        return AuditorError(
            f"The catalogue of “{self.folder.name}” is damaged: {how}.",
            "Take the project from a backup, or make a new one and open its artefacts again.",
        )

    def artefacts(self, kind: str | None = None) -> list[Artefact]:
        """All artefacts, or those of one kind, oldest first."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM artefacts ORDER BY created, rowid").fetchall()
        return [self._read(self._artefact, row) for row in rows if kind in (None, row["kind"])]

    def add(self, kind: str, name: str, path: Path, digest: str, run: str | None, meta: dict[str, Any]) -> Artefact:
        """Register what lies at `path`; the same path again replaces its entry."""
        held = path.resolve()
        stored = held.relative_to(self.folder).as_posix() if held.is_relative_to(self.folder) else str(held)
        entry = (uuid.uuid4().hex[:12], kind, name, stored, digest, now(), run, json.dumps(meta))
        with self._changing() as db:
            db.execute("DELETE FROM artefacts WHERE path = ?", (stored,))
            db.execute("INSERT INTO artefacts VALUES (?,?,?,?,?,?,?,?)", entry)
        return Artefact(entry[0], kind, name, held, digest, entry[5], run, meta)

    def set_digest(self, artefact: str, digest: str) -> None:
        with self._open() as db:
            db.execute("UPDATE artefacts SET digest = ? WHERE id = ?", (digest, artefact))

    def set_meta(self, artefact: str, meta: dict[str, Any]) -> None:
        with self._open() as db:
            db.execute("UPDATE artefacts SET meta = ? WHERE id = ?", (json.dumps(meta), artefact))

    def move(self, artefact: str, path: Path) -> None:
        """Note that an artefact lies elsewhere; its digest stays what it was."""
        with self._open() as db:
            db.execute("UPDATE artefacts SET path = ? WHERE id = ?", (str(path), artefact))

    def copy_to(self, target: Path, leave_out: tuple[str, ...], roots: tuple[Path, ...]) -> None:
        """A copy of the catalogue for another machine: without the artefacts of the kinds in `leave_out`, and without
        this machine's folders `roots` in paths and settings. Runs that never ended are left out."""
        with self._open() as db:
            db.execute("VACUUM INTO ?", (str(target),))
        with contextlib.closing(sqlite3.connect(target)) as copy, copy:
            copy.executemany("DELETE FROM artefacts WHERE kind = ?", [(kind,) for kind in leave_out])
            copy.execute("DELETE FROM runs WHERE status = 'running'")
            copy.execute("DELETE FROM begun")
            for root in roots:
                copy.execute("UPDATE artefacts SET path = replace(path, ?, '')", (f"{root}/",))
                copy.execute("UPDATE runs SET config = replace(config, ?, '')", (f"{root}/",))
            copy.commit()
            copy.execute("PRAGMA journal_mode=DELETE")

    def forget(self, artefact: str) -> None:
        """Take an entry out; what it names stays on the disk."""
        with self._open() as db:
            db.execute("DELETE FROM artefacts WHERE id = ?", (artefact,))

    def rename(self, artefact: str, name: str) -> None:
        with self._open() as db:
            db.execute("UPDATE artefacts SET name = ? WHERE id = ?", (name, artefact))

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM runs ORDER BY started, rowid").fetchall()
        return [self._read(_run, row) for row in rows]

    def begin_run(self, verb: str, config: dict[str, Any], environment: dict[str, str]) -> str:
        """Note that a run began; its id."""
        run = uuid.uuid4().hex[:12]
        row = (run, verb, json.dumps(config), json.dumps(environment), now())
        with self._open() as db:
            db.execute(
                "INSERT INTO runs (id, verb, config, inputs, environment, status, started)"
                " VALUES (?,?,?,'{}',?,'running',?)",
                row,
            )
        return run

    def begin_at(self, run: str, place: Path, config: dict[str, Any]) -> None:
        """Note that a run works at `place` (of the project's folder), and the settings that would go on there."""
        stored = self._stored(place)
        with self._open() as db:
            db.execute(
                "INSERT INTO begun (place, run, config) VALUES (?, ?, ?)"
                " ON CONFLICT (place) DO UPDATE SET run = excluded.run, config = excluded.config",
                (stored, run, json.dumps(config)),
            )

    def spent(self, place: Path) -> dict[str, Any]:
        """What was noted of the work that was begun at `place`; empty where nothing was, or it is damaged."""
        with self._open() as db:
            row = db.execute("SELECT spent FROM begun WHERE place = ?", (self._stored(place),)).fetchone()
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            found = json.loads(row["spent"])
            return found if isinstance(found, dict) else {}
        return {}

    def set_spent(self, place: Path, spent: dict[str, Any]) -> None:
        """Note it, for whoever goes on there."""
        with self._open() as db:
            db.execute("UPDATE begun SET spent = ? WHERE place = ?", (json.dumps(spent), self._stored(place)))

    def _stored(self, place: Path) -> str:
        return place.relative_to(self.folder).as_posix()

    def begun(self) -> dict[Path, RunRecord]:
        """The places at which a run works, or worked and was not done: each with the newest such run, whose settings
        are those that would go on there. A damaged entry tells of nothing."""
        query = "SELECT runs.*, begun.place, begun.config AS goes_on FROM begun JOIN runs ON runs.id = begun.run"
        with self._open() as db:
            known = int(db.execute("PRAGMA user_version").fetchone()[0]) >= _BEGUN_SINCE
            rows = db.execute(query).fetchall() if known else []
        found: dict[Path, RunRecord] = {}
        for row in rows:
            with contextlib.suppress(TypeError, ValueError, RecursionError):
                place, config = self.folder / row["place"], json.loads(row["goes_on"])
                if isinstance(config, dict):
                    found[place] = replace(_run(row), config=config)
        return found

    def forget_begun(self, places: Iterable[Path]) -> None:
        """Nothing is left at these places."""
        stored = [(self._stored(place),) for place in places]
        with self._changing() as db:
            db.executemany("DELETE FROM begun WHERE place = ?", stored)

    def end_broken(self) -> list[str]:
        """Note of the runs that never ended, when no program runs any, that they failed; their ids."""
        with self._open() as db:
            broken = [str(row["id"]) for row in db.execute("SELECT id FROM runs WHERE status = 'running'")]
            db.execute(
                "UPDATE runs SET status = 'failed', inputs = '{}', outputs = '[]', message = ?, ended = ? "
                "WHERE status = 'running'",
                ("the program ended before it did", now()),
            )
        return broken

    def end_run(self, run: str, status: str, inputs: dict[str, str], outputs: list[str], message: str = "") -> None:
        """Note what a run read (name to digest), what it made (ids), and how it ended: done, failed or cancelled."""
        with self._changing() as db:
            db.execute(
                "UPDATE runs SET status = ?, inputs = ?, outputs = ?, message = ?, ended = ? WHERE id = ?",
                (status, json.dumps(inputs), json.dumps(outputs), shown(message), now(), run),
            )
            if status == "done":
                db.execute("DELETE FROM begun WHERE run = ?", (run,))

    def setting(self, name: str) -> str | None:
        with self._open() as db:
            row = db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["value"])

    def set_setting(self, name: str, value: str) -> None:
        with self._open() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def _artefact(self, row: sqlite3.Row) -> Artefact:
        return Artefact(
            row["id"], row["kind"], row["name"], self.folder / str(row["path"]), row["digest"], row["created"],
            row["run"], _plain(row["meta"], dict),
        )  # fmt: skip

    def _read(self, entry: Callable[[sqlite3.Row], _Entry], row: sqlite3.Row) -> _Entry:
        try:
            return entry(row)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"the entry “{row['id']}” cannot be read") from error


def _may_open() -> bool:
    """Whether the system lets one more file be open, which SQLite does not tell."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


def _room(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def now() -> str:
    """This machine's claimed time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _run(row: sqlite3.Row) -> RunRecord:
    return RunRecord(
        id=row["id"], verb=row["verb"], config=_plain(row["config"], dict), inputs=_plain(row["inputs"], dict),
        outputs=_plain(row["outputs"], list), environment=_plain(row["environment"], dict), status=row["status"],
        started=row["started"], ended=row["ended"], message=row["message"],
    )  # fmt: skip


def _plain(text: Any, kind: type) -> Any:
    """The dictionary or list in a JSON text; ValueError or RecursionError where there is none."""
    value = json.loads(str(text))
    if not isinstance(value, kind):
        raise ValueError(f"no {kind.__name__}")
    return value
