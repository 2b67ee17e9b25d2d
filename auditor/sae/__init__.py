"""Dictionaries: sparse autoencoders, the loop that trains them, and the folders they are kept in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.sae.sae import Sae

__all__ = ["Sae", "load"]


def load(path: Path | str) -> Sae:
    """The dictionary in the folder `path`: ours and SAELens', or sparsify's. AuditorError when it is not one."""
    from auditor.sae.formats import saelens, sparsify

    folder = Path(path)
    return sparsify.read(folder) if (folder / sparsify.WEIGHTS).is_file() else saelens.read(folder)


def __getattr__(name: str) -> Any:
    # torch takes a second to import, and the training form needs only TrainConfig from this package.
    if name == "Sae":
        from auditor.sae.sae import Sae

        return Sae
    raise AttributeError(name)
