"""The architectures that can be trained; a new one is one file and one line here."""

from __future__ import annotations

from auditor.base.registry import Registry
from auditor.sae.archs.architecture import Architecture
from auditor.sae.archs.relu import Relu
from auditor.sae.archs.topk import TopK

ARCHITECTURES: Registry[type[Architecture]] = Registry("architecture")
ARCHITECTURES.add("topk", TopK)
ARCHITECTURES.add("relu", Relu)
