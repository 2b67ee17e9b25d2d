"""Attribution graphs in the JSON that Neuronpedia and circuit-tracer share: written, and read from any origin.

Schema: Neuronpedia `graph-schema.json` (draft-07). Layers are block numbers, "E" for embeddings, n_layers + 1 for
logits; `feature` is the Cantor pair of (layer, feature); `influence` is the cumulative share that a pruning slider
uses. An error node is named `{layer}_-1_{position}`: circuit-tracer's `0_{layer}_{position}` collides with features of
layer 0. The schema has no image field, so a patch is written as an embedding that carries our own key `cell`.
"""

from __future__ import annotations

import json
from collections import Counter
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from auditor import __version__
from auditor.analysis.circuits.graph import Floats, Graph, Node, NodeKind
from auditor.analysis.circuits.graph_file import check_nodes, check_size, read_json
from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic

_LARGEST = float(np.finfo(np.float32).max)
FEATURE, ERROR, EMBEDDING, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"
_TYPES: dict[str, str] = {
    "feature": FEATURE, "error": ERROR, "token": EMBEDDING, "patch": EMBEDDING, "logit": LOGIT,
}  # fmt: skip


def cantor(layer: int, feature: int) -> int:
    """One number for a pair: (L + F)(L + F + 1) / 2 + F."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def uncantor(number: int) -> tuple[int, int]:
    """The pair (layer, feature) of a Cantor number."""
    total = (isqrt(8 * number + 1) - 1) // 2
    feature = number - total * (total + 1) // 2
    return total - feature, feature


def to_neuronpedia(graph: Graph, slug: str = "", scan: str = "") -> dict[str, Any]:
    """The graph as a plain dict of that schema, labels in `clerp`. `scan` names the model, `slug` the graph."""
    layers = _layer_names(graph)
    ids = [_node_id(node, layers[node.layer]) for node in graph.nodes]
    cumulative = _cumulative(graph.influence())
    model, config = graph.meta.get("model", {}), graph.meta.get("config", {})
    pruning = graph.meta.get("pruning", {})
    settings = {"max_n_logits": config.get("max_logits"), "desired_logit_prob": config.get("logit_mass")}
    settings |= {"batch_size": config.get("batch_size"), "max_feature_nodes": config.get("max_features")}
    metadata: dict[str, Any] = {
        "slug": slug or "graph",
        "scan": scan or str(model.get("name", "model")),
        "prompt_tokens": graph.tokens,
        "prompt": graph.prompt,
        "schema_version": 1,
        "info": {"generator": {"name": "auditor", "version": __version__}},
        "generation_settings": {key: value for key, value in settings.items() if value is not None},
        "pruning_settings": {k: pruning[k] for k in ("node_threshold", "edge_threshold") if k in pruning},
    }
    if "node_threshold" in pruning:
        metadata["node_threshold"] = pruning["node_threshold"]
    if graph.meta.get("hooks"):
        metadata["transcoder_list"] = list(graph.meta["hooks"])
    nodes = [
        _node_out(node, ids[row], layers[node.layer], float(cumulative[row]), len(graph.tokens))
        for row, node in enumerate(graph.nodes)
    ]
    links = [
        {"source": ids[s], "target": ids[t], "weight": float(graph.adjacency[t, s])}
        for t, s in zip(*np.nonzero(graph.adjacency), strict=True)
    ]
    pinned = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": graph.meta.get("qParams", pinned), "nodes": nodes, "links": links}


def write_neuronpedia(graph: Graph, path: Path | str, slug: str = "", scan: str = "") -> Path:
    """Write the JSON file; same graph and names, same bytes."""
    target = Path(path)
    content = to_neuronpedia(graph, slug or target.stem, scan)
    write_atomic(target, (json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())
    return target


def read_neuronpedia(path: Path | str) -> Graph:
    """A graph from JSON (plain or gzipped) of Neuronpedia or circuit-tracer; AuditorError names what is wrong."""
    content = read_json(path)
    try:
        return from_neuronpedia(content)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        fault = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise AuditorError(
            f"“{Path(path).name}” is not an attribution graph: {fault}.",
            "Export the graph as JSON from Neuronpedia or circuit-tracer.",
        ) from None


def from_neuronpedia(content: dict[str, Any]) -> Graph:
    """A graph from the parsed JSON. Values are the sums of edges: the file says nothing of what it left out."""
    metadata, items = content["metadata"], content["nodes"]
    check_size(len(items))
    depth = _depths(items)
    decode = _feature_code(items)
    tokens = [str(token) for token in metadata["prompt_tokens"]]
    nodes = [_node_in(item, depth, decode, tokens) for item in items]
    check_nodes(nodes, len(tokens))
    adjacency, ambiguous = _links_in(content["links"], items, nodes)
    value = adjacency.sum(1)
    meta = {
        "model": {"name": str(metadata.get("scan", ""))},
        "imported": {"format": "neuronpedia", "slug": str(metadata.get("slug", "")), "ambiguous_links": ambiguous},
        "qParams": content.get("qParams", {}),
    }
    prompt = str(metadata["prompt"])
    canonical_json([prompt, tokens, meta, [vars(node) for node in nodes]])  # NaN or half a character cannot be kept
    return Graph(nodes, adjacency, prompt, tokens, value, np.zeros_like(value), meta)


def _layer_names(graph: Graph) -> dict[int, str]:
    """The schema's layer of each of ours: the block number where that is unique, else our own count."""
    hooks = {node.layer: node.hook for node in graph.nodes if node.hook}
    blocks = {layer: _block(hook) for layer, hook in hooks.items()}
    unique = None not in blocks.values() and len(set(blocks.values())) == len(blocks)
    names = {layer: str(blocks[layer] if unique else layer) for layer in hooks}
    top = graph.n_layers - 1
    deepest = max([int(name) for name in names.values()], default=0)
    n_layers = int(graph.meta.get("model", {}).get("n_layers") or deepest)
    return {0: "E", **names, top: str(max(n_layers, deepest) + 1)}


