"""Pictures of a widget in light and dark at 1280×720 in build/pictures, for eyes; run alone it makes the shell's.

`picture(pane, "features")` writes build/pictures/features-light.png and features-dark.png and gives their paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication, QWidget

from auditor.base.paths import build
from auditor.ui import theme


def picture(
    widget: QWidget | Callable[[], QWidget],
    name: str,
    *,
    themes: Sequence[str] = ("light", "dark"),
    size: tuple[int, int] = (1280, 720),
    scale: int = 100,
) -> list[Path]:
    """Grab a widget, or what a function makes, in each theme. The widget is shown and keeps its last theme."""
    folder = build() / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for wanted in themes:
        theme.apply(wanted, scale)
        shown = widget if isinstance(widget, QWidget) else widget()
        shown.resize(*size)
        shown.show()
        for _ in range(4):
            QApplication.processEvents()
        path = folder / f"{name}-{wanted}{'' if scale == 100 else f'-{scale}'}.png"
        if not shown.grab().save(str(path)):
            raise OSError(f"{path} could not be written")
        paths.append(path)
    return paths
