"""How much memory a training takes, how much there is, and what would fit where it is too little."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from auditor.sae.train_config import TrainConfig

# Float32 matrices [batch, d_sae] that are alive at once in a step.
_DENSE = {"crosscoder": 5.0, "clt": 6.0, "matching_pursuit": 2.0, "temporal": 10.0}
# The others take rows in blocks: how many at a time, and matrices [block, d_sae] of them.
_BLOCK_ROWS, _BLOCKS = 1024, {"relu": 4.0, "jumprelu": 5.0, "gated": 4.0}
_FEW_BLOCKS = 3.0
# Float32 matrices [batch, columns]: input, centred, residual, gradient, reconstruction, slack.
_BATCH_COPIES = 8
_SAMPLE_ROWS = 8192
_CLEAR_PEAK = Path("/proc/self/clear_refs")


def weight_bytes(config: TrainConfig, d_in: int, d_out: int | None = None) -> int:
    """Of the weights alone, in float32."""
    out = d_in if d_out is None else d_out
    skip = d_in * out if config.arch == "skip_transcoder" else 0
    if config.arch == "clt":
        # A feature writes to the outputs of its own layer and the later ones: (L + 1) / 2 of L on average.
        layers = _layers(config)
        return 4 * (config.d_sae * (d_in + out * (layers + 1) // 2 + 2 * layers) + out)
    if config.arch == "temporal":
        # One matrix for both ways, and an attention over features: values and output, queries and keys.
        narrow = max(1, config.d_sae // config.bottleneck)
        return 4 * (config.d_sae * (d_in + 1) + 2 * (config.d_sae + narrow) * (config.d_sae + 1) + d_in)
    if config.arch == "matching_pursuit":
        return 4 * (config.d_sae * (d_in + 1) + d_in)
    return 4 * (config.d_sae * (d_in + out + 1) + out + skip)


def state_bytes(config: TrainConfig, d_in: int, d_out: int | None = None) -> int:
    """What stays between steps: weights, gradients, Adam's two moments, counters."""
    return 4 * weight_bytes(config, d_in, d_out) + 12 * config.d_sae * _layers(config)


def _layers(config: TrainConfig) -> int:
    """How many times `d_sae` features there are."""
    return max(1, config.hook.count(",") + 1) if config.arch == "clt" else 1


def held_bytes(config: TrainConfig, d_in: int, d_out: int | None = None) -> int:
    """What a training that has begun holds for certain: weights and moments."""
    return 3 * weight_bytes(config, d_in, d_out)


def training_bytes(config: TrainConfig, d_in: int, d_out: int | None = None) -> int:
    """At most while training on a CPU: the state, and what one batch or the writing of the state needs beside it."""
    columns = d_in if d_out is None else d_in + d_out
    rows = config.batch_size
    sparse = config.arch not in _DENSE
    blocks = _BLOCKS.get(config.arch, _FEW_BLOCKS) * min(rows, _BLOCK_ROWS)
    dense = blocks if sparse else _DENSE[config.arch] * rows
    batch = 4 * (_BATCH_COPIES * rows * columns + int(dense) * config.d_sae * _layers(config))
    batch += 16 * 8 * rows * config.k if sparse else 0
    written = 3 * weight_bytes(config, d_in, d_out)
    return state_bytes(config, d_in, d_out) + max(batch, written) + 8 * _SAMPLE_ROWS * columns


def free_bytes(device: torch.device) -> int:
    """What this program can still have: of the GPU, or of the machine, its container and its own limit."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return max(0, min([int(psutil.virtual_memory().available), *_limits()]))


def largest_that_fits(config: TrainConfig, d_in: int, d_out: int | None, room: int) -> int:
    """The most features, to two digits, that train in `room` bytes; 0 if not even 2."""

    def fits(features: int) -> bool:
        return training_bytes(config.model_copy(update={"d_sae": features}), d_in, d_out) <= room

    low, high = 0, 2
    while fits(high) and high < 1 << 26:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    unit = int(10 ** max(0, len(str(low)) - 2))
    return low // unit * unit


def advice(config: TrainConfig, d_in: int, d_out: int | None, room: int) -> str:
    """What to do where `room` bytes are too few."""
    features = largest_that_fits(config, d_in, d_out, room)
    if features < 2:
        return f"{size(room)} can be had, which is too little for a dictionary of this width."
    return f"{size(room)} can be had: choose up to {features:,} features, or a machine with more."


def size(count: float) -> str:
    """Bytes as text."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def out_of_memory(error: BaseException) -> bool:
    """Whether this says that there is no more memory, on a CPU or a GPU."""
    words = ("can't allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


@dataclass
class Peak:
    """`bytes` more than at the start that were held at most; 0 where the system does not tell. `shared`: other work of
    this program took memory at the same time, so that they are not of this alone."""

    bytes: int = 0
    shared: bool = False


@dataclass
class _Watched:
    """A block that is being measured: its peak, what was held before it, its thread, and the most that was held in it
    so far."""

    peak: Peak
    on_gpu: bool
    before: int
    thread: int
    most: int = 0


_watched: list[_Watched] = []
_watching = threading.Lock()


def held(device: torch.device) -> int:
    """Bytes that this program holds now: on the GPU, or of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


@contextlib.contextmanager
def measured(device: torch.device, before: int | None = None) -> Iterator[Peak]:
    """Watch what the block takes: on the GPU, or of this process's memory (Linux); more than was `held` at an earlier
    time, where that is given as `before`. The system keeps one highest mark a process: blocks of several threads do not
    lose theirs to one another, but each is told that it was not alone."""
    gpu = device.type == "cuda"
    with _watching:
        for other in _alike(gpu):
            other.most = max(other.most, _highest(device))
        told = _forget_peak(device)
        this = _Watched(Peak(), gpu, held(device) if before is None else before, threading.get_ident())
        _watched.append(this)
        for one in _alike(gpu) if len(_alike(gpu)) > 1 else ():
            one.peak.shared = True
    try:
        yield this.peak
    finally:
        with _watching:
            _watched.remove(this)
            if told:
                this.peak.bytes = max(0, max(this.most, _highest(device)) - this.before)


def other_work() -> None:
    """Tell the blocks of other threads that this one is about to take much memory."""
    with _watching:
        for one in _watched:
            one.peak.shared |= one.thread != threading.get_ident()


def _alike(on_gpu: bool) -> list[_Watched]:
    return [one for one in _watched if one.on_gpu == on_gpu]


def _forget_peak(device: torch.device) -> bool:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR_PEAK.write_text("5")
    except OSError:
        return False
    return True


def _highest(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _limits() -> list[int]:
    """Bytes left under the limit of this process and of its container, where there are any."""
    left: list[int] = []
    with contextlib.suppress(ImportError, OSError):
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            left.append(soft - psutil.Process().memory_info().vms)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        left.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return left
