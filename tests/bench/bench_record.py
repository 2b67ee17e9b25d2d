"""How fast recording and reading are: recording against the bare forward pass, reading against plain memory copies.

    auditor bench record [--json] [--model FOLDER] [--hook NAME] [--texts N] [--rounds N] [--dtype D] [--device D]
                         [--folder DIR] [--pictures] [--peers DIR | --peer-path PEER=DIR …]
                         [--layers N,N,…] [--tokens N]

«Bare» is the same network on the same batches up to the deepest recorded hook point, with nothing taken and nothing
written: «alone» from inputs that are there, else from samples, as anyone's loop would do it. All take turns; medians,
and ratios of one turn. The digests of model and samples, which are there before a recording starts, are not part of it;
that samples are looked at, cut and put in order is part of recording alone. «Beside» is the CPU time of all that
recording does beside the network, in the threads of Python: what a GPU may have to wait for. With `--pictures`, the
samples are JPEG files (of noise), for a model that reads pictures.

With peers, TransformerLens and nnsight cache the outputs of the same layers for the same texts and write them to disk,
each in a process of its own, in turns with `auditor.store.record`; what they give is compared, and their peak memory.
With `--tokens`, one long recording is made, and the memory held is told as it goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from auditor.base.paths import sample_models
from auditor.base.reporter import Reporter
from auditor.data import ImageRef, Sample, Samples
from auditor.models import Model, open_model
from auditor.models.inputs import Inputs
from auditor.store import StoredSample, StoreWriter
from auditor.store.capture import encode, launch
from auditor.store.record import RecordConfig, Recording, record

_PARTS = {
    "before": "until the first batch was run",
    "after": "after the last one was",
    "waiting": "in which the network waited for the disk",
}
WORDS = "the river runs through a town where people build small boats of wood and paint them blue"


def texts(count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample(str(n), text=" ".join(rng.choice(WORDS.split(), int(rng.integers(20, 120))))) for n in range(count)]


def pictures(count: int) -> list[Sample]:
    """JPEG files of 256 × 256 pixels: noise of all scales, so that they and their thumbnails are as hard to read and
    write as photographs. Of 32 pictures, each shifted."""
    rng, found = np.random.default_rng(0), []
    scenes = [
        sum(
            np.kron(rng.normal(0, 1, (side, side, 3)), np.ones((256 // side, 256 // side, 1))) * 30
            for side in (4, 16, 64, 256)
        )
        for _ in range(32)
    ]
    for number in range(count):
        shifted = np.roll(scenes[number % len(scenes)], tuple(rng.integers(0, 256, 2)), (0, 1))
        file = io.BytesIO()
        Image.fromarray(np.clip(shifted + 128, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        found.append(Sample(str(number), image=ImageRef.held(file.getvalue(), f"{number}.jpg")))
    return found


def bare_seconds(planned: Recording) -> float:
    """Every batch through the network up to the hook point, encoding included, as anyone's loop would do it."""
    begun = time.perf_counter()
    for batch in planned.batches:
        inputs = planned.model.encode([planned.pieces[n] for n in batch], planned.config.context)
        planned.model.run(inputs, record=planned.hooks[-1:], logits=False)
    _synchronised(planned.model)
    return time.perf_counter() - begun


def alone_seconds(planned: Recording, ready: Sequence[Inputs]) -> float:
    """Every batch through the network up to the hook point, from inputs that are there."""
    begun = time.perf_counter()
    for inputs in ready:
        planned.model.run(inputs, record=planned.hooks[-1:], logits=False)
    _synchronised(planned.model)
    return time.perf_counter() - begun


