"""What the circuits pane computes off the GUI thread: graphs opened, pruned and drawn, nodes ablated, examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.project import Artefact, Project
from auditor.ui.widgets.graph_drawing import Drawing, DrawnNode, seen
from auditor.ui.widgets.numbers import MINUS, THIN, figure, share

if TYPE_CHECKING:
    from auditor.analysis.circuits.ablation import NodeEffect
    from auditor.analysis.circuits.graph import Graph, Node, Scores
    from auditor.features.examples import Example

_LONGEST_EDGE_LIST = 200
_DRIFT = 0.02
_MOST_PANELS, _MOST_CELLS = 1024, 4096
KINDS = {"feature": "feature", "error": "error node", "token": "token", "patch": "image patch", "logit": "output"}


@dataclass(frozen=True)
class OpenGraph:
    """A whole graph with the labels of today. `passing` [n]: share of the outputs' incoming weight that passes through
    a node. `pixels`: the image that stood before the text. `dictionaries`: hook point → artefact id."""

    artefact: Artefact
    graph: Graph
    scores: Scores
    passing: NDArray[np.float32]
    edges: int
    dictionaries: dict[str, str]
    pixels: NDArray[np.uint8] | None

    @property
    def outputs(self) -> list[tuple[str, float]]:
        """Output tokens with their probabilities, most probable first."""
        found = [(node.token, node.prob or 0.0) for node in self.graph.nodes if node.kind == "logit"]
        return sorted(found, key=lambda pair: -pair[1])


@dataclass(frozen=True)
class Pruned:
    """The part of a graph that is shown: `graph` and its drawing, its scores, and the influence that was cut."""

    graph: Graph
    drawing: Drawing
    scores: Scores
    nodes: int
    edges: int
    cut: float
    leading: tuple[EdgeEnd, ...] = ()


@dataclass(frozen=True)
class EdgeEnd:
    """A node in a list, with the weight of the edge to it or its share of influence: `words` name it, `place` tells
    where it stands, `told` is the weight as it is read and `tip` the whole of it."""

    node: str
    words: str
    place: str
    weight: float
    told: str
    tip: str


@dataclass(frozen=True)
class NodeFacts:
    """What the panel says of a node: facts as (name, value, explanation), its edges by |weight|, the feature it is."""

    id: str
    kind: str
    title: str
    facts: tuple[tuple[str, str, str], ...]
    incoming: tuple[EdgeEnd, ...]
    outgoing: tuple[EdgeEnd, ...]
    dictionary: str = ""
    feature: int | None = None


@dataclass(frozen=True)
class FeatureExamples:
    """The strongest texts and pictures of a feature; pixels are thumbnails' bytes."""

    texts: list[Example] = field(default_factory=list)
    images: list[tuple[Example, bytes | None]] = field(default_factory=list)
    max_act: float = 0.0


def open_graph(project: Project, artefact: Artefact) -> OpenGraph:
    """The graph of a result, named by the labels that the project holds now."""
    from auditor.analysis.circuits import Graph

    graph = Graph.load(artefact.path)
    dictionaries = {str(hook): str(ref) for hook, ref in dict(artefact.meta.get("dictionaries", {})).items()}
    graph = graph.relabelled(_labels(project, graph, dictionaries))
    weight = float(graph.output_weights.sum()) or 1.0
    return OpenGraph(
        artefact, graph, graph.scores(), graph.influence() / np.float32(weight),
        int(np.count_nonzero(graph.adjacency)), dictionaries, _pixels(project, artefact),
    )  # fmt: skip


def prune(opened: OpenGraph, nodes: float, edges: float) -> Pruned:
    """The nodes and edges that hold these shares of influence, laid out."""
    graph = opened.graph.prune(nodes, edges)
    facts = graph.meta["pruning"]
    from auditor.analysis.circuits import Scores

    return Pruned(
        graph, draw(opened, graph), Scores(**facts["scores_after"]), facts["nodes"][1], facts["edges"][1],
        facts["influence_cut"], leading(opened, graph),
    )  # fmt: skip


