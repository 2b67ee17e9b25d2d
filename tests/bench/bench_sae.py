"""Times dictionary training against peers on the same activations in one run: auditor bench sae --peers DIR.

Every contender trains in a process of its own; blocks of steps alternate, so that a change in the machine's load meets
all of them. Quality is measured at equal samples on held-out rows. With `--sweep`, each contender first tries every
learning rate, and its best is used; where sparsity comes from a penalty, its coefficient is searched so that all have
the same L0. `--settings` takes what such a search found from an earlier result.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peers
from contenders import ALL, ENTRIES, taking_part
from contenders.process import Contender, Failed
from contenders.search import best

FLOOR = "floor"


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


class Comparison:
    """The contenders of one run, their interpreters and settings, and those that failed."""

    def __init__(self, pythons: dict[str, list[str]], spec: dict[str, Any], logs: Path) -> None:
        self.pythons, self.spec, self.logs = pythons, spec, logs
        self.settings: dict[str, dict[str, Any]] = {}
        self.failed: list[dict[str, str]] = []

    def start(self, name: str, **settings: Any) -> Contender:
        """A contender that is not ready yet."""
        kept = {key: value for key, value in settings.items() if key != "tried"}
        return Contender(name, self.pythons[name], {**self.spec, **kept}, self.logs)

    def fail(self, name: str, word: Failed) -> None:
        """Note it and go on without it."""
        self.failed.append({"name": name, "arch": self.spec["arch"], "error": str(word)})
        self.pythons.pop(name, None)
        _say(f"{name} {word}")

    def search(self, names: Sequence[str], rates: Sequence[float]) -> None:
        """Give each of these its best settings."""
        for name in names:
            try:
                contender = self.start(name, **self.settings[name])
                contender.ready()
                start = contender.facts["coefficient"]
                contender.close()
                found = best(
                    functools.partial(self._run, name), rates, start, self.spec["l0"], lambda line: _say(f"  {line}")
                )
            except Failed as word:
                self.fail(name, word)
                continue
            _say(f"{name}: learning rate {found['lr']:g} is best")
            self.settings[name] = found

    def _run(self, name: str, rate: float, coefficient: float | None) -> dict[str, Any]:
        contender = self.start(name, lr=rate, coefficient=coefficient)
        contender.ready()
        try:
            contender.train(self.spec["steps"])
            return contender.ask("evaluate")
        finally:
            contender.close()

    def measure(self, blocks: int, together: bool) -> list[dict[str, Any]]:
        """Train all in alternating blocks (or one after another, where they do not fit memory together)."""
        names = [*self.pythons]
        groups = [names] if together else [[name] for name in names]
        measured: dict[str, tuple[Contender, dict[str, Any]]] = {}
        for group in groups:
            measured |= self._measure(group, blocks)
        return [self._row(*measured[name], measured) for name in names if name in measured]

    def _measure(self, names: Sequence[str], blocks: int) -> dict[str, tuple[Contender, dict[str, Any]]]:
        running: list[Contender] = []
        for contender in [self.start(name, **self.settings[name]) for name in names]:
            try:
                contender.ready()
                running.append(contender)
            except Failed as word:
                self.fail(contender.name, word)
        for block in range(blocks):
            turn = block % max(1, len(running))
            for contender in running[turn:] + running[:turn]:
                try:
                    contender.train(self.spec["steps"] // blocks)
                except Failed as word:
                    self.fail(contender.name, word)
                    contender.close()
            running = [contender for contender in running if contender.name in self.pythons]
            latest = [f"{one.name} {statistics.median(one.blocks[-1]):.3g} ms" for one in running]
            _say(f"block {block + 1} of {blocks}: " + ", ".join(latest))
        found = {}
        for contender in running:
            try:
                quality = contender.ask("evaluate") if contender.name != FLOOR else {}
                found[contender.name] = contender, quality
            except Failed as word:
                self.fail(contender.name, word)
            contender.close()
        return found

    def _row(self, contender: Contender, quality: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        blocks = contender.blocks[1:]  # the first block warms up
        medians = [statistics.median(block) for block in blocks]
        step_ms = statistics.median(ms for block in blocks for ms in block)
        ratios = [None]
        if "auditor" in measured:
            ours = [statistics.median(block) for block in measured["auditor"][0].blocks[1:]]
            ratios = [theirs / mine for theirs, mine in zip(medians, ours, strict=True)]
        return {
            "name": contender.name,
            "version": contender.facts["version"],
            "arch": self.spec["arch"],
            "device": self.spec["device"],
            "lr": self.settings[contender.name]["lr"],
            "coefficient": contender.facts["coefficient"],
            "step_ms_median": step_ms,
            "step_ms_blocks": medians,
            "samples_per_s": self.spec["batch_size"] / step_ms * 1e3,
            "cpu_ms_median": statistics.median(contender.cpu),
            "ratio_to_auditor": statistics.median(ratios) if ratios[0] else None,
            "ratio_range": [min(ratios), max(ratios)] if ratios[0] else None,
            "runs": len(medians),
            "floor_format": contender.facts.get("floor_format"),
            **quality,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print it as a table or, with --json, as one object. 1 if this program's own step fails."""
    given = _arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        train, held = _data(given, Path(folder))
        spec = {
            "train": train,
            "held": held,
            "arch": given.arch,
            "d_sae": given.d_sae,
            "k": given.k,
            "l0": given.k,
            "batch_size": given.batch_size,
            "steps": given.steps_per_block * given.blocks,
            "threads": given.threads,
            "seed": given.seed,
            "device": given.device,
            "coefficient": None,
        }
        comparison = Comparison(_pythons(given), spec, Path(folder))
        for name in comparison.pythons:
            rate = given.lr.get(name, given.lr.get("", given.settings.get(name, {}).get("lr", 3e-3)))
            coefficient = given.coefficient.get(name, given.settings.get(name, {}).get("coefficient"))
            comparison.settings[name] = {"lr": rate, "coefficient": coefficient}
        if given.sweep:
            chosen = [name for name in [*comparison.pythons] if name not in given.lr and name not in given.settings]
            comparison.search(chosen, given.sweep)
        comparison.pythons[FLOOR] = [sys.executable]
        comparison.settings[FLOOR] = {"lr": 0.0}
        rows = comparison.measure(given.blocks, not given.one_by_one)
    result = _result(rows, comparison)
    print(json.dumps(result) if given.json else _table(result))
    return int("auditor" in [one["name"] for one in comparison.failed])


