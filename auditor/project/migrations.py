"""The catalogue's schema as numbered steps; a project made by an older version is brought forward when it is opened."""

from __future__ import annotations

import sqlite3

from auditor.base.errors import AuditorError

# Each step brings the schema from its position to the next; steps are only ever added.
STEPS: tuple[str, ...] = (
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, verb TEXT NOT NULL, config TEXT NOT NULL, inputs TEXT NOT NULL,
        outputs TEXT NOT NULL DEFAULT '[]', environment TEXT NOT NULL, status TEXT NOT NULL,
        started TEXT NOT NULL, ended TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT ''
    );
    CREATE TABLE artefacts (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, digest TEXT NOT NULL,
        created TEXT NOT NULL, run TEXT REFERENCES runs(id), meta TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    """,
    # Work that was stopped or killed is found again, and gone on with, by the place that it left something at.
    """
    CREATE TABLE begun (place TEXT PRIMARY KEY, run TEXT NOT NULL, config TEXT NOT NULL);
    """,
    # What was planned, and what earlier runs took, is told beside what the last one takes.
    """
    ALTER TABLE begun ADD COLUMN spent TEXT NOT NULL DEFAULT '{}';
    """,
)
VERSION = len(STEPS)


def migrate(db: sqlite3.Connection) -> None:
    """Bring the catalogue to this version's schema; AuditorError when a newer version made it."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise AuditorError(
            f"This project was made by a newer version (catalogue {found}, this program knows {VERSION}).",
            "Open it with that version, or update this one.",
        )
    for number in range(found, VERSION):
        db.executescript(f"BEGIN; {STEPS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
