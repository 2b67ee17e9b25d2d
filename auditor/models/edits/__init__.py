"""Edits: what is changed in one run of a network, at its hook points, along its edges or in its weights.

They are composed as a list, act in its order, and are gone when the run is over, on errors too; nothing is changed in
place. One file for each idea.
"""

from __future__ import annotations

from auditor.models.edits.ablate import Ablate
from auditor.models.edits.cut import CutEdge
from auditor.models.edits.direction import AddDirection
from auditor.models.edits.edit import Edit, bound, exchanged
from auditor.models.edits.freeze import FreezeAttention, FreezeNorms
from auditor.models.edits.patch import Patch
from auditor.models.edits.scale import Scale
from auditor.models.edits.weight import EditWeight

__all__ = [
    "Ablate", "AddDirection", "CutEdge", "Edit", "EditWeight", "FreezeAttention", "FreezeNorms", "Patch", "Scale",
    "bound", "exchanged",
]  # fmt: skip
