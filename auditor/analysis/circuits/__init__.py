"""Attribution graphs: traced from a prompt, scored, pruned, laid out, stored, exchanged with other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor.analysis.circuits.graph import Graph, Node, Scores
from auditor.analysis.circuits.layout import bands, layout

if TYPE_CHECKING:
    from auditor.analysis.circuits.attribute import AttributeConfig, attribute

__all__ = ["AttributeConfig", "Graph", "Node", "Scores", "attribute", "bands", "layout"]


def __getattr__(name: str) -> Any:
    # A saved graph is read and drawn without torch: the engine loads when a graph is traced.
    if name in ("AttributeConfig", "attribute"):
        from importlib import import_module

        return getattr(import_module("auditor.analysis.circuits.attribute"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
