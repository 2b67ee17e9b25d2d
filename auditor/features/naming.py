"""Words for a feature: bags of its examples, the automatic label, and the text under which search finds it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.features.agreement import Bag
from auditor.features.corpus import Corpus
from auditor.features.examples import Packed

LABEL_WORDS = 3
_AT_LEAST_OF_BEST = 0.25
_MAX_SEARCHED = 24
_MAX_CAPTIONS = 8


def text_bag(corpus: Corpus, example: Packed, window: int, scale: float) -> dict[int, float]:
    """{word: largest activation on it / `scale` × rarity} over the words on which the feature fires in the window."""
    rows = example.row - window + example.offsets
    bag: defaultdict[int, float] = defaultdict(float)
    strongest: dict[int, float] = {}
    for row, value in zip(rows.tolist(), example.activations.tolist(), strict=True):
        instance = int(corpus.instances[row])
        if instance >= 0:
            strongest[instance] = max(strongest.get(instance, 0.0), value)
    word_of = dict(zip(corpus.instances[rows].tolist(), corpus.words[rows].tolist(), strict=True))
    for instance, value in strongest.items():
        bag[word_of[instance]] += value / scale * float(corpus.rarity[word_of[instance]])
    return {word: weight for word, weight in bag.items() if weight > 0}


def image_bag(corpus: Corpus, example: Packed, scale: float) -> dict[int, float]:
    """{word of the caption: largest activation on the image / `scale` × rarity}."""
    weight = example.peak / scale
    words: NDArray[np.int64] = corpus.caption_words[int(corpus.run[example.row])]
    return {int(w): weight * float(corpus.rarity[w]) for w in words if corpus.rarity[w] > 0}


def strongest_words(bags: Sequence[Bag]) -> list[int]:
    """Up to three words with the largest summed weights, at least a quarter of the best; the best first."""
    scores: defaultdict[int, float] = defaultdict(float)
    for bag in bags:
        for word, weight in bag.items():
            scores[word] += weight
    ranked = sorted(scores, key=lambda word: (-scores[word], word))
    return [word for word in ranked[:LABEL_WORDS] if scores[word] >= _AT_LEAST_OF_BEST * scores[ranked[0]]]


def automatic_label(corpus: Corpus, words: Sequence[int], texts: Sequence[Packed]) -> str:
    """The strongest words, else the token on which the feature peaks most often, in quotes; "" where there is none."""
    if words:
        return ", ".join(corpus.surfaces[word] for word in words)
    peaks = Counter(corpus.vocabulary.strings[int(corpus.tokens[e.row])] for e in texts)
    tokens = sorted((token for token in peaks if token), key=lambda token: (-peaks[token], token))
    return f"“{tokens[0]}”".replace("\n", "↵").replace("\t", "⇥") if tokens else ""


def searched_text(corpus: Corpus, texts: Sequence[Packed], images: Sequence[Packed], window: int) -> tuple[str, str]:
    """(words and peak tokens of the strongest texts, captions of the strongest images)."""
    found: dict[str, None] = {}
    for example in texts:
        found[corpus.vocabulary.strings[int(corpus.tokens[example.row])].strip()] = None
        for row in (example.row - window + example.offsets).tolist():
            if corpus.words[row] >= 0:
                found[corpus.surfaces[int(corpus.words[row])]] = None
    captions = dict.fromkeys(corpus.samples[int(corpus.run[e.row])].caption or "" for e in images[:_MAX_CAPTIONS])
    return " ".join(list(found)[:_MAX_SEARCHED]).strip(), " · ".join(c for c in captions if c)
