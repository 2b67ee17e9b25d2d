"""What is known of an artefact: place, digest, facts, and the run that made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from auditor.project.catalogue import Artefact, RunRecord
from auditor.ui import theme
from auditor.ui.widgets.controls import box, button, heading, row, tool
from auditor.ui.widgets.numbers import figure
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

# Kinds that can be evidence by themselves.
_SHOWN = ("store", "dictionary", "result")


def artefact_card(
    artefact: Artefact, run: RunRecord | None, copy: Callable[[], None], pin: Callable[[], None]
) -> list[QWidget]:
    """The parts of the card, one below another."""
    name = PlainLabel(artefact.name, "strong", wrap=True, selectable=True)
    digest = ElidedLabel(artefact.digest, "mono", mode=Qt.TextElideMode.ElideMiddle)
    copy_button = tool("copy", "Copy digest", copy)
    parts: list[QWidget] = [
        name,
        fact("kind", artefact.kind),
        fact("made", artefact.created.replace("T", " ").replace("+00:00", " UTC")),
        fact("at", str(artefact.path)),
        heading("SHA-256"),
        box(row(digest, copy_button)),
    ]
    if artefact.kind in _SHOWN:
        parts.insert(1, box(row(button("Add to case", pin, icon="pin", slim=True), None)))
    if "note" in artefact.meta:
        parts.append(PlainLabel(str(artefact.meta["note"]), "small", wrap=True))
    for key, value in artefact.meta.items():
        if key == "note":
            continue
        parts.append(fact(key, told(value)))
    if run is None:
        parts.append(PlainLabel("Brought in, not made by a run here.", "small", wrap=True))
        return parts
    parts += [heading("How it was made"), fact("verb", f"{run.verb} ({run.status})"), fact("run", run.id)]
    parts += [fact(f"from {key}", value[:16]) for key, value in run.inputs.items()]
    parts += [fact(key, told(value)) for key, value in run.config.items()]
    parts += [fact(key, value) for key, value in run.environment.items()]
    return parts


def told(value: Any) -> str:
    """A figure as figures are written everywhere; what has parts as JSON."""
    if isinstance(value, float):
        return figure(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def fact(name: str, value: str) -> QWidget:
    """A line of a card."""
    label = PlainLabel(name, "small")
    label.setFixedWidth(theme.px(64))
    held = ElidedLabel(value, mode=Qt.TextElideMode.ElideMiddle)
    return box(row(label, held))
