"""What finished dictionaries keep of their training in their files: curves, densities, settings, mishaps, figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Curve = dict[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Kept:
    """Of one dictionary; each part is empty where the file says nothing of it, as with dictionaries from elsewhere.

    `curve` and `spliced` map a figure to (steps, values); `density` has log10, counts and silent; `settings` are those
    of its training; `quality`, `loss` and `drawn` its evaluation alone, in the model, and beside one of random weights;
    `facts` the rest.
    """

    curve: Curve = field(default_factory=dict)
    density: dict[str, Any] = field(default_factory=dict)
    spliced: Curve = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)
    mishaps: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def read_kept(path: Path) -> Kept:
    """What the dictionary in the folder `path` keeps; runs off the GUI thread."""
    facts = _facts(path / "cfg.json", "metadata", "auditor") or _facts(path / "auditor.json", "meta")
    density = _dict(facts, "density")
    return Kept(
        curve=_curve(facts.get("curve")), density=density if _is_density(density) else {},
        spliced=_curve(facts.get("probed")), settings=_dict(facts, "train"), quality=_dict(facts, "quality"),
        loss=_dict(facts, "spliced"), drawn=_dict(facts, "random_model"), mishaps=_list(facts, "mishaps"),
        facts={name: held for name, held in facts.items() if isinstance(held, (str, int, float))},
    )  # fmt: skip


def _facts(file: Path, *below: str) -> dict[str, Any]:
    """The object at the names `below` in a JSON file; empty where there is none."""
    try:
        found = json.loads(file.read_text("utf-8"))
        for name in below:
            found = found[name]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _curve(told: Any) -> Curve:
    """From {columns, rows}, or from a list of {step, figure: value}."""
    try:
        if isinstance(told, Mapping):
            rows = np.array(told["rows"], dtype=float).reshape(-1, len(told["columns"]))
            columns = {str(name): rows[:, at].tolist() for at, name in enumerate(told["columns"])}
        else:
            names = dict.fromkeys(name for row in told or () for name, held in row.items() if _is_number(held))
            columns = {str(name): [float(row.get(name, np.nan)) for row in told] for name in names}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    steps = columns.pop("step", [])
    return {figure: (steps, values) for figure, values in columns.items() if len(steps) == len(values)}


def _is_density(told: Mapping[str, Any]) -> bool:
    edges, counts = told.get("log10"), told.get("counts")
    return isinstance(edges, list) and isinstance(counts, list) and len(edges) == len(counts) + 1 and bool(
        all(map(_is_number, (*edges, *counts, told.get("silent", 0))))
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _dict(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = facts.get(name)
    return held if isinstance(held, dict) else {}


def _list(facts: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    held: Iterable[Any] = facts.get(name) or ()
    return [row for row in held if isinstance(row, dict)] if isinstance(held, list) else []
