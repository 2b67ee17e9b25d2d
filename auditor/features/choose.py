"""Which firings of a feature become its examples: the strongest, some of each band, and near misses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor.features.corpus import Corpus
from auditor.features.examples import IMAGE, TEXT, Packed

BANDS: tuple[tuple[int, float, float], ...] = ((1, 0.01, 0.10), (2, 0.10, 0.50), (3, 0.50, 0.90))
"""Group, and the ranks (as shares of the firings, strongest first) between which its examples are drawn: the 99–90,
90–50 and 50–10 per cent bands."""
MISS = 4
_TRIES = 8


@dataclass(frozen=True)
class Firings:
    """Where one feature fires in one modality, by rising row: [m] rows, activations and runs (samples).

    For images one entry an image: its strongest patch.
    """

    kind: int
    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    runs: NDArray[np.int64]


def firings(corpus: Corpus, rows: NDArray[np.int64], values: NDArray[np.float32], kind: int) -> Firings:
    """The firings on `kind` of the column (rows, values) of one feature."""
    mask = corpus.kinds[rows] == kind
    rows, values = rows[mask], values[mask]
    runs = corpus.run[rows]
    if kind == IMAGE and len(rows):
        order = np.lexsort((rows, -values, runs))
        best = order[np.flatnonzero(np.diff(runs[order], prepend=-1))]
        rows, values, runs = rows[best], values[best], runs[best]
    return Firings(kind, rows, values, runs)


def choose(found: Firings, top: int, per_band: int, window: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(group, index into `found`) of the examples: the `top` strongest, then `per_band` drawn from each band.

    Ties go to the lower row. A text firing within `window` rows of one already chosen, in the same sample, is not an
    example of its own.
    """
    order = np.argsort(-found.values, kind="stable")
    chosen: list[tuple[int, int]] = []
    taken: dict[int, list[int]] = {}

    def take(group: int, candidates: NDArray[np.int64], most: int) -> None:
        count = 0
        for i in candidates.tolist():
            if count == most:
                return
            row, run = int(found.rows[i]), int(found.runs[i])
            if all(abs(row - at) > window for at in taken.get(run, ())):
                chosen.append((group, i))
                taken.setdefault(run, []).append(row)
                count += 1

    take(0, order, top)
    for group, low, high in BANDS:
        band = order[math.ceil(low * len(order)):math.ceil(high * len(order))]
        if len(band) and per_band:
            drawn = rng.choice(len(band), min(len(band), per_band * _TRIES), replace=False)
            take(group, band[drawn], per_band)
    return chosen


def packed(corpus: Corpus, kind: int, group: int, row: int, peak: float, window: int,
           rows: NDArray[np.int64], values: NDArray[np.float32]) -> Packed:
    """The example at `row`: the feature's column (rows, values) cut to its window (text) or its image."""
    if kind == TEXT:
        low, high = max(row - window, int(corpus.text_from[row])), min(row + window + 1, int(corpus.text_to[row]))
        a, b = rows.searchsorted((low, high))
        return Packed(kind, group, row, peak, rows[a:b] - (row - window), values[a:b], window)
    run = int(corpus.run[row])
    a, b = rows.searchsorted((corpus.starts[run], corpus.starts[run + 1]))
    on_image = corpus.kinds[rows[a:b]] == IMAGE
    return Packed(kind, group, row, peak, corpus.patches[rows[a:b][on_image]], values[a:b][on_image],
                  int(corpus.patches[row]))


class WordPlaces:
    """Where each word of the lexicon stands: text rows, and runs whose caption holds it."""

    def __init__(self, corpus: Corpus) -> None:
        order = np.argsort(corpus.words, kind="stable")
        order = order[corpus.words[order] >= 0]
        self._rows = order
        self._row_cuts = np.searchsorted(corpus.words[order], np.arange(len(corpus.lexicon) + 1))
        images = [r for r, sample in enumerate(corpus.samples) if sample.has_image and len(corpus.caption_words[r])]
        words = np.concatenate([corpus.caption_words[r] for r in images] or [np.zeros(0, np.int64)])
        runs = np.repeat(np.array(images, np.int64), [len(corpus.caption_words[r]) for r in images])
        by_word = np.argsort(words, kind="stable")
        self._runs = runs[by_word]
        self._run_cuts = np.searchsorted(words[by_word], np.arange(len(corpus.lexicon) + 1))

    def rows(self, word: int) -> NDArray[np.int64]:
        """Text rows whose token belongs to `word`."""
        return self._rows[self._row_cuts[word]:self._row_cuts[word + 1]]

    def runs(self, word: int) -> NDArray[np.int64]:
        """Runs with an image whose caption holds `word`."""
        return self._runs[self._run_cuts[word]:self._run_cuts[word + 1]]


def near_misses(corpus: Corpus, places: WordPlaces, word: int, fired_runs: NDArray[np.int64], kind: int, most: int,
                rng: np.random.Generator) -> list[int]:
    """Rows of `kind` in up to `most` samples that hold the feature's strongest word, but where it does not fire on
    that modality at all (`fired_runs`: where it does)."""
    if kind == TEXT:
        rows = places.rows(word)
        runs = corpus.run[rows]
        first = np.flatnonzero(np.diff(runs, prepend=-1))
        runs, rows = runs[first], rows[first]
    else:
        runs = places.runs(word)
        rows = np.array([corpus.starts[r] + np.argmax(corpus.kinds[corpus.starts[r]:corpus.starts[r + 1]] == IMAGE)
                         for r in runs[:1024]], np.int64)
        runs = runs[:1024]
    fired = np.zeros(len(corpus.samples), bool)
    fired[fired_runs] = True
    silent = rows[~fired[runs]]
    if not len(silent) or not most:
        return []
    return sorted(int(row) for row in rng.choice(silent, min(most, len(silent)), replace=False))
