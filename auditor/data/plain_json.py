"""JSON from anywhere as values that can be hashed, sent and written again."""

from __future__ import annotations

import json
from typing import Any

_DEEPEST = 64


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if value - value == 0 else _no_number(text)


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)  # NaN and infinities are no JSON


def plain_json(text: str) -> Any:
    """The value of a JSON text. ValueError where it is none, holds half a character (a lone surrogate, which no file
    can keep) or a number that is not finite, or is nested over 64 deep."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > _DEEPEST and _deeper(value):
        raise ValueError("nested too deeply")
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _deeper(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for values in inner for one in values]
    return bool(level)
