"""The activation store, format version 1: the specification, and the types that read and write it.

A store is a folder. While it is being written it holds `manifest.json.partial`; when finished, `manifest.json`.

    name.store/
      shard-00000.h5  shard-00001.h5 …   rows of activations with the samples they come from; written whole
      manifest.json                      what the shards hold, their digests, and how they were made; written last

**Shard**: one HDF5 file without groups other than these, every dataset contiguous, unfiltered, little-endian:

    rows/<hook>        float16 | float32 [n, width]  activations at hook point <hook>; every hook has the same n rows
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

A sample's record: {"id", "group", "text", "caption", "tokens" (strings, one a row, or null), "grid" ([rows, columns] of
patches or null), "labels" ({name: text}), "batch" (number of the append that wrote it: rows of one batch went through
the network together)}.

**Manifest**: canonical JSON (sorted keys). `format` is "auditor.store" and `version` this format's number, first of all
checked. For each shard it repeats the byte offset of every dataset, so that a reader needs no HDF5 library, is not
held up by its global lock, and never parses a stranger's HDF5 to open a store. `meta` tells how the store was made.
`places` (paths of the model and the samples) is for convenience, the only part that the store's digest leaves out:
    digest = SHA-256(canonical JSON of the manifest without `places`)
which covers all bytes of the store, since the manifest holds the SHA-256 of each shard.

**Writing.** A shard is written as `*.partial`, fsynced, renamed, its folder fsynced; then `manifest.json.partial` is
replaced in the same way, and only then are its rows acknowledged. A shard that the manifest does not list was never
acknowledged, and is removed on resumption. Shards are cut after the append that brings them to the shard size, counted
from the shard's start, so a recording that was interrupted has the same bytes as one that was not.

**Kinds.** «special» positions (a leading attention sink, BOS, CLS, separators) are kept, and left out of training by
`Store.batches`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from auditor.base.digest import canonical_json, sha256_bytes
from auditor.base.errors import AuditorError

FORMAT = "auditor.store"
VERSION = 1
MANIFEST = "manifest.json"
UNFINISHED = "manifest.json.partial"
KINDS = {"pad": 0, "text": 1, "image": 2, "special": 3, "audio": 4}
COLUMNS = {"sample": "int32", "unit": "int32", "kind": "uint8", "token": "int32"}
FLOAT16_MAX = 65504.0
SHARD_BYTES = 32 << 20
_MANIFEST_LIMIT = 64 << 20
_HOOK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_WIDTH = {"float16": 2, "float32": 4, "int32": 4, "uint8": 1, "int64": 8}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DatasetFacts(_Strict):
    """Where a contiguous dataset lies in its file."""

    offset: int = Field(ge=0)
    shape: list[int] = Field(min_length=1, max_length=2)
    dtype: Literal["float16", "float32", "int32", "uint8", "int64"]

    @property
    def bytes(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count * _WIDTH[self.dtype]


class ShardFacts(_Strict):
    """One shard: its file, digest, counts, and where each dataset lies."""

    file: str = Field(pattern=r"^shard-\d{5,}\.h5$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    rows: int = Field(ge=0)
    samples: int = Field(ge=0)
    batches: int = Field(ge=0)
    samples_sha256: str
    kinds: dict[str, int]
    datasets: dict[str, DatasetFacts]


class Manifest(_Strict):
    """All that a reader must know of a store; the JSON of manifest.json."""

    format: Literal["auditor.store"] = "auditor.store"
    version: int = VERSION
    complete: bool
    dtype: Literal["float16", "float32"]
    hook_points: dict[str, int]
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
        return sha256_bytes(canonical_json(self.model_dump(exclude={"places"})))

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump())


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.h5"


def check_hook(name: str, width: int) -> None:
    """AuditorError unless `name` can name a dataset and `width` is a positive number."""
    if not _HOOK.fullmatch(name) or width < 1:
        raise AuditorError(
            f"“{name}” of width {width} cannot be a hook point of a store.",
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
    if not isinstance(version, int) or version > VERSION:
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
    for name, width in manifest.hook_points.items():
        check_hook(name, width)
    for number, shard in enumerate(manifest.shards):
        shapes = {name: facts.shape for name, facts in shard.datasets.items()}
        wanted = {f"rows/{hook}": [shard.rows, width] for hook, width in manifest.hook_points.items()}
        wanted |= {name: [shard.rows] for name in COLUMNS}
        wanted |= {f"samples/{name}": [shard.samples] for name in ("rows", "record_end", "image_end")}
        types = {f"rows/{hook}": manifest.dtype for hook in manifest.hook_points} | COLUMNS
        fits = all(shapes.get(name) == shape for name, shape in wanted.items())
        fits &= all(shard.datasets[name].dtype == dtype for name, dtype in types.items() if name in shapes)
        fits &= all(facts.offset + facts.bytes <= shard.bytes for facts in shard.datasets.values())
        fits &= all(min(facts.shape) >= 0 for facts in shard.datasets.values())
        fits &= {"samples/record", "samples/image"} <= shapes.keys() and shard.file == shard_name(number)
        if not fits:
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
