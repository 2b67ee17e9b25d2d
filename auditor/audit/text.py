"""Text that a case may hold: no character that hides, reorders or controls; and numbers as a report prints them."""

from __future__ import annotations

import math
import unicodedata
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints

# Blank or joining characters that Unicode does not file under "format" but that a reader cannot see either.
_HIDDEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffc")
_REFUSED = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def visible(text: str, *, newlines: bool = True) -> str:
    """`text` with each control, bidi, zero-width, surrogate, private or unassigned character written as ⟨U+XXXX⟩.

    Carriage returns become newlines and tabs become spaces; newlines stay unless `newlines` is False. Applying it
    twice changes nothing more.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character, newlines) for character in text)


def _shown(character: str, newlines: bool) -> str:
    if character == "\n" and newlines:
        return character
    code = ord(character)
    variation = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
    if variation or character in _HIDDEN or unicodedata.category(character) in _REFUSED:
        return f"⟨U+{code:04X}⟩"
    return character


def _one_line(text: Any) -> Any:
    return visible(text, newlines=False).strip() if isinstance(text, str) else text


def _many_lines(text: Any) -> Any:
    return visible(text).strip() if isinstance(text, str) else text


# Made visible before pydantic's own check, which would refuse a lone surrogate instead of showing it.
Line = Annotated[str, StringConstraints(max_length=2_000), BeforeValidator(_one_line)]
Text = Annotated[str, StringConstraints(max_length=40_000), BeforeValidator(_many_lines)]


def number(value: float | int | None, digits: int = 3) -> str:
    """`value` to three significant figures with thin spaces between thousands; "–" for None."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return _grouped(str(value))
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    exponent = int(power)
    if exponent < -4 or exponent > 9:
        return f"{mantissa}×10{_superscript(exponent)}".replace("-", "−")
    rounded = f"{round(value, digits - 1 - exponent):.{max(digits - 1 - exponent, 0)}f}"
    return _grouped(rounded)


def given(value: float) -> str:
    """A number that a person set (α, a threshold, a level), as short as it was set: 0.05 and not 0.0500."""
    text = f"{value:.6g}"
    return number(value) if "e" in text else _grouped(text)


def interval(low: float, high: float) -> str:
    """[low, high] as printed beside an estimate."""
    return f"[{number(low)}, {number(high)}]"


def size(count: int) -> str:
    """A number of bytes for people: 812 B, 4.21 kB, 1.07 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{number(int(value) if unit == 'B' else value)} {unit}"
        value /= 1000
    return f"{number(value)} GB"


def _grouped(digits: str) -> str:
    sign = "−" if digits.startswith("-") else ""
    whole, dot, fraction = digits.lstrip("-").partition(".")
    if len(whole) > 4:
        whole = f"{int(whole):,}".replace(",", "\u2009")
    return sign + whole + dot + fraction


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
