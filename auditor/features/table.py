"""The feature table: one structured row a feature, its columns, their words in a query and what they measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BOTH_AT_LEAST = 5
"""Firings that each modality needs before a feature counts as firing on both."""
BOTH_BALANCE = (0.02, 0.98)
"""`image_balance` of a feature that counts as firing on both lies in this closed range: rates within a factor of 49."""
BOTH_PEAK = 0.25
"""The weaker modality's largest activation, as a share of max_act, that a feature needs to count as firing on both."""


class Column(NamedTuple):
    """A column: its type, what it measures with its unit, and the shorter words that a query may use for it."""

    name: str
    type: str
    meaning: str
    words: tuple[str, ...] = ()


COLUMNS: tuple[Column, ...] = (
    Column("id", "i4", "number of the feature in its dictionary"),
    Column("density", "f4", "share of all recorded tokens on which the feature fires (activation > 0)"),
    Column("density_text", "f4", "share of the text tokens on which it fires"),
    Column("density_image", "f4", "share of the image tokens on which it fires"),
    Column("image_share", "f4", "share of its summed activation that lies on image tokens", ("image",)),
    Column("image_fires", "f4", "share of its firings that lie on image tokens"),
    Column("image_balance", "f4", "density_image / (density_image + density_text): free of the store's mixture",
           ("balance",)),
    Column("max_act", "f4", "largest activation", ("max",)),
    Column("max_text", "f4", "largest activation on a text token"),
    Column("max_image", "f4", "largest activation on an image token"),
    Column("mean_act", "f4", "mean activation where it fires", ("mean",)),
    Column("agreement", "f4", "cosine between the words of its texts and the words of its images' captions"),
    Column("agreement_low", "f4", "lower end of the 95 % bootstrap interval of agreement"),
    Column("agreement_high", "f4", "upper end of the 95 % bootstrap interval of agreement"),
    Column("agreement_null", "f4", "mean agreement with the images of other features"),
    Column("agreement_p", "f4", "share of other features whose images agree at least as well with its texts",
           ("p",)),
    Column("nearest_cos", "f4", "decoder cosine with its nearest feature"),
    Column("fires_text", "i8", "number of text tokens on which it fires"),
    Column("fires_image", "i8", "number of image tokens on which it fires"),
)

DTYPE = np.dtype([(column.name, column.type) for column in COLUMNS])
WORDS: dict[str, str] = {c.name: c.name for c in COLUMNS} | {word: c.name for c in COLUMNS for word in c.words}
"""Word in a query → column."""

Table = NDArray[np.void]


def empty_table(n: int) -> Table:
    """`n` rows numbered from 0, NaN where a figure is not known and 0 where it counts."""
    table = np.zeros(n, DTYPE)
    table["id"] = np.arange(n)
    for name in ("image_share", "image_fires", "image_balance", "mean_act", "nearest_cos"):
        table[name] = np.nan
    for column in COLUMNS:
        if column.name.startswith("agreement"):
            table[column.name] = np.nan
    return table


def modality(table: Table | Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """For each row: 0 never fires, 1 text, 2 image, 3 both.

    Both: at least 5 firings on each modality, 0.02 ≤ image_balance ≤ 0.98, and on each an activation of at least a
    quarter of max_act. Otherwise the modality on whose tokens it fires at the higher rate.
    """
    text, image, balance = table["fires_text"], table["fires_image"], table["image_balance"]
    both = (text >= BOTH_AT_LEAST) & (image >= BOTH_AT_LEAST)
    both &= (balance >= BOTH_BALANCE[0]) & (balance <= BOTH_BALANCE[1])
    both &= np.minimum(table["max_text"], table["max_image"]) >= BOTH_PEAK * table["max_act"]
    kinds = np.where(balance > 0.5, 2, 1).astype(np.uint8)
    kinds[both] = 3
    kinds[(text + image) == 0] = 0
    return kinds
