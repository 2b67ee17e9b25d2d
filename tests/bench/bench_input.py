"""Whether the input keeps up with training: auditor bench input.

Three rates in rows a second, in turns: reading batches from a store and nothing else; the training loop on batches that
lie in memory; the training loop on the store. The third can be no higher than the lesser of the first two: what share
of that does it reach? The store is made here and its files are in the page cache, unless --store names another.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from auditor.base.reporter import Reporter
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import train
from auditor.store import Store, StoredSample, StoreWriter, open_store


class Clock(Reporter):
    """The time between the ends of two steps."""

    def __init__(self, first: int, last: int) -> None:
        self._ends, self._at = (first, last), []

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        if done in self._ends and not note:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._at.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self._at[1] - self._at[0]


class InMemory:
    """A store whose first batches are held in memory and handed out over and over."""

    def __init__(self, store: Store, held: int, batch_size: int, hook: str) -> None:
        self._store = store
        self._batches = [*itertools.islice(store.batches(batch_size, hook=hook), held)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batches(self, batch_size: int, **_: Any) -> Iterator[np.ndarray]:
        return itertools.cycle(self._batches)


def made(folder: Path, rows: int, width: int, dtype: str) -> Store:
    """A store of random rows."""
    rng, n = np.random.default_rng(0), 4000
    ones = np.ones(n)
    with StoreWriter(folder / "made.store", {"x": width}, {}, dtype=dtype) as writer:
        for _ in range(max(1, rows // n)):
            block = {"x": rng.standard_normal((n, width), dtype=np.float32)}
            writer.append([StoredSample("s")], block, np.zeros(n, int), ones, ones, ones)
        return writer.finish()


def store_rate(store: Store, config: TrainConfig, warm: int) -> float:
    """Rows a second of reading alone."""
    batches = store.batches(config.batch_size, hook=config.hook, seed=config.seed)
    for _ in itertools.islice(batches, warm):
        pass
    begin = time.perf_counter()
    taken = sum(len(x) for x in itertools.islice(batches, config.steps - warm))
    return taken / (time.perf_counter() - begin)


def training_rate(source: Any, config: TrainConfig, warm: int) -> float:
    """Rows a second of the training loop."""
    clock = Clock(warm, config.steps - 1)  # what comes after the last step is not training
    with tempfile.TemporaryDirectory() as folder:
        train(config, source, Path(folder) / "dictionary", clock)
    return (config.steps - 1 - warm) * config.batch_size / clock.seconds


def measure(given: argparse.Namespace, store: Store, hook: str) -> dict[str, Any]:
    """Medians of the three rates, and of the share in each round."""
    warm = max(2, given.steps // 10)
    config = TrainConfig(
        arch=given.arch,
        hook=hook,
        d_sae=given.d_sae,
        k=given.k,
        steps=given.steps,
        batch_size=given.batch_size,
        device=given.device,
        evaluate_rows=0,
        checkpoint_every=given.steps,
    )
    held = InMemory(store, 4, given.batch_size, hook)
    rounds = []
    for number in range(given.rounds):
        alone, step = store_rate(store, config, warm), training_rate(held, config, warm)
        both = training_rate(store, config, warm)
        rounds.append((alone, step, both, both / min(alone, step)))
        print(
            f"round {number + 1} of {given.rounds}: store {alone:.4g}, step {step:.4g}, both {both:.4g} rows/s, "
            f"{rounds[-1][-1]:.0%}", file=sys.stderr, flush=True,
        )
    store_, step_, both_, share = zip(*rounds, strict=True)
    return {
        "store_rows_per_s": statistics.median(store_),
        "step_rows_per_s": statistics.median(step_),
        "both_rows_per_s": statistics.median(both_),
        "share": statistics.median(share),
        "share_range": [min(share), max(share)],
        "rounds": given.rounds,
        "width": store.hook_points[hook],
        "dtype": store.dtype,
        "arch": given.arch,
        "d_sae": given.d_sae,
        "k": given.k,
        "batch_size": given.batch_size,
        "steps": given.steps,
        "device": given.device,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a few lines or, with --json, one object."""
    parser = argparse.ArgumentParser(prog="auditor bench input", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", type=Path, help="a recorded store instead of a made one")
    parser.add_argument("--hook", help="hook point of --store")
    parser.add_argument("--rows", type=int, default=200_000, help="of the made store")
    parser.add_argument("--width", type=int, default=512, help="of the made store")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="likewise")
    single = [name for name in ARCHITECTURES.names() if ARCHITECTURES.get(name).takes == "one"]
    parser.add_argument("--arch", choices=single, default="topk")
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument(
        "--steps", type=int, default=60,
        help="of each round, the first tenth not timed; from 500 on a GPU is fed by a process of its own",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(given.store) if given.store else made(Path(folder), given.rows, given.width, given.dtype)
        result = measure(given, store, store.hook(given.hook))
    print(json.dumps(result) if given.json else _said(result))
    return 0


def _said(result: dict[str, Any]) -> str:
    least, most = result["share_range"]
    return (
        f"store alone {result['store_rows_per_s']:12.0f} rows/s\n"
        f"step alone  {result['step_rows_per_s']:12.0f} rows/s\n"
        f"both        {result['both_rows_per_s']:12.0f} rows/s: {result['share']:.0%} of the lesser "
        f"({least:.0%}–{most:.0%})\n"
        f"Medians of {result['rounds']} rounds of {result['steps']} steps; {result['arch']}, {result['width']} → "
        f"{result['d_sae']}, batch {result['batch_size']}, store of {result['dtype']}, {result['device']}, "
        f"{result['threads']} threads, load {result['load'][0]:.1f}."
    )


if __name__ == "__main__":
    sys.exit(main())
