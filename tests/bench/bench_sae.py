"""Times dictionary training against peers on the same activations in one run: auditor bench sae --peers DIR.

Every contender trains in a process of its own; blocks of steps alternate, so that a change in the machine's load meets
all of them. Quality is measured at equal samples on held-out rows. With `--sweep`, each contender first tries every
learning rate, and its best is used.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PLAIN = ("auditor", "plain torch")
# Each peer's contenders, and the environment that they run in.
PEERS = {"sparsify": "sparsify", "sae-lens": "sae-lens", "sae-lens autocast": "sae-lens"}


def synthetic(n: int, d_in: int, seed: int, truth: int = 2048, active: float = 16.0) -> np.ndarray:
    """Rows [n, d_in]: sparse sums of `truth` fixed directions, Zipf frequencies, `active` at once on average."""
    fixed = np.random.default_rng(0)
    directions = fixed.standard_normal((truth, d_in)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    share = 1 / (np.arange(truth) + 21)
    share *= active / share.sum()
    rng = np.random.default_rng([seed, 1])
    rows = np.empty((n, d_in), dtype=np.float32)
    for at in range(0, n, 4096):
        size = min(4096, n - at)
        weights = (rng.random((size, truth)) < share) * np.exp(0.5 * rng.standard_normal((size, truth)))
        rows[at : at + size] = weights.astype(np.float32) @ directions + 0.01 * rng.standard_normal((size, d_in))
    return rows * np.float32((d_in / np.square(rows[:8192]).sum(1).mean()) ** 0.5)


class Contender:
    """A trainer's process."""

    def __init__(self, name: str, python: str, spec: dict[str, Any]) -> None:
        self.name, self.blocks, self.cpu = name, [], []
        env = {**os.environ, "OMP_NUM_THREADS": str(spec["threads"])}
        command = [python, str(HERE / "sae_contenders.py"), name, json.dumps(spec)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        self.version = self._answer()["version"]

    def ask(self, line: str) -> dict[str, Any]:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._answer()

    def train(self, steps: int) -> None:
        found = self.ask(str(steps))
        self.blocks.append(found["wall_ms"])
        self.cpu += found["cpu_ms"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)


def best_rate(name: str, python: str, spec: dict[str, Any], rates: Sequence[float]) -> tuple[float, dict[str, float]]:
    """The learning rate with the least FVU, and the FVU of each."""
    found = {}
    for rate in rates:
        contender = Contender(name, python, {**spec, "lr": rate})
        contender.train(spec["steps"])
        found[str(rate)] = contender.ask("evaluate")["fvu"]
        contender.close()
        _say(f"{name}: learning rate {rate:g} gives FVU {found[str(rate)]:.4f}")
    return float(min(found, key=found.__getitem__)), found


def compare(
    pythons: dict[str, str], spec: dict[str, Any], rates: dict[str, float], blocks: int
) -> list[dict[str, Any]]:
    """Train all in alternating blocks; one row each."""
    contenders = [Contender(name, python, {**spec, "lr": rates[name]}) for name, python in pythons.items()]
    steps = spec["steps"] // blocks
    for block in range(blocks):
        turn = block % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            contender.train(steps)
        _say(
            f"block {block + 1} of {blocks}: "
            + ", ".join(
                f"{contender.name} {statistics.median(contender.blocks[-1]):.0f} ms" for contender in contenders
            )
        )
    rows = []
    ours = [statistics.median(block) for block in contenders[0].blocks[1:]]
    for contender in contenders:
        quality = contender.ask("evaluate")
        contender.close()
        medians = [statistics.median(block) for block in contender.blocks[1:]]  # the first block warms up
        step_ms = statistics.median(ms for block in contender.blocks[1:] for ms in block)
        ratios = [theirs / mine for theirs, mine in zip(medians, ours, strict=True)]
        rows.append(
            {
                "name": contender.name,
                "version": contender.version,
                "arch": "topk",
                "device": spec["device"],
                "lr": rates[contender.name],
                "step_ms_median": step_ms,
                "step_ms_blocks": medians,
                "samples_per_s": spec["batch_size"] / step_ms * 1e3,
                "cpu_ms_median": statistics.median(contender.cpu),
                "ratio_to_auditor": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "runs": len(medians),
                **quality,
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print it as a table or, with --json, as one object."""
    given = _arguments(argv)
    pythons = dict.fromkeys(PLAIN, sys.executable)
    if given.peers:
        peers = _peers()
        pythons |= {name: str(peers.make(given.peers.resolve(), place)) for name, place in PEERS.items()}
    with tempfile.TemporaryDirectory() as folder:
        train, held = _data(given, Path(folder))
        spec = {
            "train": train,
            "held": held,
            "d_sae": given.d_sae,
            "k": given.k,
            "batch_size": given.batch_size,
            "steps": given.steps_per_block * given.blocks,
            "threads": given.threads,
            "seed": given.seed,
            "device": given.device,
        }
        rates = {name: given.lr.get(name, given.lr.get("", 3e-3)) for name in pythons}
        swept = {}
        if given.sweep:
            for name, python in pythons.items():
                if name not in given.lr:
                    rates[name], swept[name] = best_rate(name, python, spec, given.sweep)
        rows = compare(pythons, spec, rates, given.blocks)
    ratios = [row["ratio_to_auditor"] for row in rows if row["name"] in PEERS]
    result = {
        "rows": rows,
        "fastest_peer_ratio": min(ratios, default=None),
        "spec": {k: v for k, v in spec.items() if k not in ("train", "held")},
        "sweep": swept,
        "load": os.getloadavg(),
    }
    print(json.dumps(result) if given.json else _table(result))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="auditor bench sae", description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments; made where they are missing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps-per-block", type=int, default=10)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="recorded activations instead of made ones")
    parser.add_argument("--hook", help="hook point of --store")
    parser.add_argument("--lr", type=_rate, action="append", default=[], help="RATE for all or NAME=RATE for one")
    parser.add_argument("--sweep", type=float, nargs="+", help="learning rates to try first, without --lr NAME=RATE")
    given = parser.parse_args(argv)
    given.lr = dict(given.lr)
    return given


def _rate(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    return name, float(value)


def _data(given: argparse.Namespace, folder: Path) -> tuple[str, str]:
    """Files of training rows and of held-out rows."""
    if given.store:
        sys.path.insert(0, str(HERE.parents[1]))
        from auditor.store import open_store

        batch = next(open_store(given.store).batches(given.rows + 4096, hook=given.hook, seed=given.seed))
        train, held = batch[:-4096], batch[-4096:]
    else:
        train, held = synthetic(given.rows, given.d_in, given.seed), synthetic(8192, given.d_in, given.seed + 1000)
    paths = str(folder / "train.npy"), str(folder / "held.npy")
    for path, rows in zip(paths, (train, held), strict=True):
        np.save(path, rows)
    return paths


def _peers() -> Any:
    place = importlib.util.spec_from_file_location("peers", HERE / "peers.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{'':18s} {'version':12s} {'lr':>7s} {'ms/step':>9s} {'rows/s':>9s} {'x ours':>7s} {'MB':>6s} {'FVU':>7s} "
        f"{'L0':>6s} {'dead':>6s}"
    ]
    for r in result["rows"]:
        lines.append(
            f"{r['name']:18s} {r['version']:12s} {r['lr']:7.1e} {r['step_ms_median']:9.1f} {r['samples_per_s']:9.0f} "
            f"{r['ratio_to_auditor']:7.2f} {r['peak_rss_mb']:6.0f} {r['fvu']:7.4f} {r['l0']:6.1f} {r['dead']:6.3f}"
        )
    return "\n".join([*lines, f"{result['spec']}; load {result['load'][0]:.1f}; {result['rows'][0]['runs']} blocks"])


if __name__ == "__main__":
    sys.exit(main())