def _block(hook: str) -> int | None:
    return next((int(part) for part in hook.replace(" ", ".").split(".") if part.isdigit()), None)


def _node_id(node: Node, layer: str) -> str:
    if node.kind == "feature":
        return f"{layer}_{node.feature}_{node.position}"
    if node.kind == "error":
        return f"{layer}_-1_{node.position}"
    return f"{layer}_{-1 if node.token_id is None else node.token_id}_{node.position}"


def _node_out(node: Node, node_id: str, layer: str, cumulative: float, length: int) -> dict[str, Any]:
    feature = -1 if node.kind == "error" else node.token_id
    if node.kind == "feature" and node.feature is not None:
        feature = cantor(int(layer), node.feature)
    item: dict[str, Any] = {
        "node_id": node_id,
        "feature": feature,
        "layer": layer,
        "ctx_idx": node.position,
        "feature_type": _TYPES[node.kind],
        "token_prob": node.prob if node.prob is not None else 0.0,
        "is_target_logit": node.kind == "logit",
        "run_idx": 0,
        "reverse_ctx_idx": length - 1 - node.position,
        "jsNodeId": node_id.rsplit("_", 1)[0] + f"-{node.position}",
        "clerp": _clerp(node),
        "influence": cumulative if node.kind != "logit" else None,
        "activation": node.activation if node.kind == "feature" else None,
    }
    return item if node.cell is None else {**item, "cell": list(node.cell)}


def _clerp(node: Node) -> str:
    if node.kind == "logit":
        return f'Output "{node.token}" (p={node.prob or 0:.3f})'
    if node.kind == "error":
        return f'Err: {node.hook} "{node.token}"'
    return f'Emb: "{node.token}"' if node.kind in ("token", "patch") else node.label


def _cumulative(influence: Floats) -> Floats:
    """The share that each node and all stronger ones hold together: a slider at t keeps what is at most t."""
    order = np.argsort(-influence, kind="stable")
    held = np.empty_like(influence)
    held[order] = np.cumsum(influence[order]) / max(float(influence.sum()), 1e-10)
    return np.minimum(held, np.float32(1))


