"""Graphs in Neuronpedia's JSON: written by its schema, read back, and read as circuit-tracer writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from auditor.analysis.circuits.formats import cantor, read_neuronpedia, to_neuronpedia, uncantor, write_neuronpedia
from auditor.base.errors import AuditorError
from tests.analysis.graphs import random_graph

REQUIRED_NODE = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}


def test_that_cantor_numbers_are_inverted_exactly():
    for layer, feature in [(0, 0), (0, 16383), (25, 0), (23, 5458), (61, 10**6)]:
        assert uncantor(cantor(layer, feature)) == (layer, feature)
    assert cantor(1, 2) == 8


def test_that_the_export_has_what_the_schema_requires():
    graph = random_graph(3).prune(0.9)
    content = json.loads(json.dumps(to_neuronpedia(graph, "my-graph", "smollm2-135m")))
    assert {"slug", "scan", "prompt_tokens", "prompt"} <= set(content["metadata"])
    assert {"metadata", "qParams", "nodes", "links"} <= set(content)
    assert all(set(n) >= REQUIRED_NODE for n in content["nodes"])
    ids = [n["node_id"] for n in content["nodes"]]
    assert len(set(ids)) == len(ids) == len(graph.nodes)
    assert len(content["links"]) == np.count_nonzero(graph.adjacency)
    assert content["metadata"]["node_threshold"] == 0.9
    layers = {n["feature_type"]: n["layer"] for n in content["nodes"]}
    assert layers["embedding"] == "E" and layers["logit"] == "31"
    first = next(n for n in content["nodes"] if n["feature_type"] == "cross layer transcoder")
    own = next(n for n in graph.nodes if n.kind == "feature")
    assert uncantor(first["feature"]) == (7, own.feature) and first["clerp"] == own.label


def test_that_a_written_graph_is_read_back_with_its_scores(tmp_path):
    graph = random_graph(4)
    again = read_neuronpedia(write_neuronpedia(graph, tmp_path / "g.json"))
    np.testing.assert_allclose(again.adjacency, graph.adjacency)
    assert [(n.kind, n.layer, n.position, n.feature) for n in again.nodes] == [
        (n.kind, n.layer, n.position, n.feature) for n in graph.nodes
    ]
    assert again.scores() == graph.scores() and again.tokens == graph.tokens
    assert [n.token for n in again.nodes if n.kind == "logit"] == [" out0", " out1", " out2"]
    third = read_neuronpedia(write_neuronpedia(again, tmp_path / "h.json"))
    assert third.nodes == again.nodes


def _circuit_tracer(code):
    """As circuit-tracer writes it: error ids collide with features of layer 0; `code` numbers the features."""

    def node(node_id, feature, layer, ctx, kind, clerp="", prob=0.0):
        return {
            "node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": ctx, "feature_type": kind,
            "jsNodeId": node_id, "clerp": clerp, "token_prob": prob, "activation": 1.5, "influence": None,
        }  # fmt: skip

    feature, error = "cross layer transcoder", "mlp reconstruction error"
    nodes = [
        node("0_3_1", code(0, 3), "0", 1, feature, "zero"),
        node("3_77_1", code(3, 77), "3", 1, feature, "three"),
        node("0_0_1", -1, "0", 1, error),
        node("0_3_1", -1, "3", 1, error),
        node("E_5_0", 5, "E", 0, "embedding"),
        node("27_9_1", 9, "27", 1, "logit", 'Output " dog" (p=0.700)', 0.7),
    ]
    links = [("E_5_0", "0_3_1", 1.0), ("0_3_1", "3_77_1", 2.0), ("3_77_1", "27_9_1", 3.0), ("0_3_1", "27_9_1", 4.0),
             ("0_3_1", "27_9_1", 5.0), ("0_0_1", "3_77_1", -6.0)]  # fmt: skip
    return {
        "metadata": {"slug": "s", "scan": "gemma-2-2b", "prompt_tokens": ["a", " b"], "prompt": "a b"},
        "qParams": {},
        "nodes": nodes,
        "links": [{"source": s, "target": t, "weight": w} for s, t, w in links],
    }


@pytest.mark.parametrize("code", [cantor, lambda layer, f: layer * 100_000 + f, lambda layer, f: f])
def test_that_feature_numbers_are_understood_and_colliding_ids_are_kept_apart(tmp_path, code):
    path = tmp_path / "ct.json"
    path.write_text(json.dumps(_circuit_tracer(code)))
    graph = read_neuronpedia(path)
    assert [n.feature for n in graph.nodes if n.kind == "feature"] == [3, 77]
    logit, token = graph.row("logit/1/9"), graph.row("token/0")
    zero, error = graph.row("layer 0/1/3"), graph.row("layer 3/1/error")
    assert graph.adjacency[logit, zero] == 4.0 and graph.adjacency[logit, error] == 5.0
    assert graph.adjacency[zero, token] == 1.0 and graph.adjacency[error].sum() == 0
    assert graph.nodes[logit].token == " dog" and graph.nodes[logit].prob == 0.7
    assert graph.meta["imported"]["ambiguous_links"] == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("links"),
        lambda c: c["links"].append({"source": "nowhere", "target": "0_3_1", "weight": 1}),
        lambda c: c["links"][0].update(weight=float("nan")),
        lambda c: c["nodes"][0].update(ctx_idx=9),
        lambda c: c["nodes"][0].update(layer="x"),
        lambda c: c["nodes"][0].update(ctx_idx=float("inf")),
        lambda c: c["nodes"][0].update(activation=float("nan")),
        lambda c: c["nodes"][0].update(cell=[1], feature_type="embedding"),
        lambda c: c["nodes"][0].update(clerp="\ud800"),
        lambda c: c["nodes"][-1].update(token_prob=float("inf")),
        lambda c: c["links"][0].update(weight=1e300),
        lambda c: c["links"][0].update(weight=10**400),
        lambda c: c["metadata"].update(prompt="\udc00"),
        lambda c: c.update(qParams={"zoom": float("nan")}),
        lambda c: c.update(nodes="no"),
    ],
)
def test_that_other_json_is_refused_with_a_sentence(tmp_path, damage):
    content = _circuit_tracer(cantor)
    damage(content)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(AuditorError):
        read_neuronpedia(tmp_path / "x.json")
