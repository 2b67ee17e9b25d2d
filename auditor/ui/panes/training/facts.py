"""All that is known of a finished dictionary, as named lines: figures with interval and n, settings, what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from auditor.project import Artefact
from auditor.ui.panes.training.kept import Kept
from auditor.ui.panes.training.runs import doctor_of, readings_of
from auditor.ui.panes.training.settings import described
from auditor.ui.widgets import numbers

Line = tuple[str, str, str]  # group, name, text
_FIGURES = {"fvu": "FVU", "l0": "L0", "dead": "Dead features"}
_BASELINES = {"mean": "FVU of the mean", "pca": "FVU of PCA", "random": "FVU of random directions",
              "neurons": "FVU of raw neurons", "linear": "FVU of the best linear map",
              "random_model": "FVU on a redrawn model"}  # fmt: skip
_LOSSES = {"ce_increase": "CE increase", "ce_recovered": "CE recovered", "kl": "KL", "kl_mean": "KL of the mean",
           "kl_pca": "KL of PCA", "kl_neurons": "KL of raw neurons"}  # fmt: skip
_NATS = {name for name in _LOSSES if name != "ce_recovered"}
_TOOK: dict[str, tuple[str, Callable[[float], str]]] = {
    "minutes": ("Time", lambda minutes: numbers.duration(60 * minutes)),
    "step_ms": ("A step", lambda ms: numbers.figure(ms, "ms")),
    "memory_mb": ("Memory", lambda megabytes: numbers.size(1e6 * megabytes)),
    "disk_mb": ("Disk", lambda megabytes: numbers.size(1e6 * megabytes)),
}


def lines_of(artefact: Artefact, kept: Kept) -> list[Line]:
    """What is known, in the order of reading."""
    meta = artefact.meta
    of_itself = (*_about(artefact), *_readings(artefact))
    return [*of_itself, *_figures(meta, kept), *_training(meta, kept), *_settings(kept)]


def estimates(meta: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """By minutes, step_ms, memory_mb and disk_mb: what a dictionary's training took and what was planned, each empty
    where it is not known."""
    found = {}
    for name, (_, write) in _TOOK.items():
        took, planned = _number(meta.get(f"took_{name}")), _number(meta.get(f"planned_{name}"))
        if took or planned:
            found[name] = (write(took) if took else "", write(planned) if planned else "")
    return found


def _about(artefact: Artefact) -> Iterator[Line]:
    verdict, sentence = doctor_of(artefact)
    if verdict or sentence:
        yield "Dictionary", "Doctor", ": ".join(part for part in (verdict.capitalize(), sentence) if part)
    meta = artefact.meta
    for name, title in (("imported", "Imported from"), ("hook", "Reads"), ("target", "Predicts"), ("arch", "Kind")):
        if meta.get(name):
            yield "Dictionary", title, str(meta[name])
    if meta.get("features"):
        yield "Dictionary", "Features", numbers.count(int(meta["features"]))


def _readings(artefact: Artefact) -> Iterator[Line]:
    for row in readings_of(artefact):
        fvu, l0 = _number(row.get("fvu")), _number(row.get("l0"))
        if fvu is not None:
            told = f"FVU {numbers.figure(fvu)}{_range((row.get('low'), row.get('high')))}"
            name = str(row.get("meaning") or row.get("reading") or "")
            yield "What the doctor tried", name, f"{told}, L0 {numbers.figure(l0)}" if l0 is not None else told


def _figures(meta: Mapping[str, Any], kept: Kept) -> Iterator[Line]:
    quality = kept.quality
    intervals = _dict(quality, "intervals")
    n = quality.get("n") or meta.get("rows")
    for name, title in _FIGURES.items():
        value = _number(quality.get(name, meta.get(name)))
        if value is not None:
            write = numbers.share if name == "dead" else numbers.figure
            yield "Figures", title, f"{write(value)}{_range(intervals.get(name), write)}"
    for kind, found in _dict(quality, "by_kind").items():
        value = _number(found.get("fvu")) if isinstance(found, dict) else None
        if value is not None:
            yield "Figures", f"FVU, {kind}", f"{numbers.figure(value)}{_range(found.get('fvu_interval'))}"
    if n:
        seen = ", which it has learned from; the baselines are of rows they were not fitted to"
        yield "Figures", "Measured on", f"{numbers.count(int(n))} rows{seen if quality.get('learned_from') else ''}"
    baselines = _dict(quality, "baselines")
    for name, title in _BASELINES.items():
        value = _number(baselines.get(name, meta.get(f"fvu_{name}")))
        if value is not None:
            yield "Baselines", title, numbers.figure(value)
    ranges = _dict(kept.loss, "intervals")
    for name, title in _LOSSES.items():
        value = _number(meta.get(name))
        if value is not None:
            told = f"{numbers.figure(value)}{_range(ranges.get(name.removeprefix('ce_')))}"
            yield "In the model", title, f"{told} nats a token" if name in _NATS else told
    if meta.get("spliced_tokens"):
        yield "In the model", "Measured over", f"{numbers.count(int(meta['spliced_tokens']))} tokens"


def _training(meta: Mapping[str, Any], kept: Kept) -> Iterator[Line]:
    rows = _number(kept.facts.get("rows"))
    if rows:
        yield "Training", "Rows seen", numbers.count(int(rows))
    for name, (took, planned) in estimates(meta).items():
        yield "Training", _TOOK[name][0], f"{took or '–'}{f', planned {planned}' if planned else ''}"
    for mishap in kept.mishaps:
        step, back, rate = (_number(mishap.get(name)) for name in ("step", "back_to", "rate"))
        if step is not None:
            told = f"back at step {back:g}" if back is not None else "gone back"
            lowered = f", rate at {numbers.share(rate)}" if rate is not None else ""
            yield "Training", f"Mishap at step {step:g}", f"{told}{lowered}"
    for name in ("device", "threads", "torch", "micro_batch"):
        if kept.facts.get(name):
            yield "Training", name.replace("_", "-").capitalize(), str(kept.facts[name])


def _settings(kept: Kept) -> Iterator[Line]:
    for title, value in described(kept.settings):
        yield "Settings", title, value or "automatic"


def _range(interval: Any, write: Any = numbers.figure) -> str:
    try:
        low, high = interval
        return f" [{write(float(low))}, {write(float(high))}]"
    except (TypeError, ValueError):
        return ""


def _dict(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = facts.get(name)
    return held if isinstance(held, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
