"""Light, dark and high contrast from one token file: colours, fonts, icons, colour maps and the style sheet.

`theme.color("accent")`, `theme.font("table")`, `theme.icon("play")`, `theme.lut("sequential")`. Own painting asks at
each paint; what keeps a copy listens to `theme.signals.changed`.
"""

from __future__ import annotations

import functools
import tomllib
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QByteArray, QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QAction, QColor, QFont, QFontDatabase, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QAbstractButton, QApplication, QPushButton

from auditor.base.errors import AuditorError
from auditor.base.paths import resources
from auditor.ui import colour

NAMES = ("light", "dark", "contrast")
SCALES = (100, 110, 125, 150, 175, 200)
_ICON = "auditorIcon"


class _Signals(QObject):
    changed = Signal()


signals = _Signals()
_state: dict[str, Any] = {"name": "light", "scale": 100, "families": ("", "")}


@functools.cache
def tokens() -> dict[str, Any]:
    """The token file as it was read."""
    with open(resources() / "theme" / "tokens.toml", "rb") as file:
        return tomllib.load(file)


def name() -> str:
    """The theme in use: light, dark or contrast."""
    return str(_state["name"])


def scale() -> int:
    """Text size in per cent of the design."""
    return int(_state["scale"])


def apply(theme: str = "light", text_scale: int = 100) -> None:
    """Dress the whole application in `theme` at `text_scale` per cent (100 to 200)."""
    if theme not in NAMES:
        raise AuditorError(f"There is no theme called “{theme}”.", f"Choose one of: {', '.join(NAMES)}.")
    app = QApplication.instance()
    if not isinstance(app, QApplication):
        raise RuntimeError("a theme needs a QApplication")
    if not _state["families"][0]:
        _state["families"] = _load_fonts()
    _state["name"], _state["scale"] = theme, min(200, max(100, text_scale))
    lut.cache_clear()
    inks.cache_clear()
    # Off before on: a sheet put in place of another is matched by Qt for a widget as often as it is deep in the window.
    app.setStyleSheet("")
    if app.style().name() != "fusion":
        app.setStyle("Fusion")
    app.setPalette(_palette())
    app.setFont(font("body"))
    app.setStyleSheet(_style_sheet())
    _refresh_icons(app)
    signals.changed.emit()


def hex_color(role: str) -> str:
    """The colour of a token as `#RRGGBB`."""
    value = tokens()["themes"][name()][role]
    if not isinstance(value, str):
        raise KeyError(f"{role} is a colour map, not a colour")
    return value


def color(role: str) -> QColor:
    """The colour of a token: text, muted, accent, surface, border, good, warn, bad, negative, positive…"""
    return QColor(hex_color(role))


def series(number: int) -> QColor:
    """The colour of the curve with this number; they repeat after six."""
    colours = tokens()["themes"][name()]["series"]
    return QColor(colours[number % len(colours)])


def n_series() -> int:
    """How many colours of curves there are before they repeat."""
    return len(tokens()["themes"][name()]["series"])


def space(size: str) -> int:
    """Pixels of a spacing step (tight 4, small 8, medium 12, large 20) at the text size in use."""
    return px(tokens()["space"][size])


def px(pixels: float) -> int:
    """Pixels of the design at the text size in use."""
    return round(pixels * scale() / 100)


def font(role: str = "body", *, bold: bool = False, mono: bool = False) -> QFont:
    """A face for own painting; role is small, table, body, pane or page. Figures are tabular."""
    text, code = _state["families"]
    face = QFont((code if mono else text) or QFont().family())
    face.setPixelSize(px(tokens()["type"][role]))
    face.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
    for feature in ("calt", "liga"):  # a token is shown as its characters: “->” is no arrow
        face.setFeature(QFont.Tag(feature), 0)
    if not mono:
        face.setFeature(QFont.Tag("tnum"), 1)
    return face


@functools.cache
def lut(kind: str = "sequential") -> NDArray[np.uint8]:
    """Colour map uint8 [256, 4] RGBA: sequential (0 → most) or diverging (most negative → 0 → most positive)."""
    stops = tokens()["themes"][name()][kind]
    made = colour.two_sided(stops) if kind == "diverging" else colour.ramp(stops)
    made.flags.writeable = False
    return made


@functools.cache
def inks(kind: str = "sequential") -> tuple[tuple[QColor, QColor], ...]:
    """For each of the 256 steps of a colour map the ground and the colour to write on it with."""
    grounds = [QColor(int(red), int(green), int(blue)) for red, green, blue, _ in lut(kind)]
    return tuple((ground, text_on(ground)) for ground in grounds)


def heat_steps(values: NDArray[Any], low: float, high: float) -> tuple[NDArray[np.intp], str]:
    """Step (0 to 255) of each activation on the scale `low`…`high`, and the colour map that it belongs to."""
    if low < 0:
        reach = max(-low, high) or 1.0
        part, kind = values / (2 * reach) + 0.5, "diverging"
    else:
        part, kind = (values - low) / ((high - low) or 1.0), "sequential"
    steps = np.nan_to_num(np.clip(part, 0, 1) * (colour.STEPS - 1))
    return np.round(steps).astype(np.intp), kind


def heat(value: float, low: float, high: float) -> QColor:
    """Colour of one activation on the scale `low`…`high`: diverging when `low` is negative, else sequential."""
    red, green, blue, _ = heat_rgba(np.array([value]), low, high)[0]
    return QColor(int(red), int(green), int(blue))


