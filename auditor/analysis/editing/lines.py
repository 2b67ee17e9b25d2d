"""Edits on a line, “ablate blocks.5.z mean head=2”, and lists of them in a TOML or JSON file."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from auditor.analysis.editing import at_points, edges, features, freezing, weights
from auditor.analysis.editing.spec import KINDS, EditSpec
from auditor.base.config import describe, read_config
from auditor.base.errors import AuditorError

# Importing these declares the kinds.
DECLARING = (at_points, features, weights, edges, freezing)
_MOST = 1000
_MOST_BYTES = 1 << 20


def parse_edit(line: str) -> EditSpec:
    """A line as a spec: the kind, what it acts on, then settings as name=value in any order; a word that is one of a
    setting's choices needs no name. AuditorError says which word is wrong."""
    try:
        words = shlex.split(line)
    except ValueError:
        raise AuditorError(f"The edit “{line}” has a quotation mark too few.", "Close what you opened.") from None
    if not words:
        raise AuditorError("An edit is empty.", f"Begin with one of: {', '.join(KINDS.names())}.")
    kind = KINDS.get(words[0])
    values: dict[str, Any] = {}
    free = list(kind.arguments)
    for word in words[1:]:
        name, sign, value = word.partition("=")
        if word == "->":
            continue
        if sign and name in kind.model_fields:
            values[name] = value
        elif chosen := _choice(kind, word, values):
            values[chosen] = word
        elif free:
            values[free.pop(0)] = word
        else:
            settings = ", ".join(name for name in kind.model_fields if name not in kind.arguments)
            raise AuditorError(
                f"“{word}” says nothing to “{kind.kind}” (in “{line}”).", f"Its settings are: {settings}."
            )
    try:
        return read_config(kind, values)
    except AuditorError as error:
        raise AuditorError(f"The edit “{line}”: {error.message}", error.hint) from None


def written(edit: EditSpec) -> str:
    """The line that gives this edit again; what stands at its default is left out."""
    words = [edit.kind]
    for name, info in type(edit).model_fields.items():
        value = getattr(edit, name)
        if name in edit.arguments:
            words.append(shlex.quote(str(value)))
        elif value != info.default:
            words.append(str(value) if describe(info)["choices"] else f"{name}={shlex.quote(_text(value))}")
    return " ".join(words)


def read_edits(lines: Sequence[str]) -> list[EditSpec]:
    """Lines, and the edits of the .toml and .json files among them, in order.

    TOML: tables ``[[edit]]`` with `kind` and settings. JSON: a list of such objects, or of lines.
    """
    found: list[EditSpec] = []
    for line in lines:
        found += _file(Path(line.strip())) if is_list(line) else [parse_edit(line)]
    return found


def is_list(line: str) -> bool:
    """Whether a line names a file of edits: a path that ends in .toml or .json."""
    name = line.strip()
    ends = Path(name).suffix.lower() in (".toml", ".json")
    return ends and (" " not in name or name.split()[0] not in KINDS.names())


def _file(path: Path) -> Iterable[EditSpec]:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise AuditorError(f"“{path.name}” is no plain file.", "Choose the file of the edits.")
        if path.stat().st_size > _MOST_BYTES:
            raise AuditorError(f"“{path.name}” is too long for a list of edits.", "Choose the file of the edits.")
        text = path.read_text("utf-8")
        whole = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise AuditorError(f"“{path}” cannot be read: {error.strerror}.", "Choose another file of edits.") from error
    except (ValueError, RecursionError) as error:
        raise AuditorError(
            f"“{path.name}” is not sound {path.suffix[1:].upper()}: {error}.", "Correct it there."
        ) from error
    items = whole.get("edit") if isinstance(whole, dict) else whole
    if not isinstance(items, list) or not items or len(items) > _MOST:
        raise AuditorError(
            f"“{path.name}” holds no list of edits.",
            "Write [[edit]] tables in TOML, or a list of objects or lines in JSON.",
        )
    return [_item(path, number, item) for number, item in enumerate(items, 1)]


def _item(path: Path, number: int, item: Any) -> EditSpec:
    if isinstance(item, str):
        return parse_edit(item)
    if not isinstance(item, Mapping) or not isinstance(item.get("kind"), str):
        raise AuditorError(
            f"Edit {number} of “{path.name}” does not say its kind.", f"One of {', '.join(KINDS.names())}."
        )
    try:
        return read_config(KINDS.get(item["kind"]), {name: value for name, value in item.items() if name != "kind"})
    except AuditorError as error:
        raise AuditorError(f"Edit {number} of “{path.name}”: {error.message}", error.hint) from None


def _choice(kind: type[EditSpec], word: str, taken: Mapping[str, Any]) -> str | None:
    """The setting of which `word` is a choice, if it was not said yet."""
    for name, info in kind.model_fields.items():
        if name not in taken and word in (describe(info)["choices"] or ()):
            return name
    return None


def _text(value: Any) -> str:
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
