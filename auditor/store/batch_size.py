"""How many samples go through the network at once, where the settings leave that open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from auditor.base.reporter import Reporter
from auditor.data.checked import sifted
from auditor.data.chunking import Pieces
from auditor.data.sample import Sample
from auditor.models.model import Model
from auditor.store.capture import encode, launch
from auditor.store.layout import MANIFEST, UNFINISHED, read_manifest
from auditor.store.recipe import WINDOW_BATCHES, RecordConfig, fits_of, schedule

USUAL = 16
_MOST = 1024
# A GPU with too little to do in a batch waits for Python's next call; a CPU never does.
_TRIED = ("cuda",)
# Twice as many are worth it for this much more a second: larger batches are acknowledged later and padded more.
_WORTH = 1.15
# A batch that takes so many seconds keeps any GPU busy.
_LONG = 1.0
# Batches that there should be at least, so that reading, computing and writing go on at the same time.
_TURNS = 8


def usual(device: torch.device) -> int:
    """What needs no trial on `device`; 0: it is tried."""
    return 0 if device.type in _TRIED else USUAL


def settled(
    config: RecordConfig,
    model: Model,
    pieces: Sequence[Sample],
    hooks: Sequence[str],
    reporter: Reporter,
    out: Path | str | None = None,
) -> RecordConfig:
    """`config` with a batch size: its own; that of the unfinished recording at `out`; 16 on a CPU; on a GPU as many of
    the `pieces` that are run as give the most positions a second, in a trial of one batch of each size. Stop when
    cancelled."""
    if config.batch_size:
        return config
    found = _begun_with(Path(out)) if out is not None else None
    size = found or usual(model.device)
    if not size:
        most = min(_MOST, _rows(config, pieces) // _TURNS)
        sizes = (size for n in range(32) if (size := USUAL << n) <= most)
        size = fastest(sizes, lambda size: _tried(_with(config, size), model, pieces, hooks, reporter))
        if model.device.type == "cuda":  # what was tried is not what is held
            torch.cuda.empty_cache()
    return _with(config, size)


def fastest(sizes: Iterable[int], tried: Callable[[int], tuple[int, float]]) -> int:
    """The first of the rising `sizes` after which no more positions a second are to be had, by the positions (0: there
    was nothing to run) and the seconds of a batch that is `tried`, or after which a batch fails; 16 where there is
    none, or where even the first one does not fit into the memory."""
    best, most = USUAL, 0.0
    for size in sizes:
        try:
            positions, seconds = tried(size)
        except (RuntimeError, MemoryError) as error:  # page-locked memory and kernels have limits of their own
            if not most and not isinstance(error, torch.OutOfMemoryError | MemoryError):
                raise
            break
        rate = positions / max(seconds, 1e-9)
        if not positions or rate < _WORTH * most:
            break
        best, most = size, rate
        if seconds >= _LONG:
            break
    return best


def _rows(config: RecordConfig, pieces: Sequence[Sample]) -> int:
    """How many texts, pictures or packed sequences there are to run; where positions are enough, of a context each."""
    rows = len(schedule(pieces, _with(config, 1))) if config.pack else len(pieces)
    return min(rows, config.max_tokens // config.context) if config.max_tokens else rows


def _tried(
    config: RecordConfig, model: Model, pieces: Sequence[Sample], hooks: Sequence[str], reporter: Reporter
) -> tuple[int, float]:
    """Positions and seconds of a batch of middling length, once the network has run one of the longest."""
    batches = schedule(pieces, config)
    window = batches[:WINDOW_BATCHES]
    rows, taken = 0, list[float]()
    for numbers in (*_longest(batches, pieces), window[-1], window[len(window) // 2]):
        batch, _ = sifted([pieces[number] for number in numbers], fits=fits_of(model, config))
        if not batch:  # a plan has not looked at every picture
            continue
        encoded = encode(model, batch, config)
        for _ in range(2):
            reporter.check()
            begun = time.perf_counter()
            rows = launch(model, encoded, hooks, config, narrow=True).captured().n_rows
            taken.append(time.perf_counter() - begun)
    return rows, min(taken[-2:], default=0.0)


def _longest(batches: Sequence[Sequence[int]], pieces: Sequence[Sample]) -> list[Sequence[int]]:
    """The batch with the longest text of all, where tokens were counted."""
    if not isinstance(pieces, Pieces):
        return []
    return [max(batches, key=lambda numbers: max(map(pieces.tokens.__getitem__, numbers)))]


def _with(config: RecordConfig, size: int) -> RecordConfig:
    return config.model_copy(update={"batch_size": size})


def _begun_with(out: Path) -> int | None:
    if (out / MANIFEST).exists() or not (out / UNFINISHED).exists():
        return None
    told = read_manifest(out / UNFINISHED).meta.get("config")
    size = told.get("batch_size") if isinstance(told, dict) else None
    return size if isinstance(size, int) and 1 <= size <= 4096 else None
