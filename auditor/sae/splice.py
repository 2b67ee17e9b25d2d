"""What a network loses when a dictionary's reconstruction, or something simpler, stands in for its activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from auditor.sae.baselines import Fitted
from auditor.sae.sae import Sae
from auditor.store.capture import kinds_of
from auditor.store.recipe import RecordConfig

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

_RESAMPLES = 1000
Interval = tuple[float, float]
New = Callable[[Tensor], Tensor]


class StandIn(BaseModel):
    """Something simple in place of the activations: its next-token cross-entropy `ce`, and its `kl` from the clean
    network, both in nats per text token, with 95 % `intervals`."""

    model_config = ConfigDict(frozen=True)
    ce: float
    kl: float
    intervals: dict[str, Interval]


class SplicedLoss(BaseModel):
    """Next-token cross-entropy, nats per text token, over `n` tokens of `n_samples` samples.

    `clean`: the network as it is; `spliced`: reconstruction in place of the activations at every text and image
    position; `mean_ablated`: their mean there. `recovered` = (mean_ablated - spliced) / (mean_ablated - clean),
    None where the mean costs nothing. `kl`: mean KL(clean ‖ spliced) of the predicted distributions, nats.
    `intervals`: 95 %, bootstrap over samples, of each of these and of `increase` = spliced - clean; none of a single
    sample. `fvu`: of the reconstruction at those positions, `rows` of them; None where it was not measured.
    `baselines`: the mean; and with as many numbers a row as the dictionary has features active (`l0`), principal
    components (pca) and single coordinates (neurons).
    """

    model_config = ConfigDict(frozen=True)
    clean: float
    spliced: float
    mean_ablated: float
    recovered: float | None
    increase: float
    kl: float
    n: int
    n_samples: int
    intervals: dict[str, Interval]
    l0: int = 0
    fvu: float | None = None
    rows: int = 0
    baselines: dict[str, StandIn] = {}


class Replace(Edit):
    """Put `new(x)` in place of x [B, P, width] where `where` [B, P] holds."""

    def __init__(self, hook: str, where: Tensor, new: New) -> None:
        super().__init__(hook)
        self._where, self._new = where, new

    def apply(self, x: Tensor) -> Tensor:
        return torch.where(self._where[..., None], self._new(x).to(x.dtype), x)


class _Look(Edit):
    """Change nothing and keep what was there."""

    seen: Tensor

    def apply(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


@torch.no_grad()
def spliced_loss(
    model: Model, sae: Sae, samples: Sequence[Sample], *, fitted: Fitted | None = None, batch_size: int = 4,
    max_tokens: int | None = 256, seed: int = 0, skip_first: bool = False, reporter: Reporter | None = None,
) -> SplicedLoss:
    """Run `model` on `samples`: as it is, spliced, with the mean; and with the other baselines where they are given as
    `fitted` to rows of the hook point. A transcoder stands in for its output. With `skip_first` the first position of a
    text counts not in the FVU, as where it was left out of training.

    AuditorError if the network predicts no tokens or values that are no numbers, has no text to predict, or the
    dictionary has several hook points.
    """
    if sae.sources:
        raise AuditorError("A crosscoder cannot be spliced into one run of one network.", "Measure its FVU instead.")
    reporter = reporter or Reporter()
    reporter.started("Splice the dictionary in", 2 * len(samples), "samples")
    dictionary, hook = sae.to(model.device), sae.hook_out or sae.hook
    batches: list[tuple[Inputs, Tensor, Tensor]] = []
    total, seen, active = torch.zeros(sae.d_out, dtype=torch.float64, device=model.device), 0, 0
    moments, judged = list[_Moments](), RecordConfig(model="", samples="", hooks=(hook,), skip_first=skip_first)
    for begin in range(0, len(samples), batch_size):
        inputs = model.encode(samples[begin : begin + batch_size], max_tokens).to(model.device)
        run = model.run(inputs, record=list(dict.fromkeys((hook, sae.hook))), logits=False)
        kind = run.positions(hook).kind
        real = kind != PositionKind.PAD
        where = real & (kind != PositionKind.SPECIAL)
        total += run.rows(hook)[where].double().sum(0)
        seen += int(where.sum())
        values, found = _reconstructed(dictionary, run.rows(sae.hook), where, real)
        active += int((values > 0).sum())
        counted = where & (kinds_of(run, [hook], judged) != PositionKind.SPECIAL)
        moments += _moments(run.rows(hook), found[counted[where]], counted)
        batches.append((inputs, where, real))
        reporter.step(min(begin + batch_size, len(samples)), 2 * len(samples), unit="samples")
    told = active / max(1, seen) if sae.context is not None else None
    l0, simple = _stand_ins(dictionary, (total / max(1, seen)).float(), fitted, told)
    losses: dict[str, list[Tensor]] = {name: [] for name in ("clean", "spliced", *simple)}
    for number, (inputs, where, real) in enumerate(batches, 1):
        clean = _predictions(model.run(inputs).logits)
        losses["clean"].append(_losses(clean, clean, inputs))
        losses["spliced"].append(_losses(_spliced(model, inputs, dictionary, hook, where, real), clean, inputs))
        for name, new in simple.items():
            ablated = _predictions(model.run(inputs, edits=[Replace(hook, where, new)]).logits)
            losses[name].append(_losses(ablated, clean, inputs))
        reporter.step(len(samples) + min(number * batch_size, len(samples)), 2 * len(samples), unit="samples")
    summed = {name: torch.cat(parts).cpu().numpy() for name, parts in losses.items()}
    mean = torch.stack([one.total for one in moments]).sum(0) / max(1, sum(one.rows for one in moments))
    apart = np.array([(one.error, one.spread(mean), one.rows) for one in moments])
    return _summed(summed, apart, l0, seed)


@dataclass(frozen=True)
class _Moments:
    """Of the positions of one sample: how many `rows`, their `total` [d] and sum of `squares`, and the squared `error`
    of their reconstruction."""

    rows: int
    total: Tensor
    squares: float
    error: float

    def spread(self, mean: Tensor) -> float:
        """Their squared distance from `mean` [d]."""
        return self.squares - 2 * float(mean @ self.total) + self.rows * float(mean @ mean)


def _moments(x: Tensor, found: Tensor, where: Tensor) -> list[_Moments]:
    """Of each sample of x [B, P, d], of which `found` [n, d] reconstructs the positions `where` [B, P]."""
    parts = torch.split(found, where.sum(1).tolist())
    made = []
    for rows, recon in zip([rows[at].double() for rows, at in zip(x, where, strict=True)], parts, strict=True):
        error = float((recon.double() - rows).square().sum())
        made.append(_Moments(len(rows), rows.sum(0), float(rows.square().sum()), error))
    return made


def _reconstructed(sae: Sae, x: Tensor, where: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Activations [n, k], and what they make, of the positions `where` of x [B, P, d_in]; each sample is a run
    of its own, without what fills it up, where that matters."""
    seen = where if sae.context is None else real
    rows, runs = x[seen].float(), None if sae.context is None else real.sum(1).tolist()
    values, ids = sae.encode_sparse(rows, runs)
    found, told = sae.complete(sae.decode_sparse(values, ids), rows, runs), where[seen]
    return values[told], found[told]


