"""Whether each architecture finds known directions: auditor bench dictionaries.

Made data: unit directions in superposition that fire with Zipf probabilities at lognormal strengths, plus noise. Every
architecture of the registry trains on them through the trainer, on several seeds; each seed is another world. What is
printed is measured on rows that training did not see. The null is as many random unit directions as the dictionary has.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from auditor.base.digest import sha256_bytes
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import train

HELD = 8192
NOISE = 0.01
# Rows of a sample, where samples are read in order.
RUN = 16


@dataclass(frozen=True)
class Size:
    """Of one world: directions, their width, how many fire at once on average; and of training in it."""

    truth: int = 256
    width: int = 64
    active: float = 6.0
    rows: int = 100_000
    d_sae: int = 384
    steps: int = 1500
    batch_size: int = 1024
    lr: float = 1e-2


QUICK = Size(truth=64, width=32, active=3.0, rows=20_000, d_sae=96, steps=400, batch_size=256)

# What differs from the trainer's defaults. Numbers of features are in units of how many directions fire on average.
SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {"k": 1.5},
    "batchtopk": {"k": 1.25},
    "matryoshka": {"k": 1.25},
    "abstopk": {"k": 1.5},
    "groupmax": {"k": 4 / 3},
    "matching_pursuit": {"k": 1.5},
    "temporal": {"k": 1.5, "heads": 2, "bottleneck": 4},
    "relu": {"l1": 2.0},
    "gated": {"l1": 4.0},
    "jumprelu": {"target_l0": 1.25},
    "transcoder": {"k": 1.5},
    "skip_transcoder": {"k": 1.5},
    "crosscoder": {"l1": 2.0},
    "clt": {"l1": 1.0},
}
_PER_ACTIVE = ("k", "target_l0")


class World:
    """Directions and data for an architecture that takes one hook point, several, a pair, or layers.

    `samples`: half of the features fire alike on all the rows of a sample, so that they can be foreseen.
    `several`: two hook points with directions of their own each; half of the features are in both, a quarter in each.
    `pair`: what fires along one set of directions is predicted along another, with `linear` beside a linear map of the
    input. `layers`: two hook points read and two predicted; the first's features write to both, the second's to one.
    With `signed`, features fire in both directions.
    """

    def __init__(self, takes: str, size: Size, seed: int, linear: bool, signed: bool = False) -> None:
        self.takes, self.size, self.rng, self.signed = takes, size, np.random.default_rng([seed, 7]), signed
        self.linear = self._directions(size.width) * 0.5 if linear else None
        share = 1 / (np.arange(size.truth) + 11)
        self.share = share * size.active / share.sum()
        counts = {"one": (1, 0), "samples": (1, 0), "several": (2, 0), "pair": (1, 1), "layers": (2, 2)}
        sources, targets = counts[takes]
        number = np.arange(size.truth)
        # [hook point][feature]: whether the feature is there.
        parts = {
            "one": [number >= 0],
            "samples": [number >= 0],
            "several": [number % 4 != 1, number % 4 != 3],
            "pair": [number >= 0] * 2,
            "layers": [number % 2 == 0, number % 2 == 1, number % 2 == 0, number >= 0],
        }[takes]
        self.directions = [self._directions(size.truth) * there[:, None] for there in parts]
        self.sources = [f"in {n}" for n in range(sources)]
        self.targets = [f"out {n}" for n in range(targets)]
        self.written = np.concatenate(self.directions[sources:] or self.directions, axis=1)

    def _directions(self, n: int) -> np.ndarray:
        made = self.rng.standard_normal((n, self.size.width))
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def rows(self, n: int) -> np.ndarray:
        """Fresh rows [n, all hook points side by side] float32."""
        fires = self.rng.random((n, self.size.truth)) < self.share
        weights = fires * np.exp(0.5 * self.rng.standard_normal(fires.shape))
        if self.takes == "samples":
            weights[:, ::2] = weights[np.arange(n) // RUN * RUN, ::2]
        if self.signed:
            weights *= self.rng.choice([-1.0, 1.0], weights.shape)
        parts = [weights @ directions for directions in self.directions]
        if self.linear is not None:
            parts[-1] = parts[-1] + parts[0] @ self.linear
        rows = np.concatenate(parts, axis=1)
        return (rows + NOISE * self.rng.standard_normal(rows.shape)).astype(np.float32)

    def truth(self, skip: np.ndarray | None = None) -> np.ndarray:
        """Unit directions [T, D] that features must write. A linear path `skip` takes over what it can of each, and no
        data tell how much of a feature's output went that way: then the rest is the truth."""
        written = self.written
        if skip is not None:
            assert self.linear is not None
            written = written + self.directions[0] @ (self.linear - skip)
        return written / np.linalg.norm(written, axis=1, keepdims=True)

    def null(self, n: int) -> float:
        """Mean largest cosine of `n` random unit directions with the truth."""
        return closest(self.truth(), self.rng.standard_normal((n, self.written.shape[1]))).mean()


class MemoryStore:
    """A world's rows with the part of a store that training reads."""

    def __init__(self, world: World) -> None:
        self.world, self.data = world, world.rows(world.size.rows)
        names = [*world.sources, *world.targets]
        self.hook_points = dict.fromkeys(names, world.size.width)
        self.n_rows, self.meta = len(self.data), {}
        self.digest = sha256_bytes(self.data.tobytes())

    def rows(self, index: Any, hook: str | None = None) -> np.ndarray:
        """Rows of the one hook point of a world of samples."""
        return self.data[index]

    def positions(self, index: Any) -> SimpleNamespace:
        """Where they come from: text, `RUN` of them a sample."""
        sample = np.arange(self.n_rows)[index] // RUN
        return SimpleNamespace(sample=sample, kind=np.ones(len(sample), np.uint8))

    def batches(
        self, batch_size: int, *, seed: int = 0, hook: str | Sequence[str] | None = None, start: int = 0, **_: Any
    ) -> Iterator[np.ndarray]:
        """Batches in the order that `seed` gives, from number `start` on."""
        names = [hook] if isinstance(hook, str) else [*(hook or self.hook_points)]
        width, order = self.world.size.width, [*self.hook_points]
        columns = np.concatenate([np.arange(width) + width * order.index(name) for name in names])
        while True:
            chosen = np.random.default_rng([seed, start]).integers(0, self.n_rows, batch_size)
            yield self.data[chosen][:, columns]
            start += 1