def _depths(items: list[dict[str, Any]]) -> dict[str, int]:
    """Our layer of each layer named in the file."""
    inner = {int(item["layer"]) for item in items if item["feature_type"] not in (EMBEDDING, LOGIT)}
    depth = {str(layer): rank for rank, layer in enumerate(sorted(inner), start=1)}
    return {**depth, EMBEDDING: 0, LOGIT: len(depth) + 1}


def _feature_code(items: list[dict[str, Any]]) -> str:
    """How the file numbers features, told by which rule gives each node its own layer back."""
    features = [(int(i["layer"]), int(i["feature"])) for i in items if _kind(i) == "feature"]
    if all(number >= 0 and uncantor(number)[0] == layer for layer, number in features):
        return "cantor"
    if all(number // 100_000 == layer for layer, number in features):
        return "decimal"
    return "plain"


def _kind(item: dict[str, Any]) -> NodeKind:
    kind = str(item["feature_type"])
    if kind == EMBEDDING:
        return "patch" if item.get("cell") else "token"
    if kind == LOGIT:
        return "logit"
    # Attention reconstruction errors (lorsa) are named after their own module.
    return "error" if "error" in kind else "feature"


def _node_in(item: dict[str, Any], depth: dict[str, int], code: str, tokens: list[str]) -> Node:
    kind, position = _kind(item), int(item["ctx_idx"])
    ends = {"token": EMBEDDING, "patch": EMBEDDING, "logit": LOGIT}
    layer = depth[ends.get(kind, str(item["layer"]))]
    if not 0 <= position < len(tokens):
        raise ValueError(f"node {item['node_id']} stands at position {position} of {len(tokens)}")
    clerp, activation, cell = str(item["clerp"] or ""), item.get("activation"), item.get("cell")
    token, number = tokens[position], item["feature"]
    feature: int | None = None
    if kind == "feature":
        raw = int(number)
        feature = {"cantor": uncantor(raw)[1] if raw >= 0 else raw, "decimal": raw % 100_000, "plain": raw}[code]
    if kind == "logit" and '"' in clerp:
        token = clerp.split('"', 1)[1].rsplit('"', 1)[0]
    hook = f"layer {item['layer']}" if kind in ("feature", "error") else ""
    own = {"feature": f"{hook}/{position}/{feature}", "error": f"{hook}/{position}/error"}
    own |= {"logit": f"logit/{position}/{number}"}
    return Node(
        id=own.get(kind, f"{kind}/{position}"),
        kind=kind,
        layer=layer,
        position=position,
        feature=feature,
        activation=float(activation or 0.0),
        label=clerp if kind == "feature" else "",
        token=token,
        prob=float(item.get("token_prob") or 0.0) if kind == "logit" else None,
        hook=hook,
        token_id=int(number) if kind in ("token", "logit") and number is not None else None,
        cell=(int(cell[0]), int(cell[1])) if cell else None,
    )


def _links_in(links: list[dict[str, Any]], items: list[dict[str, Any]], nodes: list[Node]) -> tuple[Floats, int]:
    """Edges, and how many named a node by an id that two nodes share.

    Such ids join a feature of layer 0 and an error node: the target is the feature, and of two links between the same
    names the first is the feature's.
    """
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        rows.setdefault(str(item["node_id"]), []).append(row)
    for shared in rows.values():
        shared.sort(key=lambda row: nodes[row].kind == "error")
    adjacency = np.zeros((len(nodes), len(nodes)), dtype=np.float32)
    seen: Counter[tuple[str, str]] = Counter()
    ambiguous = 0
    for link in links:
        source, target, weight = str(link["source"]), str(link["target"]), float(link["weight"])
        if source not in rows or target not in rows or not abs(weight) <= _LARGEST:
            raise ValueError(f"the link {source} → {target} has no node at an end, or no finite weight")
        candidates = rows[source]
        ambiguous += len(candidates) > 1
        adjacency[rows[target][0], candidates[min(seen[source, target], len(candidates) - 1)]] = weight
        seen[source, target] += 1
    return adjacency, ambiguous
