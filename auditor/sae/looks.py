"""What the network that dictionaries come from adds to what their training takes: looks into it on the way and after
the last step, and the same training on the network with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from auditor.sae.train_config import TrainConfig

# A position as a store keeps it for a while: float32 at most, and where it is from.
_NUMBER_BYTES, _BESIDE_BYTES = 4, 16
# Of the time of the steps: training waits for a look.
_SHARE = 0.1
# Its dictionary, a checkpoint of three times its size, and one that takes that one's place.
_WRITTEN = 7


@dataclass(frozen=True)
class Look:
    """What one look at a dictionary took, at few `samples` of the network: `seconds`, and `opening_seconds` of the
    network before it (0 where it was open already); `bytes` of memory at most, opening included (0: the system does not
    tell, or other work was in them); `position_seconds` of one run of the network for each position; `sample_seconds`
    that each further sample takes, of which there are `most` samples in all; `end_seconds` that the look after the last
    step, at all of them, will take."""

    seconds: float
    bytes: int
    position_seconds: float
    opening_seconds: float = 0.0
    end_seconds: float = 0.0
    samples: int = 0
    most: int = 0
    sample_seconds: float = 0.0


class Network(Protocol):
    """As far as it can be said before it is opened: `bytes` of it in memory, `open` whether it was there before all
    this, `look_bytes` of what a look takes beside it, and `drawing_bytes` of what it takes to draw its weights anew."""

    @property
    def bytes(self) -> int: ...

    @property
    def open(self) -> bool: ...

    @property
    def look_bytes(self) -> int: ...

    @property
    def drawing_bytes(self) -> int: ...

    def end_seconds(self, opened: bool = False) -> float:
        """About what the look after the last step will take, of one dictionary, for a network that is not to be opened
        before; with opening it, unless it will be `opened` by then."""

    def tried(self, sae: Any) -> Look:
        """Look at a dictionary, of a kind that it takes, as its training will. AuditorError where it cannot be."""


@dataclass(frozen=True)
class Extra:
    """Bytes of memory beside the training: `open` all the time, `looking` at most while a step rests, `after` the last
    step, when only what stays between steps is held; `seconds` of looks before the last step, each at so many `samples`
    (0: not known), `end_seconds` of those after it and of the training on random weights; `disk` bytes for a while."""

    open: int = 0
    looking: int = 0
    after: int = 0
    seconds: float = 0.0
    end_seconds: float = 0.0
    disk: int = 0
    samples: int = 0


def looks_of(config: TrainConfig) -> int:
    """How often each dictionary is looked at before its last step."""
    return (config.steps - 1) // config.splice_every if config.splice_every and config.splice_samples else 0


def samples_of(config: TrainConfig, look: Look, training_seconds: float) -> int:
    """At how many samples each look before the last step is to be, of one dictionary whose steps take
    `training_seconds`: where the settings do not say, at as many as were tried at least, and at more as far as all
    looks then take a tenth of them."""
    if config.look_samples:
        return min(look.most, config.look_samples)
    each = _SHARE * training_seconds / max(1, looks_of(config))
    more = (each - look.seconds) / look.sample_seconds if look.sample_seconds else look.most
    return max(look.samples, min(look.most, look.samples + int(more)))


def extra(
    config: TrainConfig, network: Network | None, look: Look | None, *, training: Sequence[int],
    step_seconds: Sequence[float] = (), positions: int = 0, columns: int = 0, weights: int = 0,
) -> Extra:
    """Of dictionaries that take `training` bytes each by themselves and `step_seconds` a step. On random weights
    `positions` of `columns` numbers are recorded, and dictionaries of up to `weights` bytes kept. `look` is what a look
    was found to take, None where none was tried."""
    drawn = opened = looking = disk = 0
    ending = 0.0
    if network is not None:
        if look is not None:
            ending = len(training) * look.end_seconds
        else:  # the first dictionary's look opens it for the others
            ending = network.end_seconds() + (len(training) - 1) * network.end_seconds(opened=True)
        drawn = network.bytes + network.drawing_bytes
        opened = 0 if network.open else network.bytes
        looking = look.bytes if look is not None and look.bytes else opened + network.look_bytes
    looks, seconds, samples, after = looks_of(config), 0.0, 0, looking
    if look is not None:
        samples = samples_of(config, look, config.steps * sum(step_seconds) / len(training))
        more = (samples - look.samples) * look.sample_seconds
        seconds += looks * len(training) * max(0.0, look.seconds + more)
    if config.random_model:
        # The network with random weights is another one, and each dictionary of a sweep has its own.
        after = max(looking, opened + max(drawn, *training))
        ending += config.steps * sum(step_seconds)
        if look is not None:
            ending += len(training) * (look.opening_seconds + positions * look.position_seconds)
        disk = positions * (_NUMBER_BYTES * columns + _BESIDE_BYTES) + _WRITTEN * weights
    return Extra(opened if looks else 0, looking if looks else 0, after, seconds, ending, disk, samples)
