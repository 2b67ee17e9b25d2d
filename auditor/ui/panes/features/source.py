"""What the features pane reads off the GUI thread: an index as rows, answers to searches, what fires on an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError

if TYPE_CHECKING:
    from auditor.features.fires import Fires, Order
    from auditor.features.index import Index
    from auditor.project import Project

ROW = np.dtype([
    ("id", "i8"), ("label", "O"), ("activation", "f8"), ("density", "f8"), ("image_share", "f8"), ("agreement", "f8"),
    ("max_act", "f8"), ("modality", "O"),
])  # fmt: skip
_KEPT_PIXELS = 512


@dataclass(frozen=True)
class Opened:
    """An open index: `rows` is what the table shows, row number = feature; `dictionary` is what selections name."""

    index: Index
    artefact: str
    dictionary: str
    rows: NDArray[Any]
    labels: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """What a search found: features in order, the pieces of the query, or the error that names its word."""

    ids: NDArray[np.int64]
    parts: tuple[str, ...] = ()
    rests: tuple[str, ...] = ()
    ordered: bool = False
    error: AuditorError | None = None


@dataclass(frozen=True)
class Fired:
    """What fires on an input, and the picture that was run, small, as uint8 [height, width, 3]."""

    fires: Fires
    picture: NDArray[np.uint8] | None


class Shelf:
    """Keeps one index open, the last that was asked for; its calls come from the read thread, one after another."""

    def __init__(self) -> None:
        self._held: Opened | None = None

    def open(self, project: Project, artefact: str) -> Opened:
        """Open an index in place of the one before."""
        self.close()
        self._held = open_source(project, artefact)
        return self._held

    def close(self) -> None:
        """Let go of what is open."""
        if self._held is not None:
            self._held.index.close()
            self._held = None


def open_source(project: Project, artefact: str) -> Opened:
    """The index artefact `artefact` with its table in the form that the pane shows."""
    from auditor.features.index import MODALITY_NAMES
    from auditor.features.table import modality
    from auditor.tasks.opening import dictionary_of_index, index_of

    index = index_of(project, artefact)
    try:
        dictionary = dictionary_of_index(project, index).id
    except AuditorError:  # the index can be read without its dictionary; selections then name it by its digest
        dictionary = str(index.meta["dictionary"]["digest"])
    labels = index.labels
    rows = np.zeros(index.n_features, ROW)
    rows["id"] = np.arange(index.n_features)
    rows["label"] = labels
    rows["activation"] = np.nan
    for name in ("density", "image_share", "agreement", "max_act"):
        rows[name] = index.table[name]
    rows["modality"] = np.array(MODALITY_NAMES, dtype=object)[modality(index.table)]
    return Opened(index, artefact, dictionary, rows, labels)


def search(index: Index, text: str) -> Answer:
    """Features for which the query holds. A query that cannot be read is an answer too: its error says which word."""
    from auditor.features.query import parse

    try:
        query = parse(text)
        ids = index.search(query)
    except AuditorError as error:
        return Answer(np.zeros(0, np.int64), error=error)
    rests = tuple(query.without(part) for part in range(len(query.parts)))
    return Answer(ids, query.parts, rests, bool(query.terms or query.sort or query.like is not None))


def run_fires(project: Project, artefact: str, text: str, image: Path | None, order: str) -> Fired:
    """Run an input through the index's model and dictionary. AuditorError where one of them is missing."""
    from auditor.data import ImageRef
    from auditor.intake.wav import is_wav
    from auditor.tasks.opening import fires

    index, found = fires(project, artefact, text or None, image, cast("Order", order))
    index.close()
    picture = found.picture
    if picture is None and image is not None and not is_wav(image):
        pixels = ImageRef.at(image).load()
        top, left, bottom, right = (round(share * pixels.shape[axis % 2]) for axis, share in enumerate(found.seen))
        pixels = pixels[top:bottom, left:right]
        step = max(1, max(pixels.shape[:2]) // _KEPT_PIXELS)
        picture = np.ascontiguousarray(pixels[::step, ::step])
    return Fired(found, picture)


class LabelFinder:
    """Finds labels by any part of them: one search through one long string, for a million labels in milliseconds."""

    def __init__(self, labels: Sequence[str]) -> None:
        lowered = [label.lower().replace("\n", " ") for label in labels]
        self._text = "\n".join(lowered)
        lengths = np.fromiter((len(label) + 1 for label in lowered), np.int64, len(lowered))
        self._ends = np.cumsum(lengths)
        self._n = len(lowered)

    def find(self, query: str, most: int) -> list[int]:
        """Numbers of the first `most` labels that hold `query`; a number finds its feature first."""
        wanted = query.lower().strip()
        found: list[int] = []
        digits = wanted.removeprefix("feature").strip().removeprefix("#")
        if digits.isascii() and digits.isdigit() and int(digits[:9]) < self._n:
            found.append(int(digits[:9]))
        at = 0
        while len(wanted) > 1 and len(found) < most and (at := self._text.find(wanted, at)) >= 0:
            line = int(np.searchsorted(self._ends, at, side="right"))
            found.append(line)
            at = int(self._ends[line])
        return list(dict.fromkeys(found))
