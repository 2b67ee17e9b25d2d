"""A map of many figures for evidence, as SVG: a row for each place, a column for each number, colour and figures."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.audit.drawings import INK, MUTED, WIDTH, word
from auditor.audit.text import number

_LEFT, _TOP, _MOST_ROWS = 190, 46, 60
_ADDS, _TAKES = (232, 142, 64), (116, 164, 236)


def heat_map(title: str, unit: str, rows: Sequence[str], columns: Sequence[str],
             values: Sequence[Sequence[float | None]]) -> str:  # fmt: skip
    """SVG text: `values` [rows, columns], None where there is nothing; orange above 0, blue below, white at 0, and the
    figure in a cell that has room for it. Of more than 60 rows the first 60."""
    shown, reach = list(rows)[:_MOST_ROWS], max((abs(v) for row in values for v in row if v is not None), default=0.0)
    side = min(44.0, (WIDTH - _LEFT - 30) / max(1, len(columns)))
    tall = min(side, 22.0) if side >= 8 else 12.0
    height = _TOP + tall * len(shown) + 52
    parts = [f'<rect width="{WIDTH}" height="{height:.0f}" fill="#FFFFFF"/>', word(30, 20, title, INK)]
    every = max(1, -(-len(columns) // max(1, int((WIDTH - _LEFT - 30) / 34))))
    for at, name in enumerate(columns):
        if at % every == 0:
            parts.append(word(_LEFT + (at + 0.5) * side, _TOP - 6, name, MUTED, "middle"))
    for line, name in enumerate(shown):
        top = _TOP + line * tall
        parts.append(word(_LEFT - 8, top + tall / 2 + 4, name if len(name) < 26 else f"{name[:24]}…", MUTED, "end"))
        for at, value in enumerate(values[line]):
            if value is not None:
                parts.append(
                    f'<rect x="{_LEFT + at * side:.1f}" y="{top:.1f}" width="{max(side - 1, 0.6):.1f}" '
                    f'height="{max(tall - 1, 1):.1f}" fill="{_colour(value, reach)}"/>'
                )
                if side >= 40:
                    parts.append(word(_LEFT + (at + 0.5) * side, top + tall / 2 + 4, number(value, 2), INK, "middle"))
    less = f"; {len(rows) - _MOST_ROWS} more rows are in the data" if len(rows) > _MOST_ROWS else ""
    told = f"orange: above 0, blue: below 0, full colour at ±{number(reach)} {unit}{less}"
    parts.append(word(30, height - 16, told, MUTED))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
    return "".join([head, f'viewBox="0 0 {WIDTH} {height:.0f}">', *parts, "</svg>"])


def _colour(value: float, reach: float) -> str:
    part = min(1.0, abs(value) / reach) if reach else 0.0
    full = _ADDS if value > 0 else _TAKES
    return "#" + "".join(f"{round(255 + (end - 255) * part):02X}" for end in full)
