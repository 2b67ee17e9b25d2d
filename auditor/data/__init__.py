"""Samples: texts, images, both, and sounds, from local files."""

from __future__ import annotations

from auditor.data.audio import AudioRef
from auditor.data.chunking import chunks
from auditor.data.image import ImageRef
from auditor.data.opening import open_samples
from auditor.data.sample import PositionKind, Sample, text_sample
from auditor.data.samples import Samples

__all__ = ["AudioRef", "ImageRef", "PositionKind", "Sample", "Samples", "chunks", "open_samples", "text_sample"]
