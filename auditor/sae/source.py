"""What training and evaluation read of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.data.sample import ORDINARY

KINDS: dict[str, tuple[str, ...]] = {"all": ORDINARY, "text": ("text",), "image": ("image",)}


class Positions(Protocol):
    """Where rows come from, one entry a row."""

    @property
    def sample(self) -> NDArray[np.int32]: ...
    @property
    def kind(self) -> NDArray[np.uint8]: ...


class Source(Protocol):
    """The part of a store that this package uses (`auditor.store.Store` has it)."""

    @property
    def hook_points(self) -> Mapping[str, int]: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...

    def rows(self, index: Any, hook: str | None = None) -> NDArray[np.float32]: ...
    def positions(self, index: Any) -> Positions: ...
    def counts(self) -> Mapping[str, int]: ...
    def batches(
        self, batch_size: int, *, seed: int = 0, hook: str | Sequence[str] | None = None, start: int = 0,
        kinds: Sequence[str] = (),
    ) -> Iterator[NDArray[np.float32]]: ...


@runtime_checkable
class Computed(Protocol):
    """A source that computes its rows (`auditor.sae.stream`): it goes on sooner where it is told how far it had come,
    takes `row_seconds` for each row, and memory."""

    @property
    def buffer_bytes(self) -> int: ...
    def marks(self) -> dict[str, Any]: ...
    def take_marks(self, marks: dict[str, Any]) -> None: ...
    def row_seconds(self) -> float: ...


def choose_hook(store: Source, hook: str) -> str:
    """`hook`, or the store's only hook point if it is empty. AuditorError lists the hook points there are."""
    names = list(store.hook_points)
    if not hook and len(names) == 1:
        return names[0]
    if hook not in store.hook_points:
        said = f"no hook point “{hook}”" if hook else "several hook points"
        raise AuditorError(f"The store has {said}.", f"Choose one of: {', '.join(names)}.")
    return hook
