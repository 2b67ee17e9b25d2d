"""All that is known of a finished dictionary, as named lines: figures with interval and n, settings, what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from auditor.project import Artefact
from auditor.sae.figures import Figure, figures
from auditor.ui.panes.training.kept import Kept
from auditor.ui.panes.training.runs import doctor_of, earlier_verdicts, examined_on, readings_of
from auditor.ui.panes.training.settings import described
from auditor.ui.widgets import numbers

Line = tuple[str, str, str]  # group, name, text
_TOOK: dict[str, tuple[str, Callable[[float], str]]] = {
    "minutes": ("Time", lambda minutes: numbers.duration(60 * minutes)),
    "after_minutes": ("Of it after the last step", lambda minutes: numbers.duration(60 * minutes)),
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
    """By minutes, after_minutes, step_ms, memory_mb and disk_mb: what a dictionary's training took and what was
    planned, each empty where it is not known."""
    found = {}
    for name, (_, write) in _TOOK.items():
        took, planned = _number(meta.get(f"took_{name}")), _number(meta.get(f"planned_{name}"))
        if took or planned:
            found[name] = (write(took) if took else "", write(planned) if planned else "")
    return found


def is_shared(meta: Mapping[str, Any]) -> bool:
    """Whether the memory that a training took is not of it alone."""
    return bool(_number(meta.get("took_memory_shared")))


def _about(artefact: Artefact) -> Iterator[Line]:
    verdict, sentence = doctor_of(artefact)
    if verdict or sentence:
        yield "Dictionary", "Doctor", ": ".join(part for part in (verdict.capitalize(), sentence) if part)
    if looked := examined_on(artefact.meta.get("doctor")):
        yield "Dictionary", "Doctor looked at", looked
    for at, past in enumerate(earlier_verdicts(artefact), 1):
        told = ", ".join(part for part in (str(past.get("verdict") or ""), examined_on(past)) if part)
        yield "Dictionary", f"Earlier verdict {at}", told
    meta = {"arch": artefact.meta.get("architecture"), **artefact.meta}
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
    held = {"quality": kept.quality or _of_project(meta), "spliced": kept.loss, "random_model": kept.drawn}
    found = figures(held)
    for group in ("Figures", "Baselines", "In the model"):
        for figure in found:
            if figure.group == group:
                yield group, figure.title, _written(figure)
        measured = [figure for figure in found if figure.group == group and figure.n]
        if measured and group != "Baselines":
            yield group, "Measured on", _measured_on(measured[0], kept.quality)


def _of_project(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the project itself knows of a dictionary whose file says nothing."""
    return {name: meta[name] for name in ("fvu", "l0", "dead") if name in meta} | {"n": int(meta.get("rows") or 0)}


def _written(figure: Figure) -> str:
    write = numbers.share if figure.unit == "share" else numbers.figure
    told = write(figure.value)
    if figure.interval is not None:
        told += " [" + ", ".join(write(bound) for bound in figure.interval) + "]"
    unit = f" {figure.unit}" if figure.unit not in ("", "share") else ""
    return f"{told}{unit}{f', n {numbers.count(figure.n)}' if figure.n else ''}"


def _measured_on(figure: Figure, quality: Mapping[str, Any]) -> str:
    of = f" of {numbers.count(figure.samples)} samples" if figure.samples else ""
    learned = figure.group == "Figures" and quality.get("learned_from")
    seen = ", which it has learned from; the baselines are of rows they were not fitted to" if learned else ""
    return f"{numbers.count(figure.n)} {figure.of}{of}{seen}"


def _training(meta: Mapping[str, Any], kept: Kept) -> Iterator[Line]:
    rows = _number(kept.facts.get("rows"))
    if rows:
        yield "Training", "Rows seen", numbers.count(int(rows))
    for name, (took, planned) in estimates(meta).items():
        other = " together with other work of this program" if name == "memory_mb" and is_shared(meta) else ""
        yield "Training", _TOOK[name][0], f"{took or '–'}{other}{f', planned {planned}' if planned else ''}"
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
        if value:  # else nothing was asked for
            yield "Settings", title, value


def _range(interval: Any, write: Any = numbers.figure) -> str:
    try:
        low, high = interval
        return f" [{write(float(low))}, {write(float(high))}]"
    except (TypeError, ValueError):
        return ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
