"""Tiny networks of every family, with random weights and real architectures, saved as the folders that are opened.

One file a group; `ALL` is what the checks (`tests.models.checks`) and `docs/families.md` go through.
"""

from __future__ import annotations

from tests.models.tiny.decoders import DECODERS
from tests.models.tiny.encoders import ENCODERS
from tests.models.tiny.entry import Case, Tiny, opened
from tests.models.tiny.multimodal import MULTIMODAL
from tests.models.tiny.vision import VISION

GROUPS: dict[str, tuple[Tiny, ...]] = {
    "Decoders": DECODERS, "Encoders": ENCODERS, "Vision": VISION, "Multimodal": MULTIMODAL,
}  # fmt: skip
ALL: dict[str, Tiny] = {tiny.name: tiny for group in GROUPS.values() for tiny in group}

__all__ = ["ALL", "GROUPS", "Case", "Tiny", "opened"]
