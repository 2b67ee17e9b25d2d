"""Networks with trained weights, for the checks of `tests.models.checks`: folders on this machine.

What the library says of one is told as for the tiny network of its family; first, middle and last blocks are looked at.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from auditor.data import Sample, text_sample
from auditor.intake.weights import inspect_model
from auditor.models import Model, open_model
from tests.models.tiny import ALL, Case, Tiny
from tests.models.tiny.entry import two_images
from tests.models.tiny.vision import CONVOLUTIONS, DENSE

TEXTS = ("The quick brown fox jumps over the lazy dog near the river.", "A cat sat down.")
REACTIONS = ("CC(=O)O.OCC>>CC(=O)OCC.O", "CCBr.[OH-]>>CCO")
OWN = "no other code has this network"
OF_TEXT = {"albert": REACTIONS}
# Auditor's own networks: why a check does not apply.
OURS: Mapping[str, Mapping[str, str]] = {
    "efficientnet-lite0": CONVOLUTIONS | {"states": OWN},
    "auditor-paired": {"states": OWN, "pattern": OWN, "experts": DENSE},
}


@dataclass(frozen=True)
class RealCase(Case):
    """`folder` holds the network; values are compared as exactly as their size allows."""

    folder: Path

    @property
    def names(self) -> list[str]:
        found = {name: re.search(r"(.*)blocks\.(\d+)\.", name) for name in self.model.hook_points}
        last: dict[str, int] = {}
        for match in filter(None, found.values()):
            last[match[1]] = int(match[2])
        return [
            name
            for name, match in found.items()
            if match is None or int(match[2]) in (0, last[match[1]] // 2, last[match[1]])
        ]

    def near(self, expected: Tensor) -> dict[str, float]:
        return {"atol": 1e-4 * max(1.0, float(expected.abs().max())), "rtol": 1e-4}

    def kept(self, told: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values for name, values in told.items() if name in self.names}

    def anew(self) -> Model:
        return open_model(self.folder)


@functools.lru_cache(maxsize=1)
def real(folder: Path) -> RealCase:
    """The network in a folder, as the library opens it and as Auditor does. KeyError for a family without an entry."""
    kind = inspect_model(folder).model_type
    model = open_model(folder)
    if kind in OURS:
        entry, source = Tiny(kind, lambda: None, lacks=OURS[kind]), None
    else:
        entry = next(tiny for tiny in ALL.values() if _kind(tiny) == kind)
        library: Any = getattr(transformers, type(model.network).__name__)
        source = library.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    config = getattr(model.network, "config", None)
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", entry.activation)
    return RealCase(replace(entry, activation=activation), source, model, _samples(model, kind), folder)


@functools.cache
def _kind(tiny: Tiny) -> str:
    from tests.models.family_table import rows

    return rows().get(tiny.name, ("", ""))[0]


def _samples(model: Model, kind: str) -> list[Sample]:
    texts = OF_TEXT.get(kind, TEXTS)
    if model.modalities == {"image"}:
        return [Sample(f"image {number}", image=image) for number, image in enumerate(two_images())]
    if "image" in model.modalities:
        return [Sample("a", text=texts[0], image=two_images()[0]), text_sample(texts[1])]
    return [text_sample(text) for text in texts]
