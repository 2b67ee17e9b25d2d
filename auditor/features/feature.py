"""All that the index knows of one feature, as the window and a report show it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from auditor.features.examples import Example


@dataclass(frozen=True)
class Histogram:
    """Counts of the activations above 0, text and image on the same edges: `edges` [bins + 1] from 0 to max_act."""

    edges: NDArray[np.float64]
    text: NDArray[np.int64]
    image: NDArray[np.int64]


@dataclass(frozen=True)
class Feature:
    """One feature. The figures are those of the table (`auditor.features.table.COLUMNS` says what each measures).

    `label` is what a person called it ("" where nobody did), `auto_label` what the build made of its strongest words.
    `top_logits` and `bottom_logits`: (token, effect on its logit of one unit of activation, relative to the mean over
    the vocabulary), by the decoder direction through the final norm's weight and the unembedding. `nearest`: (feature,
    decoder cosine).
    """

    id: int
    label: str
    auto_label: str
    density: float
    density_text: float
    density_image: float
    image_share: float
    image_fires: float
    image_balance: float
    max_act: float
    max_text: float
    max_image: float
    mean_act: float
    agreement: float
    agreement_low: float
    agreement_high: float
    agreement_null: float
    agreement_p: float
    nearest_cos: float
    fires_text: int
    fires_image: int
    modality: str
    note: str = ""
    histogram: Histogram = field(repr=False, kw_only=True)
    top_logits: list[tuple[str, float]] = field(repr=False, kw_only=True)
    bottom_logits: list[tuple[str, float]] = field(repr=False, kw_only=True)
    nearest: list[tuple[int, float]] = field(repr=False, kw_only=True)
    examples: list[Example] = field(repr=False, kw_only=True)

    @property
    def title(self) -> str:
        """The label, else the automatic one, else the number."""
        return self.label or self.auto_label or f"feature {self.id}"

    @property
    def labelled(self) -> bool:
        """Whether a person gave the label; an automatic one must be marked as such wherever it shows."""
        return bool(self.label)

    def examples_of(self, kind: str, group: str | None = None) -> list[Example]:
        """The examples of a kind ("text" or "image"), all or those of one group."""
        return [e for e in self.examples if e.kind == kind and group in (None, e.group)]
