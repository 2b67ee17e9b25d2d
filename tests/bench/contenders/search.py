"""The settings at which a contender does best: its learning rate, and the coefficient that gives the common L0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .process import Failed

NEAR = 0.1  # of the wanted L0
_TRIES = 6

Run = Callable[[float, float | None], dict[str, Any]]
Say = Callable[[str], None]


def best(run: Run, rates: Sequence[float], start: float | None, wanted: float, say: Say) -> dict[str, Any]:
    """Least FVU over the rates: {"lr", "coefficient", "tried": [...]}. `run` gives fvu and l0 for a rate and a
    coefficient; without a coefficient (`start` None) L0 is as it is. Raises Failed where every rate fails."""
    tried, word = [], ""
    for rate in rates:
        try:
            found = match(lambda value, rate=rate: run(rate, value), start, wanted)
        except Failed as failed:
            word = str(failed)
            say(f"learning rate {rate:g}: {word}")
            continue
        tried.append({"lr": rate, **found})
        start = found["coefficient"]
        said = f", coefficient {start:.3g}" if start is not None else ""
        say(f"learning rate {rate:g}{said}: FVU {found['fvu']:.4f}, L0 {found['l0']:.1f}")
    if not tried:
        raise Failed(word)
    near = [one for one in tried if start is None or abs(one["l0"] / wanted - 1) <= NEAR]
    chosen = min(near, key=lambda one: one["fvu"]) if near else min(tried, key=lambda one: abs(one["l0"] / wanted - 1))
    return {"lr": chosen["lr"], "coefficient": chosen["coefficient"], "tried": tried}


def match(run: Callable[[float | None], dict[str, Any]], start: float | None, wanted: float) -> dict[str, Any]:
    """The run whose L0 is nearest to `wanted`, with its coefficient: L0 falls as the coefficient rises."""
    if start is None:
        found = run(None)
        return {"fvu": found["fvu"], "l0": found["l0"], "coefficient": None}
    runs: list[dict[str, Any]] = []
    value = start
    for _ in range(_TRIES):
        found = run(value)
        runs.append({"fvu": found["fvu"], "l0": max(found["l0"], 1e-2), "coefficient": value})
        if abs(runs[-1]["l0"] / wanted - 1) <= NEAR or _stuck(runs, wanted):
            break
        value = _next(runs, wanted)
    return min(runs, key=lambda one: abs(math.log(one["l0"] / wanted)))


def _stuck(runs: list[dict[str, Any]], wanted: float) -> bool:
    """Whether L0 stays where it is on one side of `wanted`, whatever the coefficient: steps are too few, say."""
    last = [math.log(one["l0"] / wanted) for one in runs[-2:]]
    return len(last) == 2 and last[0] * last[1] > 0 and abs(last[0] - last[1]) < NEAR


def _next(runs: list[dict[str, Any]], wanted: float) -> float:
    """Between the nearest on both sides on logarithmic scales; beyond the last where there is one side only."""
    many = [one for one in runs if one["l0"] > wanted]
    few = [one for one in runs if one["l0"] <= wanted]
    if not many or not few:
        last = min(runs, key=lambda one: abs(math.log(one["l0"] / wanted)))
        ratio = last["l0"] / wanted
        grow = min(8.0, max(1.5, max(ratio, 1 / ratio) ** 1.5))
        return last["coefficient"] * (grow if ratio > 1 else 1 / grow)
    low = max(many, key=lambda one: one["coefficient"])
    high = min(few, key=lambda one: one["coefficient"])
    span = math.log(low["l0"] / high["l0"])
    part = min(0.85, max(0.15, math.log(low["l0"] / wanted) / span if span > 0 else 0.5))
    return math.exp((1 - part) * math.log(low["coefficient"]) + part * math.log(high["coefficient"]))
