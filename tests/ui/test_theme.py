"""Colours that can be read, maps that are even, and a window that follows a change of theme."""

from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QObject
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from auditor.base.errors import AuditorError
from auditor.base.paths import resources
from auditor.ui import colour, theme
from auditor.ui.widgets.controls import box, button, column
from auditor.ui.widgets.plain_text import PlainLabel


@pytest.mark.parametrize("name", theme.NAMES)
def test_that_every_text_pair_has_a_contrast_of_at_least_four_and_a_half(qapp: QApplication, name: str) -> None:
    theme.apply(name)
    for ink, grounds in theme.tokens()["pairs"].items():
        for ground in grounds:
            ratio = colour.contrast(colour.rgb(theme.hex_color(ink)), colour.rgb(theme.hex_color(ground)))
            assert ratio >= 4.5, f"{name}: {ink} on {ground} is {ratio:.2f}:1"


@pytest.mark.parametrize("name", theme.NAMES)
@pytest.mark.parametrize("kind", ["sequential", "diverging"])
def test_that_text_reads_on_every_step_of_a_colour_map(qapp: QApplication, name: str, kind: str) -> None:
    theme.apply(name)
    for red, green, blue, _ in theme.lut(kind).tolist():
        ink = theme.text_on(QColor(red, green, blue))
        assert colour.contrast((ink.red(), ink.green(), ink.blue()), (red, green, blue)) >= 4.5


@pytest.mark.parametrize("name", ["light", "dark"])
def test_that_a_colour_map_is_perceptually_even(qapp: QApplication, name: str) -> None:
    theme.apply(name)
    steps = theme.lut("sequential")[::15, :3].astype(np.float64)
    lengths = np.linalg.norm(np.diff(colour.oklab(steps), axis=0), axis=1)
    assert lengths.max() / lengths.min() < 1.35


def test_that_contrast_is_what_the_guideline_says(qapp: QApplication) -> None:
    assert colour.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert colour.contrast(colour.rgb("#777777"), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)


def test_that_heat_puts_zero_in_the_middle_once_values_are_negative(qapp: QApplication) -> None:
    theme.apply("light")
    assert theme.heat(0.0, -3.0, 5.0).name().upper() == theme.hex_color("surface")
    assert theme.heat(5.0, -3.0, 5.0).name().upper() == theme.hex_color("positive")
    assert theme.heat(0.0, 0.0, 5.0).name().upper() == theme.hex_color("surface")
    blue = theme.heat(-5.0, -5.0, 1.0)
    assert blue.name().upper() == theme.hex_color("negative")


def test_that_control_pictures_are_the_icons_in_the_theme_s_colours() -> None:
    for name, roles in theme.tokens()["themes"].items():
        for icon, role in (("chevron-down", "muted"), ("chevron-up", "muted"), ("check", "on_accent")):
            drawn = (resources() / "theme" / name / f"{icon}.svg").read_text()
            assert drawn == (resources() / "icons" / f"{icon}.svg").read_text().replace("currentColor", roles[role])


def test_that_text_grows_to_twice_its_size_and_no_further(qapp: QApplication) -> None:
    theme.apply("light", 400)
    assert theme.scale() == 200
    assert theme.font("body").pixelSize() == 26
    assert qapp.font().pixelSize() == 26


def test_that_icons_follow_the_theme(qapp: QApplication, qtbot: QtBot) -> None:
    held = button("Record", icon="play")
    qtbot.addWidget(held)
    before = held.icon().pixmap(16).toImage()
    theme.apply("dark")
    assert held.icon().pixmap(16).toImage() != before


def test_that_an_unknown_theme_is_refused_by_name(qapp: QApplication) -> None:
    with pytest.raises(AuditorError, match="sepia"):
        theme.apply("sepia")


def test_that_a_change_of_theme_styles_a_widget_twice_however_deep_it_lies(qapp: QApplication, qtbot: QtBot) -> None:
    class Counted(QObject):
        styled = 0

        def eventFilter(self, _: QObject, event: QEvent) -> bool:
            self.styled += event.type() == QEvent.Type.StyleChange
            return False

    deepest = PlainLabel("padlock", "muted")
    outer: QWidget = deepest
    for _ in range(12):
        outer = box(column(outer))
    qtbot.addWidget(outer)
    outer.show()
    counted = Counted()
    deepest.installEventFilter(counted)
    for name in ("dark", "light", "dark"):
        counted.styled = 0
        theme.apply(name)
        assert 1 <= counted.styled <= 2
        assert deepest.palette().windowText().color() == theme.color("muted")
        assert outer.palette().windowText().color() == theme.color("text")
    assert deepest.font().family() == qapp.font().family() and deepest.font().pixelSize() == 13


def test_that_a_hidden_widget_has_the_theme_when_it_is_shown(qapp: QApplication, qtbot: QtBot) -> None:
    held = button("Record")
    qtbot.addWidget(held)
    held.show()
    held.hide()
    theme.apply("dark")
    held.show()
    worn = held.grab().toImage()
    fresh = button("Record")
    qtbot.addWidget(fresh)
    fresh.show()
    assert worn == fresh.grab().toImage()
