"""How fast recording and reading are: recording against the bare forward pass, reading against plain memory copies.

    auditor bench record [--json] [--model FOLDER] [--hook NAME] [--texts N] [--rounds N] [--dtype D] [--device D]

«Bare» is the same network on the same batches up to the deepest recorded hook point, with nothing taken and nothing
written. Both sides take turns; medians. The recording's own start (digest of the model) is not part of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from auditor.base.paths import sample_models
from auditor.data import Sample
from auditor.models import Model, open_model
from auditor.store import StoredSample, StoreWriter
from auditor.store.recipe import chosen_hooks, pieces_of, schedule
from auditor.store.record import RecordConfig, record

WORDS = "the river runs through a town where people build small boats of wood and paint them blue"


def texts(count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample(str(n), text=" ".join(rng.choice(WORDS.split(), int(rng.integers(20, 120))))) for n in range(count)]


def bare_seconds(config: RecordConfig, model: Model, samples: list[Sample]) -> float:
    """Every batch through the network up to the hook point, encoding included, as anyone's loop would do it."""
    hooks = chosen_hooks(config, model)
    deepest = model.hook_points[hooks[-1]]
    begun = time.perf_counter()
    samples = list(pieces_of(samples, model, config))
    for batch in schedule(samples, config):
        inputs = model.encode([samples[n] for n in batch], config.context)
        model.run(inputs, record=[deepest.name], logits=False)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def record_seconds(config: RecordConfig, model: Model, samples: list[Sample], folder: Path) -> float:
    begun = time.perf_counter()
    record(config, model, samples, folder / "a.store")
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder / "a.store")
    return seconds


def recording(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    model = open_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    samples = texts(arguments.texts)
    hooks = (arguments.hook,) if arguments.hook else ()
    config = RecordConfig(
        model=str(arguments.model), samples="generated", hooks=hooks, dtype=arguments.dtype, batch_size=arguments.batch
    )
    bare_seconds(config, model, samples[:32])
    assert model.digest
    pairs = [
        (bare_seconds(config, model, samples), record_seconds(config, model, samples, folder))
        for _ in range(arguments.rounds)
    ]
    bare, recorded = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"bare_s": bare, "record_s": recorded, "ratio": statistics.median(r / b for b, r in pairs)}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", type=Path, default=sample_models() / "smollm2-135m")
    parser.add_argument("--hook", default="")
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=16, help="samples run at once")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        figures = recording(arguments, Path(folder)) | reading(arguments, Path(folder))
    figures |= {"threads": torch.get_num_threads(), "device": arguments.device, "rounds": arguments.rounds}
    if arguments.json:
        print(json.dumps(figures, sort_keys=True))
        return
    print(
        f"bare forward {figures['bare_s']:.2f} s, recording {figures['record_s']:.2f} s: ratio {figures['ratio']:.3f}"
    )
    print(
        f"batches {figures['batches_GBps']:.2f} GB/s as float32, {figures['batches_float16_GBps']:.2f} as float16",
        end="",
    )
    print(f" (plain copy {figures['copy_GBps']:.2f}); 1024 random rows {figures['rows_1024_ms']:.1f} ms")


if __name__ == "__main__":
    main()
