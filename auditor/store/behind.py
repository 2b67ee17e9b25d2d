"""Going on from a finished store: the new one lists the old shards first and leaves them where they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.store.layout import MANIFEST, Manifest
from auditor.store.reader import Store


def must_go_together(
    base: Store,
    dtype: str,
    model: Any,
    hook_points: Mapping[str, int] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """AuditorError where `base` is not finished, or what is to be recorded behind it differs from it; None: not known
    yet. `model` is the digest of the network."""
    held = base.manifest
    if not held.complete or not (base.path / MANIFEST).is_file():
        raise AuditorError(
            f"“{base.name}” is not a finished store of its own.", "Choose a store that was recorded or imported."
        )
    differing = [
        said
        for said, ours, theirs in (
            ("hook points", held.hook_points if hook_points is None else hook_points, held.hook_points),
            ("row groups", held.groups if groups is None else groups, held.groups),
            ("stored numbers", dtype, held.dtype),
            ("model", model, model_of(base)),
        )
        if ours != theirs
    ]
    if differing:
        raise AuditorError(
            f"What is recorded behind “{base.name}” must have its {' and '.join(differing)}.",
            f"It was recorded at {', '.join(held.hook_points)} in {held.dtype}; or make a store of its own.",
        )


def model_of(store: Store) -> Any:
    """The digest of the network that a store was recorded from."""
    return _model_digest(store.manifest)


def behind(base: Store, wanted: Manifest, path: Path) -> Manifest:
    """`wanted` with the shards of the finished store `base` first. AuditorError where the two do not go together."""
    held = base.manifest
    must_go_together(base, wanted.dtype, _model_digest(wanted), wanted.hook_points, wanted.groups)
    shards = [
        shard.model_copy(update={"folder": Path(os.path.relpath(base.path / shard.folder, path)).as_posix()})
        for shard in held.shards
    ]
    told = {"name": base.name, "digest": base.digest, "rows": held.rows, "samples": held.samples, "shards": len(shards)}
    return wanted.model_copy(
        update={
            "shards": shards, "rows": held.rows, "samples": held.samples, "samples_digest": held.samples_digest,
            "scales": dict(held.scales), "meta": {**wanted.meta, "appended_to": told},
        }
    )  # fmt: skip


def _model_digest(manifest: Manifest) -> Any:
    model = manifest.meta.get("model")
    return model.get("digest") if isinstance(model, dict) else None