def draw(opened: OpenGraph, graph: Graph) -> Drawing:
    """A pruned graph as a drawing that the canvas arranges; image patches without an edge are left out."""
    from auditor.analysis.circuits import layout

    idle = graph.mask("patch") & ~graph.adjacency.any(0)
    shown = graph.subgraph(~idle)
    shown, columns = _close_ranks(shown)
    spots = layout(shown)
    outputs = [row for row, node in enumerate(shown.nodes) if node.kind == "logit"]
    spots[outputs, 1] = [shown.nodes[row].prob or 0.0 for row in outputs]
    targets, sources = np.nonzero(shown.adjacency)
    passing = opened.passing[[opened.graph.row(node.id) for node in shown.nodes]]
    drawn = [_drawn(node, float(part)) for node, part in zip(shown.nodes, passing, strict=True)]
    cells = np.array([(node.position, node.layer) for node in shown.nodes], np.int64).reshape(-1, 2)
    return Drawing(
        drawn, spots, np.stack([sources, targets], 1).astype(np.int64), shown.adjacency[targets, sources], passing,
        columns, bands=_bands(shown), pictures=_patches(opened, shown), cells=cells,
    )  # fmt: skip


def facts_of(opened: OpenGraph, shown: Graph, node_id: str) -> NodeFacts:
    """Everything about a node, its edges within the shown part of the graph."""
    node = opened.graph.node(node_id)
    part = float(opened.passing[opened.graph.row(node_id)])
    told = [("kind", KINDS[node.kind], "")]
    if node.hook:
        told.append(("hook point", node.hook, "Where in the network the dictionary reads"))
    place = f"{node.position}  “{seen(node.token)}”" if node.kind != "logit" else str(node.position)
    told.append(("position", place, "Token position in the prompt, counted from 0"))
    if node.kind == "feature":
        told.append(("activation", figure(node.activation), "In units of the decoder direction (length 1)"))
    elif node.kind == "logit":
        told.append(("probability", share(node.prob or 0.0), "Of the next token"))
        told.append(("logit", figure(node.activation, "nats"), "Less the mean logit of the vocabulary"))
    else:
        told.append(("size", figure(node.activation), "Length (L2 norm) of the vector that the node writes"))
    if node.kind != "logit":
        told.append(("influence", share(part), "Share of the outputs' incoming weight that passes through this node"))
    row = shown.index.get(node_id)
    incoming = _ends(shown, shown.adjacency[row], incoming=True) if row is not None else ()
    outgoing = _ends(shown, shown.adjacency[:, row], incoming=False) if row is not None else ()
    return NodeFacts(node_id, node.kind, title(node), tuple(told), incoming, outgoing,
                     opened.dictionaries.get(node.hook, ""), node.feature)  # fmt: skip


def leading(opened: OpenGraph, shown: Graph, most: int = 12) -> tuple[EdgeEnd, ...]:
    """The shown features through which most of the outputs' incoming weight passes."""
    parts = [(float(opened.passing[opened.graph.row(n.id)]), n) for n in shown.nodes if n.kind == "feature"]
    parts.sort(key=lambda pair: -pair[0])
    return tuple(_end(node, part, share(part)) for part, node in parts[:most])


def title(node: Node) -> str:
    """A node in one line of plain text."""
    if node.kind == "feature":
        return f"{node.hook.removesuffix('.resid_post')} #{node.feature} {node.label}".rstrip()
    if node.kind == "error":
        return f"{node.hook.removesuffix('.resid_post')} error at “{seen(node.token)}”"
    if node.kind == "logit":
        return f"output “{seen(node.token)}”"
    return f"{KINDS[node.kind]} “{seen(node.token)}”"


def ablate(project: Project, opened: OpenGraph, ids: Sequence[str]) -> NodeEffect:
    """Remove nodes in the real network and see what its outputs do, beside the graph's prediction."""
    from auditor.analysis.circuits.ablation import ablate_node
    from auditor.sae import load
    from auditor.tasks.opening import model_at, sample_of

    meta = opened.artefact.meta
    if not meta.get("model") or not opened.dictionaries:
        raise AuditorError(
            "This graph came from another program, so it cannot be run again.", "Trace its prompt here to ablate nodes."
        )
    model = model_at(project.find(str(meta["model"]), "model").path).switched(str(meta.get("adapter", "on")))
    saes = {hook: load(project.find(ref, "dictionary").path) for hook, ref in opened.dictionaries.items()}
    image = project.folder / str(meta["image"]) if meta.get("image") else None
    sample = sample_of(str(meta.get("prompt", "")), image)
    return ablate_node(model, saes, sample, opened.graph, list(ids))


def doubt(opened: OpenGraph, effect: NodeEffect) -> str:
    """Why predicted and true cannot be compared; empty where the network still answers as it did when traced."""
    now = dict(effect.before)
    told = []
    for token, traced in opened.outputs[:3]:
        if abs(now.get(token, 0.0) - traced) > _DRIFT:
            told.append(f"“{seen(token)}” {per_cent(traced)}, now {per_cent(now.get(token, 0.0))}")
    if not told:
        return ""
    return (
        f"The network answers otherwise than when this circuit was traced ({'; '.join(told)}): its files or the image "
        "were changed since. Trace the prompt again before you rely on this."
    )


