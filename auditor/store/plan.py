"""What a recording will cost, measured on a few of its own batches before it starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch

from auditor.base.cores import PREPARING
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.checked import sifted
from auditor.data.chunking import Pieces
from auditor.data.sample import Sample
from auditor.models.model import Model
from auditor.store.batch_size import settled
from auditor.store.capture import Captured, capture, decoded, encode_inputs, encoders, with_pictures, with_thumbnails
from auditor.store.convert import fvu_of, scale_of
from auditor.store.layout import KINDS, RAW
from auditor.store.reader import Store
from auditor.store.recipe import (
    RecordConfig,
    checked_samples,
    chosen_hooks,
    context_of,
    cut,
    fits_of,
    groups_of,
    schedule,
    spread,
    with_names,
)
from auditor.store.samples import pack

_PROBES = 4
_MEASURED_ROWS = 512  # of each batch and hook point
_COLUMN_BYTES = 3 * 4 + 1


@dataclass(frozen=True)
class Plan:
    """An estimate: rows (positions), bytes on disk, bytes free there, minutes. From `probed` samples of all,
    `batch_size` at once. Where positions are limited, `pieces` is how many samples (or pieces of them) have so many, of
    `of` there are; else both are 0.

    `memory_bytes` is what this program held at most after a batch, the network included, and `free_memory_bytes` what
    it could hold (of the GPU, where the network is there). `formats` has, for each way to store numbers, the bytes on
    disk and the largest FVU that it costs at a hook point of the probe. `spare` bytes are needed for a while: the last
    shard of several hook points is written anew without holes.
    """

    rows: int
    bytes: int
    free_bytes: int
    minutes: float
    probed: int
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    formats: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    spare: int = 0
    batch_size: int = 0
    pieces: int = 0
    of: int = 0

    @property
    def fits(self) -> bool:
        return self.bytes + self.spare <= self.free_bytes

    @property
    def fits_memory(self) -> bool:
        return self.memory_bytes <= self.free_memory_bytes

    def must_fit(self) -> None:
        """AuditorError, with the figures, where it does not."""
        if not self.fits:
            smaller = [name for name, (size, _) in self.formats.items() if size + self.spare <= self.free_bytes]
            others = f", store its numbers as {' or '.join(smaller)}" if smaller else ""
            raise AuditorError(
                f"This recording needs {_size(self.bytes + self.spare)} and {_size(self.free_bytes)} are free.",
                f"Record fewer positions or hook points{others}, or choose another disk.",
            )
        if not self.fits_memory:
            raise AuditorError(
                f"This recording needs {_size(self.memory_bytes)} of memory and {_size(self.free_memory_bytes)} are "
                "free.",
                "Choose a smaller batch size or context, or fewer hook points.",
            )

    def facts(self) -> dict[str, float]:
        """As `took` gives them afterwards."""
        return {
            "positions": self.rows,
            **({"samples": self.pieces} if self.of else {}),
            "disk_mb": self.bytes / 1e6,
            "memory_mb": self.memory_bytes / 1e6,
            "minutes": self.minutes,
        }


def took(store: Store, device: torch.device) -> dict[str, float]:
    """What a recording that is finished took, as `Plan.facts` estimated it, but for the time; of a store that goes on
    from another, its own part. Its quantisation too: FVU and clipped numbers of int8, at the worst hook point and in
    all."""
    own = [shard for shard in store.manifest.shards if not shard.folder]
    costs = store.quantisation().values()
    clipped = {"fvu": max(cost.fvu for cost in costs), "clipped": sum(cost.clipped for cost in costs)} if costs else {}
    limited = {"samples": sum(shard.samples for shard in own)} if store.meta.get("config", {}).get("max_tokens") else {}
    return {
        "positions": sum(shard.rows for shard in own),
        **limited,
        "disk_mb": sum(shard.bytes for shard in own) / 1e6,
        "memory_mb": _held(device) / 1e6,
        **clipped,
    }


def surely_fits(config: RecordConfig, model: Model, samples: Sequence[Sample], out: Path | str = ".") -> bool:
    """Whether a recording of texts fits on the disk even if every byte of them were a token; images and sounds are
    not counted so. Takes no run of the network, which for a small recording lasts as long as the recording."""
    if any(kind != "text" for sample in samples for kind in sample.modalities):
        return False
    size = sum(len((sample.text or "").encode()) for sample in samples)
    pieces = len(samples) + size // max(context_of(config, model) - 2, 1)
    width = sum(model.hook_points[hook].width for hook in chosen_hooks(config, model))
    row_bytes = np.dtype(RAW[config.store_dtype]).itemsize * width + _COLUMN_BYTES
    most = (size + 2 * pieces) * row_bytes + 3 * size + 1000 * pieces
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
    config, hooks = with_names(config, model), chosen_hooks(config, model)
    # Decoding every image would take longer than the probe: only those of the probed batches are looked at.
    given, kept = samples, checked_samples(samples, model, config, reporter, decode=False)
    samples = cut(kept, model, config, reporter)
    config = settled(config, model, samples, hooks, reporter)
    batches = schedule(samples, config)
    chosen = spread(len(batches), _PROBES)
    probe = _Probe(groups_of(model, hooks))
    for turn, number in enumerate([chosen[0], *chosen]):
        reporter.check()
        begun = time.perf_counter()
        numbers = batches[number]
        batch, _ = sifted([samples[i] for i in numbers], fits=fits_of(model, config))
        if not batch:
            continue
        try:
            seen = decoded(batch)
            drawing = time.perf_counter() - begun
            begun = time.perf_counter()
            encoded = encode_inputs(model, batch, seen, config)
            preparing = time.perf_counter() - begun
            begun = time.perf_counter()
            encoded = with_thumbnails(model, with_pictures(model, encoded), config)
            drawing += time.perf_counter() - begun
            begun = time.perf_counter()
            captured = capture(model, encoded, hooks, config)
            running = time.perf_counter() - begun
        except (torch.OutOfMemoryError, MemoryError):
            raise too_large(len(batch), len(hooks), model.device) from None
        probe.held = max(probe.held, _held(model.device))
        if turn:  # the first run warms up
            known = samples.tokens if isinstance(samples, Pieces) and len(batch) == len(numbers) else None
            tokens = [] if known is None else [known[i] for i in numbers]
            probe.add(captured, (drawing, preparing, running), tokens)
    if not probe.samples:
        return plan(config, model, checked_samples(given, model, config, reporter), out, reporter)
    each = probe.rows_of(samples)
    whole = float(each.sum())
    total, pieces = _until(config.max_tokens, each, batches) if config.max_tokens else (round(whole), 0)
    part = total / whole if whole else 1.0
    beside = total * _COLUMN_BYTES + part * probe.beside_of(samples)
    share = total / max(probe.rows, 1)
    formats = {dtype: (round(share * size + beside), fvu) for dtype, (size, fvu) in probe.formats().items()}
    return Plan(
        rows=total,
        bytes=formats[config.store_dtype][0],
        free_bytes=_free(Path(out)),
        minutes=part * probe.seconds_of(samples, model) / 60,
        probed=probe.samples,
        memory_bytes=probe.held,
        free_memory_bytes=probe.held + _free_memory(model.device),
        formats=formats,
        batch_size=config.batch_size,
        pieces=pieces,
        of=len(given) if config.max_tokens else 0,
        spare=min(config.shard_mib << 20, formats[config.store_dtype][0]) if len(hooks) > 1 else 0,
    )


def _until(most: int, rows: np.ndarray, batches: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Rows of the batches as far as the one that reaches `most`, and of how many samples; `rows` [n] are those of
    each."""
    total, count = 0.0, 0
    for numbers in batches:
        total, count = total + float(rows[numbers].sum()), count + len(numbers)
        if total >= most:
            break
    return round(total), count


