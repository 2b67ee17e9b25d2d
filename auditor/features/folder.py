"""The outside of an index folder: its meta.json and its database, checked before anything else is read."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.features.layout import FILES, FORMAT, REBUILD, VERSION

_MAX_META = 16 << 20
_MAX_FEATURES = 1 << 26
_MAX_BINS = 10_000


def read_meta(path: Path) -> bytes:
    """The bytes of meta.json; AuditorError where the folder has none."""
    file = path / "meta.json"
    if not file.is_file():
        raise AuditorError(f"“{path}” is not a feature index: it has no meta.json.",
                           "Choose a folder that ends in .index, or build one from a store and a dictionary.")
    if file.stat().st_size > _MAX_META:
        raise AuditorError(f"“{path.name}/meta.json” is too large to be an index's.", REBUILD)
    return file.read_bytes()


def checked_meta(path: Path, data: bytes) -> dict[str, Any]:
    """meta.json parsed, its format, version, counts and file sizes checked; AuditorError names what is wrong."""
    damaged = AuditorError(f"“{path.name}/meta.json” is damaged.", REBUILD)
    try:
        meta = json.loads(data)
        if meta["format"] != FORMAT or not isinstance(meta["version"], int):
            raise damaged
        if meta["version"] > VERSION:
            raise AuditorError(f"“{path.name}” was written by a newer version of Auditor (format {meta['version']}; "
                               f"this one reads up to {VERSION}).", "Update Auditor, or build the index again here.")
        sizes = {name: int(meta["files"][name]["bytes"]) for name in FILES}
        whole = [int(meta[name]) for name in ("n_features", "bins", "window")]
        if not isinstance(meta["dictionary"]["digest"], str) or min(whole) < 1:
            raise damaged
        if whole[0] > _MAX_FEATURES or whole[1] > _MAX_BINS:
            raise damaged
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    for name, size in sizes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            seen = f"{file.stat().st_size} bytes" if file.is_file() else "missing"
            raise AuditorError(f"“{path.name}/{name}” is {seen}; it was written with {size} bytes.", REBUILD)
    return dict(meta)


def open_database(file: Path) -> sqlite3.Connection:
    """Read-only, with nothing in its schema that could run: no trigger, no view, no virtual table but `words`."""
    try:
        db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        # Bytes that are no UTF-8 must not stop the reading of the rest.
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        schema = db.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    except (sqlite3.Error, UnicodeError) as error:
        raise AuditorError(f"“{file.parent.name}/{file.name}” cannot be read ({error}).", REBUILD) from None
    for kind, name, sql in schema:
        text = (sql or "").upper()
        virtual = text.startswith("CREATE VIRTUAL") and not (name == "words" and "USING FTS5" in text)
        if kind not in ("table", "index") or virtual:
            db.close()
            raise AuditorError(f"“{file.parent.name}/{file.name}” holds a {kind} “{name}” that no index has.",
                               "Do not use this file; build the index again.")
    return db