def _result(rows: list[dict[str, Any]], comparison: Comparison) -> dict[str, Any]:
    """Rows of the contenders with the floor beside them, and what they say together."""
    floor = next((row for row in rows if row["name"] == FLOOR), None)
    rows = [row for row in rows if row is not floor]
    for row in rows:
        del row["floor_format"]
        row["floor_ms"] = floor and floor["step_ms_median"]
        row["fraction_of_floor"] = floor and floor["step_ms_median"] / row["step_ms_median"]
    ratios = {row["name"]: row["ratio_to_auditor"] for row in rows}
    peers = [ratio for name, ratio in ratios.items() if ENTRIES[name].peer and ratio is not None]
    return {
        "rows": rows,
        "failed": comparison.failed,
        "fastest_peer_ratio": min(peers, default=None),
        "saelens_defaults_ratio": ratios.get("sae-lens"),
        "floor_ms": floor and floor["step_ms_median"],
        "floor_format": floor and floor["floor_format"],
        "spec": {k: v for k, v in comparison.spec.items() if k not in ("train", "held", "coefficient")},
        "sweep": {name: found["tried"] for name, found in comparison.settings.items() if "tried" in found},
        "load": os.getloadavg(),
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="auditor bench sae", description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments; made where they are missing")
    parser.add_argument(
        "--peer-path", type=_pair, action="append", default=[], metavar="PEER=DIR",
        help="a folder with the peer's packages, for this interpreter, in place of an environment",
    )
    parser.add_argument("--arch", choices=ALL, default="topk")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps-per-block", type=int, default=10)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32, help="features active at once, of all architectures")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="recorded activations instead of made ones")
    parser.add_argument("--hook", help="hook point of --store")
    parser.add_argument("--only", action="append", metavar="NAME", help="these contenders only")
    parser.add_argument("--one-by-one", action="store_true", help="not in alternation: where memory holds one only")
    parser.add_argument("--lr", type=_rate, action="append", default=[], help="RATE for all or NAME=RATE for one")
    parser.add_argument("--coefficient", type=_rate, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--sweep", type=float, nargs="+", help="learning rates to try first, without --lr NAME=RATE")
    parser.add_argument("--settings", type=Path, help="a result of --sweep --json: use what it found")
    given = parser.parse_args(argv)
    if given.blocks < 2:
        parser.error("at least two blocks: the first warms up")
    given.lr, given.coefficient, given.peer_path = dict(given.lr), dict(given.coefficient), dict(given.peer_path)
    kept = json.loads(given.settings.read_text("utf-8"))["rows"] if given.settings else []
    given.settings = {row["name"]: row for row in kept}
    return given


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, str(Path(value).resolve())


def _rate(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    return name, float(value)


def _pythons(given: argparse.Namespace) -> dict[str, list[str]]:
    """For each contender its interpreter, and the folder of its packages where that is not the interpreter's own."""
    found: dict[str, list[str]] = {}
    for name, entry in taking_part(given.arch, given.device).items():
        if given.only and name not in given.only:
            continue
        if not entry.peer:
            found[name] = [sys.executable]
        elif entry.peer in given.peer_path:
            found[name] = [sys.executable, given.peer_path[entry.peer]]
        elif given.peers:
            found[name] = [str(peers.make(given.peers.resolve(), entry.peer))]
    return found


def _data(given: argparse.Namespace, folder: Path) -> tuple[str, str]:
    """Files of training rows and of held-out rows."""
    if given.store:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from auditor.store import open_store

        batch = next(open_store(given.store).batches(given.rows + 4096, hook=given.hook, seed=given.seed))
        train, held = batch[:-4096], batch[-4096:]
    else:
        train, held = synthetic(given.rows, given.d_in, given.seed), synthetic(8192, given.d_in, given.seed + 1000)
    paths = str(folder / "train.npy"), str(folder / "held.npy")
    for path, rows in zip(paths, (train, held), strict=True):
        np.save(path, rows)
    return paths


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{'':28s} {'version':12s} {'lr':>7s} {'coeff.':>7s} {'ms/step':>9s} {'rows/s':>10s} {'x ours':>7s} "
        f"{'of floor':>8s} {'MB':>6s} {'FVU':>7s} {'L0':>6s} {'dead':>6s}"
    ]
    for r in result["rows"]:
        coefficient, ratio, share = r["coefficient"], r["ratio_to_auditor"], r["fraction_of_floor"]
        lines.append(
            f"{r['name']:28s} {r['version']:12s} {r['lr']:7.1e} {_number(coefficient, '7.3g')} "
            f"{r['step_ms_median']:9.4g} {r['samples_per_s']:10.0f} {_number(ratio, '7.2f')} {_number(share, '8.2f')} "
            f"{r['peak_rss_mb']:6.0f} {r['fvu']:7.4f} {r['l0']:6.1f} {r['dead']:6.3f}"
        )
    lines += [f"{one['name']:28s} failed: {one['error']}" for one in result["failed"]]
    spec, runs = result["spec"], result["rows"][0]["runs"] if result["rows"] else 0
    if result["floor_ms"]:
        lines.append(f"floor {result['floor_ms']:.4g} ms: the encoder's product ({result['floor_format']}) and Adam")
    for key, words in (("fastest_peer_ratio", "the fastest peer"), ("saelens_defaults_ratio", "SAELens' defaults")):
        if result[key]:
            lines.append(f"{result[key]:.2f} times as fast as {words}")
    return "\n".join([*lines, f"{spec}; load {result['load'][0]:.1f}; {runs} blocks"])


def _number(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else " " * int(form.partition(".")[0])


if __name__ == "__main__":
    sys.exit(main())
