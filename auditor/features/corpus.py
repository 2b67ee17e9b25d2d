"""What stands at each row of a store: sample, kind, token and word, with captions and how rare each word is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auditor.base.reporter import Reporter
from auditor.features.examples import AUDIO, IMAGE, TEXT

if TYPE_CHECKING:
    from auditor.models.model import Model
    from auditor.store.reader import Store
    from auditor.store.samples import StoredSample

_WORD = re.compile(r"[^\W\d_]{2,}")


class Numbering:
    """Strings numbered in the order in which they are first seen."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.strings)
            self.strings.append(text)
        return found


@dataclass(frozen=True)
class StoredText:
    """What an example says of its sample. `cells` uint32 [n]: where a row's patch lies on a grid with several pictures,
    above it in the highest byte the picture's number; None where rows follow one grid in turn."""

    id: str
    group: str
    caption: str | None
    grid: tuple[int, int] | None
    has_image: bool
    cells: NDArray[np.uint32] | None = None


@dataclass(frozen=True)
class Corpus:
    """Rows [n] of a store: `kinds`, `run` (which sample, counted from 0 in the store's order), `tokens` (number in
    `vocabulary`), `text_from` and `text_to` (the unbroken text [from, to) around a text row), `patches` (how many image
    rows of the sample stand before), `words` (number in `lexicon`, -1: none) and `instances` (equal for the
    tokens of one word).

    Rows starts[r] … starts[r+1] are run r's, sample `numbers[r]` of the store; `samples[r]` tells of it;
    `caption_words[r]` are the lexicon numbers of its caption. `lexicon` holds words as they are compared, `surfaces`
    each as it is mostly written. `rarity` [words] = ln((1 + documents) / (1 + documents that hold the word)), where
    each sample's text and each caption is a document.
    """

    kinds: NDArray[np.uint8]
    run: NDArray[np.int64]
    starts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    tokens: NDArray[np.int32]
    vocabulary: Numbering
    text_from: NDArray[np.int64]
    text_to: NDArray[np.int64]
    patches: NDArray[np.int64]
    words: NDArray[np.int32]
    instances: NDArray[np.int32]
    lexicon: list[str]
    surfaces: list[str]
    rarity: NDArray[np.float64]
    samples: list[StoredText]
    caption_words: list[NDArray[np.int64]]


def fold(word: str) -> str:
    """Lower case, and without the s of a plural of four letters or more (not of «glass»)."""
    word = word.lower()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def read_corpus(store: Store, model: Model | None, reporter: Reporter) -> Corpus:
    """Read all samples of `store` once. Token strings are the store's own, else those of the model's tokenizer."""
    places = store.positions(slice(None))
    n = len(places.kind)
    # A frame of sound is shown as a word is, by its time.
    kinds = np.where(places.kind == AUDIO, TEXT, places.kind).astype(np.uint8)
    first = np.flatnonzero(np.diff(np.asarray(places.sample, np.int64), prepend=-1))
    starts = np.concatenate([first, [n]]).astype(np.int64)
    numbers = np.asarray(places.sample, np.int64)[first]
    reading = _Reading(n, _strings_of(model, places.token))
    for r in range(len(first)):
        if r % 256 == 0:
            reporter.step(r, len(first), "reading the samples", "samples")
        part = slice(int(starts[r]), int(starts[r + 1]))
        reading.add(store, int(numbers[r]), part, kinds[part], places.token[part], places.unit[part])
    documents = np.array(reading.documents + [0] * (len(reading.lexicon.strings) - len(reading.documents)), float)
    rarity = np.log((1 + reading.n_documents) / (1 + documents))
    run = np.repeat(np.arange(len(first)), np.diff(starts))
    text_from, text_to = _stretches(kinds, run)
    before = np.concatenate([[0], np.cumsum(kinds == IMAGE)])
    patches = before[:-1] - before[starts[run]]
    return Corpus(kinds, run, starts, numbers, reading.tokens, reading.vocabulary, text_from, text_to, patches,
                  reading.words, reading.instances, reading.lexicon.strings, reading.surfaces(), rarity,
                  reading.samples, reading.caption_words)


