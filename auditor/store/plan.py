"""What a recording will cost, measured on a few of its own batches before it starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.checked import sifted
from auditor.data.sample import Sample
from auditor.models.model import Model
from auditor.store.capture import capture, encode
from auditor.store.recipe import RecordConfig, checked_samples, chosen_hooks, cut, schedule
from auditor.store.samples import pack

_PROBES = 4


@dataclass(frozen=True)
class Plan:
    """An estimate: rows (positions), bytes on disk, bytes free there, minutes. From `probed` samples of all.

    `memory_bytes` is what this program held at most after a batch, the network included, and `free_memory_bytes` what
    it could hold (of the GPU, where the network is there).
    """

    rows: int
    bytes: int
    free_bytes: int
    minutes: float
    probed: int
    memory_bytes: int = 0
    free_memory_bytes: int = 0

    @property
    def fits(self) -> bool:
        return self.bytes <= self.free_bytes


def surely_fits(config: RecordConfig, model: Model, samples: Sequence[Sample], out: Path | str = ".") -> bool:
    """Whether a recording of texts fits on the disk even if every byte of them were a token; images and sounds are
    not counted so. Takes no run of the network, which for a small recording lasts as long as the recording."""
    if any(kind != "text" for sample in samples for kind in sample.modalities):
        return False
    size = sum(len((sample.text or "").encode()) for sample in samples)
    pieces = len(samples) + size // max(config.context - 2, 1)
    most = (size + 2 * pieces) * _row_bytes(config, model) + 3 * size + 1000 * pieces
    return most <= _free(Path(out))


def plan(
    config: RecordConfig,
    model: Model,
    samples: Sequence[Sample],
    out: Path | str = ".",
    reporter: Reporter | None = None,
) -> Plan:
    """Run a few batches spread over the recording and extrapolate; `out` is where the store will lie.

    AuditorError as for `record`. Stop when cancelled.
    """
    reporter = reporter or Reporter()
    if not len(samples):
        raise AuditorError("There are no samples to record.", "Choose a set of samples that has some.")
    hooks = chosen_hooks(config, model)
    # Decoding every image would take longer than the probe: only those of the probed batches are looked at.
    given, samples = samples, cut(checked_samples(samples, model, config, reporter, decode=False), model, config)
    batches = schedule(samples, config)
    chosen = sorted({(2 * probe + 1) * len(batches) // (2 * _PROBES) for probe in range(_PROBES)})
    rows = probed = extra = held = 0
    seconds = 0.0
    for turn, number in enumerate([chosen[0], *chosen]):
        reporter.check()
        begun = time.perf_counter()
        batch, _ = sifted([samples[i] for i in batches[number]])
        if not batch:
            continue
        captured = capture(model, encode(model, batch, config), hooks, config)
        held = max(held, _held(model.device))
        if turn:  # the first run warms up
            seconds += time.perf_counter() - begun
            rows, probed = rows + len(captured.sample), probed + len(captured.samples)
            extra += sum(len(pack(sample, 0)) + len(sample.image or b"") + 24 for sample in captured.samples)
    if not probed:
        return plan(config, model, checked_samples(given, model, config, reporter), out, reporter)
    total = round(rows * len(samples) / probed)
    if config.max_tokens:
        total = min(total, config.max_tokens)
    bytes_ = round(total * (_row_bytes(config, model) + extra / max(rows, 1)))
    minutes = seconds / max(rows, 1) * total / 60
    return Plan(total, bytes_, _free(Path(out)), minutes, probed, held, held + _free_memory(model.device))


def _row_bytes(config: RecordConfig, model: Model) -> int:
    number_bytes = 2 if config.store_dtype == "float16" else 4
    return number_bytes * sum(model.hook_points[hook].width for hook in chosen_hooks(config, model)) + 3 * 4 + 1


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return int(psutil.Process().memory_info().rss)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _free(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
