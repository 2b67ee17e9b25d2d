"""Networks with named hook points: opened from local folders, run, recorded and edited."""

from __future__ import annotations

from auditor.models.edits import (
    Ablate,
    AddDirection,
    CutEdge,
    Edit,
    EditWeight,
    FreezeAttention,
    FreezeNorms,
    Patch,
    Scale,
)
from auditor.models.hook_points import HookPoint
from auditor.models.inputs import Inputs, Positions
from auditor.models.loading import open_model
from auditor.models.model import Model, Run

__all__ = [
    "Ablate",
    "AddDirection",
    "CutEdge",
    "Edit",
    "EditWeight",
    "FreezeAttention",
    "FreezeNorms",
    "HookPoint",
    "Inputs",
    "Model",
    "Patch",
    "Positions",
    "Run",
    "Scale",
    "open_model",
]