def too_large(samples: int, hooks: int, device: torch.device) -> AuditorError:
    """What is said where so many samples at once do not fit into the memory."""
    return AuditorError(
        f"A batch of {samples} samples at {hooks} hook points does not fit into the memory: "
        f"{_size(_held(device))} are held and {_size(_free_memory(device))} free.",
        "Choose a smaller batch size or context, or fewer hook points.",
    )


class _Probe:
    """What a few batches gave and took."""

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self._groups = groups
        self._rows, self._beside = _ByKind(), _ByKind()
        self._seconds = _ByKind(), _ByKind(), _ByKind()
        self.rows = self.samples = self.numbers = self.held = 0
        self._seen: dict[str, list[np.ndarray]] = {}

    def add(self, captured: Captured, seconds: Sequence[float], tokens: Sequence[int]) -> None:
        """Of a batch, with the seconds that it took to decode and draw pictures, to prepare the batch and to run it,
        and the count of tokens of each sample, 0 for one that is not a text alone; none where they are not known."""
        samples = captured.samples
        rows = sum(np.bincount(at.sample, minlength=len(samples)) for at in captured.at.values())
        self._rows.add(np.asarray(rows).tolist(), tokens)
        self._beside.add([len(pack(sample, 0)) + len(sample.image or b"") + 24 for sample in samples], tokens)
        for part, spent in zip(self._seconds, seconds, strict=True):
            part.add([spent / len(samples)] * len(samples), tokens)
        self.rows, self.samples = self.rows + captured.n_rows, self.samples + len(samples)
        self.numbers += sum(rows.size for rows in captured.rows.values())
        for group, hooks in self._groups.items():
            ordinary = captured.at[group].kind != KINDS["special"]
            for hook in hooks:
                self._seen.setdefault(hook, []).append(captured.rows[hook][ordinary][:_MEASURED_ROWS])

    def rows_of(self, samples: Sequence[Sample]) -> np.ndarray:
        """Rows of each of `samples`, [n]."""
        return self._rows.each(samples, self.samples)

    def beside_of(self, samples: Sequence[Sample]) -> float:
        """Bytes of what is kept of all `samples` beside rows and their columns, thumbnails above all."""
        return float(self._beside.each(samples, self.samples).sum())

    def seconds_of(self, samples: Sequence[Sample], model: Model) -> float:
        """How long all `samples` take: a CPU shares its cores among all that is to be done; beside a GPU batches are
        prepared meanwhile."""
        drawing, preparing, running = (float(part.each(samples, self.samples).sum()) for part in self._seconds)
        if model.device.type == "cpu":
            return drawing + preparing + running
        return max(drawing / PREPARING, preparing / encoders(model), running)

    def formats(self) -> dict[str, tuple[int, float]]:
        """For each number format, bytes of the rows of what was probed and the worst FVU: on every other row, int8's
        scale being from the rest."""
        found = {}
        seen = [rows for pieces in self._seen.values() if len(rows := np.concatenate(pieces)) > 1]
        for dtype in RAW:
            size = np.dtype(RAW[dtype]).itemsize * self.numbers
            found[dtype] = size, max((_lost(rows, dtype) for rows in seen), default=0.0)
        return found


