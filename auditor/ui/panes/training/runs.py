"""The rows of finished dictionaries: what they are, how well they stand for the store, and simple baselines beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.project import Artefact
from auditor.ui.widgets import numbers
from auditor.ui.widgets.big_table import Column

FIGURES = (
    "fvu", "l0", "dead", "ce_increase", "kl", "fvu_pca", "fvu_random", "fvu_neurons", "fvu_linear", "fvu_random_model",
)  # fmt: skip
INDEX, INDEXING, OPEN = "Index", "indexing…", "Features"
_ROLES = {"as read": "good", "another": "warn", "undecided": "warn", "none fits": "bad", "unchecked": "muted"}


def verdict_role(verdict: str) -> str:
    """The colour of the doctor's verdict."""
    return _ROLES.get(verdict, "")


def _when(created: str) -> str:
    try:
        return f"{datetime.fromisoformat(created).astimezone():%d %b %H:%M}"
    except ValueError:
        return created


COLUMNS = (
    Column("name", "dictionary", width=200, tip="Named by hook point, architecture and size, unless renamed",
           told="told"),
    Column("step", "", width=78, link=True,
           tip="One click gathers the features' examples and figures, or opens them where that was done"),
    Column("arch", "kind", width=96, tip="Architecture"),
    Column("verdict", "doctor", width=84, role=verdict_role, told="sentence",
           tip="What the import doctor found: which convention reconstructs recorded activations"),
    Column("fvu", "FVU", numbers.short, width=50, tip="Fraction of the variance that it leaves unexplained"),
    Column("l0", "L0", numbers.short, width=44, tip="Features active on a row, on average"),
    Column("dead", "dead", numbers.short_share, width=56, tip="Share of features that fired on none of the rows"),
    Column("features", "features", width=62, tip="Size of the dictionary"),
    Column("alive", "alive", lambda value: "–" if value < 0 else numbers.count(int(value)), width=50,
           tip="Features that fired on some of the rows"),
    Column("ce_increase", "CE +", numbers.short, width=50,
           tip="Increase of the next-token cross-entropy with the reconstruction in the model, nats a token"),
    Column("kl", "KL", numbers.short, width=46,
           tip="KL from the clean network to the one with the reconstruction in it, nats a token"),
    Column("fvu_pca", "PCA", numbers.short, width=50, tip="Baseline: FVU of as many principal components as its L0"),
    Column("fvu_random", "random", numbers.short, width=58, tip="Baseline: FVU of a dictionary of random directions"),
    Column("fvu_neurons", "neurons", numbers.short, width=60, tip="Baseline: FVU of as many raw neurons as its L0"),
    Column("fvu_linear", "linear", numbers.short, width=54,
           tip="Baseline of transcoders: FVU of the best linear map"),
    Column("fvu_random_model", "redrawn", numbers.short, width=62,
           tip="Baseline: FVU of the same dictionary trained on the model with its weights drawn anew"),
    Column("created", "made", _when, width=100, tip="When it was made or brought in"),
)  # fmt: skip
_SELDOM = ("fvu_linear", "fvu_random_model")
_ROW = np.dtype([
    *((name, "O") for name in ("name", "step", "arch", "verdict", "sentence", "told", "created")),
    ("features", "i8"), ("alive", "i8"), *((name, "f8") for name in FIGURES),
])  # fmt: skip


def empty_columns(rows: NDArray[Any]) -> list[int]:
    """The columns that only some dictionaries have something to say in, where none of these has."""
    said = {"verdict": rows["verdict"] != "–"} | {name: ~np.isnan(rows[name]) for name in _SELDOM}
    return [at for at, column in enumerate(COLUMNS) if column.field in said and not said[column.field].any()]


def rows_of(dictionaries: Sequence[Artefact], steps: Mapping[str, str]) -> NDArray[Any]:
    """One row a dictionary; NaN for what was not measured; `steps` says by id what a click on it does next."""
    rows = np.zeros(len(dictionaries), _ROW)
    for at, artefact in enumerate(dictionaries):
        facts = artefact.meta
        figures = {name: _number(facts.get(name)) for name in FIGURES}
        figures |= _by_doctor(artefact) if np.isnan(figures["fvu"]) else {}
        features = int(_number(facts.get("features")) or 0) if facts.get("features") else 0
        alive = -1 if np.isnan(figures["dead"]) else round(features * (1 - figures["dead"]))
        verdict, sentence = doctor_of(artefact)
        rows[at] = (
            artefact.name, steps.get(artefact.id, INDEX), str(facts.get("arch") or facts.get("architecture") or ""),
            verdict or "–", sentence or "The doctor looks at dictionaries that are imported.",
            told_of(artefact), artefact.created, features, alive, *figures.values(),
        )  # fmt: skip
    return rows


def doctor_of(artefact: Artefact) -> tuple[str, str]:
    """The doctor's verdict and its sentence; both empty where it has not looked."""
    found = artefact.meta.get("doctor")
    if not isinstance(found, Mapping):
        return "", ""
    return str(found.get("verdict") or ""), str(found.get("sentence") or "")


def readings_of(artefact: Artefact) -> list[Mapping[str, Any]]:
    """The readings that the doctor tried, best first: each its name, meaning, fvu with low and high, and l0."""
    found = artefact.meta.get("doctor")
    table = found.get("table") if isinstance(found, Mapping) else None
    return [row for row in table if isinstance(row, Mapping)] if isinstance(table, list) else []


def _by_doctor(artefact: Artefact) -> dict[str, float]:
    """FVU and L0 as it was read, of a dictionary that was measured by the doctor alone."""
    for row in readings_of(artefact):
        if row.get("reading") == "as read":
            return {"fvu": _number(row.get("fvu")), "l0": _number(row.get("l0"))}
    return {}


def told_of(artefact: Artefact) -> str:
    """Where it reads, and from what it was imported."""
    facts = artefact.meta
    parts = [f"{title} {facts[name]}" for name, title in
             (("hook", "reads"), ("target", "predicts"), ("imported", "imported from")) if facts.get(name)]  # fmt: skip
    return ", ".join(parts)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
