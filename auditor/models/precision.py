"""How far a network in a small number format is from itself in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.image import ImageRef
from auditor.data.sample import Sample
from auditor.models.model import Model

_TEXTS = (
    "The capital of France is Paris, and the river that runs through it is the Seine.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
    "Water boils at 100 degrees Celsius at sea level; on a mountain it boils sooner.",
    "Once upon a time there was a girl who lived in a village near the forest.",
)


@dataclass(frozen=True)
class Departure:
    """Over `n` places whose logits were compared (positions, or samples of a classifier): `error` = ‖a − b‖ / ‖b‖ of
    logits a against float32's b, `kl` = the mean of KL(softmax b ‖ softmax a) in nats, `same` = the share of places
    whose likeliest output is the same."""

    error: float
    kl: float
    same: float
    n: int


def departure(model: Model, exact: Model, samples: Sequence[Sample] = ()) -> Departure:
    """Of `model` from the same model opened in float32, on `samples` (without any: four short texts, or four pictures
    of noise). AuditorError for a network without logits."""
    batch = list(samples) or _samples(exact.modalities)
    theirs, ours = _logits(exact, batch), _logits(model, batch)
    b, a = theirs.log_softmax(-1), ours.log_softmax(-1)
    kl = (b.exp() * (b - a)).sum(-1).mean()
    same = (theirs.argmax(-1) == ours.argmax(-1)).double().mean()
    return Departure(float((ours - theirs).norm() / theirs.norm()), float(kl), float(same), len(theirs))


def _logits(model: Model, samples: list[Sample]) -> Tensor:
    """float64 [places, outputs], padding left out."""
    run = model.run(samples)
    if run.logits is None:
        raise AuditorError(f"“{model.name}” has no logits to compare.", "Compare what its hook points say instead.")
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