def _stretches(kinds: NDArray[np.uint8], run: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row the unbroken stretch [from, to) of rows of its sample with its kind."""
    if not len(kinds):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    cut = np.flatnonzero((np.diff(kinds.astype(np.int64)) != 0) | (np.diff(run) != 0)) + 1
    edges = np.concatenate([[0], cut, [len(kinds)]])
    lengths = np.diff(edges)
    return np.repeat(edges[:-1], lengths), np.repeat(edges[1:], lengths)


def _strings_of(model: Model | None, tokens: NDArray[np.int32]) -> Callable[[int], str]:
    if model is None or model.tokenizer is None:
        return lambda token: f"#{token}" if token >= 0 else ""
    known = np.unique(tokens[tokens >= 0])
    strings = dict(zip(known.tolist(), model.token_strings(known.tolist()), strict=True)) if len(known) else {}
    return lambda token: strings.get(token, "")


def _cells(sample: StoredSample, kinds: NDArray[np.uint8], units: NDArray[np.int32]) -> NDArray[np.uint32]:
    """As `StoredText` has them; 0 for what is no patch."""
    found = np.zeros(len(kinds), np.uint32)
    for at in np.flatnonzero(kinds == IMAGE).tolist():
        place = sample.place(int(units[at]))
        found[at] = int(units[at]) | (min(place[0], 255) << 24 if place is not None else 0)
    return found


class _Reading:
    """Fills a corpus sample by sample."""

    def __init__(self, n: int, string_of: Callable[[int], str]) -> None:
        self._string_of = string_of
        self.tokens, self.words = np.zeros(n, np.int32), np.full(n, -1, np.int32)
        self.instances = np.full(n, -1, np.int32)
        self.vocabulary, self.lexicon = Numbering(), Numbering()
        self.vocabulary.number("")
        self.documents: list[int] = []
        self.n_documents = 0
        self.samples: list[StoredText] = []
        self.caption_words: list[NDArray[np.int64]] = []
        self._written: list[Counter[str]] = []
        self._next_instance = 0

    def add(self, store: Store, number: int, part: slice, kinds: NDArray[np.uint8], tokens: NDArray[np.int32],
            units: NDArray[np.int32]) -> None:
        sample = store.sample(number)
        own = sample.tokens
        if own is None or len(own) != len(kinds):
            own = [self._string_of(int(token)) for token in tokens]
        self.tokens[part] = [self.vocabulary.number(text) for text in own]
        image = bool((kinds == IMAGE).any())
        cells = _cells(sample, kinds, units) if sample.panels else None
        self.samples.append(StoredText(sample.id, sample.group, sample.caption, sample.grid, image, cells))
        self._text(part.start, [text if kind == TEXT else "\n" for text, kind in zip(own, kinds, strict=True)])
        found = [self._word(word) for word in _WORD.findall(sample.caption or "")]
        self._document(found)
        self.caption_words.append(np.array(sorted(set(found)), np.int64))

    def _text(self, start: int, tokens: Sequence[str]) -> None:
        """Lay words over tokens: a token belongs to the first word of which it holds a letter."""
        ends = np.cumsum([len(token) for token in tokens])
        found = []
        for match in _WORD.finditer("".join(tokens)):
            word = self._word(match.group())
            found.append(word)
            low = int(np.searchsorted(ends, match.start(), "right"))
            high = int(np.searchsorted(ends, match.end() - 1, "right"))
            for row in range(start + low, start + high + 1):
                if self.words[row] < 0:
                    self.words[row], self.instances[row] = word, self._next_instance
            self._next_instance += 1
        self._document(found)

    def _word(self, written: str) -> int:
        number = self.lexicon.number(fold(written))
        if number == len(self._written):
            self._written.append(Counter())
        self._written[number][written.lower()] += 1
        return number

    def surfaces(self) -> list[str]:
        """For each word of the lexicon the form in which it is written most often."""
        return [min(forms, key=lambda form: (-forms[form], form)) for forms in self._written]

    def _document(self, words: Sequence[int]) -> None:
        if not words:
            return
        self.n_documents += 1
        for word in set(words):
            if word >= len(self.documents):
                self.documents += [0] * (word + 1 - len(self.documents))
            self.documents[word] += 1
