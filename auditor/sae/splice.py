"""What a network loses when a dictionary's reconstruction stands in for its activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import PositionKind, Sample
from auditor.models.edits import Edit
from auditor.sae.sae import Sae

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

_RESAMPLES = 1000


class SplicedLoss(BaseModel):
    """Next-token cross-entropy, nats per text token, over `n` tokens of `n_samples` samples.

    `clean`: the network as it is; `spliced`: reconstruction in place of the activations at every text and image
    position; `mean_ablated`: their mean there. `recovered` = (mean_ablated - spliced) / (mean_ablated - clean).
    `intervals`: 95 %, bootstrap over samples, of each of the four and of `increase` = spliced - clean.
    """

    model_config = ConfigDict(frozen=True)
    clean: float
    spliced: float
    mean_ablated: float
    recovered: float
    increase: float
    n: int
    n_samples: int
    intervals: dict[str, tuple[float, float]]


class Replace(Edit):
    """Put `new(x)` in place of x [B, P, width] where `where` [B, P] holds."""

    def __init__(self, hook: str, where: Tensor, new: Callable[[Tensor], Tensor]) -> None:
        super().__init__(hook)
        self._where, self._new = where, new

    def apply(self, x: Tensor) -> Tensor:
        return torch.where(self._where[..., None], self._new(x).to(x.dtype), x)


@torch.no_grad()
def spliced_loss(
    model: Model, sae: Sae, samples: Sequence[Sample], *, batch_size: int = 4, max_tokens: int | None = 256,
    seed: int = 0, reporter: Reporter | None = None,
) -> SplicedLoss:
    """Run `model` on `samples` three ways. AuditorError if it predicts no tokens or has no text to predict."""
    reporter = reporter or Reporter()
    reporter.started("Splice the dictionary in", 2 * len(samples), "samples")
    dictionary = sae.to(model.device)
    batches: list[tuple[Inputs, Tensor]] = []
    clean: list[Tensor] = []
    total, rows = torch.zeros(sae.d_in, dtype=torch.float64, device=model.device), 0
    for begin in range(0, len(samples), batch_size):
        inputs = model.encode(samples[begin : begin + batch_size], max_tokens).to(model.device)
        run = model.run(inputs, record=[sae.hook])
        kind = run.positions(sae.hook).kind
        where = (kind == PositionKind.TEXT) | (kind == PositionKind.IMAGE)
        clean.append(_losses(run.logits, inputs))
        total += run.rows(sae.hook)[where].double().sum(0)
        rows += int(where.sum())
        batches.append((inputs, where))
        reporter.step(min(begin + batch_size, len(samples)), 2 * len(samples), unit="samples")
    mean = (total / max(1, rows)).float()
    spliced: list[Tensor] = []
    ablated: list[Tensor] = []
    for number, (inputs, where) in enumerate(batches, 1):
        for losses, new in ((spliced, dictionary.reconstruct), (ablated, mean.expand_as)):
            losses.append(_losses(model.run(inputs, edits=[Replace(sae.hook, where, new)]).logits, inputs))
        reporter.step(len(samples) + min(number * batch_size, len(samples)), 2 * len(samples), unit="samples")
    return _summed(torch.stack([torch.cat(losses) for losses in (clean, spliced, ablated)]).cpu().numpy(), seed)


def _losses(logits: Tensor | None, inputs: Inputs) -> Tensor:
    """[B, 2]: summed cross-entropy of the text tokens of each sample, and how many there are."""
    if logits is None or logits.ndim != 3:
        raise AuditorError("This network predicts no tokens, so there is no loss to compare.", "Use a language model.")
    target = inputs.ids[:, 1:]
    counted = (inputs.kind[:, 1:] == PositionKind.TEXT) & inputs.mask[:, :-1]
    losses = torch.zeros(len(target), 2, dtype=torch.float64, device=logits.device)
    for number in range(len(target)):  # one sample at a time: logits in float32 for a whole batch take gigabytes
        which = counted[number]
        row = functional.cross_entropy(logits[number, :-1][which].float(), target[number][which], reduction="sum")
        losses[number, 0], losses[number, 1] = row, which.sum()
    return losses


def _summed(losses: NDArray[np.float64], seed: int) -> SplicedLoss:
    """Of losses [clean | spliced | ablated, sample, (sum, tokens)]."""
    count = losses[0, :, 1]
    if not count.sum():
        raise AuditorError("The samples have no text to predict.", "Choose samples with at least two tokens of text.")
    share = np.full(len(count), 1 / len(count))
    weights = np.random.default_rng(seed).multinomial(len(count), share, size=_RESAMPLES)
    weights = np.concatenate([np.ones((1, len(count)), dtype=weights.dtype), weights[weights @ count > 0]])
    tokens = weights @ count
    a, b, c = (weights @ sums / tokens for sums in losses[:, :, 0])
    gap = np.where(np.abs(c - a) < 1e-12, np.nan, c - a)
    figures = {"clean": a, "spliced": b, "mean_ablated": c, "recovered": (c - b) / gap, "increase": b - a}
    found = {name: float(np.nan_to_num(values[0])) for name, values in figures.items()}
    intervals = {
        name: (float(np.nanquantile(v[1:], 0.025)), float(np.nanquantile(v[1:], 0.975)))
        for name, v in figures.items() if np.isfinite(v[1:]).any()
    }
    return SplicedLoss(**found, n=int(count.sum()), n_samples=len(count), intervals=intervals)
