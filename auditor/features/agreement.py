"""How well a feature's texts and a feature's images agree in words, with a bootstrap interval and a shuffled null.

Each text example is a bag of the words on which the feature fires in its window, each weighing its largest activation
times the word's rarity; each image example is the bag of its caption's words, weighing the image's largest activation
times rarity. Agreement is the cosine of the two summed bags (0 no word shared, 1 the same words in the same measure).
Text next to an image (its own caption, an answer about it) is no independent evidence and is left out. The interval
resamples the examples of both sides 200 times; the null puts the images of other features, up to 256 of them, in place
of its own. NaN where either side has fewer than 3 examples with words. It compares wording, not meaning: synonyms
count as disagreement, so a low figure is no proof of two meanings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

AT_LEAST = 3
RESAMPLES = 200
OTHERS = 256
OTHERS_AT_LEAST = 20

Bag = Mapping[int, float]


@dataclass(frozen=True)
class Agreement:
    """Cosine and the 95 % interval of one feature, with the summed bags for the null."""

    estimate: float
    low: float
    high: float
    texts: Bag
    images: Bag


def agreement(texts: Sequence[Bag], images: Sequence[Bag], rng: np.random.Generator) -> Agreement | None:
    """The agreement of text and image bags ({word number: weight}), None where there is too little evidence."""
    texts, images = [bag for bag in texts if bag], [bag for bag in images if bag]
    if min(len(texts), len(images)) < AT_LEAST:
        return None
    words = sorted({word for bag in (*texts, *images) for word in bag})
    place = {word: i for i, word in enumerate(words)}
    a, b = _dense(texts, place), _dense(images, place)
    sums_a, sums_b = a.sum(0), b.sum(0)
    draws = _resampled(a, rng), _resampled(b, rng)
    norms = np.linalg.norm(draws[0], axis=1) * np.linalg.norm(draws[1], axis=1)
    cosines = (draws[0] * draws[1]).sum(1) / np.where(norms > 0, norms, 1)
    low, high = np.quantile(cosines, (0.025, 0.975))
    norm = float(np.linalg.norm(sums_a) * np.linalg.norm(sums_b))
    if norm == 0:
        return None
    return Agreement(float(sums_a @ sums_b) / norm, float(low), float(high),
                     dict(zip(words, sums_a.tolist(), strict=True)), dict(zip(words, sums_b.tolist(), strict=True)))


def _dense(bags: Sequence[Bag], place: Mapping[int, int]) -> NDArray[np.float64]:
    rows = np.zeros((len(bags), len(place)))
    for row, bag in zip(rows, bags, strict=True):
        for word, weight in bag.items():
            row[place[word]] = weight
    return rows


def _resampled(rows: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    return np.asarray(counts @ rows)


def null(found: Sequence[Agreement], n_words: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[features, 2]: the mean agreement of each feature's texts with the images of others, and the share
    (1 + others at least as good as its own) / (1 + others). NaN where there are fewer than 20 others."""
    n = len(found)
    result = np.full((n, 2), np.nan)
    if n <= OTHERS_AT_LEAST:
        return result
    others = np.sort(rng.choice(n, min(n, OTHERS), replace=False))
    texts = _unit([f.texts for f in found], n_words)
    images = _unit([found[i].images for i in others], n_words).T.tocsr()
    own = np.array([f.estimate for f in found])
    for start in range(0, n, 1024):
        part = np.arange(start, min(start + 1024, n))
        cosines = (texts[part] @ images).toarray()
        other = part[:, None] != others[None, :]
        counts = other.sum(1)
        result[part, 0] = (cosines * other).sum(1) / counts
        result[part, 1] = (1 + ((cosines >= own[part, None] - 1e-12) & other).sum(1)) / (1 + counts)
    return result


def _unit(bags: Sequence[Bag], n_words: int) -> csr_array:
    lengths = [len(bag) for bag in bags]
    words = np.array([word for bag in bags for word in bag], np.int64)
    weights = np.array([weight for bag in bags for weight in bag.values()])
    rows = np.repeat(np.arange(len(bags)), lengths)
    norms = np.sqrt(np.bincount(rows, weights**2, minlength=len(bags)))
    weights = weights / np.where(norms > 0, norms, 1)[rows]
    return csr_array((weights, words, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(bags), n_words))
