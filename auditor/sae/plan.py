"""What a training will take, from a few steps tried on the real data."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psutil
import torch

from auditor.base.errors import AuditorError
from auditor.sae.source import KINDS, Source
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import Trainer

_STEPS = 4
# Rows of the largest temporaries, in units of [batch, d_in]: input, centred, residual, gradient, reconstruction, slack.
_BATCH_COPIES = 8


@dataclass(frozen=True)
class Plan:
    """`bytes` of memory while training and `free_bytes` there are now (of the GPU, if it trains there); `disk_bytes`
    for checkpoint and dictionary; `minutes` in all; `step_ms` median of the steps tried; `passes` over the store's
    rows."""

    bytes: int
    free_bytes: int
    disk_bytes: int
    minutes: float
    step_ms: float
    passes: float

    @property
    def fits(self) -> bool:
        return self.bytes <= self.free_bytes


def plan(config: TrainConfig, store: Source) -> Plan:
    """Try a few steps of `config` on `store` and keep nothing. AuditorError if even that does not fit the memory."""
    try:
        trainer = Trainer(config, store)
        step_s = statistics.median(_timed(trainer)[1:])
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise AuditorError("The dictionary does not fit the memory.", "Choose fewer features.") from error
    weights = sum(t.numel() * t.element_size() for t in trainer.progress.parameters.named().values())
    rows = config.steps * config.batch_size
    return Plan(
        bytes=memory_bytes(config, trainer.progress.parameters.encoder.shape[1]), free_bytes=_free(trainer.device),
        disk_bytes=4 * weights, minutes=step_s * config.steps / 60, step_ms=step_s * 1e3,
        passes=rows / max(1, _rows(config, store)),
    )


def memory_bytes(config: TrainConfig, d_in: int) -> int:
    """Weights, gradients and Adam's two moments, and what one batch needs, in bytes."""
    weights = 4 * (2 * d_in * config.d_sae + d_in + config.d_sae)
    dense_rows = config.batch_size * 4 if config.arch == "relu" else 3 * 1024
    batch = 4 * (_BATCH_COPIES * config.batch_size * d_in + dense_rows * config.d_sae)
    sparse = 16 * 8 * config.batch_size * config.k if config.arch == "topk" else 0
    return 4 * weights + batch + sparse


def _timed(trainer: Trainer) -> list[float]:
    seconds = []
    for x in trainer.batches():
        begin = time.perf_counter()
        if (outcome := trainer.step(x)) is not None:
            float(outcome.loss.detach())  # waits for the device
        seconds.append(time.perf_counter() - begin)
        if len(seconds) == _STEPS:
            break
    return seconds


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _rows(config: TrainConfig, store: Source) -> int:
    counts = store.counts()
    return sum(counts.get(kind, 0) for kind in KINDS[config.kinds])
