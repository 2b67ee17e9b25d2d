"""Attribution graphs: traced from a prompt, scored, pruned, laid out, stored, exchanged with other tools."""

from auditor.analysis.circuits.attribute import AttributeConfig, attribute
from auditor.analysis.circuits.graph import Graph, Node, Scores
from auditor.analysis.circuits.layout import bands, layout

__all__ = ["AttributeConfig", "Graph", "Node", "Scores", "attribute", "bands", "layout"]
