"""The baseline that tells a network's structure from its data's: the same dictionary learned from random weights.

Heap et al. 2025 (arXiv:2501.17727) found that dictionaries of a network with weights drawn anew look much like those of
the trained one, so a low FVU alone says little of what the network has learned.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models.loading import open_model
from auditor.models.model import Model
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import train
from auditor.store.recipe import RecordConfig
from auditor.store.record import record

# Positions recorded of the random network: enough for the dictionary, few enough to be quick.
MOST_POSITIONS = 65_536
# What a training tells of its figures.
_FIGURES = ("curve", "density", "spliced")


class RandomModel(BaseModel):
    """FVU, L0 and dead share of the same dictionary, trained as long on `recorded` positions of the network with its
    weight matrices drawn anew; measured on `n` rows of them, 95 % `intervals`."""

    model_config = ConfigDict(frozen=True)
    fvu: float
    l0: float
    dead: float
    intervals: dict[str, tuple[float, float]]
    n: int
    recorded: int
    seed: int


@torch.no_grad()
def draw_anew(model: Model, seed: int) -> None:
    """Replace every weight matrix by normal numbers of its own mean and spread; gains and biases stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.network.parameters():
        if weight.ndim > 1:
            numbers = weight.float()
            drawn = torch.randn(weight.shape, generator=generator).to(weight.device)
            weight.copy_(drawn.mul_(numbers.std()).add_(numbers.mean()))


def random_model(
    config: TrainConfig, model: Path, samples: Sequence[Sample], recipe: RecordConfig, beside: Path,
    reporter: Reporter | None = None,
) -> RandomModel:
    """Record what `recipe` says of the network in `model` with random weights, and train `config` on it. What is made
    on the way lies beside the path `beside`, and is removed. AuditorError and Stop as for recording and training."""
    drawn = open_model(model, device=recipe.device, dtype=recipe.dtype)
    if drawn.overlay is not None:  # the base of a recording with its adapter off is no overlaid model
        drawn = drawn.switched(recipe.adapter)
    draw_anew(drawn, config.seed)
    alone = {
        "store": "", "model": "", "samples": "", "start_from": "", "sweep": "", "splice_every": 0,
        "checkpoint_every": config.steps, "evaluate_rows": config.evaluate_rows or 8192,
    }
    reporter = _Redrawn(reporter or Reporter())
    with _scratch(beside) as folder:
        store = record(recipe, drawn, samples, folder / "random.store", reporter)
        del drawn
        sae = train(config.model_copy(update=alone), store, folder / "random.sae", reporter)
        found = sae.meta["quality"]
    return RandomModel(
        fvu=found["fvu"], l0=found["l0"], dead=found["dead"], intervals=found["intervals"], n=found["n"],
        recorded=store.n_rows, seed=config.seed,
    )


class _Redrawn(Reporter):
    """Says that what goes on is of random weights, and keeps its figures from the curves of the dictionary itself."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    @property
    def rested(self) -> float:
        return self._reporter.rested

    def started(self, title: str, total: int = 0, unit: str = "") -> None:
        self._reporter.started(f"Redrawn model: {title[:1].lower()}{title[1:]}", total, unit)

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        self._reporter.step(done, total, note, unit)

    def partial(self, kind: str, **data: Any) -> None:
        if kind == "warning":
            data["message"] = f"Redrawn model: {data['message']}"
        if kind not in _FIGURES:
            self._reporter.partial(kind, **data)

    def check(self) -> None:
        self._reporter.check()


@contextlib.contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    folder = beside.with_name(f"{beside.name}.random-model.partial")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

