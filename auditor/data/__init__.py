"""Samples: texts, code, conversations, images with or without text, and sounds, read from local files as they are asked
for; what a file holds that cannot be read is left out, counted and told."""

from __future__ import annotations

from auditor.data.audio import AudioRef
from auditor.data.chunking import chunks
from auditor.data.image import ImageRef
from auditor.data.opening import open_samples
from auditor.data.sample import PositionKind, Sample, text_sample
from auditor.data.samples import Samples

__all__ = ["AudioRef", "ImageRef", "PositionKind", "Sample", "Samples", "chunks", "open_samples", "text_sample"]
