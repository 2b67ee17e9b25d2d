"""What an artefact is now: read again only where something at its place was written since the project took it in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from auditor.base.digest import digest_folder
from auditor.base.errors import AuditorError
from auditor.project import Artefact

# By kind and place, when this program last read it, and its digest then: a project that was copied has files that are
# newer than it says.
_looked: dict[tuple[str, Path], tuple[float, str]] = {}


def present_digest(artefact: Artefact) -> str:
    """Its digest as it is now. That which the project holds where nothing was written since, or what lies there cannot
    be read: whoever opens it tells why."""
    look = _DIGESTS.get(artefact.kind)
    if look is None:
        return artefact.digest
    key, begun = (artefact.kind, artefact.path), time.time()
    try:
        taken_in = datetime.fromisoformat(artefact.created).timestamp(), artefact.digest
        since, digest = max(taken_in, _looked.get(key, taken_in), key=lambda one: one[0])
        if written_since(_places(artefact), since):
            digest = look(artefact.path)
            _looked[key] = begun, digest
        return digest
    except (AuditorError, OSError, ValueError):
        return artefact.digest


def written_since(places: Iterable[Path], moment: float) -> bool:
    """Whether a file at one of `places` (a file, or a folder with all within) was written, brought there or taken away
    since `moment`, in seconds as `time.time` gives them."""
    for place in places:
        for folder, _, names in os.walk(place):
            if any(os.stat(os.path.join(folder, name)).st_ctime >= moment for name in (".", *names)):
                return True
        if place.stat().st_ctime >= moment:
            return True
    return False


def _places(artefact: Artefact) -> list[Path]:
    if artefact.kind != "model":
        return [artefact.path]
    from auditor.models.loading import places

    return places(artefact.path)


def _model(path: Path) -> str:
    from auditor.models.loading import digest_at

    return digest_at(path)


def _samples(path: Path) -> str:
    from auditor.data import open_samples

    return open_samples(path).digest


def _store(path: Path) -> str:
    from auditor.store import open_store

    return open_store(path).digest


def _index(path: Path) -> str:
    from auditor.features import open_index

    with open_index(path) as index:
        return index.digest


_DIGESTS: dict[str, Callable[[Path], str]] = {
    "model": _model, "samples": _samples, "store": _store, "dictionary": digest_folder, "index": _index,
}  # fmt: skip
