"""The state of an unfinished training run as one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.base.files import partial
from auditor.sae.density import Density
from auditor.sae.finite import FiniteFlag
from auditor.sae.parameters import Parameters
from auditor.sae.train_config import TrainConfig

_VERSION = 3
_HINT = "Delete this file to start from the beginning, or take it from a backup."


@dataclass
class Progress:
    """Everything that changes while training: `step` is also the number of the next batch of the store.

    `silent` [d_sae] counts rows since each feature last fired, `density` how often each fires; `rate` is what a mishap
    has left of the learning rate; `seconds` is the time spent, `looking` that of what was measured in the model on the
    way; `piece` the rows of a batch that fit the memory at once
    (None: all); `curve` holds (step, loss, fvu, l0, dead), `probed` what was measured in the model on the way, and
    `mishaps` what went wrong and what was done; `source` is what a stream needs to go on without running the model from
    the start.
    """

    parameters: Parameters
    optimiser: torch.optim.Adam
    silent: Tensor
    density: Density
    step: int = 0
    rate: float = 1.0
    arch: dict[str, Any] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)
    probed: list[dict[str, float]] = field(default_factory=list)
    mishaps: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    looking: float = 0.0
    piece: int | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def finite(self) -> bool:
        """Whether every weight and moment is a finite number."""
        tensors = [*self.parameters.named().values(), *self._moments().values()]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def tensors(self, flag: FiniteFlag) -> dict[str, Tensor]:
        """Weights, moments and counters by name; the tensors themselves."""
        return {**self.parameters.named(), **self._moments(), **self.counters(flag)}

    def counters(self, flag: FiniteFlag) -> dict[str, Tensor]:
        """What is counted while training, by name; the tensors themselves."""
        return {
            "silent": self.silent, "density": self.density.share, "batches": self.density.batches,
            "loss.mean": flag.mean, "loss.seen": flag.seen,
        }

    def _moments(self) -> dict[str, Tensor]:
        moments: dict[str, Tensor] = {}
        for name, tensor in self.parameters.named().items():
            for key, value in self.optimiser.state[tensor].items():
                moments[f"adam.{name}.{key}"] = value
        return moments


def place(out: Path) -> Path:
    """Where the unfinished run of the dictionary `out` is kept."""
    return out.with_name(f"{out.name}.training.safetensors")


def save(progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag) -> None:
    """Write `progress` to `path`; `identity` is what a resumed run must share (settings, store digest)."""
    facts, tensors = content(progress, identity, flag)
    with partial(path) as unfinished:
        save_file(tensors, unfinished, metadata={"auditor": json.dumps(facts)})


def load(progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag) -> None:
    """Put the state at `path` into `progress`. AuditorError if damaged, or of another run than `identity`."""
    facts, tensors = read(path)
    same(facts["identity"], identity, path)
    take(progress, facts, tensors, flag, path)


def content(
    progress: Progress, identity: dict[str, Any], flag: FiniteFlag
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is kept: plain facts, and tensors on the CPU by name."""
    tensors = progress.tensors(flag)
    tensors["rng"] = torch.get_rng_state()
    facts = {
        "version": _VERSION, "identity": identity, "step": progress.step, "rate": progress.rate,
        "arch": progress.arch, "curve": progress.curve, "probed": progress.probed, "mishaps": progress.mishaps,
        "seconds": progress.seconds, "looking": progress.looking, "piece": progress.piece, "source": progress.source,
    }
    return facts, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def take(
    progress: Progress, facts: dict[str, Any], tensors: dict[str, Tensor], flag: FiniteFlag, path: Path
) -> None:
    """Put `content` into `progress`; AuditorError, which names `path`, where something is missing or does not fit."""
    try:
        with torch.no_grad():
            for name, tensor in progress.parameters.named().items():
                tensor.copy_(tensors[name])
                prefix = f"adam.{name}."
                moments = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
                # torch's fused Adam wants its step counts as it made them: float32, on the parameter's device. They are
                # copied: what was read is mapped from the file, whose room on the disk would not come back before.
                held = {key: t.to(tensor.device, copy=True) for key, t in moments.items()}
                progress.optimiser.state[tensor] = held
            for name, tensor in progress.counters(flag).items():
                tensor.copy_(tensors[name])
        torch.set_rng_state(tensors["rng"])
        progress.step, progress.rate = int(facts["step"]), float(facts["rate"])
        progress.arch, progress.curve, progress.probed = facts["arch"], facts["curve"], facts["probed"]
        progress.mishaps = facts["mishaps"]
        progress.seconds, progress.piece = float(facts["seconds"]), facts["piece"]
        progress.looking = float(facts.get("looking", 0.0))
        progress.source = facts["source"]
    except (KeyError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise AuditorError(f"The unfinished training “{path.name}” is damaged ({error}).", _HINT) from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of the file `path`. AuditorError if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = checked(json.loads((file.metadata() or {})["auditor"]))
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise unreadable(path, error) from error


def reached(path: Path) -> int:
    """The step at which the file `path` was written. AuditorError if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(checked(json.loads((file.metadata() or {})["auditor"]))["step"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise unreadable(path, error) from error


def checked(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` as read, of the version that this program writes; ValueError or KeyError for others."""
    if facts["version"] != _VERSION or not isinstance(facts["identity"], dict):
        raise ValueError(f"version {facts['version']}")
    return facts


def unreadable(path: Path, error: BaseException) -> AuditorError:
    """The error that says that the unfinished training at `path` cannot be read."""
    return AuditorError(f"The unfinished training “{path.name}” cannot be read ({error}).", _HINT)


def same(found: dict[str, Any], identity: dict[str, Any], path: Path) -> None:
    """AuditorError, which names `path`, where the settings found there differ from `identity`. One that is not there,
    since it came to the program later, was what it is by default."""
    found = TrainConfig().model_dump(mode="json", include=identity.keys() - found.keys()) | found
    differing = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
    if differing:
        raise AuditorError(
            f"The unfinished training “{path.name}” had other settings: {', '.join(differing)}.",
            "Use the same settings to go on with it, or choose another name for the new dictionary.",
        )
