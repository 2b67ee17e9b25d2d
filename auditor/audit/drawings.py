"""Small SVG drawings for evidence: an estimate with its interval against the null distribution and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from auditor.audit.evidence import Metric
from auditor.audit.text import number, visible

INK, MUTED, _GREY, _ACCENT, _RULE = "#1D1D1B", "#5F5E5A", "#B9B8B2", "#2A62C9", "#DEDDD8"
WIDTH, _LEFT, _RIGHT, _FLOOR, _FOOT = 760, 30, 730, 190, 232
_BINS = 40


def against_null(metric: Metric, null: Sequence[float]) -> str:
    """SVG text: the null's histogram in grey, the estimate with its interval in blue, baselines dashed, by letter."""
    ends = [metric.estimate, metric.no_effect, *null, *(metric.interval or ()), *metric.baseline.values()]
    low, high = min(ends), max(ends)
    pad = 0.06 * ((high - low) or abs(high) or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return float(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT))

    counts = [0] * _BINS
    for value in null:
        counts[min(_BINS - 1, int((value - low) / (high - low) * _BINS))] += 1
    tallest = max(counts) or 1
    step = (_RIGHT - _LEFT) / _BINS
    parts = [""]
    for at, count in enumerate(counts):
        if count:
            tall = 100 * count / tallest
            left = _LEFT + at * step
            parts.append(_bar(left, _FLOOR - tall, step - 1, tall, _GREY))
    parts.append(f'<path d="M{_LEFT} {_FLOOR}H{_RIGHT}" stroke="{INK}"/>')
    for value in _ticks(low, high):
        parts.append(f'<path d="M{x(value):.1f} {_FLOOR}v5" stroke="{INK}"/>')
        parts.append(word(x(value), _FLOOR + 20, number(value), MUTED, "middle"))
    for at, (name, value) in enumerate(sorted(metric.baseline.items())):
        letter = chr(ord("a") + at) if at < 26 else str(at)
        top = 64 + 11 * (at % 3)  # neighbours may stand close; their letters then stand one above another
        parts.append(f'<path d="M{x(value):.1f} {top + 3}V{_FLOOR}" stroke="{MUTED}" stroke-dasharray="4 3"/>')
        parts.append(word(x(value), top, letter, INK, "middle"))
        parts.append(word(_LEFT, _FOOT + 16 * at, f"{letter}  {name}: {number(value)}", MUTED))
    parts.append(f'<path d="M{x(metric.no_effect):.1f} {_FLOOR}v-12" stroke="{INK}" stroke-width="2"/>')
    if metric.interval:
        first, last = (x(end) for end in metric.interval)
        parts.append(_bar(first, 38, max(last - first, 1.5), 10, _ACCENT, 0.35))
    parts.append(f'<path d="M{x(metric.estimate):.1f} 30V{_FLOOR}" stroke="{_ACCENT}" stroke-width="2.5"/>')
    unit = f" {metric.unit}" if metric.unit else ""
    parts.append(word(_LEFT, 20, f"{metric.name}: {number(metric.estimate)}{unit}, n = {metric.n}", INK))
    level = f"blue: estimate and its {100 * metric.level:g} % interval" if metric.interval else "blue: estimate"
    told = f"{level};  grey: {len(null)} null draws;  short black mark: no effect ({number(metric.no_effect)})"
    rows = len(metric.baseline)
    parts.append(word(_LEFT, _FOOT + 16 * rows, told + (";  dashed: baselines" if rows else ""), MUTED))
    height = _FOOT + 16 * rows + 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    parts[0] = f'<rect width="{WIDTH}" height="{height}" fill="#FFFFFF"/>'
    return "".join([head, *parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * at / 5 for at in range(6)]


def _bar(left: float, top: float, wide: float, tall: float, colour: str, opacity: float = 1.0) -> str:
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="{colour}" '
        f'fill-opacity="{opacity}"/>'
    )


def word(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    shown = escape(visible(text, newlines=False))
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="Inter, sans-serif" font-size="13" fill="{colour}" '
        f'text-anchor="{anchor}">{shown}</text>'
    )
