"""Which pictures may stand in a report: sound PNG files, and SVG files that draw and do nothing else."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Literal
from xml.etree import ElementTree

from auditor.base.errors import AuditorError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 64_000_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = frozenset(
    [
        "svg",
        "g",
        "defs",
        "title",
        "desc",
        "path",
        "rect",
        "circle",
        "ellipse",
        "line",
        "polyline",
        "polygon",
        "text",
        "tspan",
        "clipPath",
        "linearGradient",
        "radialGradient",
        "stop",
        "use",
        "symbol",
        "marker",
        "mask",
        "pattern",
    ]
)
_REACHES_OUT = re.compile(r"url\(\s*['\"]?(?!#)|@import|expression\(|javascript:|\\", re.IGNORECASE)


def figure_kind(data: bytes) -> Literal["png", "svg"]:
    """ "png" or "svg"; AuditorError for anything else, anything broken, too large, or an SVG that can reach out."""
    if len(data) > MAX_BYTES:
        raise AuditorError(f"The figure is too large ({len(data) // 2**20} MiB; the limit is 32 MiB).")
    if data.startswith(_SIGNATURE):
        _check_png(data)
        return "png"
    if data.lstrip()[:5] in (b"<svg ", b"<svg>", b"<?xml"):
        _check_svg(data)
        return "svg"
    raise AuditorError("The figure is neither PNG nor SVG.", "Save the picture as PNG.")


def _check_png(data: bytes) -> None:
    place, kinds = len(_SIGNATURE), []
    while place < len(data):
        if place + 12 > len(data):
            raise _broken("ends within a chunk")
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + length
        if end > len(data):
            raise _broken("ends within a chunk")
        if zlib.crc32(data[place + 4 : end - 4]) != struct.unpack(">I", data[end - 4 : end])[0]:
            raise _broken(f"has a damaged {kind.decode('latin-1')!r} chunk")
        kinds.append(kind)
        place = end
        if kind == b"IEND":
            break
    if not kinds or kinds[0] != b"IHDR" or kinds[-1] != b"IEND" or b"IDAT" not in kinds or place != len(data):
        raise _broken("is not whole, or something follows its end")
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= MAX_PIXELS:
        raise _broken(f"has {width}×{height} pixels; the limit is 64 million")


def _check_svg(data: bytes) -> None:
    # Refused before parsing: entity declarations are how an XML file grows or reads other files.
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)|<\?xml-stylesheet", data, re.IGNORECASE):
        raise AuditorError("The SVG figure declares a document type.", "Save the picture as PNG.")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError) as error:
        raise AuditorError(f"The SVG figure cannot be read: {error}.", "Save the picture as PNG.") from error
    for element in root.iter():
        name = str(element.tag)
        if not name.startswith(_SVG) or name.removeprefix(_SVG) not in _ELEMENTS:
            raise AuditorError(f"The SVG figure holds <{name.rpartition('}')[2]}>.", "Save the picture as PNG.")
        for key, value in element.attrib.items():
            link = key in ("href", _XLINK_HREF) and not value.startswith("#")
            if link or key.lower().startswith("on") or _REACHES_OUT.search(value):
                raise AuditorError(
                    f"The SVG figure's {key.rpartition('}')[2]} reaches out.", "Save the picture as PNG."
                )


def _broken(what: str) -> AuditorError:
    return AuditorError(f"The PNG figure {what}.", "Make the picture again.")
