"""The pictures that the headless demo leaves."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication

from auditor.project.project import Project
from auditor.ui.pictures import take


def test_that_every_pane_is_pictured_in_light_and_dark(qapp: QApplication, tmp_path: Path) -> None:
    Project.create(tmp_path / "p").close()
    taken = take(tmp_path / "p", tmp_path / "pictures")
    assert sorted(path.name for path in taken) == sorted(
        f"{shot}-{name}.png"
        for shot in ("start", "explore", "record", "train", "store", "circuit", "case")
        for name in ("light", "dark")
    )
    light, dark = (QImage(str(tmp_path / "pictures" / f"explore-{name}.png")) for name in ("light", "dark"))
    assert light.width() == 1280
    assert light.pixelColor(640, 5).lightness() > 200 > 60 > dark.pixelColor(640, 5).lightness()