@dataclass
class _Ratio:
    """An amount for each of something that is known of all samples."""

    amount: float = 0.0
    known: float = 0.0

    def add(self, amount: float, known: float) -> None:
        self.amount, self.known = self.amount + amount, self.known + known

    def of(self, known: np.ndarray, otherwise: float) -> np.ndarray:
        return known * (self.amount / self.known) if self.known else np.full(len(known), otherwise)


@dataclass
class _ByKind:
    """What samples gave or took, in proportion to the tokens of texts, where they were counted, and to the number of
    the others: four batches alone may be far from the middle, and mix texts and pictures in another proportion."""

    total: float = 0.0
    texts: _Ratio = field(default_factory=_Ratio)
    others: _Ratio = field(default_factory=_Ratio)

    def add(self, amounts: Sequence[float], tokens: Sequence[int]) -> None:
        """Of each sample of a batch, with its tokens as `_Probe.add` has them."""
        self.total += sum(amounts)
        if tokens:
            for amount, given in zip(amounts, tokens, strict=True):
                (self.texts if given else self.others).add(amount, given + 1)

    def each(self, samples: Sequence[Sample], probed: int) -> np.ndarray:
        """Of each of `samples`, [n], of which so many were `probed`."""
        usual = self.total / probed
        if not isinstance(samples, Pieces):
            return np.full(len(samples), usual)
        tokens = np.frombuffer(samples.tokens, np.int32)
        texts, found = tokens > 0, np.empty(len(tokens))
        found[texts] = self.texts.of(tokens[texts] + 1.0, usual)
        found[~texts] = self.others.of(np.ones(len(tokens) - int(texts.sum())), usual)
        return found


def _lost(rows: np.ndarray, dtype: str) -> float:
    try:
        return fvu_of(rows[1::2], dtype, scale_of(rows[::2]))
    except AuditorError:  # a number that the format does not hold, which the recording will tell by its place
        return float("inf")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _held(device: torch.device) -> int:
    if device.type == "cuda":  # of what a batch took, the allocator gives nothing back by itself
        return int(torch.cuda.memory_reserved(device))
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
