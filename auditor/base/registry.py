"""Named kinds (architectures, families, formats, panes) that refuse a second claim on a name."""

from __future__ import annotations

from typing import Generic, TypeVar

from auditor.base.errors import AuditorError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one kind; `what` is that kind in a sentence, as in “architecture”."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._held: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Hold `item` under `name`; ValueError when the name is taken."""
        if name in self._held:
            raise ValueError(f"two {self.what}s claim the name {name!r}")
        self._held[name] = item
        return item

    def get(self, name: str) -> T:
        """The object called `name`; AuditorError lists the names there are."""
        if name not in self._held:
            raise AuditorError(f"There is no {self.what} called “{name}”.", f"Choose one of: {', '.join(self._held)}.")
        return self._held[name]

    def names(self) -> list[str]:
        return list(self._held)
