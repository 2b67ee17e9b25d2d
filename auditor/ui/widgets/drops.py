"""Files that are dropped on a pane."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtGui import QDragEnterEvent, QDropEvent


class Drops:
    """Keeps what a drag brought in, since under X11 a drop was seen to come without it."""

    def __init__(self) -> None:
        self._brought: list[Path] = []

    def enter(self, event: QDragEnterEvent) -> bool:
        """Whether the drag brings files of this machine."""
        self._brought = _paths(event)
        return bool(self._brought)

    def take(self, event: QDropEvent) -> list[Path]:
        """The files of a drop."""
        return _paths(event) or self._brought


def _paths(event: QDropEvent) -> list[Path]:
    return [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
