"""How far a network in a small number format is from itself in float32."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.image import ImageRef
from auditor.data.sample import PositionKind, Sample
from auditor.models.model import Model, Run

_TEXTS = (
    "The capital of France is Paris, and the river that runs through it is the Seine.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
    "Water boils at 100 degrees Celsius at sea level; on a mountain it boils sooner.",
    "Once upon a time there was a girl who lived in a village near the forest.",
)


@dataclass(frozen=True)
class Departure:
    """Over `n` places that were compared (positions, or samples of a classifier): `error` = ‖a − b‖ / ‖b‖ of logits a
    against float32's b, `kl` = the mean of KL(softmax b ‖ softmax a) in nats, `same` = the share of places whose
    likeliest output is the same; None for a network without logits. `streams`: by hook point the fraction of variance
    unexplained, Σ‖x − y‖² / Σ‖y − mean y‖² of residual streams x against float32's y, special positions left out."""

    error: float | None
    kl: float | None
    same: float | None
    n: int
    streams: Mapping[str, float]


def departure(model: Model, exact: Model, samples: Sequence[Sample] = ()) -> Departure:
    """Of `model` from the same model opened in float32, on `samples` (without any: four short texts, or four pictures
    of noise). AuditorError for a network with neither logits nor a residual stream, and for one
    that hears sounds without any."""
    if not samples and not exact.modalities & {"text", "image"}:
        raise AuditorError(f"“{model.name}” hears sounds, and there are none to compare it on.", "Leave it out.")
    batch = list(samples) or _samples(exact.modalities)
    streams = _streams(exact)
    theirs, ours = (one.run(batch, record=streams) for one in (exact, model))
    lost, rows = {}, 0
    for name in streams:
        kind = theirs.positions(name).kind
        kept = ((kind != int(PositionKind.PAD)) & (kind != int(PositionKind.SPECIAL))).cpu()
        x, y = (run.rows(name).double().cpu()[kept] for run in (ours, theirs))
        if (rows := len(y)) > 1:  # all may be special: words that a tokenizer does not know
            lost[name] = float((x - y).square().sum() / (y - y.mean(0)).square().sum())
    if theirs.logits is None or ours.logits is None:
        if not streams:
            raise AuditorError(f"“{model.name}” has neither logits nor a residual stream to compare.", "Leave it out.")
        return Departure(None, None, None, rows, lost)
    before, after = _logits(theirs), _logits(ours)
    b, a = before.log_softmax(-1), after.log_softmax(-1)
    kl = (b.exp() * (b - a)).sum(-1).mean()
    same = (before.argmax(-1) == after.argmax(-1)).double().mean()
    return Departure(float((after - before).norm() / before.norm()), float(kl), float(same), len(before), lost)


def _streams(model: Model) -> list[str]:
    """The residual stream behind the first, the middle and the last block of each stack."""
    stacks: dict[str, list[str]] = {}
    for name in model.hook_points:
        if found := re.fullmatch(r"(.*?)blocks\.\d+\.resid_post", name):
            stacks.setdefault(found[1], []).append(name)
    return list(dict.fromkeys(held[at] for held in stacks.values() for at in (0, len(held) // 2, len(held) - 1)))


def _logits(run: Run) -> Tensor:
    """float64 [places, outputs], padding left out."""
    assert run.logits is not None
    logits, mask = run.logits.double().cpu(), run.inputs.predicted.mask.cpu()
    return logits[mask] if logits.shape[:2] == mask.shape else logits.flatten(0, -2)


def _samples(modalities: frozenset[str]) -> list[Sample]:
    drawn = np.random.default_rng(0)
    found = []
    for number, text in enumerate(_TEXTS):
        picture = drawn.integers(0, 256, (64, 64, 3), dtype=np.uint8) if "image" in modalities else None
        image = None if picture is None else ImageRef.of(picture)
        found.append(Sample(f"compared {number}", text if "text" in modalities else None, image))
    return found
