"""Numbers as the window writes them: three significant figures, thin spaces for thousands, unit after a space."""

from __future__ import annotations

import math
import re

THIN = "\u202f"  # no line ends within a number
MINUS = "\u2212"


def count(value: int) -> str:
    """A whole number with thin spaces: 1 234 567."""
    return f"{value:,}".replace(",", THIN).replace("-", MINUS)


def thin(told: str) -> str:
    """A sentence of the command line with its numbers as the window writes them."""
    return re.sub(r"(?<=\d),(?=\d{3})", THIN, told)


def figure(value: float, unit: str = "") -> str:
    """Three significant figures; “–” for what is not a number."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return ("" if value > 0 else MINUS) + "∞"
    if value == 0:
        text = "0"
    elif 1e-3 <= abs(value) < 1e6:
        places = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{min(places, 6)}f}".replace(",", THIN)
    else:
        text = f"{value:.2e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    text = text.replace("-", MINUS)
    return f"{text} {unit}" if unit else text


def short(value: float) -> str:
    """A figure for a narrow column: three significant figures, and no more than three decimals."""
    if value is None or not math.isfinite(value) or value == 0 or abs(value) >= 1:
        return figure(value)
    if abs(value) < 5e-4:
        return "<0.001" if value > 0 else f">{MINUS}0.001"
    return f"{value:.3f}".replace("-", MINUS)


def short_share(value: float) -> str:
    """A part of one as per cent for a narrow column: 0.209 %, 44.1 %, <0.001 %."""
    return "–" if value is None or math.isnan(value) else f"{short(100 * value)} %"


def share(value: float) -> str:
    """A part of one as per cent: 0.31 %."""
    return "–" if value is None or math.isnan(value) else f"{figure(100 * value)} %"


def interval(estimate: float, low: float, high: float, unit: str = "") -> str:
    """An estimate with its interval: 0.71 [0.66, 0.76]."""
    text = f"{figure(estimate)} [{figure(low)}, {figure(high)}]"
    return f"{text} {unit}" if unit else text


def size(n_bytes: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return figure(n_bytes, unit)
        n_bytes /= 1000
    return figure(n_bytes, "TB")


def duration(seconds: float) -> str:
    """A time to wait: 40 s, 4 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