def heat_rgba(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Colours uint8 [..., 4] of activations on the scale `low`…`high`; a negative `low` makes 0 the middle."""
    steps, kind = heat_steps(values, low, high)
    return lut(kind)[steps]


def text_on(ground: QColor) -> QColor:
    """The colour to write with on `ground`: the theme's text where it reads, else black or white (≥ 4.5:1)."""
    under = (ground.red(), ground.green(), ground.blue())
    if colour.contrast(colour.rgb(hex_color("text")), under) >= 4.5:
        return color("text")
    return QColor("#000000") if colour.contrast((0, 0, 0), under) >= 4.5 else QColor("#FFFFFF")


def pixmap(icon_name: str, role: str = "text", size: int = 16, ratio: float = 1.0, after: int = 0) -> QPixmap:
    """A lucide icon in a token's colour, `size` design pixels wide and `after` clear ones behind it; `ratio` is the
    screen's device pixel ratio."""
    return _drawn(icon_name, hex_color(role), px(size), px(after), ratio)


@functools.lru_cache(maxsize=4096)
def _drawn(icon_name: str, ink: str, wide: int, after: int, ratio: float) -> QPixmap:
    picture = QPixmap(QSize(round((wide + after) * ratio), round(wide * ratio)))
    picture.setDevicePixelRatio(ratio)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    drawing = QByteArray(_outline(icon_name).replace("currentColor", ink).encode())
    QSvgRenderer(drawing).render(painter, QRectF(0, 0, wide, wide))
    painter.end()
    return picture


@functools.cache
def _outline(icon_name: str) -> str:
    return (resources() / "icons" / f"{icon_name}.svg").read_text(encoding="utf-8")


def icon(icon_name: str, role: str = "text", size: int = 16, after: int = 0) -> QIcon:
    """A lucide icon for buttons and menus; it does not follow a change of theme (`set_icon` does)."""
    made = QIcon()
    for ratio in (1.0, 2.0):
        made.addPixmap(pixmap(icon_name, role, size, ratio, after))
        made.addPixmap(pixmap(icon_name, "muted", size, ratio, after), QIcon.Mode.Disabled)
        made.addPixmap(pixmap(icon_name, "on_selection", size, ratio, after), QIcon.Mode.Selected)
    return made


def set_icon(target: QAbstractButton | QAction, icon_name: str, role: str = "text", size: int = 16) -> None:
    """Give a button or an action an icon that follows the theme."""
    target.setProperty(_ICON, f"{icon_name} {role} {size}")
    after = 4 if isinstance(target, QPushButton) and target.text() else 0
    target.setIcon(icon(icon_name, role, size, after))
    if isinstance(target, QAbstractButton):
        target.setIconSize(QSize(px(size + after), px(size)))


def _refresh_icons(app: QApplication) -> None:
    for widget in app.allWidgets():
        targets = [widget, *widget.actions()]
        for target in targets:
            kept = target.property(_ICON)
            if kept and isinstance(target, (QAbstractButton, QAction)):
                icon_name, role, size = str(kept).split(" ")
                set_icon(target, icon_name, role, int(size))


def _load_fonts() -> tuple[str, str]:
    for file in sorted((resources() / "fonts").glob("*.[to]tf")):
        QFontDatabase.addApplicationFont(str(file))
    have = set(QFontDatabase.families())
    text = next((face for face in ("Inter", "Inter Variable") if face in have), "")
    mono = "JetBrains Mono" if "JetBrains Mono" in have else ""
    general = QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont).family()
    fixed = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont).family()
    return text or general, mono or fixed


def _palette() -> QPalette:
    roles = QPalette.ColorRole
    pairs = {
        roles.Window: "window", roles.WindowText: "text", roles.Base: "surface", roles.AlternateBase: "surface",
        roles.Text: "text", roles.PlaceholderText: "muted", roles.Button: "surface", roles.ButtonText: "text",
        roles.BrightText: "bad", roles.Highlight: "selection", roles.HighlightedText: "on_selection",
        roles.ToolTipBase: "surface", roles.ToolTipText: "text", roles.Link: "accent", roles.Mid: "border",
        roles.Dark: "border", roles.Light: "surface", roles.Shadow: "border", roles.Accent: "accent",
    }  # fmt: skip
    made = QPalette()
    for role, token in pairs.items():
        made.setColor(role, color(token))
    for role in (roles.Text, roles.WindowText, roles.ButtonText):
        made.setColor(QPalette.ColorGroup.Disabled, role, color("muted"))
    return made


def _style_sheet() -> str:
    template = Template((resources() / "theme" / "window.qss").read_text(encoding="utf-8"))
    _, mono = _state["families"]
    roles = tokens()["themes"][name()]
    values: dict[str, Any] = {role: value for role, value in roles.items() if isinstance(value, str)}
    focus = roles["focus_px"]
    values |= {f"s{pixels}": px(pixels) for pixels in (4, 5, 8, 10, 12, 14, 20)}
    values |= {key: px(value) for key, value in tokens()["type"].items() if key != "small"}
    values |= {
        "mono": f'"{mono}"', "small_type": px(tokens()["type"]["small"]),
        "radius": tokens()["shape"]["radius"], "focus": focus, "control": px(16),
        "pad_v_focus": px(5) + 1 - focus, "pad_h_focus": px(12) + 1 - focus, "pad_h8_focus": px(8) + 1 - focus,
        "slim": px(2), "slim_focus": max(0, px(2) + 1 - focus),
        "tool_focus": max(0, px(4) + 1 - focus), "tab_focus": px(12) - focus,
        "images": (resources() / "theme" / name()).as_posix(),
    }  # fmt: skip
    return template.substitute(values)
