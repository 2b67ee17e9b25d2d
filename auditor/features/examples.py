"""Examples of one feature: what a person sees of them, and the packed form in which the index keeps them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError

TEXT, IMAGE, AUDIO = 1, 2, 4
"""Kinds of position, as in the store."""
GROUPS = ("top", "q90", "q50", "q10", "miss")
"""Strongest; drawn from the 99–90, 90–50 and 50–10 per cent bands of the firings; near misses."""
MAX_WINDOW = 120
BLOCK = 32
"""Features whose examples are compressed together."""
_MAX_BLOCK = 1 << 25


@dataclass(frozen=True)
class Example:
    """One place where a feature fires (or nearly: group "miss"), with its activations around it.

    kind "text": `activations[i]` belongs to `tokens[i]`, and `peak` is the token that was chosen.
    kind "image": `activations` is row-major over `grid`, `tokens` is empty, and `peak` is the strongest patch.
    Where the grid holds several pictures of the sample, or one in several parts, side by side, as the thumbnail does,
    `picture` counts from 1 to the one where the peak is; 0: there is one. `row` is the store's row of the peak.
    `peak_activation` is exact to max_act / 131 070, the others to max_act / 510, and what fires below that is told as
    max_act / 255.
    """

    kind: Literal["text", "image"]
    group: str
    sample_id: str
    sample_group: str
    tokens: list[str]
    activations: list[float]
    peak: int
    peak_activation: float
    row: int
    grid: tuple[int, int] | None = None
    caption: str | None = None
    load_image: Callable[[], bytes | None] | None = field(default=None, repr=False, compare=False)
    picture: int = 0

    @property
    def image(self) -> bytes | None:
        """The sample's thumbnail (WebP), read when asked for; None where there is none."""
        return self.load_image() if self.load_image is not None else None


@dataclass(frozen=True)
class Packed:
    """An example before its words: `offsets` are rows after the window's start (text) or count the image's patches in
    the store's order (image). `at` is the offset of the peak itself, whose activation is not kept twice."""

    kind: int
    group: int
    row: int
    peak: float
    offsets: NDArray[np.int64]
    activations: NDArray[np.float32]
    at: int = -1


def stretch(kinds: NDArray[np.uint8], at: int, window: int) -> tuple[int, int]:
    """[start, end) of the unbroken text around position `at`, at most `window` positions to either side."""
    low, high = max(at - window, 0), min(at + window + 1, len(kinds))
    other = np.flatnonzero(kinds[low:high] != TEXT) + low
    before, after = other[other < at], other[other > at]
    return int(before[-1]) + 1 if len(before) else low, int(after[0]) if len(after) else high


def pack(examples: Sequence[Packed], max_act: float) -> bytes:
    """The examples as columns of bytes; activations in steps of `max_act`/255, the peak's of `max_act`/65535.

    What fires never becomes 0: the smallest step is kept for it.
    """
    scale = max_act if max_act > 0 else 1.0
    others = [e.offsets != e.at for e in examples]
    offsets = np.concatenate([np.zeros(0, np.int64), *(e.offsets[m] for e, m in zip(examples, others, strict=True))])
    values = np.concatenate([np.zeros(0), *(e.activations[m] for e, m in zip(examples, others, strict=True))])
    steps = np.clip(np.rint(values / scale * 255), 1, 255)
    peaks = [min(65535, round(e.peak / scale * 65535)) for e in examples]
    columns = (
        np.array([e.kind for e in examples], "u1"),
        np.array([e.group for e in examples], "u1"),
        np.array([int(m.sum()) for m in others], "<u2"),
        np.array(peaks, "<u2"),
        np.array([e.row for e in examples], "<u4" if _small(examples) else "<u8"),
        offsets.astype("<u2"),
        steps.astype("u1"),
    )
    head = struct.pack("<HB", len(examples), 4 if _small(examples) else 8)
    return head + b"".join(column.tobytes() for column in columns)


def _small(examples: Sequence[Packed]) -> bool:
    return all(e.row < 1 << 32 for e in examples)


def inflate(blob: bytes, limit: int) -> bytes:
    """zlib-decompressed `blob`; AuditorError where it is damaged or grows beyond `limit` bytes."""
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(blob, limit)
    except zlib.error:
        data = b""
    if not reader.eof:
        raise AuditorError("A part of the index is damaged.", "Build the index again, or take it from a backup.")
    return data


def pack_block(parts: Mapping[int, bytes]) -> bytes:
    """The packed examples of up to 32 neighbouring features, compressed together: place in the block → bytes."""
    lengths = np.array([len(parts.get(place, b"")) for place in range(BLOCK)], "<u4")
    return zlib.compress(lengths.tobytes() + b"".join(parts[place] for place in sorted(parts)), 9)


def unpack_block(blob: bytes, place: int) -> bytes:
    """What `pack_block` was given for `place`, b"" for nothing. AuditorError where the blob is damaged."""
    data = inflate(blob, _MAX_BLOCK)
    lengths = np.frombuffer(data, "<u4", BLOCK) if len(data) >= 4 * BLOCK else np.zeros(BLOCK, "<u4")
    ends = 4 * BLOCK + np.cumsum(lengths, dtype=np.int64)
    if ends[-1] != len(data):
        raise AuditorError("The examples of a feature are damaged.", "Build the index again.")
    return data[int(ends[place]) - int(lengths[place]):int(ends[place])]


def unpack(data: bytes, max_act: float) -> list[Packed]:
    """What `pack` was given, less the peaks' own offsets, to the precision told there.

    AuditorError where the bytes are damaged.
    """
    try:
        n, width = struct.unpack_from("<HB", data)
        at = struct.calcsize("<HB")
        columns: list[NDArray[np.int64]] = []
        for dtype in ("u1", "u1", "<u2", "<u2", f"<u{width}"):
            columns.append(np.frombuffer(data, dtype, n, at).astype(np.int64))
            at += np.dtype(dtype).itemsize * n
        kinds, groups, counts, peaks, rows = columns
        total = int(counts.sum())
        offsets = np.frombuffer(data, "<u2", total, at).astype(np.int64)
        steps = np.frombuffer(data, "u1", total, at + 2 * total)
        if at + 3 * total != len(data) or not set(kinds) <= {TEXT, IMAGE} or (groups >= len(GROUPS)).any():
            raise ValueError
    except (ValueError, TypeError, struct.error):
        raise AuditorError("The examples of a feature are damaged.", "Build the index again.") from None
    scale = max_act if max_act > 0 else 1.0
    values = (steps * np.float32(scale / 255)).astype(np.float32)
    cuts = np.concatenate([[0], np.cumsum(counts)])
    return [
        Packed(int(kinds[i]), int(groups[i]), int(rows[i]), float(peaks[i]) / 65535 * scale,
               offsets[cuts[i]:cuts[i + 1]], values[cuts[i]:cuts[i + 1]])
        for i in range(n)
    ]
