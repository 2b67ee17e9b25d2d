"""Shards of activations that saev writes: raw float32 with JSON beside it.

Layout (saev's protocol 2.1, and the older ones with other names for the same): `metadata.json`; `shards.json` with the
name and number of examples of each shard; `acts000000.bin`, …: float32, [examples, layers, tokens, d_model] in C order,
each with room for `max_tokens_per_shard // (tokens · layers)` examples whether they are there or not. Token 0 of each
example is the [CLS] token where `cls_token` says so, the others are patches, here taken as a square of rows where their
number is one. `data` in the metadata is a pickle, which is never read, and images are named by number alone.
`labels.bin`, a class for each patch, has no place in a store.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.store.formats.source import Piece, Source
from auditor.store.layout import KINDS
from auditor.store.samples import StoredSample

TITLE = "saev shards"
_METADATA, _SHARDS = "metadata.json", "shards.json"
_LIMIT = 64 << 20
# What the protocols call the same thing, the newest first.
_NAMES = {
    "examples": ("n_examples", "n_imgs"),
    "width": ("d_model", "d_vit"),
    "content": ("content_tokens_per_example", "patches_per_ex", "n_patches_per_img"),
    "room": ("max_tokens_per_shard", "patches_per_shard", "n_patches_per_shard"),
}
_MODEL = (("family", "vit_family"), ("ckpt", "vit_ckpt"))
_MOST = 1 << 40


def recognise(path: Path) -> bool:
    """Whether `path` is the folder of such shards."""
    return path.is_dir() and (path / _METADATA).is_file() and (path / "acts000000.bin").is_file()


class Shards(Source):
    """The examples of all shards, one hook point a layer."""

    title = TITLE

    def __init__(self, path: Path) -> None:
        self.path, self.dtype = path, "float32"
        held = _json(path / _METADATA)
        facts = held if isinstance(held, dict) else {}
        examples, self._width, self._content, room = (_count(path, facts, _NAMES[name]) for name in _NAMES)
        self._layers = _layers(path, facts)
        self._leading = int(bool(facts.get("cls_token")))
        if facts.get("dtype", "float32") != "float32":
            raise AuditorError(f"“{path.name}” keeps numbers of the type {str(facts['dtype'])[:40]}.", "Write float32.")
        self._tokens = self._content + self._leading
        self._example_bytes = 4 * len(self._layers) * self._tokens * self._width
        self._shards = _shards(path, examples, room // (self._tokens * len(self._layers)), self._example_bytes)
        self._starts = np.cumsum([0] + [count for _, count in self._shards])
        self.hook_points = {f"blocks.{layer}.resid_post": self._width for layer in self._layers}
        self.row_starts = np.arange(self._starts[-1] + 1, dtype=np.int64) * self._tokens
        side = math.isqrt(self._content)
        self._grid = (side, side) if side * side == self._content else None
        self.told = {"recorded_by": {"program": "saev", "protocol": str(facts.get("protocol", "0.1"))[:20]}}
        model = [next((str(facts[name]) for name in names if name in facts), "")[:200] for names in _MODEL]
        self.told["recorded_by"] |= {"model": " ".join(filter(None, model))}

    def files(self) -> Mapping[str, Path]:
        named = [self.path / _METADATA, *(path for path, _ in self._shards)]
        return {path.name: path for path in named}

    def piece(self, first: int, last: int) -> Piece:
        whole = np.concatenate(list(self._blocks(first, last)))
        unit = np.arange(-self._leading, self._content)
        kind = np.where(unit < 0, KINDS["special"], KINDS["image"])
        return Piece(
            [StoredSample(f"example {number}", grid=self._grid) for number in range(first, last)],
            {name: whole[:, at].reshape(-1, self._width) for at, name in enumerate(self.hook_points)},
            sample=np.repeat(np.arange(last - first), self._tokens),
            unit=np.tile(unit, last - first),
            kind=np.tile(kind, last - first),
            token=np.full((last - first) * self._tokens, -1),
        )

    def _blocks(self, first: int, last: int) -> Any:
        """Examples `first` to `last`, [examples, layers, tokens, width], shard by shard."""
        for (path, count), start in zip(self._shards, self._starts, strict=False):
            begin, end = max(first, int(start)), min(last, int(start) + count)
            if begin < end:
                size = (end - begin) * self._example_bytes
                with open(path, "rb") as file:
                    data = os.pread(file.fileno(), size, (begin - int(start)) * self._example_bytes)
                if len(data) != size:
                    raise AuditorError(f"“{path.name}” has become shorter.", "Copy it again.")
                yield np.frombuffer(data, "<f4").reshape(-1, len(self._layers), self._tokens, self._width)


def _layers(path: Path, facts: Mapping[str, Any]) -> list[int]:
    layers = facts.get("layers")
    if not isinstance(layers, list) or not layers or not all(type(layer) is int for layer in layers):
        raise _wrong(path, "layers")
    if len(set(layers)) < len(layers) or len(layers) > 10_000:
        raise _wrong(path, "layers")
    return layers


def _shards(path: Path, examples: int, room: int, example_bytes: int) -> list[tuple[Path, int]]:
    """Each shard that holds examples, and how many; the size of its file is that of a full one."""
    if not room:
        raise _wrong(path, "max_tokens_per_shard")
    if (path / _SHARDS).is_file():
        listed = _json(path / _SHARDS)
        found = [_listed(path, item, room) for item in listed] if isinstance(listed, list) else []
    else:
        counts = [min(room, examples - start) for start in range(0, examples, room)]
        found = [(path / f"acts{number:06}.bin", count) for number, count in enumerate(counts)]
    found = [(file, count) for file, count in found if count]
    if not found or sum(count for _, count in found) > examples:
        raise AuditorError(f"{_SHARDS} of “{path.name}” contradicts its {_METADATA}.", "Copy the whole folder again.")
    for file, _ in found:
        status = file.lstat() if file.exists() else None
        if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != room * example_bytes:
            size = f"{status.st_size:,}" if status is not None else "no"
            raise AuditorError(
                f"“{file.name}” of “{path.name}” has {size} bytes instead of {room * example_bytes:,}.",
                "Copy it again.",
            )
    return found


def _listed(path: Path, item: Any, room: int) -> tuple[Path, int]:
    name, count = (item.get("name"), item.get("n_examples")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not re.fullmatch(r"acts\d{6,}\.bin", name):
        raise AuditorError(f"{_SHARDS} of “{path.name}” names no shards.", "Copy it again.")
    if type(count) is not int or not 0 <= count <= room:
        raise AuditorError(f"{_SHARDS} of “{path.name}” has a wrong number of examples.", "Copy it again.")
    return path / name, count


def _count(path: Path, facts: Mapping[str, Any], names: tuple[str, ...]) -> int:
    found = next((facts[name] for name in names if name in facts), None)
    if type(found) is not int or not 1 <= found <= _MOST:
        raise _wrong(path, names[0])
    return found


def _wrong(path: Path, what: str) -> AuditorError:
    return AuditorError(f"{_METADATA} of “{path.name}” has no usable “{what}”.", "Copy the whole folder again.")


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > _LIMIT:
            raise ValueError("too large")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AuditorError(f"{path.name} of “{path.parent.name}” cannot be read.", "Copy it again.") from error
