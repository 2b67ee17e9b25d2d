"""The activation store, format version 3: the specification, and the types that read and write it.

A store is a folder. While it is being written it holds `manifest.json.partial`; when finished, `manifest.json`.

    name.store/
      shard-00000.h5  shard-00001.h5 …   rows of activations with the samples they come from
      manifest.json                      what the shards hold, their digests, and how they were made; written last

**Shard**: one HDF5 file without groups other than these, every dataset contiguous, unfiltered, little-endian:

    rows/<hook>        [n, width]    activations at hook point <hook>; every hook of a group has the same n rows
    sample             int32 [n]     number of the sample in the *store* (0 … samples-1, in order of writing)
    unit               int32 [n]     token number in its text, patch number (row-major) in its image, or number of a
                                     frame in its sound; -1: none of these
    kind               uint8 [n]     0 pad (never written), 1 text, 2 image, 3 special, 4 audio (a frame of sound)
    token              int32 [n]     token id, -1 where there is none (image positions, foreign rows)
    samples/rows       int64 [m]     rows of each sample of this shard, in order; a sample never spans two shards
    samples/record     uint8 [·]     zlib-compressed UTF-8 JSON of each sample, one after the other
    samples/record_end int64 [m]     where each record ends in `samples/record`
    samples/image      uint8 [·]     thumbnails (WebP or PNG), one after the other; no bytes for a text
    samples/image_end  int64 [m]     where each thumbnail ends in `samples/image`
    zero/<hook>, spread/<hook>, rate/<hook>  float32 [width], of int8 rows only: see below

A sample's record: {"id", "group", "text", "caption", "tokens" (strings, one a row, or null), "grid" ([rows, columns] of
patches or null), "labels" ({name: text}), "batch" (number of the append that wrote it: rows of one batch went through
the network together)}, and "panels" where the grid has several pictures, or parts of one: for each [number of the
picture, row, column, rows, columns of the grid that it takes]. What each row group has of a sample is under "views", by
group: "tokens", "grid", "panels", and "image" (base64) where its grid lies over a thumbnail of its own.

**Numbers** (`dtype` of the manifest, one for all hook points):

    float32, float16   as HDF5 has them
    bfloat16           HDF5 has none: the 16 bits as uint16, with the attribute `number_format` = "bfloat16" on the
                       dataset. Put into the upper half of 32 bits, they are the float32 that is meant.
    int8               x ≈ zero + spread · sinh(rate · q), q from -127 to 127, with a `zero`, `spread` and `rate` for
                       each dimension: its mean, its standard deviation, and what makes ±127 reach four times as far as
                       it was seen to go, special rows included. A scale for each row would be set by the row's few
                       large dimensions and round all others away. Even steps for each dimension would clip the rare
                       huge numbers that networks have, or be too wide for the rest; these grow with the number. They
                       are measured once for a store, on rows spread over what will be recorded (a training's batches
                       mix rows of all shards, and travel as int8). A number beyond the range becomes -127 or 127 and
                       is counted in the manifest, for special rows and for all others apart.

**Row groups.** Hook points of the text stream and of the vision tower have other positions. A store of both has a group
for each: `groups` of the manifest names the hook points of each, the columns of a group are `<group>/sample`, … and the
rows of its samples `samples/rows_<group>`. All groups hold all samples in the same order; one may have no rows of it.
A store of one group names none.

**Manifest**: canonical JSON (sorted keys). `format` is "auditor.store" and `version` this format's number, first of all
checked. For each shard it repeats the byte offset of every dataset, so that a reader needs no HDF5 library, is not
held up by its global lock, and never parses a stranger's HDF5 to open a store. It holds the SHA-256 of each
`block_bytes` of the shard (`blocks`), by which damage is located and which are checked side by side; rows are digested
as they are written, and only those that an earlier writer left, or that moved, are read again at the end. `meta` tells
how the store was made. `places` (paths of the model and the samples) is for convenience, the only part that the store's
digest leaves out:
    digest = SHA-256(canonical JSON of the manifest without `places`)
which covers all bytes of the store, since the manifest holds those of its shards' blocks.

**Appending.** A finished store never changes. What is recorded behind it is a new store, whose manifest lists the old
shards first, with their digests and the folder they lie in as seen from the new one (`folder`, such as "../a.store").

**Writing.** Rows go straight to their place in `shard-N.h5.partial`, which has room for a shard's rows of each hook
point; all else about them goes into `shard-N.journal.partial` (`auditor.store.journal`). They are acknowledged once
both are fsynced, rows first, which is every few seconds or some MB. When a shard is full, the HDF5 structures and the
columns are put around the rows, the file is fsynced and renamed, its folder fsynced, `manifest.json.partial` replaced
in the same way, and the journal removed. So memory holds a few batches whatever the size of a shard, and every row is
written once (twice where a shard of several hook points ends long before it is full and that was not foreseen, or has
several groups, so that no holes stay behind).
Shards are cut before the append that would not fit, counted from the shard's start, so a recording that was interrupted
has the same bytes as one that was not. Where a write or an fsync failed, what was not acknowledged is written again
before the next fsync, which would tell nothing of pages that the system has dropped.

**Kinds.** «special» positions (a leading attention sink, BOS, CLS, separators) are kept, and left out of training by
`Store.batches`.

Versions 1 and 2, still read, have the SHA-256 of each shard as a whole (`sha256`). Version 1 has float16 and float32
alone, and no blocks, groups, folders or journal. What `version` says is no part of what a store is: its digest is that
of the oldest version that can hold it, and one that says an older version than that is refused. So a store that is
relabelled never goes by another name.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from auditor.base.digest import canonical_json, sha256_bytes
from auditor.base.errors import AuditorError

FORMAT = "auditor.store"
VERSION = 3
MANIFEST = "manifest.json"
UNFINISHED = "manifest.json.partial"
KINDS = {"pad": 0, "text": 1, "image": 2, "special": 3, "audio": 4}
COLUMNS = {"sample": "int32", "unit": "int32", "kind": "uint8", "token": "int32"}
Dtype = Literal["float16", "float32", "bfloat16", "int8"]
# What HDF5, numpy and a training's batches see of each.
RAW = {"float16": "float16", "float32": "float32", "bfloat16": "uint16", "int8": "int8"}
# A terabyte is 4,000 files, and one that must be copied or recorded again costs seconds. No row waits in memory for the
# rest of its shard, so this could be anything; a stick's FAT32 takes files up to 4 GiB.
SHARD_BYTES = 256 << 20
# Finds damage within some thousand rows, for 67 bytes in the manifest.
BLOCK_BYTES = 4 << 20
_MANIFEST_LIMIT = 64 << 20
Vector = Literal["zero", "spread", "rate"]
VECTORS: tuple[Vector, ...] = ("zero", "spread", "rate")
_HOOK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_GROUP = re.compile(r"[a-z]{1,40}")
_NAME = r"(?!\.{1,2}(?:/|$))[^/\x00]+"
_FOLDER = re.compile(rf"(\.\./)*{_NAME}(/{_NAME})*")
# Fields that version 1 did not have: they do not count in the digests of its stores.
_SINCE_2 = {"groups", "scales"}
_SHARD_SINCE_2 = {"folder", "group_rows", "block_bytes", "blocks", "quantised"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DatasetFacts(_Strict):
    """Where a contiguous dataset lies in its file."""

    offset: int = Field(ge=0)
    shape: list[int] = Field(min_length=1, max_length=2)
    dtype: Literal["float16", "float32", "uint16", "int8", "int32", "uint8", "int64"]

    @property
    def bytes(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count * np.dtype(self.dtype).itemsize


class Scale(_Strict):
    """What int8 numbers of a hook point mean: `zero`, `spread` and `rate`, each float32 [width], little-endian, in
    base64."""

    zero: str
    spread: str
    rate: str

    @classmethod
    def of(cls, zero: np.ndarray, spread: np.ndarray, rate: np.ndarray) -> Scale:
        held = {"zero": zero, "spread": spread, "rate": rate}
        return cls(**{name: base64.b64encode(vector.astype("<f4").tobytes()).decode() for name, vector in held.items()})

    def vector(self, name: Vector) -> np.ndarray:
        """ValueError where it is not base64 of whole numbers, or those are not finite."""
        try:
            held = np.frombuffer(base64.b64decode(getattr(self, name), validate=True), dtype="<f4").astype(np.float32)
        except binascii.Error as error:
            raise ValueError(str(error)) from None
        if not np.isfinite(held).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        return held


class Quantised(_Strict):
    """What int8 cost at a hook point of a shard: squares, over all rows but special ones, of what was lost and of what
    there was about the scale's zero; how many numbers those are; and numbers beyond the range, there and in special
    rows."""

    lost: float = Field(0.0, ge=0)
    held: float = Field(0.0, ge=0)
    numbers: int = Field(0, ge=0)
    clipped: int = Field(0, ge=0)
    clipped_special: int = Field(0, ge=0)

    def __add__(self, other: Quantised) -> Quantised:
        return Quantised(**{name: getattr(self, name) + getattr(other, name) for name in Quantised.model_fields})

    @property
    def fvu(self) -> float:
        """Fraction of the variance that the rounding lost."""
        return self.lost / self.held if self.held else 0.0


class ShardFacts(_Strict):
    """One shard: its file, digests, counts, and where each dataset lies. `folder` is that of an older store whose shard
    it is; `rows` are those of all groups, `group_rows` of each where there are several. `sha256` is that of a shard of
    version 1 or 2."""

    file: str = Field(pattern=r"^shard-\d{5,}\.h5$")
    folder: str = ""
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    bytes: int = Field(ge=0)
    block_bytes: int = Field(0, ge=0)
    blocks: list[str] = []
    group_rows: dict[str, int] = {}
    quantised: dict[str, Quantised] = {}
    rows: int = Field(ge=0)
    samples: int = Field(ge=0)
    batches: int = Field(ge=0)
    samples_sha256: str
    kinds: dict[str, int]
    datasets: dict[str, DatasetFacts]

    @property
    def held_by(self) -> int:
        """The oldest version that can hold what is told here."""
        if not self.sha256:
            return 3
        return 2 if any(getattr(self, name) for name in _SHARD_SINCE_2) else 1


class Manifest(_Strict):
    """All that a reader must know of a store; the JSON of manifest.json."""

    format: Literal["auditor.store"] = "auditor.store"
    version: int = VERSION
    complete: bool
    dtype: Dtype
    hook_points: dict[str, int]
    groups: dict[str, list[str]] = {}
    scales: dict[str, Scale] = {}
    shard_bytes: int
    rows: int = 0
    samples: int = 0
    samples_digest: str = ""
    meta: dict[str, Any]
    places: dict[str, str] = {}
    shards: list[ShardFacts] = []

    @property
    def digest(self) -> str:
        """Names the store: every byte of it counts but the places of its makers."""
        held = self.held_by
        old: Any = {"shards": {"__all__": _SHARD_SINCE_2}} | dict.fromkeys(_SINCE_2, True) if held == 1 else {}
        return sha256_bytes(canonical_json(self.model_dump(exclude={"places": True} | old) | {"version": held}))

    @property
    def held_by(self) -> int:
        """The oldest version that can hold what is told here."""
        return max([2 if self.since_2 else 1, *(shard.held_by for shard in self.shards)])

    @property
    def since_2(self) -> bool:
        """Whether it tells, beside its shards, what version 1 does not have."""
        return bool(self.groups or self.scales or self.dtype not in ("float16", "float32"))

    @property
    def by_group(self) -> dict[str, list[str]]:
        """The hook points of each row group; one group has no name."""
        return self.groups or {"": list(self.hook_points)}

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump())


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.h5"


def column_name(group: str, column: str) -> str:
    """The dataset of a column of a row group: sample, unit, kind, token, or samples/rows."""
    if not group:
        return column
    return f"{column}_{group}" if column == "samples/rows" else f"{group}/{column}"


def check_groups(groups: dict[str, list[str]], hook_points: Iterable[str]) -> None:
    """ValueError unless `groups` is empty or divides `hook_points` into named groups."""
    if not groups:
        return
    named = [hook for hooks in groups.values() for hook in hooks]
    if not all(map(_GROUP.fullmatch, groups)) or {"rows", "samples", *VECTORS} & groups.keys():
        raise ValueError(f"groups named {sorted(groups)}")
    if sorted(named) != sorted(hook_points) or not all(groups.values()):
        raise ValueError(f"groups of {named}")


def check_hook(name: str, width: int) -> None:
    """AuditorError unless `name` can name a dataset and `width` is a positive number."""
    if not _HOOK.fullmatch(name) or width < 1:
        raise AuditorError(
            f"“{' '.join(name.split())[:80]}” of width {width} cannot be a hook point of a store.",
            "A hook point's name has letters, digits, dots, dashes and underscores; its width is at least 1.",
        )


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`, whose shape and version are checked; AuditorError says what is wrong."""
    where = f"The store “{path.parent.name}”"
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise AuditorError(f"{where} has a manifest of over 64 MiB.", "This is not a store made by this program.")
        raw = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AuditorError(
            f"{where} has a manifest that cannot be read ({error}).", "Copy or record it again."
        ) from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise AuditorError(
            f"{where} is not an activation store.", "Choose a folder that holds a store's manifest.json."
        )
    version = raw.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise AuditorError(
            f"{where} is in format version {version}; this program reads up to version {VERSION}.",
            "Open it with a newer Auditor, or record it again with this one.",
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise AuditorError(
            f"{where} has a faulty manifest: {field}: {first['msg']}.", "Copy or record it again."
        ) from None
    _check_counts(manifest, where)
    return manifest


def _check_counts(manifest: Manifest, where: str) -> None:
    if not manifest.hook_points:
        raise AuditorError(f"{where} has no hook points.", "Copy or record it again.")
    for name, width in manifest.hook_points.items():
        check_hook(name, width)
    try:
        check_groups(manifest.groups, manifest.hook_points)
        scaled = {hook: {len(scale.vector(name)) for name in VECTORS} for hook, scale in manifest.scales.items()}
        if scaled != ({hook: {width} for hook, width in manifest.hook_points.items()} if manifest.scales else {}):
            raise ValueError("scales of another width than their hook points")
        if bool(manifest.scales) != (manifest.dtype == "int8"):
            raise ValueError("int8 and scales belong together")
        if manifest.version == 1 and manifest.since_2:
            raise ValueError("what version 1 does not have")
    except ValueError as error:
        raise AuditorError(f"{where} has a faulty manifest: {error}.", "Copy or record it again.") from None
    for number, shard in enumerate(manifest.shards):
        if not _fits(manifest, shard) or shard.file != shard_name(number):
            raise AuditorError(
                f"{where} has a manifest that contradicts itself at {shard.file}.", "Copy or record it again."
            )
    rows = sum(shard.rows for shard in manifest.shards)
    samples = sum(shard.samples for shard in manifest.shards)
    if (rows, samples) != (manifest.rows, manifest.samples):
        raise AuditorError(
            f"{where} claims {manifest.rows} rows of {manifest.samples} samples but lists {rows} of {samples}.",
            "Copy or record it again.",
        )


def _fits(manifest: Manifest, shard: ShardFacts) -> bool:
    """Whether what is told of a shard agrees with the store and with itself."""
    wanted = {f"samples/{name}": ([shard.samples], "int64") for name in ("record_end", "image_end")}
    for group, hooks in manifest.by_group.items():
        rows = shard.group_rows.get(group, -1) if group else shard.rows
        widths = {hook: manifest.hook_points[hook] for hook in hooks}
        wanted |= {f"rows/{hook}": ([rows, width], RAW[manifest.dtype]) for hook, width in widths.items()}
        wanted |= {column_name(group, name): ([rows], dtype) for name, dtype in COLUMNS.items()}
        wanted[column_name(group, "samples/rows")] = ([shard.samples], "int64")
    told = shard.datasets
    fits = all(name in told and (told[name].shape, told[name].dtype) == facts for name, facts in wanted.items())
    fits &= all(facts.offset + facts.bytes <= shard.bytes for facts in told.values())
    fits &= all(min(facts.shape) >= 0 for facts in told.values())
    fits &= all(name in told and told[name].dtype == "uint8" for name in ("samples/record", "samples/image"))
    fits &= sum(shard.group_rows.values()) == shard.rows if manifest.groups else not shard.group_rows
    fits &= len(shard.blocks) == (-(-shard.bytes // shard.block_bytes) if shard.block_bytes else 0)
    fits &= bool(shard.blocks or shard.sha256) and manifest.version >= shard.held_by
    return bool(fits and (not shard.folder or _FOLDER.fullmatch(shard.folder)))
