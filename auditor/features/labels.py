"""What people call the features: labels and notes of one project, with author, time, history and undo, in SQLite.

Nothing is overwritten: a label is a new row, and undo is a row that takes back an earlier one. The file is written
with WAL and synchronous=FULL, so what `set` has returned from outlives a kill and a power cut.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from auditor.base.errors import AuditorError

Kind = Literal["label", "note", "star"]
KINDS: tuple[Kind, ...] = ("label", "note", "star")
MAX_TEXT = 4_000
_VERSION = 1
_CURRENT = """SELECT feature, text, max(number) FROM entry
    WHERE dictionary = ? AND kind = ? AND undoes IS NULL
    AND number NOT IN (SELECT undoes FROM entry WHERE undoes IS NOT NULL) GROUP BY feature"""


@dataclass(frozen=True)
class LabelEntry:
    """One change: `undoes` is the number of the change that it takes back, or None. `time` in seconds since 1970."""

    number: int
    feature: int
    kind: str
    text: str
    author: str
    time: float
    undoes: int | None = None


class Labels:
    """Labels of the features of one dictionary (by its digest) in the file `path`, made where it is missing."""

    def __init__(self, path: Path | str, dictionary: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self.path, self.dictionary, self._clock = Path(path), dictionary, clock
        self._lock = threading.Lock()
        self.changes = 0
        try:
            asked = "" if os.access(self.path.parent, os.W_OK) else "?mode=ro&immutable=1"  # a read-only medium
            self._db = sqlite3.connect(f"{self.path.absolute().as_uri()}{asked}", uri=True, check_same_thread=False,
                                       isolation_level=None, timeout=10)
            if not asked:
                self._prepare()
        except sqlite3.Error as error:
            if shutil.disk_usage(self.path.parent).free < 1 << 20:
                raise AuditorError(f"The disk is full: “{self.path.name}” could not be opened.",
                                   "Free some room, then start again.") from None
            raise self._damaged(error) from None

    def set(self, feature: int, text: str, author: str, kind: Kind = "label") -> LabelEntry:
        """Give the feature this label; an empty text takes the label away. The change can be undone."""
        text = " ".join(text.split()) if kind == "label" else text.strip()
        if len(text) > MAX_TEXT:
            raise AuditorError(f"The {kind} is {len(text)} characters long.", f"Use at most {MAX_TEXT}.")
        if kind not in KINDS:
            raise AuditorError(f"“{kind}” is not a kind of label.", f"Known are {', '.join(KINDS)}.")
        return self._add(feature, kind, text, author, None)

    def undo(self, author: str, feature: int | None = None) -> LabelEntry | None:
        """Take back the newest change (of `feature`, if given) that is not undone yet; None where there is none."""
        where, values = ("AND feature = ?", [feature]) if feature is not None else ("", [])
        rows = self._rows(
            f"""SELECT number, feature, kind FROM entry WHERE dictionary = ? AND undoes IS NULL {where}
            AND number NOT IN (SELECT undoes FROM entry WHERE undoes IS NOT NULL)
            ORDER BY number DESC LIMIT 1""",
            [self.dictionary, *values], (int, int, str),
        )  # fmt: skip
        return self._add(rows[0][1], rows[0][2], "", author, rows[0][0]) if rows else None

    def get(self, feature: int, kind: Kind = "label") -> str:
        """The text that holds now, "" where there is none."""
        return self.all(kind).get(feature, "")

    def all(self, kind: Kind = "label") -> dict[int, str]:
        """Feature → text that holds now, without the empty ones."""
        rows = self._rows(_CURRENT, (self.dictionary, kind), (int, str, int))
        return {feature: text for feature, text, _ in rows if text}

    def history(self, feature: int | None = None) -> list[LabelEntry]:
        """Every change, the oldest first."""
        where, values = ("AND feature = ?", [feature]) if feature is not None else ("", [])
        rows = self._rows(
            f"SELECT number, feature, kind, text, author, time, undoes FROM entry WHERE dictionary = ? {where} "
            "ORDER BY number", [self.dictionary, *values], (int, int, str, str, str, float, (int, type(None))),
        )  # fmt: skip
        return [LabelEntry(*row) for row in rows]

    def state(self) -> tuple[int, int]:
        """Changes whenever this process or another one has written: for readers that keep a copy."""
        with self._lock:
            return self.changes, int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _add(self, feature: int, kind: str, text: str, author: str, undoes: int | None) -> LabelEntry:
        moment = self._clock()
        with self._lock:
            try:
                number = self._db.execute(
                    "INSERT INTO entry (dictionary, feature, kind, text, author, time, undoes) VALUES (?,?,?,?,?,?,?)",
                    (self.dictionary, int(feature), kind, text, author, moment, undoes),
                ).lastrowid
            except sqlite3.Error as error:
                raise AuditorError(f"The {kind} of feature {feature} could not be saved ({error}).",
                                   "Look whether the project is open for writing and the disk has room.") from None
            self.changes += 1
        assert number is not None
        return LabelEntry(number, int(feature), kind, text, author, moment, undoes)

    def _rows(self, sql: str, values: Sequence[Any], types: Sequence[type | tuple[type, ...]]) -> list[tuple[Any, ...]]:
        """The rows of a query, whose cells must be of `types`: a project of others may hold anything here."""
        try:
            with self._lock:
                rows = self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeError) as error:
            raise self._damaged(error) from None
        if not all(isinstance(cell, kind) for row in rows for cell, kind in zip(row, types, strict=True)):
            raise self._damaged("a label is no text")
        return rows

    def _damaged(self, how: object) -> AuditorError:
        return AuditorError(f"The labels in “{self.path.name}” cannot be read ({how}).",
                            "Take the file from a backup, or move it away to start without labels.")

    def _prepare(self) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            self._db.close()
            raise AuditorError(f"“{self.path.name}” was written by a newer version of Auditor.", "Update Auditor.")
        self._db.execute("PRAGMA trusted_schema = OFF")
        self._db.execute("PRAGMA synchronous = FULL")
        if version == _VERSION:
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(
            f"""BEGIN IMMEDIATE;
            CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY AUTOINCREMENT, dictionary TEXT NOT NULL,
                feature INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
                time REAL NOT NULL, undoes INTEGER REFERENCES entry (number));
            CREATE INDEX IF NOT EXISTS entry_feature ON entry (dictionary, kind, feature);
            PRAGMA user_version = {_VERSION};
            COMMIT;"""
        )
