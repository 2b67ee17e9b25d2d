"""Texts with pictures among them, in the forms in which data sets keep them: a list of parts, two lists side by side
(OBELICS), or a text with marks beside a list of pictures."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MARK = "<image>"
"""Where a text says that a picture stands."""
MOST_PICTURES = 256
"""Of one sample."""
_TEXT = ("text", "input_text", "output_text")
_PICTURE = ("image", "image_url", "input_image")
_DATA = "data:image/"


@dataclass(frozen=True)
class Picture:
    """A picture among parts: where its bytes or its name are; None where the row keeps it elsewhere, in turn."""

    source: Any = None


def is_parts(value: Any) -> bool:
    """Whether a value has the form of a list of parts, at least one of which is a picture."""
    if not isinstance(value, list) or not value:
        return False
    found = [_part(item) for item in value]
    return all(part is not None for part in found) and any(isinstance(part, Picture) for part in found)


def parts_of(value: Sequence[Any]) -> list[str | Picture]:
    """Texts and pictures in order. ValueError names the part that is neither."""
    found = []
    for number, item in enumerate(value, 1):
        part = _part(item)
        if part is None:
            raise ValueError(f"has a part {number} that is neither a text nor a picture")
        found.append(part)
    return found


def side_by_side(texts: Sequence[Any], pictures: Sequence[Any]) -> list[str | Picture]:
    """The parts of two lists of one length, of which one has nothing where the other has something. ValueError where
    they do not fit."""
    if len(texts) != len(pictures):
        raise ValueError(f"has {len(texts)} texts beside {len(pictures)} pictures")
    found: list[str | Picture] = []
    for number, (text, picture) in enumerate(zip(texts, pictures, strict=True), 1):
        if isinstance(text, str) and picture is None:
            found.append(text)
        elif text is None and picture is not None:
            found.append(Picture(picture))
        else:
            raise ValueError(f"has both or neither of a text and a picture in place {number}")
    return found


def together(parts: Sequence[str | Picture]) -> tuple[str, tuple[int, ...]]:
    """The parts as one text, and where in it the pictures stand."""
    text, places = "", []
    for part in parts:
        if isinstance(part, str):
            text += part
        else:
            places.append(len(text))
    return text, tuple(places)


def apart(content: str, mark: str, count: int) -> list[str | Picture]:
    """A text in which `mark` stands for pictures, as parts: the first `count` marks are pictures, the rest text."""
    first, *others = content.split(mark, count)
    found: list[str | Picture] = [first] if first else []
    for other in others:
        found += [Picture(), other] if other else [Picture()]
    return found


def is_data(source: str) -> bool:
    """Whether a text is the ``data:`` address of a picture."""
    return source.startswith(_DATA)


def held_in(source: str) -> bytes | None:
    """The bytes of a ``data:`` address, None for another text. ValueError for one that is damaged."""
    if not is_data(source):
        return None
    _, found, data = source.partition(";base64,")
    try:
        if not found:
            raise ValueError(source[:40])
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("has a picture whose data cannot be read") from None


def _part(item: Any) -> str | Picture | None:
    if isinstance(item, str):
        return item
    if not isinstance(item, Mapping):
        return None
    kind = item.get("type")
    told = {name: value for name, value in item.items() if value is not None and name != "type"}
    if isinstance(told.get("text"), str) and (kind in _TEXT or (kind is None and not told.keys() & set(_PICTURE))):
        return str(told["text"])
    if kind in _PICTURE or (kind is None and told.keys() & set(_PICTURE)):
        names = (*_PICTURE, "url", "path", "file", "bytes")
        source = next((told[name] for name in names if name in told), None)
        if isinstance(source, Mapping) and "url" in source:
            source = source["url"]
        return Picture(source)
    return None