def _synchronised(model: Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


class Parts(Reporter):
    """Of a recording the seconds until its first batch was run, after the last one was, and in which the network
    waited for the disk."""

    def __init__(self) -> None:
        self._begun = self._running = self._last = time.perf_counter()
        self.before = self.waiting = 0.0

    @property
    def after(self) -> float:
        return time.perf_counter() - self._last

    def started(self, title: str, total: int = 0, unit: str = "") -> None:
        self._running = time.perf_counter()  # the last that is begun is the run of the network

    def metric(self, step: int, **values: float) -> None:
        self._last = time.perf_counter()
        self.before = self.before or self._last - self._begun
        self.waiting = values["waiting_for_disk"] * (self._last - self._running)


def record_seconds(config: RecordConfig, model: Model, samples: Sequence[Sample], folder: Path) -> dict[str, float]:
    parts, begun = Parts(), time.perf_counter()
    record(config, model, samples, folder / "a.store", parts)
    figures = {"record_s": time.perf_counter() - begun, "before_s": parts.before, "after_s": parts.after}
    shutil.rmtree(folder / "a.store")
    return figures | {"waiting_s": parts.waiting}


def beside_seconds(config: RecordConfig, model: Model, samples: Sequence[Sample], folder: Path) -> dict[str, float]:
    """CPU seconds of a thousand samples (1,024), one after the other in this thread: `encode` makes a batch, `launch`
    calls the network and takes rows, `rows` makes what is kept of them, `append` writes it."""
    recording = Recording.of(config, model, samples)
    spent = dict.fromkeys(("encode", "launch", "rows", "append"), 0.0)

    @contextlib.contextmanager
    def counted(name: str) -> Iterator[None]:
        begun = time.thread_time()
        yield
        spent[name] += time.thread_time() - begun

    with recording.writer(folder / "b.store", recording.facts()) as writer:
        for numbers in recording.batches:
            with counted("encode"):
                batch = encode(model, [recording.pieces[number] for number in numbers], config)
            with counted("launch"):
                launched = launch(model, batch, recording.hooks, config, narrow=True)
            _synchronised(model)
            with counted("rows"):
                captured = launched.captured()
            with counted("append"):
                writer.append_groups(captured.samples, captured.rows, captured.at)
        writer.finish()
    shutil.rmtree(folder / "b.store")
    return {f"{name}_cpu_s": seconds * 1024 / len(samples) for name, seconds in spent.items()}


def recording(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    hooks = (arguments.hook,) if arguments.hook else ()
    model = open_model(arguments.model, dtype=arguments.dtype, device=arguments.device, until=hooks)
    made = (pictures if arguments.pictures else texts)(arguments.texts)
    samples = Samples("generated", made)
    config = RecordConfig(
        model=str(arguments.model), samples="generated", hooks=hooks, dtype=arguments.dtype, batch_size=arguments.batch
    )
    planned = Recording.of(config, model, samples)
    config = planned.config
    ready = [encode(model, [planned.pieces[n] for n in batch], config).inputs for batch in planned.batches]
    bare_seconds(Recording.of(config, model, samples[:32]))
    turns = []
    for _ in range(arguments.rounds):
        fresh = Samples("generated", made)  # of which no tokens are counted yet
        assert model.digest and fresh.digest
        sides = {"alone_s": alone_seconds(planned, ready), "bare_s": bare_seconds(planned)}
        turns.append(sides | record_seconds(config, model, fresh, folder))
    figures = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    for name, side in (("ratio", "bare_s"), ("alone_ratio", "alone_s")):
        ratios = [turn["record_s"] / turn[side] for turn in turns]
        figures |= {name: statistics.median(ratios), f"{name}_least": min(ratios), f"{name}_most": max(ratios)}
    figures |= {"load": os.getloadavg()[0], "batch": config.batch_size}
    return figures | beside_seconds(config, model, samples[:1024], folder)


def reading(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """GB of stored bytes a second, from the page cache; and of a plain copy of as many bytes on the same machine."""
    rows, width, batch = 120_000, 576, 4096
    block = np.random.default_rng(0).normal(size=(4000, width)).astype(np.float32)
    ones = np.ones(len(block))
    with StoreWriter(folder / "r.store", {"h": width}, {}) as writer:
        for _ in range(rows // len(block)):
            writer.append([StoredSample("s")], {"h": block}, np.zeros(len(block), int), ones, ones, ones)
        store = writer.finish()
    size = rows * width * 2 / 1e9
    source, copy = np.ones(rows * width, dtype=np.float16), np.zeros(rows * width, dtype=np.float16)
    picks = np.random.default_rng(1).integers(0, rows, 1024)
    figures: dict[str, list[float]] = {
        "batches_GBps": [],
        "batches_float16_GBps": [],
        "copy_GBps": [],
        "rows_1024_ms": [],
    }
    for _ in range(arguments.rounds):
        for name, dtype in (("batches_GBps", "float32"), ("batches_float16_GBps", "float16")):
            source_of = store.batches(batch, dtype=dtype, epochs=2)
            begun = time.perf_counter()
            taken = sum(len(x) for x in source_of)
            figures[name].append(taken / rows * size / (time.perf_counter() - begun))
        begun = time.perf_counter()
        copy[...] = source
        figures["copy_GBps"].append(size / (time.perf_counter() - begun))
        begun = time.perf_counter()
        store.rows(picks)
        figures["rows_1024_ms"].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in figures.items()}


def against_peers(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Rounds in turns: seconds (median), ratio to ours (median and range), peak MB, and how far the rows differ."""
    import peers
    from contenders.process import Contender, Failed

    model, samples = open_model(arguments.model), texts(arguments.texts)
    ids = [[int(token) for token in row[mask]] for s in samples for row, mask in _encoded(model, s)]
    layers = [int(number) for number in arguments.layers.split(",")] if arguments.layers else [model.n_layers // 2]
    file = folder / "texts.json"
    file.write_text(json.dumps({"texts": [sample.text for sample in samples], "ids": ids}), "utf-8")
    del model
    pythons = {"auditor": [str(arguments.own), str(Path(__file__).parents[2])] if arguments.own else [sys.executable]}
    given = dict(pair.split("=", 1) for pair in arguments.peer_path)
    for name in ("transformer-lens", "nnsight", "nnsight, stopped"):
        peer = name.partition(",")[0]
        if peer in given:
            pythons[name] = [sys.executable, str(Path(given[peer]).resolve())]
        elif arguments.peers:
            pythons[name] = [str(peers.make(arguments.peers.resolve(), peer))]
    running, failed = {}, {}
    for name, python in pythons.items():
        out = folder / name
        out.mkdir()
        spec = {"model": str(arguments.model), "layers": layers, "batch": arguments.batch, "device": arguments.device,
                "threads": torch.get_num_threads(), "out": str(out), "file": str(file)}  # fmt: skip
        contender = Contender(name, python, spec, folder, "record_contenders.py")
        try:
            contender.ready()
            contender.ask("round")  # the first warms up
            running[name] = contender
        except Failed as word:
            failed[name] = str(word)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for number in range(arguments.rounds):
        names = [*running]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(running[name].ask("round")["seconds"])
    held = {name: dict(np.load(one.ask("sample")["path"])) for name, one in running.items()}
    rows = []
    for name, one in running.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["auditor"], strict=True)]
        rows.append({
            "name": name, "version": one.facts["version"], "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)],
            "peak_mb": one.ask("peak")["mb"], "differs": _apart(held["auditor"], held[name]),
        })  # fmt: skip
        one.close()
    return {"rows": rows, "failed": failed, "layers": layers, "tokens": sum(map(len, ids)), "rounds": arguments.rounds,
            "batch": arguments.batch, "device": arguments.device, "load": os.getloadavg()}  # fmt: skip


class Held(Reporter):
    """Memory of this process, MB, at each thousandth of a recording's samples."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []
        self._process = psutil.Process()

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        if done * 1000 // max(total, 1) > len(self.told):
            self.told.append((done, self._process.memory_info().rss / 2**20))


def long_recording(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Memory held after a tenth, after half and at the end, and what a million rows add from a tenth on."""
    model, held = open_model(arguments.model, dtype=arguments.dtype, device=arguments.device), Held()
    hooks = (arguments.hook,) if arguments.hook else ()
    mean = sum(len(ids) for sample in texts(64) for ids, _ in _encoded(model, sample)) / 64
    samples = texts(round(arguments.tokens / mean))
    config = RecordConfig(
        model=str(arguments.model), samples="generated", hooks=hooks, dtype=arguments.dtype, batch_size=arguments.batch
    )
    begun = time.perf_counter()
    store = record(config, model, samples, folder / "a.store", held)
    seconds, rows = time.perf_counter() - begun, store.n_rows
    done, mb = np.array(held.told).T
    later = done >= done[-1] / 10
    slope = np.polyfit(done[later] / done[-1] * rows / 1e6, mb[later], 1)[0]
    at = {name: float(mb[np.searchsorted(done, share * done[-1])]) for name, share in (("tenth", 0.1), ("half", 0.5))}
    return {"rows": rows, "seconds": seconds, **at, "end": float(mb[-1]), "most": float(mb[later].max()),
            "mb_a_million": float(slope), "hooks": list(store.hook_points), "load": os.getloadavg()}  # fmt: skip


def _told(found: dict[str, Any]) -> str:
    return (
        f"{found['rows']} rows of {', '.join(found['hooks'])} in {found['seconds']:.0f} s: {found['tenth']:.0f} MB "
        f"held after a tenth, {found['half']:.0f} after half, {found['end']:.0f} at the end, "
        f"{found['most']:.0f} at most;\n"
        f"{found['mb_a_million']:+.1f} MB a million rows (a line through the last nine tenths); "
        f"load {found['load'][0]:.1f}"
    )


def _encoded(model: Model, sample: Sample) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    inputs = model.encode([sample], 1024)
    return zip(inputs.ids.numpy(), inputs.mask.numpy(), strict=True)


def _apart(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Largest ‖theirs - ours‖ / ‖theirs‖ of a row, in float32."""
    return max(
        float((np.linalg.norm(theirs[layer] - ours[layer], axis=1) / np.linalg.norm(theirs[layer], axis=1)).max())
        for layer in ours
    )


def _table(found: dict[str, Any]) -> str:
    lines = [f"{'':20s} {'version':14s} {'s':>7s} {'x ours':>22s} {'peak MB':>8s} {'rows differ by':>14s}"]
    for row in found["rows"]:
        low, high = row["ratio_range"]
        ratio = f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"
        lines.append(
            f"{row['name']:20s} {row['version']:14s} {row['seconds']:7.2f} {ratio:>22s} {row['peak_mb']:8.0f} "
            f"{row['differs']:14.1e}"
        )
    lines += [f"{name:20s} failed: {word}" for name, word in found["failed"].items()]
    layers = ", ".join(map(str, found["layers"]))
    return "\n".join([
        *lines, f"outputs of layers {layers}, {found['tokens']} tokens in batches of {found['batch']}, "
        f"{found['device']}, {found['rounds']} rounds in turns, load {found['load'][0]:.1f}",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", type=Path, help="else SmolLM2, or for pictures EfficientNet-Lite0")
    parser.add_argument("--hook", default="")
    parser.add_argument("--texts", type=int, default=128, metavar="N", help="so many samples")
    parser.add_argument("--pictures", action="store_true", help="samples are pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where stores are written, and removed again")
    parser.add_argument("--batch", type=int, default=16, help="samples run at once; 0: as planned")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments; made where they are missing")
    parser.add_argument(
        "--peer-path", action="append", default=[], metavar="PEER=DIR",
        help="a folder with the peer's packages, for this interpreter, in place of an environment",
    )  # fmt: skip
    parser.add_argument(
        "--own", type=Path, metavar="PYTHON",
        help="with peers: an interpreter for ours, so that all have one build of torch, whose size is part of the peak",
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, default=0, help="one long recording of so many, and the memory it holds")
    parser.add_argument("--layers", default="", help="with peers: such as 7,14,22; else the middle one")
    arguments = parser.parse_args()
    if arguments.peers and not arguments.batch:
        parser.error("--peers compares at one number of samples at once: give --batch")
    usual = "efficientnet-lite0" if arguments.pictures else "smollm2-135m"
    arguments.model = arguments.model or sample_models() / usual
    if arguments.tokens:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = long_recording(arguments, Path(folder))
        print(json.dumps(found) if arguments.json else _told(found))
        return
    if arguments.peers or arguments.peer_path:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = against_peers(arguments, Path(folder))
        print(json.dumps(found) if arguments.json else _table(found))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = recording(arguments, Path(folder))
        if arguments.device == "cpu":  # reading is the same beside a GPU
            figures |= reading(arguments, Path(folder))
    figures |= {"threads": torch.get_num_threads(), "device": arguments.device, "rounds": arguments.rounds}
    if arguments.json:
        print(json.dumps(figures, sort_keys=True))
        return
    print(
        f"bare forward {figures['bare_s']:.2f} s, recording {figures['record_s']:.2f} s: ratio {figures['ratio']:.3f} "
        f"({figures['ratio_least']:.3f}–{figures['ratio_most']:.3f}), n = {figures['rounds']}, "
        f"batches of {figures['batch']}, load {figures['load']:.1f}"
    )
    print(
        f"the network alone {figures['alone_s']:.2f} s: ratio {figures['alone_ratio']:.3f} "
        f"({figures['alone_ratio_least']:.3f}–{figures['alone_ratio_most']:.3f})"
    )
    print("of recording: " + ", ".join(f"{figures[f'{name}_s']:.2f} s {what}" for name, what in _PARTS.items()))
    told = ", ".join(f"{name} {figures[f'{name}_cpu_s']:.3f}" for name in ("encode", "rows", "append"))
    print(f"beside the network, CPU s a 1,024 samples: {told} (launching or computing {figures['launch_cpu_s']:.3f})")
    if arguments.device != "cpu":
        return
    print(
        f"batches {figures['batches_GBps']:.2f} GB/s as float32, {figures['batches_float16_GBps']:.2f} as float16",
        end="",
    )
    print(f" (plain copy {figures['copy_GBps']:.2f}); 1024 random rows {figures['rows_1024_ms']:.1f} ms")


if __name__ == "__main__":
    main()
