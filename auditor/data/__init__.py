"""Samples: texts, images and both, from local files."""

from __future__ import annotations

from auditor.data.image import ImageRef
from auditor.data.sample import PositionKind, Sample, text_sample

__all__ = ["ImageRef", "PositionKind", "Sample", "text_sample"]
