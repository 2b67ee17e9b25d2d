"""The formats in which other programs keep activations, one file each; a new one is a new file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.store.formats.source import Source

# Folders, in the order in which one is asked for them: module and class. Single files are arrays.
FOLDERS = {"saelens": "CachedActivations", "saev": "Shards", "llamascopium": "Chunks"}


@dataclass(frozen=True)
class Format:
    """A format of folders: whether one is of it, by names alone, and its opening."""

    name: str
    title: str
    recognise: Callable[[Path], bool]
    open: Callable[[Path], Source]


@cache
def formats() -> tuple[Format, ...]:
    """All formats of folders."""
    found = []
    for name, held in FOLDERS.items():
        module = import_module(f"auditor.store.formats.{name}")
        found.append(Format(name, module.TITLE, module.recognise, getattr(module, held)))
    return tuple(found)


def recognise(path: Path) -> Format | None:
    """The format of the activations in the folder `path`; None where it is none of them."""
    return next((held for held in formats() if held.recognise(path)), None)
