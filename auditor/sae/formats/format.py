"""What a format owes the list of formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from auditor.sae.clt import CrossLayerTranscoder
    from auditor.sae.sae import Sae

Dictionary: TypeAlias = "Sae | CrossLayerTranscoder"


@dataclass(frozen=True)
class Format:
    """One tool's way of keeping dictionaries on disk.

    `recognise` tells by names and first bytes whether a path is one dictionary of this format; `read` gives it, with
    the tool's conventions folded into canonical weights and what is lost by that in `Sae.original`; `write` makes a new
    path of this format, or is None where the format is only read. `parts` lists the dictionaries of a folder that holds
    several in files side by side (folders of folders are searched anyway).
    """

    name: str
    title: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path], Dictionary]
    write: Callable[[Dictionary, Path], None] | None = None
    parts: Callable[[Path], list[Path]] | None = None
