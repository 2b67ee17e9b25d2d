"""The rows of finished dictionaries: what they are, how well they stand for the store, and simple baselines beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
_TIPS = {
    "fvu": "Fraction of the variance that it leaves unexplained", "l0": "Features active on a row, on average",
    "dead": "Share of features that fired on none of the rows",
    "ce_increase": "Increase of the next-token cross-entropy with the reconstruction in the model, nats a token",
    "kl": "KL from the clean network to the one with the reconstruction in it, nats a token",
    "fvu_pca": "Baseline: FVU of as many principal components as its L0",
    "fvu_random": "Baseline: FVU of a dictionary of random directions",
    "fvu_neurons": "Baseline: FVU of as many raw neurons as its L0",
    "fvu_linear": "Baseline of transcoders: FVU of the best linear map",
    "fvu_random_model": "Baseline: FVU of the same dictionary trained on the model with its weights drawn anew",
}  # fmt: skip
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


def _figure(name: str, title: str, width: int, write: Callable[[float], str] = numbers.short) -> Column:
    return Column(name, title, write, width=width, tip=_TIPS[name], told=f"{name}_told")


COLUMNS = (
    Column("name", "dictionary", width=200, tip="Named by hook point, architecture and size, unless renamed",
           told="told"),
    Column("step", "", width=78, link=True,
           tip="One click gathers the features' examples and figures, or opens them where that was done"),
    Column("arch", "kind", width=96, tip="Architecture"),
    Column("verdict", "doctor", width=84, role=verdict_role, told="sentence",
           tip="What the import doctor found: which convention reconstructs recorded activations"),
    _figure("fvu", "FVU", 50), _figure("l0", "L0", 44), _figure("dead", "dead", 56, numbers.short_share),
    Column("features", "features", width=62, tip="Size of the dictionary"),
    Column("alive", "alive", lambda value: "–" if value < 0 else numbers.count(int(value)), width=50,
           tip="Features that fired on some of the rows"),
    _figure("ce_increase", "CE +", 50), _figure("kl", "KL", 46), _figure("fvu_pca", "PCA", 50),
    _figure("fvu_random", "random", 58), _figure("fvu_neurons", "neurons", 60), _figure("fvu_linear", "linear", 54),
    _figure("fvu_random_model", "redrawn", 62),
    Column("created", "made", _when, width=100, tip="When it was made or brought in"),
)  # fmt: skip
_SELDOM = ("fvu_linear", "fvu_random_model")
_ROW = np.dtype([
    *((name, "O") for name in ("name", "step", "arch", "verdict", "sentence", "told", "created")),
    ("features", "i8"), ("alive", "i8"), *((name, "f8") for name in FIGURES),
    *((f"{name}_told", "O") for name in FIGURES),
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
            verdict or "–", sentence or "The doctor looks at what is imported, and at others when asked to.",
            told_of(artefact), artefact.created, features, alive, *figures.values(), *_told(facts).values(),
        )  # fmt: skip
    return rows


def doctor_of(artefact: Artefact) -> tuple[str, str]:
    """The doctor's verdict and its sentence; both empty where it has not looked."""
    found = artefact.meta.get("doctor")
    if not isinstance(found, Mapping):
        return "", ""
    return str(found.get("verdict") or ""), str(found.get("sentence") or "")


def examined_on(verdict: Any) -> str:
    """On which activations a verdict was given, how many rows, and when."""
    if not isinstance(verdict, Mapping) or not verdict.get("rows"):
        return ""
    parts = [str(verdict.get("store") or ""), f"{numbers.count(int(verdict['rows']))} rows"]
    return ", ".join(part for part in (*parts, _when(str(verdict.get("when") or ""))) if part)


def earlier_verdicts(artefact: Artefact) -> list[Mapping[str, Any]]:
    """The doctor's verdicts before the one that holds, oldest first."""
    found = artefact.meta.get("doctor_before")
    return [past for past in found if isinstance(past, Mapping)] if isinstance(found, list) else []


def readings_of(artefact: Artefact) -> list[Mapping[str, Any]]:
    """The readings that the doctor tried, best first: each its name, meaning, fvu with low and high, and l0."""
    found = artefact.meta.get("doctor")
    table = found.get("table") if isinstance(found, Mapping) else None
    return [row for row in table if isinstance(row, Mapping)] if isinstance(table, list) else []


def _told(facts: Mapping[str, Any]) -> dict[str, str]:
    """What is said of each figure: what it means, its 95 % interval and how much it was measured on."""
    held = facts.get("figures")
    rows = {str(row.get("figure")): row for row in held if isinstance(row, Mapping)} if isinstance(held, list) else {}
    return {name: "\n".join(filter(None, (_range(rows.get(name, {})), _TIPS[name]))) for name in FIGURES}


def _range(row: Mapping[str, Any]) -> str:
    low, high, n = (_number(row.get(name)) for name in ("low", "high", "n"))
    known = not np.isnan([low, high]).any()
    between = f"95 % interval {numbers.figure(low)} to {numbers.figure(high)}" if known else ""
    measured = f"n {numbers.count(int(n))} {row.get('of') or ''}".strip() if n > 0 else ""
    return ", ".join(filter(None, (between, measured)))


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
