"""WAV files from anywhere: the header is checked against the file's size before a byte of sound is read.

Nothing here is compressed, so a file's sound is no larger than the file, and values are read by numpy alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from auditor.base.errors import AuditorError

ENDINGS = (".wav", ".wave")
MAX_CHANNELS = 64
RATES = (1_000, 384_000)
AGAIN = "Convert it to WAV with 16, 24 or 32 bits, or leave it out."
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# A subformat of the extensible header is one of these numbers before this tail.
_SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_UNKNOWN = 0xFFFFFFFF
_MAX_CHUNKS = 1024


@dataclass(frozen=True)
class WavFacts:
    """Where the sound of a file lies and how it is written: `frames` of `channels` values of `bits`, from `offset`;
    `rate` frames a second."""

    rate: int
    channels: int
    bits: int
    is_float: bool
    offset: int
    frames: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def is_wav(path: Path | str) -> bool:
    """Whether a file's name says that it is a WAV file."""
    return str(path).lower().endswith(ENDINGS)


def inspect_wav(path: Path) -> WavFacts:
    """The facts of a WAV file: integers of 8, 16, 24 or 32 bits, or floats of 32 or 64. AuditorError says what is
    wrong with it."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            return _facts(path.name, file, size)
    except OSError as error:
        raise AuditorError(f"The sound “{path.name}” cannot be read.", "Check the path and rights.") from error


def read_wav(path: Path, start: int = 0, stop: int | None = None) -> tuple[npt.NDArray[np.float32], WavFacts]:
    """Frames start … stop as float32 [frames, channels], integers scaled to −1 … 1, and the file's facts.

    AuditorError for a file that is damaged or has values that are not finite.
    """
    facts = inspect_wav(path)
    stop = facts.frames if stop is None else min(stop, facts.frames)
    count = max(stop - start, 0)
    try:
        with open(path, "rb") as file:
            file.seek(facts.offset + start * facts.frame_bytes)
            data = file.read(count * facts.frame_bytes)
    except OSError as error:
        raise AuditorError(f"The sound “{path.name}” cannot be read.", "Check the path and rights.") from error
    if len(data) != count * facts.frame_bytes:
        raise AuditorError(f"The sound “{path.name}” changed while it was read.", "Try again.")
    values = _values(data, facts).reshape(count, facts.channels)
    if not np.isfinite(values).all():
        raise AuditorError(f"The sound “{path.name}” has values that are not finite.", AGAIN)
    return values, facts


def _facts(name: str, file: BinaryIO, size: int) -> WavFacts:
    start = file.read(12)
    if len(start) < 12 or start[:4] != b"RIFF" or start[8:] != b"WAVE":
        raise AuditorError(f"“{name}” is named WAV but does not start as one.", AGAIN)
    form: tuple[int, int, int, bool] | None = None
    at = 12
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        kind, length = head[:4], struct.unpack("<I", head[4:])[0]
        at += 8
        if kind == b"data":
            if form is None:
                raise _wrong(name, "its sound stands before what says how it is written")
            return _placed(name, form, at, length, size)
        if length > size - at:
            raise _wrong(name, f"a part of {length:,} bytes is promised where {max(size - at, 0):,} are left")
        if kind == b"fmt ":
            form = _form(name, file.read(min(length, 40)))
        at += length + length % 2
        file.seek(at)
    raise _wrong(name, "it has no sound in it")


def _form(name: str, head: bytes) -> tuple[int, int, int, bool]:
    """Rate, channels, bits and whether values are floats, of a «fmt » part."""
    if len(head) < 16:
        raise _wrong(name, "its header is cut short")
    code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", head[:16])
    if code == _EXTENSIBLE and len(head) == 40 and head[26:] == _SUBFORMAT_TAIL:
        code = struct.unpack("<H", head[24:26])[0]
    widths = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
    if code not in widths or bits not in widths[code]:
        raise AuditorError(
            f"The sound “{name}” is written in a form that is not read (code {code}, {bits} bits).", AGAIN
        )
    if not 1 <= channels <= MAX_CHANNELS or block != channels * bits // 8:
        raise _wrong(name, f"{channels} channels of {bits} bits do not make {block} bytes")
    if not RATES[0] <= rate <= RATES[1]:
        raise _wrong(name, f"a rate of {rate:,} values a second is impossible")
    return rate, channels, bits, code == _FLOAT


def _placed(name: str, form: tuple[int, int, int, bool], at: int, length: int, size: int) -> WavFacts:
    rate, channels, bits, is_float = form
    left = size - at
    # What is written to a pipe does not know its length.
    length = left if length == _UNKNOWN else length
    if length > left:
        raise AuditorError(
            f"The sound “{name}” is cut short: its header promises {length:,} bytes, {left:,} are there.",
            "Copy the file again.",
        )
    frames = length // (channels * bits // 8)
    if not frames:
        raise AuditorError(f"The sound “{name}” is empty.", "Leave it out.")
    return WavFacts(rate, channels, bits, is_float, at, frames)


def _values(data: bytes, facts: WavFacts) -> npt.NDArray[np.float32]:
    if facts.is_float:
        scaled = np.frombuffer(data, f"<f{facts.bits // 8}")
    elif facts.bits == 8:  # the one width that is written without a sign
        scaled = np.frombuffer(data, np.uint8) / 128 - 1
    elif facts.bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        scaled = wide.reshape(-1).view("<i4") / 2**31
    else:
        scaled = np.frombuffer(data, f"<i{facts.bits // 8}") / 2 ** (facts.bits - 1)
    values: npt.NDArray[np.float32] = scaled.astype(np.float32)
    return values


def _wrong(name: str, what: str) -> AuditorError:
    return AuditorError(f"“{name}” is no sound WAV file: {what}.", "Copy the file again, or leave it out.")