def effect_evidence(project: Project, opened: OpenGraph, effect: NodeEffect, figure_png: bytes) -> dict[str, Any]:
    """An ablation as the fields of a piece of evidence: the output that was predicted to change most leads."""
    from auditor.audit.evidence import Metric, Recipe, Table
    from auditor.tasks.result import result_of

    circuit = result_of(project, opened.artefact)
    lead = int(np.argmax(np.abs(effect.predicted)))
    names = ", ".join(title(opened.graph.node(i)) for i in effect.nodes)
    metric = Metric(
        name=f"change of the logit of “{seen(effect.outputs[lead])}”", estimate=effect.true[lead], n=1, unit="nats",
        baseline={"predicted by the graph": effect.predicted[lead], "linear network": effect.linear[lead]},
    )  # fmt: skip
    kl = Metric(name="KL of the next-token distribution", estimate=effect.kl, n=1, unit="nats")
    outputs = [seen(token) for token in effect.outputs]
    rows = tuple(zip(outputs, effect.predicted, effect.linear, effect.true, strict=True))
    config = {"graph": opened.artefact.id, "nodes": list(effect.nodes), "trace": circuit.recipe.config}
    return {
        "kind": "intervention", "title": f"Ablation of {names[:120]}",
        "note": f"One prompt: the change shows what happens here, not in general. {doubt(opened, effect)}".rstrip(),
        "recipe": Recipe(verb="ablate node", config=config),
        "inputs": {**circuit.inputs, opened.artefact.name[:80]: opened.artefact.digest},
        "metric": metric, "further": (kl,),
        "table": Table(columns=("output", "predicted", "linear network", "true"), rows=rows),
        "figure": figure_png, "figure_alt": "The circuit with the ablated nodes and their edges emphasised",
    }  # fmt: skip


def examples_of(project: Project, dictionary: str, feature: int, most: int = 3) -> FeatureExamples | None:
    """The strongest examples of a feature from the newest index of its dictionary; None where there is no index."""
    from auditor.tasks.opening import index_of

    found = [a for a in project.artefacts("index") if a.meta.get("dictionary") == dictionary]
    if not found:
        return None
    index = index_of(project, found[-1].id)
    try:
        held = index.feature(feature)
        images = [(example, example.image) for example in held.examples_of("image", "top")[:most]]
        return FeatureExamples(held.examples_of("text", "top")[:most], images, held.max_act)
    finally:
        index.close()


def example_prompt(project: Project, dictionary: str, feature: int) -> str:
    """The strongest text of a feature up to its peak: what can be traced to see the feature at work."""
    found = examples_of(project, dictionary, feature, 1)
    if found is None or not found.texts:
        raise AuditorError("This feature has no text example to trace.", "Type a prompt instead.")
    return up_to_peak(found.texts[0])


def up_to_peak(example: Example) -> str:
    """An example's text up to the token where the feature fires most."""
    return "".join(example.tokens[: example.peak + 1]).strip()


def per_cent(value: float) -> str:
    """A probability in few digits: 78 %, 0.3 %, <0.1 %."""
    if value >= 0.0095:
        return f"{100 * value:.0f}{THIN}%"
    return f"{100 * value:.1f}{THIN}%" if value >= 0.001 else f"<0.1{THIN}%"


def _labels(project: Project, graph: Graph, dictionaries: dict[str, str]) -> dict[str, str]:
    """Node id → label as the project's newest indexes have it now."""
    from auditor.tasks.opening import index_of

    names: dict[str, list[str]] = {}
    for artefact in project.artefacts("index"):
        for hook, ref in dictionaries.items():
            if artefact.meta.get("dictionary") == ref:
                index = index_of(project, artefact.id)
                try:
                    names[hook] = list(index.labels)
                finally:
                    index.close()
    return {
        node.id: names[node.hook][node.feature]
        for node in graph.nodes
        if node.feature is not None and node.feature < len(names.get(node.hook, ()))
    }


def _pixels(project: Project, artefact: Artefact) -> NDArray[np.uint8] | None:
    if not artefact.meta.get("image"):
        return None
    from auditor.data import ImageRef

    try:
        return np.asarray(ImageRef.at(project.folder / str(artefact.meta["image"])).load(), dtype=np.uint8)
    except AuditorError:  # the picture was moved since; the graph can be read without it
        return None


