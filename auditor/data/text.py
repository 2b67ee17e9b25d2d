"""Samples of text: plain files, JSON lines and CSV."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample

MAX_LINE_CHARACTERS = 64 << 20
MAX_BYTES = 8 << 30


def plain(path: Path, by: str) -> Iterator[Sample]:
    """One sample a paragraph (text between empty lines; each line where there are none), a line, or the whole file."""
    whole = _read(path)
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", whole.strip("\n"))
    if len(paragraphs) == 1:
        paragraphs = whole.splitlines()  # editors that wrap lines leave a paragraph on one line
    parts = {"line": whole.splitlines(), "file": [whole], "paragraph": paragraphs}[by]
    number = 0
    for part in parts:
        if part.strip():
            number += 1
            name = f"{path.stem}:{number}"
            yield Sample(id=name, text=part.strip("\n"), group=name, labels={"file": path.name})


def json_rows(path: Path, field: str) -> Iterator[Sample]:
    """One sample a line, an object with the text under `field`; ``id`` and ``group`` are taken, the rest are labels."""
    for number, row in objects(path):
        text = row.pop(field, None)
        if not isinstance(text, str):
            raise AuditorError(
                f"Line {number} of “{path.name}” has no text under “{field}”.",
                f"It has {', '.join(row) or 'nothing'}; name the right one, as in {path.name}?field=body.",
            )
        name = str(row.pop("id", f"{path.name.split('.')[0]}:{number}"))
        yield Sample(id=name, text=text, group=str(row.pop("group", name)), labels=row)


def csv_rows(path: Path, field: str) -> Iterator[Sample]:
    """One sample a row under a header; the column `field` is the text, ``id`` and ``group`` are taken if they exist."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            if field not in columns:
                raise AuditorError(
                    f"“{path.name}” has no column “{field}”.",
                    f"Its columns are {', '.join(columns)}; name one, as in {path.name}?field=body.",
                )
            for number, row in enumerate(reader, 1):
                labels = {str(key): value for key, value in row.items() if key is not None and value is not None}
                text = labels.pop(field, "")
                name = labels.pop("id", "") or f"{path.stem}:{number}"
                yield Sample(id=name, text=text, group=labels.pop("group", "") or name, labels=labels)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise _unreadable(path, error) from error


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(Line number, object) of a .jsonl or .jsonl.gz file; AuditorError names the line that is not an object."""
    read = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARACTERS), ""), 1):
                read += len(line)
                if read > MAX_BYTES:
                    raise AuditorError(f"“{path.name}” is larger than {MAX_BYTES >> 30} GiB.", "Cut it into parts.")
                if line.strip():
                    yield number, json_object(line, number, path.name)
    except (UnicodeDecodeError, EOFError, OSError, gzip.BadGzipFile) as error:
        raise _unreadable(path, error) from error


def json_object(line: str, number: int, name: str) -> dict[str, Any]:
    """The object on a line. AuditorError with its number otherwise."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise AuditorError(f"Line {number} of “{name}” is not a JSON object.", "Every line must be one object.")
    return {str(key): value for key, value in row.items()}


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AuditorError(f"“{path.name}” is larger than {MAX_BYTES >> 30} GiB.", "Cut it into parts.")
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> AuditorError:
    if isinstance(error, UnicodeDecodeError):
        return AuditorError(f"“{path.name}” is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.")
    return AuditorError(f"“{path.name}” is damaged or cannot be read.", "Copy it again.")
