"""A sound that is read when it is needed: a WAV file or a stretch of one, as one channel at the rate that is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from auditor.base.digest import digest_json, sha256_file
from auditor.base.errors import AuditorError
from auditor.intake.wav import WavFacts, inspect_wav, read_wav

Sound = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AudioRef:
    """The WAV file at `path`, or its values start … stop, counted at the file's own rate (None: to the end)."""

    path: Path
    start: int = 0
    stop: int | None = None

    @cached_property
    def facts(self) -> WavFacts:
        """Of the whole file. AuditorError names a file that is no WAV or damaged."""
        return inspect_wav(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def seconds(self) -> float:
        return self._frames / self.facts.rate

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, and of the stretch."""
        try:
            whole = sha256_file(self.path)
        except OSError as error:
            raise AuditorError(f"The sound “{self.path}” cannot be read.", "Check the path and rights.") from error
        return whole if (self.start, self.stop) == (0, None) else digest_json([whole, self.start, self.stop])

    def load(self, rate: int) -> Sound:
        """float32 [values] at `rate` a second: the mean of the channels, resampled by a polyphase filter."""
        values, facts = read_wav(self.path, self.start, self.stop)
        mono: Sound = values.mean(axis=1, dtype=np.float32)
        if facts.rate == rate:
            return mono
        # Here: loading it takes a second.
        from scipy.signal import resample_poly

        shared = math.gcd(rate, facts.rate)
        return np.asarray(resample_poly(mono, rate // shared, facts.rate // shared), np.float32)

    def pieces(self, seconds: float) -> list[AudioRef]:
        """Stretches of at most so many seconds, one after the other; itself if it is no longer."""
        length = int(seconds * self.facts.rate)
        if self._frames <= length:
            return [self]
        end = self.start + self._frames
        return [replace(self, start=at, stop=min(at + length, end)) for at in range(self.start, end, length)]

    @property
    def _frames(self) -> int:
        stop = self.facts.frames if self.stop is None else min(self.stop, self.facts.frames)
        return max(stop - self.start, 0)