def _seen(told: object) -> tuple[float, float, float, float]:
    """The part of the image under the grid, in shares; the whole where a file says nothing that could be one."""
    shares = told if isinstance(told, list) and len(told) == 4 else []
    if not shares or not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares):
        return 0.0, 0.0, 1.0, 1.0
    return shares[0], shares[1], shares[2], shares[3]


def _patches(opened: OpenGraph, graph: Graph) -> dict[int, NDArray[np.uint8]]:
    """Row of each patch node → its part of the image."""
    grid = opened.graph.meta.get("grid")
    if opened.pixels is None or not grid:
        return {}
    high, wide = opened.pixels.shape[:2]
    top, left, bottom, right = _seen(opened.graph.meta.get("seen"))
    found = {}
    for panel_top, panel_left, n_rows, n_columns in _panels(opened.graph.meta.get("panels"), grid):
        rows = np.linspace(top * high, bottom * high, n_rows + 1).astype(int)
        columns = np.linspace(left * wide, right * wide, n_columns + 1).astype(int)
        for at, node in enumerate(graph.nodes):
            if node.cell is None:
                continue
            row, column = node.cell[0] - panel_top, node.cell[1] - panel_left
            if 0 <= row < n_rows and 0 <= column < n_columns:
                found[at] = opened.pixels[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
    return found


def _panels(told: object, grid: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Where the parts lie in which the image was read: first row and column, rows and columns; one on the whole grid
    where a file says nothing that could be such."""
    whole = [(0, 0, int(grid[0]), int(grid[1]))]
    if not isinstance(told, list) or not 0 < len(told) <= _MOST_PANELS:
        return whole
    fine = all(
        isinstance(one, list) and len(one) == 4 and all(isinstance(n, int) and 0 <= n <= _MOST_CELLS for n in one)
        for one in told
    )
    return [(one[0], one[1], one[2], one[3]) for one in told] if fine else whole


def _close_ranks(graph: Graph) -> tuple[Graph, list[str]]:
    """The graph with positions that hold nodes counted 0, 1, 2…, and the token of each."""
    held = sorted({node.position for node in graph.nodes})
    rank = {position: at for at, position in enumerate(held)}
    tokens = [graph.tokens[p] if p < len(graph.tokens) else "" for p in held]
    nodes = [replace(node, position=rank[node.position]) for node in graph.nodes]
    return replace(graph, nodes=nodes, tokens=tokens), tokens


def _bands(graph: Graph) -> list[str]:
    names = {node.layer: node.hook.removesuffix(".resid_post") for node in graph.nodes if node.hook}
    last = graph.n_layers - 1
    return ["input", *(names.get(layer, "") for layer in range(1, last)), "output"]


def _drawn(node: Node, part: float) -> DrawnNode:
    if node.kind == "logit":
        chance = per_cent(node.prob or 0.0)
        tip = f"output “{seen(node.token)}”\nprobability {chance}\nlogit {figure(node.activation, 'nats')}"
        return DrawnNode(node.id, node.kind, f"{seen(node.token)}  {chance}", tip)
    strength = "activation" if node.kind == "feature" else "size"
    tip = f"{title(node)}\n{strength} {figure(node.activation)}\ninfluence {share(part)}\nat “{seen(node.token)}”"
    text = seen(node.label or f"#{node.feature}") if node.kind == "feature" else seen(node.token)
    return DrawnNode(node.id, node.kind, text, tip)


def _ends(graph: Graph, weights: NDArray[np.float32], *, incoming: bool) -> tuple[EdgeEnd, ...]:
    order = np.argsort(-np.abs(weights), kind="stable")[:_LONGEST_EDGE_LIST]
    return tuple(_end(graph.nodes[at], float(weights[at]), signed(weights[at])) for at in order if weights[at] != 0)


def _end(node: Node, weight: float, told: str) -> EdgeEnd:
    named = {"feature": node.label or f"#{node.feature}", "error": "error node"}.get(node.kind, seen(node.token))
    where = node.hook.removesuffix(".resid_post") or KINDS[node.kind]
    if node.kind in ("feature", "error"):
        where += f" “{seen(node.token)}”"
    return EdgeEnd(node.id, named, where, weight, told, f"{title(node)}\nat “{seen(node.token)}”: {told}")


def signed(value: float) -> str:
    """Three figures with their sign."""
    return figure(value) if value <= 0 or figure(value).startswith(MINUS) else f"+{figure(value)}"
