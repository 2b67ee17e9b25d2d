"""What a training will take, from its sizes and a few steps tried on the real data."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.models.device import device_named
from auditor.sae import memory
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.baselines import Components, component_seconds
from auditor.sae.clt import Dictionary
from auditor.sae.distributed import Ranks, kept
from auditor.sae.looks import Extra, Look, Network, extra, looks_of
from auditor.sae.memory import size
from auditor.sae.quality import evaluate
from auditor.sae.random_model import MOST_POSITIONS
from auditor.sae.run import Trainer
from auditor.sae.scaling import Reading, reading_of
from auditor.sae.source import KINDS, Computed, Source
from auditor.sae.sweep import expand
from auditor.sae.train_config import TrainConfig
from auditor.store.shuffle import WINDOW_BYTES

_STEPS = 4
# Rows of two evaluations that tell what one of many more takes.
_FEW, _SOME = 256, 1024


@dataclass(frozen=True)
class Plan:
    """Of one dictionary, or of all of a sweep.

    `bytes` of memory while training and `free_bytes` there are now (of the GPU, if it trains there; where several
    processes train together, of each one's GPU, or of all those on a machine); `disk_bytes` at most for checkpoints and
    dictionaries, `kept_bytes` of the dictionaries alone, and `free_disk_bytes` there are now (0: not asked); `minutes`
    of all steps, of the looks into the network between them, and `after_minutes` of what comes after the last one: what
    is measured then, and the same training on random weights where that is asked for; `step_ms` median of the steps
    tried, summed over a sweep; `passes` over the store's rows; `looked_at`, samples of the network at each look before
    the last step (0: none was tried).
    """

    bytes: int
    free_bytes: int
    disk_bytes: int
    minutes: float
    step_ms: float
    passes: float
    kept_bytes: int = 0
    free_disk_bytes: int = 0
    after_minutes: float = 0.0
    looked_at: int = 0

    @property
    def fits(self) -> bool:
        return self.bytes <= self.free_bytes

    def must_fit(self) -> None:
        """AuditorError with the figures where the memory or the disk is too small."""
        if not self.fits:
            raise _too_large(self.bytes, self.free_bytes, "Choose fewer features, or a smaller sweep.")
        if self.free_disk_bytes and self.disk_bytes > self.free_disk_bytes:
            raise AuditorError(
                f"The disk is full: this training needs {size(self.disk_bytes)} for checkpoints and dictionaries, and "
                f"{size(self.free_disk_bytes)} are free.",
                "Free some room, choose another folder, or choose fewer features.",
            )

    def facts(self) -> dict[str, float]:
        """What is to be held against `Took.facts`."""
        return {
            "minutes": self.minutes, "after_minutes": self.after_minutes, "step_ms": self.step_ms,
            "memory_mb": self.bytes / 1e6, "disk_mb": self.kept_bytes / 1e6,
        }


def plan(
    config: TrainConfig, store: Source, out: Path | None = None, *, start: Dictionary | None = None,
    ranks: Ranks | None = None, network: Network | None = None,
) -> Plan:
    """Try a few steps of each dictionary that `config` asks for on `store`, and keep nothing; `out` is where they will
    lie. Where several processes will train together as `ranks`, each calls this alike, and they try the steps together.
    `network` is what dictionaries are looked at in; where that is to be done before the last step, or its weights are
    to be drawn anew, it is looked into now to see what that takes, unless several processes train. AuditorError with
    the figures where their size says already that they do not fit the memory."""
    ranks, configs = ranks or Ranks(), expand(config)
    device = device_named(config.device)
    readings = [_reading(member, store) for member in configs]
    free = memory.free_bytes(device)
    parts = [ranks.part_of(member) for member in configs]
    state = [memory.state_bytes(c, *_widths(r)) for c, r in zip(parts, readings, strict=True)]
    beside = [memory.training_bytes(c, *_widths(r)) - s for c, r, s in zip(parts, readings, state, strict=True)]
    reading = _read_bytes(store, readings[0], device)
    whole = [s + b for s, b in zip(state, beside, strict=True)]
    more = extra(config, network, None, training=whole)
    needed = _together(ranks, device, sum(state) + reading, max(beside), more)
    if needed > free:
        alone = memory.advice(configs[0], *_widths(readings[0]), free)
        raise _too_large(needed, free, alone if ranks.size == 1 else "Choose fewer features, or smaller batches.")
    asked = network if ranks.size == 1 and (looks_of(config) or config.random_model) else None
    tried = [_tried(member, store, start, ranks, asked if at == 0 else None) for at, member in enumerate(configs)]
    step_s, weights = sum(one.seconds for one in tried), [one.weights for one in tried]
    if isinstance(store, Computed):
        step_s += config.batch_size * store.row_seconds()
    found = [max(0, one.peak - held) for one, held in zip(tried, state, strict=True)]
    written = [w // (2 if config.half else 1) for w in weights]
    more = extra(
        config, network, tried[0].look, training=whole, step_seconds=[one.seconds for one in tried],
        positions=min(store.n_rows, MOST_POSITIONS), columns=readings[0].d_in, weights=max(weights),
    )
    # A checkpoint is written beside the one that it replaces.
    disk = 3 * sum(weights) + max(3 * max(weights), sum(written), more.disk)
    rows = config.steps * config.batch_size
    after = more.end_seconds + (1 + config.random_model) * sum(one.evaluating for one in tried)
    after += _finding_components(config, configs, tried, store)
    spent = step_s * config.steps + more.seconds + after
    return Plan(
        bytes=_together(ranks, device, sum(state) + reading, max(*beside, *found), more), free_bytes=free,
        disk_bytes=disk, minutes=spent / 60, after_minutes=after / 60, step_ms=step_s * 1e3,
        passes=rows / max(1, _rows(config, store)), kept_bytes=sum(written),
        free_disk_bytes=0 if out is None else _free_disk(out), looked_at=more.samples,
    )


def memory_bytes(config: TrainConfig, d_in: int, d_out: int | None = None) -> int:
    """Weights, gradients and Adam's two moments, and what one batch needs, in bytes."""
    return memory.training_bytes(config, d_in, d_out)


def _reading(config: TrainConfig, store: Source) -> Reading:
    kind = ARCHITECTURES.get(config.arch)
    return reading_of(dict(store.hook_points), kind.takes, config.hook, config.target)


def _read_bytes(store: Source, reading: Reading, device: torch.device) -> int:
    """What reading ahead takes of the memory that is counted."""
    if isinstance(store, Computed):
        return store.buffer_bytes
    row = 2 * (reading.d_in + (reading.d_out if reading.targets else 0))
    return 0 if device.type == "cuda" else 2 * min(WINDOW_BYTES, store.n_rows * row)


def _widths(reading: Reading) -> tuple[int, int | None]:
    return reading.d_in, reading.d_out if reading.targets else None


def _together(ranks: Ranks, device: torch.device, held: int, batch: int, more: Extra) -> int:
    """Bytes at most: `held` between the steps and `batch` in one, and what the network takes then and afterwards."""
    between = ranks.of_machine(held, device)
    return max(ranks.of_machine(held + batch, device) + more.open, between + more.looking, between + more.after)


@dataclass(frozen=True)
class _Tried:
    """Median `seconds` of a step, `peak` bytes of memory (0: other work was in them), bytes of the `weights`, seconds
    that `evaluating` the dictionary will take but for the components of rows as `wide` as this (0: of none), and what a
    `look` into the network took."""

    seconds: float
    peak: int
    weights: int
    evaluating: float
    wide: int
    look: Look | None


def _tried(
    config: TrainConfig, store: Source, start: Dictionary | None, ranks: Ranks, network: Network | None
) -> _Tried:
    with memory.measured(device_named(config.device)) as peak:
        try:
            trainer = Trainer(config, store, start, ranks)
            seconds = statistics.median(_timed(trainer)[1:] or [0.0])
        except (MemoryError, RuntimeError) as error:
            if not memory.out_of_memory(error):
                raise
            raise AuditorError("The dictionary does not fit the memory.", "Choose fewer features.") from error
    made = trainer.finish()
    with ranks.together():  # the first one measures alone, and the others wait for it as they will at the end
        evaluating = _evaluating(made, store, config) if ranks.leads else 0.0
    wide = made.d_out if ranks.leads and config.evaluate_rows and not made.hook_out else 0
    look = None if network is None else _looked(network, made)
    taken = 0 if peak.shared else peak.bytes
    return _Tried(seconds, taken, kept.size(trainer.progress.parameters.named(), ranks.split), evaluating, wide, look)


def _evaluating(sae: Dictionary, store: Source, config: TrainConfig) -> float:
    """Seconds that evaluation on all its rows will take: of what it takes on few rows a part does not grow. Components,
    which take the same on few rows as on many, are left out."""
    rows = min(config.evaluate_rows, store.n_rows)
    if not rows:
        return 0.0
    tried = []
    for count in sorted({min(rows, _FEW), min(rows, _SOME)}):
        begun = time.perf_counter()
        found = evaluate(sae, store, count, config.seed, components=_no_components).n
        tried.append((found, time.perf_counter() - begun))
    (fewest, least), (most, longest) = tried[0], tried[-1]
    each = max(0.0, longest - least) / max(1, most - fewest)
    return longest + each * max(0, rows - most)


def _no_components(rows: Tensor, count: int) -> Components:
    return Components(rows.mean(0), rows.new_zeros(rows.shape[1], min(count, rows.shape[1])))


def _finding_components(
    config: TrainConfig, configs: Sequence[TrainConfig], tried: Sequence[_Tried], store: Source
) -> float:
    """Seconds that the components of all evaluations will take: dictionaries of one seed are measured on the same rows,
    and each on those of its own random model."""
    asked = [(member.seed, one.wide) for member, one in zip(configs, tried, strict=True) if one.wide]
    if not asked:
        return 0.0
    often = len(set(asked)) + config.random_model * len(asked)
    return often * component_seconds(max(wide for _, wide in asked), min(config.evaluate_rows, store.n_rows) // 2)


def _looked(network: Network, sae: Dictionary) -> Look | None:
    """None where it cannot be done: the training goes on without, and says so."""
    try:
        return network.tried(sae)
    except (AuditorError, MemoryError, RuntimeError) as error:
        if not isinstance(error, AuditorError) and not memory.out_of_memory(error):
            raise
        return None


def _too_large(needed: int, free: int, hint: str) -> AuditorError:
    return AuditorError(f"This training needs about {size(needed)} of memory, and {size(free)} are free.", hint)


def _timed(trainer: Trainer) -> list[float]:
    seconds = []
    for x in trainer.batches():
        begin = time.perf_counter()
        if (outcome := trainer.step(trainer.ranks.share(x))) is not None:
            float(outcome.loss.detach())  # waits for the device
        seconds.append(time.perf_counter() - begin)
        if len(seconds) == _STEPS:
            break
    return seconds


def _free_disk(out: Path) -> int:
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _rows(config: TrainConfig, store: Source) -> int:
    counts = store.counts()
    return sum(counts.get(kind, 0) for kind in KINDS[config.kinds])