def _stand_ins(sae: Sae, mean: Tensor, fitted: Fitted | None, active: float | None) -> tuple[int, dict[str, New]]:
    """The dictionary's mean L0, rounded: `active` where that is known, else on the rows of `fitted`; and what else
    takes the place of activations, by name."""
    simple: dict[str, New] = {"mean": mean.expand_as}
    if fitted is None or sae.hook_out:
        return 0, simple
    if active is None:
        rows = fitted.rows
        blocks = torch.split(rows, sae.block_rows)
        active = sum(int((sae.encode_sparse(block.to(sae.device))[0] > 0).sum()) for block in blocks) / len(rows)
    l0 = max(1, round(active))
    return l0, simple | fitted.by_name(l0)


def _spliced(model: Model, inputs: Inputs, sae: Sae, hook: str, where: Tensor, real: Tensor) -> Tensor:
    if sae.context is not None:

        def whole(x: Tensor) -> Tensor:
            """Each sample as a run of its own, without what fills it up."""
            found = x.clone()
            found[real] = sae.reconstruct(x[real], real.sum(1).tolist())
            return found

        return _predictions(model.run(inputs, edits=[Replace(hook, where, whole)]).logits)
    if not sae.hook_out:
        return _predictions(model.run(inputs, edits=[Replace(hook, where, sae.reconstruct)]).logits)
    read = _Look(sae.hook)
    told = Replace(hook, where, lambda _: sae.reconstruct(read.seen))
    return _predictions(model.run(inputs, edits=[read, told]).logits)


