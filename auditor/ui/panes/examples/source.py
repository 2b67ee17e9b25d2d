"""What a feature's card reads off the GUI thread: the index of a dictionary, a feature, its pictures, one token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtGui import QImage

from auditor.base.errors import AuditorError

if TYPE_CHECKING:
    from auditor.data.sample import Sample
    from auditor.features.examples import Example
    from auditor.features.feature import Feature
    from auditor.features.index import Index
    from auditor.project import Artefact, Project
    from auditor.sae.sae import Sae
    from auditor.store.reader import Store


class Source:
    """An open index with what belongs to it; everything here runs in the read thread, one call after another."""

    def __init__(self, project: Project, artefact: Artefact, dictionary: str, asked: str | None) -> None:
        from auditor.tasks.opening import index_of

        self.project, self.artefact, self.dictionary, self.asked = project, artefact, dictionary, asked
        self.index: Index = index_of(project, artefact.id)
        self._sae: Sae | None = None
        self._store: Store | None = None
        self._pictures: dict[str, dict[str, Sample]] = {}

    def close(self) -> None:
        self.index.close()

    def card(self, number: int) -> Card:
        """All that is shown of a feature."""
        from auditor.features.table import COLUMNS

        feature = self.index.feature(number)
        labels = self.index.labels
        near = [(other, labels[other], cosine) for other, cosine in feature.nearest]
        star = self.index.human is not None and bool(self.index.human.get(number, "star"))
        meanings = {column.name: column.meaning for column in COLUMNS}
        return Card(self, feature, near, star, meanings, self.inputs())

    def inputs(self) -> dict[str, str]:
        """Name → SHA-256 of what the index was made from, and of itself."""
        found = {f"{self.artefact.name} (index)": self.index.digest}
        names = {artefact.digest: artefact.name for artefact in self.project.artefacts()}
        for kind in ("dictionary", "store", "model"):
            facts = self.index.meta.get(kind) or {}
            digest = str(facts.get("digest", ""))
            found[f"{names.get(digest) or facts.get('name') or kind} ({kind})"] = digest
        return {name: digest for name, digest in found.items() if re.fullmatch(r"[0-9a-f]{64}", digest)}

    def at_row(self, example: Example, unit: int) -> list[tuple[int, str, float]]:
        """(feature, label, activation) of all that fires at token or patch `unit` of an example, strongest first."""
        store = self._store_of_index()
        if store is None:
            return self._again(example, unit)
        from auditor.features.fires import activations_at

        row = example.row + unit - example.peak if example.kind == "text" else _row_of_patch(store, example.row, unit)
        if row is None:
            return []
        fires = activations_at(self.index, self._dictionary(), store, row)
        return self._named([(fire.feature, fire.activation) for fire in fires])

    def _again(self, example: Example, unit: int) -> list[tuple[int, str, float]]:
        """The same where the store is not at hand: the text's tokens, or the image, run through the model once more."""
        from auditor.features.examples import IMAGE
        from auditor.features.fires import fires_on
        from auditor.tasks.opening import open_model_of_index

        asked = "".join(example.tokens) if example.kind == "text" else self._picture(example.sample_id)
        fires = fires_on(self.index, open_model_of_index(self.project, self.index), self._dictionary(), asked)
        if example.kind == "image":
            places = np.flatnonzero((fires.kinds == IMAGE) & (fires.units == unit))
            return self._named(fires.at(int(places[0]))) if len(places) else []
        # Counted from the end, since a tokenizer may put marks of its own before the text but none after it.
        left, wanted = len("".join(example.tokens)), len("".join(example.tokens[:unit]))
        for position in range(len(fires.tokens) - 1, -1, -1):
            left -= len(fires.tokens[position])
            if fires.tokens[position] and left <= wanted:
                return self._named(fires.at(position))
        return []

    def _picture(self, name: str) -> Sample:
        """The image of this name, among the samples of the project, without its caption."""
        from auditor.data import open_samples

        for artefact in self.project.artefacts("samples"):
            if artefact.id not in self._pictures and artefact.meta.get("with_image"):
                found = open_samples(artefact.path)
                self._pictures[artefact.id] = {s.id: replace(s, text=None) for s in found if s.image is not None}
            if name in self._pictures.get(artefact.id, {}):
                return self._pictures[artefact.id][name]
        raise AuditorError(
            f"Neither the store of this index nor the image “{name}” is in the project, so its patches cannot be "
            "looked up.",
            "Open the images, or the folder of the store.",
        )

    def _named(self, fires: Sequence[tuple[int, float]]) -> list[tuple[int, str, float]]:
        labels = self.index.labels
        return [(feature, labels[feature], value) for feature, value in fires]

    def _dictionary(self) -> Sae:
        if self._sae is None:
            from auditor.sae import load
            from auditor.tasks.opening import dictionary_of_index

            self._sae = load(dictionary_of_index(self.project, self.index).path)
        return self._sae

    def _store_of_index(self) -> Store | None:
        if self._store is None:
            from auditor.store import open_store

            digest = self.index.meta["store"]["digest"]
            for artefact in self.project.artefacts("store"):
                if artefact.digest == digest and artefact.path.exists():
                    self._store = open_store(artefact.path).at(str(self.index.meta.get("hook", "")))
        return self._store


