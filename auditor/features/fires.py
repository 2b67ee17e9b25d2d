"""Which features fire on something the person typed or chose, and which fire at one stored token or patch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample, text_sample, with_pixels
from auditor.features.examples import AUDIO, IMAGE, TEXT
from auditor.models.tokens import time_string

if TYPE_CHECKING:
    from auditor.features.index import Index
    from auditor.models.model import Model
    from auditor.sae.sae import Sae
    from auditor.store.reader import Store

Order = Literal["activation", "relative", "rare"]
_SPECIAL = 3
_PICTURE = 256  # pixels of each, where several lie side by side
ORDERS: tuple[Order, ...] = ("activation", "relative", "rare")


@dataclass(frozen=True)
class Fire:
    """A feature that fires: its largest activation, at which position and token.

    `relative` is activation / the feature's max_act in the index (NaN without an index). `values` [positions] are its
    activations at all positions, for display.
    """

    feature: int
    activation: float
    position: int
    token: str
    kind: Literal["text", "image"]
    relative: float
    values: tuple[float, ...]


class Fires(list[Fire]):
    """Features that fire on one sample, in order, with what stands at its positions.

    `tokens` (strings, "" at patches), `kinds` uint8 and `units` (token or patch numbers) have one entry a position;
    `grid` is (rows, columns) of the image's patches, which lie over the part of it that `seen` tells, in shares of its
    height and width: top, left, bottom, right. Where the network reads several pictures, or one in several parts,
    `picture` uint8 [height, width, 3] has them side by side, and the grid lies over that.
    """

    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    picture: NDArray[np.uint8] | None = None

    def __init__(self, fires: Iterable[Fire] = (), tokens: list[str] | None = None,
                 kinds: NDArray[np.uint8] | None = None, units: NDArray[np.int32] | None = None,
                 grid: tuple[int, int] | None = None) -> None:
        super().__init__(fires)
        self.tokens = tokens or []
        self.kinds = kinds if kinds is not None else np.zeros(0, np.uint8)
        self.units = units if units is not None else np.zeros(0, np.int32)
        self.grid = grid

    def at(self, position: int) -> list[tuple[int, float]]:
        """(feature, activation) of all that fire at one position, the strongest first."""
        here = [(fire.feature, fire.values[position]) for fire in self if fire.values[position] > 0]
        return sorted(here, key=lambda pair: (-pair[1], pair[0]))


def fires_on(index: Index | None, model: Model, sae: Sae, sample: Sample | str, *, order: Order = "activation",
             limit: int | None = None) -> Fires:
    """Run `sample` through `model` to the dictionary's hook point and list the features that fire.

    Special positions (a leading BOS) are left out, as they are in training; so is the first position of a text, unless
    the index was built from a store that kept it (many networks dump attention there).

    `order`: "activation", the largest first; "relative", by activation / max_act, so that features which are always
    loud do not lead; "rare", by relative × log10(1 / density), so that features which fire everywhere do not lead.
    The last two need `index`.
    """
    if order not in ORDERS:
        raise AuditorError(f"“{order}” is not an order.", f"Known are {', '.join(ORDERS)}.")
    if order != "activation" and index is None:
        raise AuditorError(f"The order “{order}” needs a feature index.", "Build one from a store first.")
    if index is not None and index.n_features != sae.d_sae:
        raise AuditorError(f"The index has {index.n_features} features, the dictionary {sae.d_sae}.",
                           "Choose the index that was built from this dictionary.")
    sample = text_sample(sample) if isinstance(sample, str) else sample
    hook = sae.hook or (str(index.meta.get("hook", "")) if index is not None else "")
    if hook not in model.hook_points:
        raise AuditorError(f"“{model.name}” has no hook point “{hook}”.", "Choose the model of this dictionary.")
    sample = with_pixels(sample)
    inputs = model.encode([sample])
    with torch.no_grad():
        run = model.run(inputs, record=[hook], logits=False)
        x = run.rows(hook)[0].float()
    places = run.positions(hook)
    kinds = places.kind[0].cpu().numpy().astype(np.uint8)
    stream = model.hook_points[hook].stream
    skip_first = index is None or bool(index.meta.get("skip_first", True))
    if skip_first and len(kinds) and kinds[0] == TEXT and stream == "text":
        kinds[0] = _SPECIAL
    heard = kinds == AUDIO
    kinds[heard] = TEXT
    tokens = [""] * len(kinds)
    told = inputs.predicted if stream == "target" else inputs
    if len(kinds) == told.ids.shape[1] and model.tokenizer is not None:
        ids = told.ids[0].cpu().numpy()
        known = np.flatnonzero(ids >= 0)
        for position, text in zip(known, model.token_strings(ids[known].tolist()), strict=True):
            tokens[position] = text
    for position in np.flatnonzero(heard):
        tokens[position] = time_string(int(places.unit[0, position]) * inputs.frame_seconds)
    fires = _fires(index, sae, x, kinds, tokens)
    fires.units = places.unit[0].cpu().numpy()
    fires.grid = None if places.grid is None else (int(places.grid[0]), int(places.grid[1]))
    if places.sheets and places.sheets[0] is not None and len(places.sheets[0].panels) > 1:
        fires.picture = model.shown(inputs, 0, _PICTURE, [hook])
    elif sample.image is not None:
        height, width = sample.image.load().shape[:2]
        top, left, bottom, right = model.seen(height, width)
        fires.seen = (top / height, left / width, bottom / height, right / width)
    _arrange(fires, index, order)
    if limit is not None:
        del fires[limit:]
    return fires


def activations_at(index: Index | None, sae: Sae, store: Store, row: int) -> Fires:
    """All features that fire at one row of a store (an example's `row`), the strongest first."""
    if not 0 <= row < store.n_rows:
        raise AuditorError(f"The store “{store.name}” has no row {row}.", f"It has rows 0 to {store.n_rows - 1}.")
    hook = sae.hook or (str(index.meta.get("hook", "")) if index is not None else "")
    if hook not in store.hook_points:
        raise AuditorError(f"The store “{store.name}” holds no activations at “{hook}”.",
                           f"It holds {', '.join(store.hook_points)}.")
    places = store.positions(slice(row, row + 1))
    sample = store.sample(int(places.sample[0]))
    at = row - sample.first_row
    token = sample.tokens[at] if sample.tokens is not None and at < len(sample.tokens) else ""
    # A temporal dictionary reads what stands before, too.
    first = row if sae.context is None else sample.first_row
    kinds = np.where(places.kind == AUDIO, TEXT, places.kind).astype(np.uint8)
    fires = _fires(index, sae, torch.from_numpy(store.rows(slice(first, row + 1), hook)), kinds, [token])
    fires.units, fires.grid = places.unit, sample.grid
    _arrange(fires, index, "activation")
    return fires


def _fires(index: Index | None, sae: Sae, x: torch.Tensor, kinds: NDArray[np.uint8], tokens: list[str]) -> Fires:
    """Of the rows x [n, d_in], the last of which have `kinds` and `tokens`; they are one sample from its first on."""
    with torch.no_grad():
        dense_values, dense_ids = sae.encode_sparse(x.to(sae.device), [len(x)])
    told = slice(len(x) - len(kinds), None)
    values, ids = dense_values[told].float().cpu().numpy(), dense_ids[told].cpu().numpy()
    values = np.where(((kinds == TEXT) | (kinds == IMAGE))[:, None], values, 0)
    position, place = np.nonzero(values > 0)
    features = ids[position, place]
    live = np.unique(features)
    dense = np.zeros((len(live), len(kinds)), np.float32)
    dense[np.searchsorted(live, features), position] = values[position, place]
    found = []
    for feature, row in zip(live.tolist(), dense, strict=True):
        peak = int(row.argmax())
        largest = float(index.table["max_act"][feature]) if index is not None else np.nan
        relative = float(row[peak]) / largest if largest > 0 else float("nan")
        kind: Literal["text", "image"] = "image" if kinds[peak] == IMAGE else "text"
        found.append(Fire(feature, float(row[peak]), peak, tokens[peak], kind, relative, tuple(row.tolist())))
    return Fires(found, tokens, kinds)


def _arrange(fires: Fires, index: Index | None, order: Order) -> None:
    def weight(fire: Fire) -> float:
        if order == "activation" or index is None:
            return fire.activation
        # A feature that the index has never seen firing has no scale; it stands last rather than nowhere.
        relative = fire.relative if fire.relative == fire.relative else 0.0
        if order == "relative":
            return relative
        density = float(index.table["density"][fire.feature])
        return relative * -float(np.log10(density)) if 0 < density < 1 else 0.0

    fires.sort(key=lambda fire: (-weight(fire), fire.feature))