def _predictions(logits: Tensor | None) -> Tensor:
    if logits is None or logits.ndim != 3:
        raise AuditorError("This network predicts no tokens, so there is no loss to compare.", "Use a language model.")
    return logits


def _losses(logits: Tensor, clean: Tensor, inputs: Inputs) -> Tensor:
    """[B, 3]: of the text tokens of each sample, summed cross-entropy and KL(clean ‖ these), and how many there are."""
    told = inputs.predicted
    target = told.ids[:, 1:]
    counted = (told.kind[:, 1:] == PositionKind.TEXT) & told.mask[:, :-1]
    losses = torch.zeros(len(target), 3, dtype=torch.float64, device=logits.device)
    for number in range(len(target)):  # one sample at a time: logits in float32 for a whole batch take gigabytes
        which = counted[number]
        found = logits[number, :-1][which].float().log_softmax(-1)
        losses[number, 0] = functional.nll_loss(found, target[number][which], reduction="sum")
        if logits is not clean:
            wanted = clean[number, :-1][which].float().log_softmax(-1)
            losses[number, 1] = functional.kl_div(found, wanted, log_target=True, reduction="sum")
        losses[number, 2] = which.sum()
    return losses


def _summed(
    losses: dict[str, NDArray[np.float64]], apart: NDArray[np.float64], l0: int, seed: int
) -> SplicedLoss:
    """Of losses [sample, (cross-entropy, KL, tokens)] by name, and of the rows' squared errors and spread `apart`
    [sample, (error, spread, rows)]."""
    count = losses["clean"][:, 2]
    if not count.sum():
        raise AuditorError("The samples have no text to predict.", "Choose samples with at least two tokens of text.")
    for name, found in losses.items():
        if not np.isfinite(found).all():
            run = {"clean": "as it is", "spliced": "with the dictionary in its place"}.get(name, f"with the {name}")
            raise AuditorError(
                f"The network run {run} predicts values that are no numbers.",
                "Run the network in float32, or look in the dictionary for values out of range.",
            )
    share = np.full(len(count), 1 / len(count))
    weights = np.random.default_rng(seed).multinomial(len(count), share, size=_RESAMPLES)
    weights = np.concatenate([np.ones((1, len(count)), dtype=weights.dtype), weights[weights @ count > 0]])
    tokens = weights @ count
    ce = {name: weights @ found[:, 0] / tokens for name, found in losses.items()}
    kl = {name: weights @ found[:, 1] / tokens for name, found in losses.items()}
    a, b, c = ce["clean"], ce["spliced"], ce["mean"]
    gap = np.where(np.abs(c - a) < 1e-12, np.nan, c - a)
    figures = {
        "clean": a, "spliced": b, "mean_ablated": c, "recovered": (c - b) / gap, "increase": b - a,
        "kl": kl["spliced"], "fvu": weights @ apart[:, 0] / np.maximum(weights @ apart[:, 1], 1e-30),
    }
    several = int((count > 0).sum()) > 1  # draws of one sample are all the same
    baselines = {}
    for name in [name for name in losses if name not in ("clean", "spliced")]:
        own = {"ce": ce[name], "kl": kl[name]}
        intervals = _intervals(own) if several else {}
        baselines[name] = StandIn(**{key: float(v[0]) for key, v in own.items()}, intervals=intervals)
    known = {name: values for name, values in figures.items() if np.isfinite(values[0])}
    return SplicedLoss(
        **{name: float(values[0]) if name in known else None for name, values in figures.items()}, n=int(count.sum()),
        n_samples=len(count), intervals=_intervals(known) if several else {}, l0=l0, rows=int(apart[:, 2].sum()),
        baselines=baselines,
    )


def _intervals(resampled: dict[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """95 % of each figure, whose first entry is the estimate and the others are resamples."""
    return {
        name: (float(np.nanquantile(v[1:], 0.025)), float(np.nanquantile(v[1:], 0.975)))
        for name, v in resampled.items() if np.isfinite(v[1:]).any()
    }
