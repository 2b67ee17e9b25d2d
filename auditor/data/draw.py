"""Which of many samples a small recording is of: those that a seed draws, only as many as give what is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEW = 4096
"""So many texts are always taken: a few long ones do not stand for all."""


@dataclass(frozen=True)
class Draw:
    """Samples in an order that `seed` draws, only as many as have `tokens` in all, `least` at least. With `count`, so
    many."""

    seed: int
    tokens: int
    count: int = 0
    least: int = 0

    def numbers(self, whole: int) -> np.ndarray:
        """Those of `whole` samples, in the order in which they are taken."""
        order = np.random.default_rng([self.seed, 1]).permutation(whole)
        return order[: self.count] if self.count else order

    def enough(self, samples: int, tokens: int) -> bool:
        """Whether so many are."""
        return not self.count and samples >= self.least and tokens >= self.tokens
