"""A picture under its patches."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PySide6.QtCore import QPointF, Qt
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.patch_view import PatchView, read_thumbnail


def shown(qtbot: QtBot) -> PatchView:
    view = PatchView()
    qtbot.addWidget(view)
    view.resize(200, 100)
    view.show()
    view.set_image(np.full((50, 100, 3), 128, np.uint8))
    return view


def test_that_patches_are_numbered_row_by_row_and_clicked(qtbot: QtBot) -> None:
    view = shown(qtbot)
    view.set_patches(np.arange(8.0).reshape(2, 4))
    assert [view.patch_at(QPointF(x, y)) for y in (10, 90) for x in (10, 60, 110, 190)] == list(range(8))
    with qtbot.waitSignal(view.patch_clicked) as clicked:
        qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=QPointF(190, 90).toPoint())
    assert clicked.args == [7]
    assert view.describe(7) == "7.00\npatch row 2, column 4"


def test_that_a_silent_patch_leaves_the_picture_as_it_is(qtbot: QtBot) -> None:
    view = shown(qtbot)
    view.set_patches(np.array([[0.0, 5.0]]))
    picture = view.grab().toImage()
    assert picture.pixelColor(50, 50).getRgb()[:3] == (128, 128, 128)
    assert picture.pixelColor(150, 50).getRgb()[:3] != (128, 128, 128)


def test_that_only_known_picture_formats_are_read() -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    assert read_thumbnail(file.getvalue()).width() == 3
    assert read_thumbnail(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>").isNull()
    assert read_thumbnail(b"\x89PNG\r\n\x1a\nbroken").isNull()
    assert read_thumbnail(b"").isNull()