class Shelf:
    """Keeps one source open, the last that was asked for; its calls come from the read thread, one after another."""

    def __init__(self) -> None:
        self._held: Source | None = None

    def get(self, project: Project, dictionary: str, preferred: str | None) -> Source:
        """The source of a dictionary, opened where another or none is held."""
        held = self._held
        if held is not None and (held.project, held.dictionary, held.asked) == (project, dictionary, preferred):
            return held
        artefact = find_index(project, dictionary, preferred)
        if held is not None and held.project is project and held.artefact.id == artefact.id:
            held.dictionary, held.asked = dictionary, preferred
            return held
        self.close()
        self._held = Source(project, artefact, dictionary, preferred)
        return self._held

    def close(self) -> None:
        """Let go of what is open."""
        if self._held is not None:
            self._held.close()
            self._held = None


@dataclass(frozen=True)
class Card:
    """A feature as it is shown: `near` are (feature, label, cosine); `meanings` tells what each figure measures."""

    source: Source
    feature: Feature
    near: list[tuple[int, str, float]]
    star: bool
    meanings: dict[str, str]
    inputs: dict[str, str]


def find_index(project: Project, dictionary: str, preferred: str | None) -> Artefact:
    """The index of a dictionary (by artefact id or digest): the preferred one where it is of it, else the newest."""
    held = {artefact.id: artefact.digest for artefact in project.artefacts("dictionary")}
    digest = held.get(dictionary, dictionary)
    fitting = []
    for artefact in project.artefacts("index"):
        told = artefact.meta.get("dictionary")
        known = told.get("digest") if isinstance(told, dict) else told or _read_digest(artefact)
        if known in (dictionary, digest):
            fitting.append(artefact)
    if not fitting:
        raise AuditorError("The features of this dictionary are not indexed.", "Index them first.")
    return next((artefact for artefact in fitting if artefact.id == preferred), fitting[-1])


def _read_digest(artefact: Artefact) -> str:
    from auditor.features import open_index

    with open_index(artefact.path) as index:
        return str(index.meta["dictionary"]["digest"])


def decode(examples: Sequence[Example], known: dict[str, QImage]) -> dict[str, QImage]:
    """The pictures of the examples, by sample; decoded in the jailed child, for an index is untrusted."""
    from auditor.intake.images import read_image

    found = {}
    for example in examples:
        name = example.sample_id
        if name in known or name in found:
            continue
        data = example.image
        try:
            pixels = read_image(data, name=name) if data else None
        except AuditorError:
            pixels = None
        found[name] = QImage() if pixels is None else _image(pixels)
    return found


def _row_of_patch(store: Store, row: int, patch: int) -> int | None:
    """The row of a patch of the sample that another row comes from; None where no row stands for it, as between two
    pictures that lie side by side."""
    from auditor.features.examples import IMAGE

    sample = store.sample_of(row)
    held = store.positions(slice(sample.first_row, sample.first_row + sample.n_rows))
    found = np.flatnonzero((held.kind == IMAGE) & (held.unit == patch))
    return sample.first_row + int(found[0]) if len(found) else None


def _image(pixels: Any) -> QImage:
    high, wide, _ = pixels.shape
    return QImage(pixels.tobytes(), wide, high, 3 * wide, QImage.Format.Format_RGB888).copy()
