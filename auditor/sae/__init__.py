"""Dictionaries: sparse autoencoders, the loop that trains them, and the folders they are kept in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.sae.formats.format import Dictionary
    from auditor.sae.sae import Sae

__all__ = ["Sae", "load", "load_any"]


def load(path: Path | str, format: str = "") -> Sae:
    """The dictionary at `path`: ours, or another tool's (`auditor.sae.formats`), recognised or in the `format` named.

    AuditorError when it is not one, and for a cross-layer transcoder (`load_any` gives those too).
    """
    from auditor.base.errors import AuditorError
    from auditor.sae.sae import Sae

    found = load_any(path, format)
    if not isinstance(found, Sae):
        raise AuditorError(
            f"“{Path(path).name}” is a cross-layer transcoder, which this does not work with.",
            "Choose a dictionary of one hook point.",
        )
    return found


def load_any(path: Path | str, format: str = "") -> Dictionary:
    """As `load`, cross-layer transcoders included."""
    from auditor.sae.formats import read

    return read(Path(path), format)


def __getattr__(name: str) -> Any:
    # torch takes a second to import, and the training form needs only TrainConfig from this package.
    if name == "Sae":
        from auditor.sae.sae import Sae

        return Sae
    raise AttributeError(name)
