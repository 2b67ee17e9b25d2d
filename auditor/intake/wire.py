"""How plain data crosses the pipe to a jailed child: a length, JSON, and byte strings after it."""

from __future__ import annotations

import json
import struct
from typing import Any

HEADER_BYTES = 16
_BYTES = "$bytes"


def message(value: Any) -> bytes:
    """`value` (None, bool, int, float, str, bytes, lists, dicts with str keys) as one message.

    Layout: length of the JSON and of all byte strings (two little-endian 64-bit numbers), the JSON, the byte strings.
    """
    blobs: list[bytes] = []
    text = json.dumps(_packed(value, blobs)).encode("utf-8")
    body = b"".join(blobs)
    return struct.pack("<QQ", len(text), len(body)) + text + body


def sizes(head: bytes) -> int:
    """Bytes that follow the first `HEADER_BYTES`."""
    text, body = struct.unpack("<QQ", head)
    return int(text + body)


def parsed(data: bytes) -> Any:
    """The inverse of `message`; ValueError if it is not one."""
    if len(data) < HEADER_BYTES:
        raise ValueError("a message that is cut short")
    text, body = struct.unpack("<QQ", data[:HEADER_BYTES])
    if len(data) != HEADER_BYTES + text + body:
        raise ValueError("a message of another length")
    try:
        return _unpacked(json.loads(data[HEADER_BYTES : HEADER_BYTES + text]), memoryview(data)[HEADER_BYTES + text :])
    except RecursionError as error:
        raise ValueError("a message nested too deeply") from error
    except TypeError as error:  # bytes that are said to lie elsewhere than at two numbers
        raise ValueError("bytes outside the message") from error


def _packed(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, bytes):
        start = sum(len(blob) for blob in blobs)
        blobs.append(value)
        return {_BYTES: [start, len(value)]}
    if isinstance(value, (list, tuple)):
        return [_packed(inner, blobs) for inner in value]
    if isinstance(value, dict):
        return {str(key): _packed(inner, blobs) for key, inner in value.items()}
    return value


def _unpacked(value: Any, body: memoryview) -> Any:
    if isinstance(value, list):
        return [_unpacked(inner, body) for inner in value]
    if isinstance(value, dict):
        if set(value) == {_BYTES}:
            start, length = value[_BYTES]
            if not 0 <= start <= start + length <= len(body):
                raise ValueError("bytes outside the message")
            return bytes(body[start : start + length])
        return {key: _unpacked(inner, body) for key, inner in value.items()}
    return value
