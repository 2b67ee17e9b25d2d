"""Cross-layer transcoders in circuit-tracer's files."""

from __future__ import annotations

from pathlib import Path

from auditor.base.errors import AuditorError
from auditor.sae.formats.format import Dictionary


def read_cross_layer(path: Path) -> Dictionary:
    """The cross-layer transcoder in the folder `path`."""
    raise AuditorError(f"“{path.name}” is a cross-layer transcoder, which is not read.", "")


def write_cross_layer(clt: Dictionary, path: Path) -> None:
    """Write the folder `path`."""
    raise AuditorError("A cross-layer transcoder cannot be exported.", "")
