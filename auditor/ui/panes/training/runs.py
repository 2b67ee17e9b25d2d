"""The table of finished dictionaries: what they are, how well they stand for the store, and simple baselines beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.project import Artefact
from auditor.ui.widgets import numbers
from auditor.ui.widgets.big_table import Column

COLUMNS = (
    Column("name", "dictionary", width=190, tip="Named by hook point, architecture and size, unless renamed"),
    Column("arch", "kind", width=44, tip="Architecture"),
    Column("features", "features", width=62, tip="Size of the dictionary"),
    Column("fvu", "FVU", numbers.short, width=50, tip="Fraction of the variance that it leaves unexplained"),
    Column("fvu_pca", "PCA", numbers.short, width=50, tip="Baseline: FVU of as many principal components as its L0"),
    Column("fvu_random", "random", numbers.short, width=58, tip="Baseline: FVU of a dictionary of random directions"),
    Column("l0", "L0", numbers.short, width=44, tip="Features active on a row, on average"),
    Column("dead", "dead", numbers.short_share, width=56, tip="Share of features that fired on none of the rows"),
)  # fmt: skip
_ROW = np.dtype([
    ("name", "O"), ("arch", "O"), ("features", "i8"),
    *((name, "f8") for name in ("fvu", "fvu_pca", "fvu_random", "l0", "dead")),
])  # fmt: skip


def rows_of(dictionaries: Sequence[Artefact]) -> NDArray[Any]:
    """One row a dictionary, newest first; NaN for what was not measured."""
    rows = np.zeros(len(dictionaries), _ROW)
    for at, artefact in enumerate(dictionaries):
        facts = artefact.meta
        rows[at] = (
            artefact.name, facts.get("arch") or facts.get("architecture") or "",
            int(facts.get("features") or 0),
            *(float(facts.get(name, np.nan)) for name in ("fvu", "fvu_pca", "fvu_random", "l0", "dead")),
        )  # fmt: skip
    return rows
