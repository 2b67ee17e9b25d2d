"""One visit to one feature: histogram, examples, near misses, automatic label, search text and agreement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from auditor.features.agreement import Agreement, Bag, agreement
from auditor.features.choose import MISS, Firings, WordPlaces, choose, firings, near_misses, packed
from auditor.features.corpus import Corpus
from auditor.features.examples import IMAGE, TEXT, Packed, pack
from auditor.features.naming import automatic_label, image_bag, searched_text, strongest_words, text_bag
from auditor.features.writer import IndexWriter

_AGREEMENT_STREAM = 9


class Settings(Protocol):
    """The part of the build's config that a visit needs."""

    @property
    def top(self) -> int: ...
    @property
    def per_band(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def bins(self) -> int: ...
    @property
    def seed(self) -> int: ...


class Gathered:
    """What the visits leave behind: histograms uint32 [n, bins], agreements by feature, runs that examples show."""

    def __init__(self, n: int, bins: int) -> None:
        self.hist_text, self.hist_image = np.zeros((n, bins), np.uint32), np.zeros((n, bins), np.uint32)
        self.agreements: dict[int, Agreement] = {}
        self.runs: set[int] = set()


@dataclass
class _Side:
    """The evidence of one modality."""

    found: Firings
    examples: list[Packed] = field(default_factory=list)
    bags: list[Bag] = field(default_factory=list)

    @property
    def top(self) -> list[Packed]:
        return [example for example in self.examples if example.group == 0]


def gather(config: Settings, corpus: Corpus, places: WordPlaces, image_free: NDArray[np.bool_], i: int,
           rows: NDArray[np.int64], values: NDArray[np.float32], max_act: float, gathered: Gathered,
           writer: IndexWriter) -> None:
    """Visit feature `i`, whose firings are (rows, values), and write what the index keeps of it."""
    kinds = corpus.kinds[rows]
    for kind, counts in ((TEXT, gathered.hist_text), (IMAGE, gathered.hist_image)):
        counts[i] = np.histogram(values[kinds == kind], config.bins, (0.0, max_act))[0]
    text, image = (_side(config, corpus, i, rows, values, kind) for kind in (TEXT, IMAGE))
    text.bags = [text_bag(corpus, example, config.window, max_act) for example in text.top]
    image.bags = [image_bag(corpus, example, max_act) for example in image.top]
    words = strongest_words(text.bags + image.bags)
    if words:
        for side in (text, image):
            _add_misses(config, corpus, places, i, side, words[0])
    examples = text.examples + image.examples
    gathered.runs.update(int(corpus.run[example.row]) for example in examples)
    writer.feature(i, automatic_label(corpus, words, text.top), pack(examples, max_act),
                   *searched_text(corpus, text.top, image.top, config.window))
    if text.top and image.top:
        found = _agreement(config, corpus, image_free, i, rows, values, max_act, text.found, image.bags)
        if found is not None:
            gathered.agreements[i] = found


def _side(config: Settings, corpus: Corpus, i: int, rows: NDArray[np.int64], values: NDArray[np.float32],
          kind: int) -> _Side:
    side = _Side(firings(corpus, rows, values, kind))
    rng = np.random.default_rng([config.seed, i, kind])
    for group, n in choose(side.found, config.top, config.per_band, config.window, rng):
        row, peak = int(side.found.rows[n]), float(side.found.values[n])
        side.examples.append(packed(corpus, kind, group, row, peak, config.window, rows, values))
    return side


def _add_misses(config: Settings, corpus: Corpus, places: WordPlaces, i: int, side: _Side, word: int) -> None:
    rng = np.random.default_rng([config.seed, i, side.found.kind, MISS])
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for row in near_misses(corpus, places, word, side.found.runs, side.found.kind, config.misses, rng):
        side.examples.append(packed(corpus, side.found.kind, MISS, row, 0.0, config.window, *nothing))


def _agreement(config: Settings, corpus: Corpus, image_free: NDArray[np.bool_], i: int, rows: NDArray[np.int64],
               values: NDArray[np.float32], max_act: float, text: Firings, image_bags: list[Bag],
               ) -> Agreement | None:
    """Agreement of the images with the strongest texts that stand beside no image."""
    rng = np.random.default_rng([config.seed, i, _AGREEMENT_STREAM])
    alone = image_free[text.runs]
    free = Firings(TEXT, text.rows[alone], text.values[alone], text.runs[alone])
    bags: list[Bag] = []
    for group, n in choose(free, config.top, 0, config.window, rng):
        example = packed(corpus, TEXT, group, int(free.rows[n]), float(free.values[n]), config.window, rows, values)
        bags.append(text_bag(corpus, example, config.window, max_act))
    return agreement(bags, image_bags, rng)