def closest(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """For each true direction [T, D] the largest cosine with what was found [M, D]."""
    return (truth @ (found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)).T).max(1)


def run(arch: str, size: Size, seed: int) -> dict[str, float]:
    """Train once; what it found of the truth, and how well it codes rows that it has not seen."""
    linear, signed = arch.startswith("skip"), arch == "abstopk"
    world = World(ARCHITECTURES.get(arch).takes, size, seed, linear, signed)
    config = TrainConfig(
        arch=arch,
        hook=", ".join(world.sources),
        target=", ".join(world.targets),
        d_sae=size.d_sae // (len(world.sources) if world.takes == "layers" else 1),  # there they count in each layer
        steps=size.steps,
        batch_size=size.batch_size,
        seed=seed,
        device="cpu",
        dead_after=100 * size.batch_size,
        evaluate_rows=0,
        checkpoint_every=size.steps,
        **{"lr": size.lr, **settings(arch, size)},
    )
    store = MemoryStore(world)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        sae = train(config, store, Path(folder) / "dictionary")
        seconds = time.perf_counter() - begin
    held = torch.from_numpy(world.rows(HELD))
    x = held[:, : size.width * len(world.sources)]
    target = held[:, x.shape[1] :] if world.targets else x
    whole = world.takes == "samples"
    z = torch.cat([sae.encode(block, *([[RUN] * (1024 // RUN)] if whole else [])) for block in x.split(1024)])
    made = sae.reconstruct(x, [RUN] * (HELD // RUN)) if whole else sae.reconstruct(x)
    spread = (target - target.mean(0)).double().pow(2).sum()
    written, skip = (sae.directions(), None) if world.takes == "layers" else (sae.W_dec, sae.W_skip)
    cosine = closest(world.truth(None if skip is None else skip.numpy()), written.numpy())
    return {
        "mmcs": float(cosine.mean()),
        "null": float(world.null(sae.d_sae)),
        "found": float((cosine > 0.9).mean()),
        "fvu": float((made - target).double().pow(2).sum() / spread),
        "l0": float((z != 0).sum(1).double().mean()),
        "dead": float((z != 0).sum(0).eq(0).double().mean()),
        "seconds": seconds,
    }


def settings(arch: str, size: Size) -> dict[str, Any]:
    """Of one architecture at this size; the trainer's own where the table has none."""
    return {
        name: round(value * size.active) if name in _PER_ACTIVE else value
        for name, value in SETTINGS.get(arch, {}).items()
    }


def measure(archs: Sequence[str], size: Size, seeds: int) -> list[dict[str, Any]]:
    """One row per architecture: mean, least and most of each figure over the seeds."""
    rows = []
    for arch in archs:
        runs = [run(arch, size, seed) for seed in range(seeds)]
        figures = {
            name: {
                "mean": statistics.fmean(one[name] for one in runs),
                "least": min(one[name] for one in runs),
                "most": max(one[name] for one in runs),
            }
            for name in runs[0]
        }
        rows.append({"arch": arch, "settings": settings(arch, size), "seeds": seeds, **figures})
        print(f"{arch}: {statistics.fmean(one['seconds'] for one in runs):.1f} s a run", file=sys.stderr, flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Train every architecture and print a table or, with --json, one object."""
    parser = argparse.ArgumentParser(prog="auditor bench dictionaries", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller world, for tests")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES.names(), help="only these")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    size = QUICK if given.quick else Size()
    rows = measure(given.arch or ARCHITECTURES.names(), size, given.seeds)
    result = {"rows": rows, "size": vars(size), "held": HELD, "threads": given.threads, "load": os.getloadavg()}
    print(json.dumps(result) if given.json else _table(result))
    return 0


def _table(result: dict[str, Any]) -> str:
    columns = (
        ("mmcs", "MMCS", 3), ("null", "null", 3), ("found", "> 0.9", 3), ("fvu", "FVU", 4), ("l0", "L0", 2),
        ("dead", "dead", 3), ("seconds", "s", 1),
    )
    lines = [f"{'':17s} " + " ".join(f"{title:>22s}" for _, title, _ in columns)]
    for row in result["rows"]:
        cells = []
        for name, _, digits in columns:
            mean, least, most = (f"{row[name][key]:.{digits}f}" for key in ("mean", "least", "most"))
            cells.append(f"{mean} ({least}–{most})".rjust(22))
        lines.append(f"{row['arch']:17s} " + " ".join(cells))
    size = result["size"]
    lines.append(
        f"Mean (range) over {result['rows'][0]['seeds']} seeds. {size['truth']} directions of width {size['width']}, "
        f"{size['active']:g} at once on average; {size['d_sae']} features, {size['steps']} steps of "
        f"{size['batch_size']} rows out of {size['rows']}; measured on {result['held']} other rows.\n"
        "MMCS: mean largest cosine of the truth with the dictionary; null: that of as many random directions; > 0.9: "
        "share of the truth found so well;\ndead: features silent on those rows, where "
        f"{1 - size['truth'] / size['d_sae']:.0%} are spare. {result['threads']} threads, load {result['load'][0]:.1f}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
