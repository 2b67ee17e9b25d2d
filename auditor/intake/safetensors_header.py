"""The header of a safetensors file, checked in full before the library maps the file."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError

DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
AGAIN = "Copy the file from its source again and compare its size."


@dataclass(frozen=True)
class SafetensorsFacts:
    """Names with (dtype, shape) of a file's tensors, its metadata and the number of its parameters; `starts` are the
    places of their first bytes in the file, in the order of the file."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]
    parameters: int
    starts: dict[str, int]


def check_safetensors(path: Path) -> SafetensorsFacts:
    """Read and check a header: sizes, types, offsets that cover the data exactly. AuditorError says what is wrong."""
    if not path.is_file():
        raise AuditorError(f"“{path.name}” is missing, or no plain file.", "Copy it from its source again.")
    size = path.stat().st_size
    header = _header(path, size)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _wrong(path, "its metadata are not plain text")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    spans: dict[str, tuple[int, int]] = {}
    for name, entry in header.items():
        dtype, shape, span = _entry(path, name, entry)
        tensors[name] = (dtype, shape)
        spans[name] = span
    end = _covered(path, list(spans.values()))
    begin = 8 + _length(path)
    data = size - begin
    if data < end:
        raise AuditorError(
            f"“{path.name}” is cut short: its header promises {end + size - data:,} bytes, the file has {size:,}.",
            AGAIN,
        )
    if data > end:
        raise _wrong(path, f"{data - end:,} bytes belong to no tensor")
    parameters = sum(math.prod(shape) for _, shape in tensors.values())
    starts = {name: begin + span[0] for name, span in sorted(spans.items(), key=lambda item: item[1])}
    return SafetensorsFacts(tensors, dict(metadata), parameters, starts)


def _length(path: Path) -> int:
    with open(path, "rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise AuditorError(f"“{path.name}” is cut short: it has only {len(start)} bytes.", AGAIN)
    return int(struct.unpack("<Q", start)[0])


def _header(path: Path, size: int) -> dict[str, Any]:
    length = _length(path)
    if length > MAX_HEADER_BYTES or length > size - 8:
        with open(path, "rb") as file:
            start = file.read(2)
        if start in (b"PK", b"\x80\x02"):
            raise _wrong(path, "it holds a pickle, which could run code")
        raise AuditorError(f"“{path.name}” is cut short or is no safetensors file.", AGAIN)
    with open(path, "rb") as file:
        file.seek(8)
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise _wrong(path, "its header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    span: Any = fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _wrong(path, f"the tensor “{name}” is of an unknown type")
    if not _counts(shape) or not _counts(span) or len(span) != 2:
        raise _wrong(path, f"the tensor “{name}” has no usable shape or place")
    shape, span = tuple(shape), tuple(span)
    if span[1] - span[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise _wrong(path, f"the tensor “{name}” has another size than its shape says")
    return dtype, shape, (span[0], span[1])


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _covered(path: Path, spans: list[tuple[int, int]]) -> int:
    """The end of the data, if the spans follow each other without gap or overlap."""
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise _wrong(path, "its tensors overlap or leave gaps")
        end = stop
    return end


def _wrong(path: Path, what: str) -> AuditorError:
    return AuditorError(f"“{path.name}” is not a sound safetensors file: {what}.", AGAIN)
