"""Going on from a finished store: the new one lists the old shards first and leaves them where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.store.layout import MANIFEST, Manifest
from auditor.store.reader import Store


def behind(base: Store, wanted: Manifest, path: Path) -> Manifest:
    """`wanted` with the shards of the finished store `base` first. AuditorError where the two do not go together."""
    held = base.manifest
    if not held.complete or not (base.path / MANIFEST).is_file():
        raise AuditorError(
            f"“{base.name}” is not a finished store of its own.", "Choose a store that was recorded or imported."
        )
    differing = [
        said
        for said, ours, theirs in (
            ("hook points", dict(wanted.hook_points), dict(held.hook_points)),
            ("row groups", wanted.groups, held.groups),
            ("stored numbers", wanted.dtype, held.dtype),
            ("model", _model_digest(wanted), _model_digest(held)),
        )
        if ours != theirs
    ]
    if differing:
        raise AuditorError(
            f"What is recorded behind “{base.name}” must have its {' and '.join(differing)}.",
            f"It was recorded at {', '.join(held.hook_points)} in {held.dtype}; or make a store of its own.",
        )
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
