"""The figures of a finished dictionary as its file keeps them, each with its interval, n and unit; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_MEASURED = {"fvu": ("FVU", ""), "l0": ("L0", "features a row"), "dead": ("Dead features", "share")}
_BASELINES = {
    "mean": "FVU of the mean", "pca": "FVU of PCA", "random": "FVU of random directions",
    "neurons": "FVU of raw neurons", "linear": "FVU of the best linear map",
}  # fmt: skip
_LOSSES = {
    "increase": ("ce_increase", "CE increase", "nats a token"), "recovered": ("ce_recovered", "CE recovered", "share"),
    "kl": ("kl", "KL", "nats a token"),
}  # fmt: skip
_STAND_INS = {"mean": "KL of the mean", "pca": "KL of PCA", "neurons": "KL of raw neurons"}


@dataclass(frozen=True)
class Figure:
    """`interval`: 95 %, None where none was measured; `n`: how many rows or tokens (`of`) it is from, 0 where that is
    not known, and `samples` those that they are of; `unit` is empty for a share of the variance."""

    group: Literal["Figures", "Baselines", "In the model"]
    name: str
    title: str
    value: float
    interval: tuple[float, float] | None
    n: int
    samples: int
    unit: str = ""
    of: str = "rows"

    def told(self) -> dict[str, Any]:
        """Plain values, as a line of a table."""
        low, high = self.interval or (None, None)
        return {
            "figure": self.name, "value": self.value, "low": low, "high": high, "n": self.n, "of": self.of,
            "unit": self.unit,
        }  # fmt: skip


def figures(meta: Mapping[str, Any]) -> list[Figure]:
    """Those in a dictionary's `meta`, where a file may say anything: what is no figure is left out."""
    drawn = _dict(meta, "random_model")
    return [*_quality(_dict(meta, "quality")), *_random_model(drawn), *_spliced(_dict(meta, "spliced"))]


def headline(found: Iterable[Figure]) -> dict[str, Any]:
    """What a project keeps of a dictionary: each value by its name, how much was measured, and as `figures` all that
    is known of them."""
    held = {figure.name: figure for figure in found}
    flat: dict[str, Any] = {name: figure.value for name, figure in held.items()}
    if "fvu" in held:
        flat["rows"] = float(held["fvu"].n)
    if "kl" in held:
        flat["spliced_tokens"] = float(held["kl"].n)
    return flat | ({"figures": [figure.told() for figure in held.values()]} if held else {})


def _quality(held: Mapping[str, Any]) -> Iterator[Figure]:
    n, samples, ranges = _count(held, "n"), _count(held, "n_samples"), _dict(held, "intervals")
    for name, (title, unit) in _MEASURED.items():
        if (value := _number(held.get(name))) is not None:
            yield Figure("Figures", name, title, value, _range(ranges.get(name)), n, samples, unit)
    for kind, one in _dict(held, "by_kind").items():
        if isinstance(one, dict) and (value := _number(one.get("fvu"))) is not None:
            interval = _range(one.get("fvu_interval"))
            yield Figure("Figures", f"fvu_{kind}", f"FVU, {kind}", value, interval, _count(one, "n"), 0)
    at_hooks = _dict(held, "by_hook_intervals")
    for hook, one in _dict(held, "by_hook").items():
        if (value := _number(one)) is not None:
            yield Figure("Figures", f"fvu_at_{hook}", f"FVU at {hook}", value, _range(at_hooks.get(hook)), n, samples)
    simple, of_simple = _dict(held, "baselines"), _dict(held, "baseline_intervals")
    for name, title in _BASELINES.items():
        if (value := _number(simple.get(name))) is not None:
            interval = _range(of_simple.get(name))
            yield Figure("Baselines", f"fvu_{name}", title, value, interval, _count(held, "baseline_n"), 0)


def _random_model(held: Mapping[str, Any]) -> Iterator[Figure]:
    for name, title, unit in (("fvu", "FVU", ""), ("l0", "L0", "features a row")):
        if (value := _number(held.get(name))) is not None:
            interval = _range(_dict(held, "intervals").get(name))
            told = f"{title} on a redrawn model"
            yield Figure("Baselines", f"{name}_random_model", told, value, interval, _count(held, "n"), 0, unit)


def _spliced(held: Mapping[str, Any]) -> Iterator[Figure]:
    n, samples, ranges = _count(held, "n"), _count(held, "n_samples"), _dict(held, "intervals")
    for key, (name, title, unit) in _LOSSES.items():
        if (value := _number(held.get(key))) is not None:
            yield Figure("In the model", name, title, value, _range(ranges.get(key)), n, samples, unit, "tokens")
    for name, title in _STAND_INS.items():
        one = _dict(_dict(held, "baselines"), name)
        if (value := _number(one.get("kl"))) is not None:
            interval = _range(_dict(one, "intervals").get("kl"))
            yield Figure("In the model", f"kl_{name}", title, value, interval, n, samples, "nats a token", "tokens")


def _dict(held: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = held.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _count(held: Mapping[str, Any], name: str) -> int:
    value = held.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _range(told: Any) -> tuple[float, float] | None:
    if not isinstance(told, (list, tuple)) or len(told) != 2:
        return None
    low, high = _number(told[0]), _number(told[1])
    return None if low is None or high is None else (low, high)
