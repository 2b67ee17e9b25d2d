"""The formats of dictionaries, one file each; a new one is a new file and one line here.

Nothing here loads torch before a dictionary is looked at.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.base.errors import AuditorError
from auditor.base.registry import Registry
from auditor.sae.formats.format import Format

if TYPE_CHECKING:
    from auditor.sae.formats.format import Dictionary

NAMES = (
    "saelens",
    "sparsify",
    "dictionary_learning",
    "gemma_scope",
    "circuit_tracer",
    "openai",
    "prisma",
    "llama_scope",
    "llamascopium",
    "crosscoder",
    "saev",
)
WRITTEN = ("saelens", "sparsify", "dictionary_learning", "gemma_scope", "circuit_tracer")
_DEEPEST, _MOST_FOLDERS = 6, 20_000


@cache
def formats() -> Registry[Format]:
    """All formats, in the order in which a path is asked for them."""
    found: Registry[Format] = Registry("format of dictionaries")
    for name in NAMES:
        held: Format = importlib.import_module(f"auditor.sae.formats.{name}").FORMAT
        found.add(held.name, held)
    return found


def recognise(path: Path) -> Format | None:
    """The format of the one dictionary at `path`, by names and first bytes; None where it is none of them."""
    return next((held for held in map(formats().get, NAMES) if held.recognise(path)), None)


def dictionaries_in(path: Path) -> dict[str, tuple[Path, Format]]:
    """Every dictionary at or below `path`: its name (the path relative to `path`) → where it is, and its format."""
    return {
        "" if place == path else place.relative_to(path).as_posix(): (place, held) for place, held in _found(path, 0)
    }


def read(path: Path, format: str = "") -> Dictionary:
    """The one dictionary at `path`, in the format named or the one that it is recognised by.

    AuditorError where there is none, where there are several, and for what the format's own `read` refuses.
    """
    if not path.exists():
        raise AuditorError(f"There is no dictionary at “{path}”.", "Check the path.")
    if format:
        return formats().get(format).read(path)
    if (found := recognise(path)) is not None:
        return found.read(path)
    held = dictionaries_in(path) if path.is_dir() else {}
    if len(held) == 1:
        place, only = next(iter(held.values()))
        return only.read(place)
    if held:
        names = ", ".join(list(held)[:6]) + (", …" if len(held) > 6 else "")
        raise AuditorError(f"“{path.name}” holds {len(held)} dictionaries: {names}.", "Choose one of them.")
    raise AuditorError(
        f"“{path.name}” is not a dictionary of a format that is read.",
        f"Formats: {', '.join(NAMES)}; each needs its settings beside its weights.",
    )


def _found(path: Path, depth: int) -> Iterator[tuple[Path, Format]]:
    held = recognise(path)
    if held is not None:
        yield path, held
        return
    if not path.is_dir():
        return
    for each in map(formats().get, NAMES):
        inside = each.parts(path) if each.parts is not None else []
        if inside:
            yield from ((place, each) for place in inside)
            return
    if depth < _DEEPEST:
        for folder in sorted(_folders(path)):
            yield from _found(folder, depth + 1)


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    if len(found) > _MOST_FOLDERS:
        raise AuditorError(f"“{path.name}” holds {len(found):,} folders.", "Choose the folder of the dictionaries.")
    return found
