"""A feature's card as evidence: figures, how its examples were chosen, what it was made from, and a picture of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QBuffer, QIODevice, QPoint, QSize
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QWidget

from auditor.ui import theme
from auditor.ui.panes.examples.gallery import GROUPS
from auditor.ui.panes.examples.source import Card
from auditor.ui.widgets.plain_text import visible

if TYPE_CHECKING:
    from auditor.features.examples import Example

_FIGURES = ("density", "density_text", "density_image", "image_share", "image_balance", "max_act", "max_text",
            "max_image", "mean_act", "agreement", "agreement_low", "agreement_high", "agreement_null", "agreement_p",
            "nearest_cos", "fires_text", "fires_image")  # fmt: skip
_CHARACTERS = 180


def picture_of(*widgets: QWidget) -> QImage:
    """The whole of the widgets as they stand, one below the other, on the ground of the theme."""
    ratio, edge = widgets[0].devicePixelRatioF(), theme.space("small")
    wide = max(widget.width() for widget in widgets) + 2 * edge
    high = sum(widget.height() + edge for widget in widgets) + edge
    image = QImage(QSize(round(wide * ratio), round(high * ratio)), QImage.Format.Format_RGB32)
    image.setDevicePixelRatio(ratio)
    image.fill(theme.color("surface"))
    top = edge
    for widget in widgets:
        widget.render(image, QPoint(edge, top), renderFlags=QWidget.RenderFlag.DrawChildren)
        top += widget.height() + edge
    return image


def png(image: QImage) -> bytes:
    """The image as PNG bytes."""
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    if not image.save(buffer, "PNG"):  # type: ignore[call-overload]
        raise OSError("the card could not be written as PNG")
    return bytes(buffer.data().data())


def fields(card: Card, group: str, figure: bytes) -> dict[str, Any]:
    """What `auditor.audit.collect.add_evidence` takes, for the examples of `group` that are shown."""
    f = card.feature
    shown = [e for name in GROUPS[group][1] for kind in ("text", "image") for e in f.examples_of(kind, name)]
    name = "label" if f.labelled else "automatic label"
    told = f"{name} “{_cut(f.title)}”" if f.label or f.auto_label else "no label"
    made: dict[str, Any] = {
        "kind": "examples",
        "title": f"Feature {f.id}: examples ({told})",
        "note": f"{GROUPS[group][0]}: {GROUPS[group][2]}",
        "recipe": {"verb": "index", "config": dict(card.source.index.meta.get("config", {}))},
        "inputs": card.inputs,
        "table": {"columns": ("figure", "value", "meaning"),
                  "rows": tuple((n, _number(getattr(f, n)), card.meanings[n]) for n in _FIGURES)},
        "figure": figure,
        "figure_alt": f"Card of feature {f.id} with {_counted(shown)}, coloured by activation up to {f.max_act:.3g}",
    }  # fmt: skip
    if group != "miss":  # near misses are drawn from samples that were not counted
        made["choice"] = {"rule": GROUPS[group][2], "seen": f.fires_text + f.fires_image, "shown": len(shown)}
    return made


def _counted(shown: list[Example]) -> str:
    texts = sum(e.kind == "text" for e in shown)
    return f"{texts} text and {len(shown) - texts} image examples"


def _number(value: float) -> float | int | None:
    return value if isinstance(value, int) or math.isfinite(value) else None


def _cut(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= _CHARACTERS else shown[: _CHARACTERS - 1] + "…"
