"""Scores, pruning, prediction and the file of an attribution graph."""

from __future__ import annotations

import gzip
import json
import time

import numpy as np
import pytest

from auditor.analysis.circuits.graph import Graph, top_nodes
from auditor.analysis.circuits.layout import bands, layout
from auditor.analysis.circuits.prune import influence_held, random_circuit, share_threshold
from auditor.base.errors import AuditorError
from tests.analysis.graphs import random_graph
from tests.reference import graph_scores as reference


@pytest.mark.parametrize("seed", range(5))
def test_that_scores_equal_the_reference(seed):
    graph = random_graph(seed, positions=3 + seed, per_cell=2 + seed % 3)
    outputs = graph.output_weights.astype(float)
    replacement, completeness, error_share = reference.scores(graph.adjacency, graph.kinds, outputs)
    scores = graph.scores()
    assert scores.replacement == pytest.approx(replacement, abs=1e-5)
    assert scores.completeness == pytest.approx(completeness, abs=1e-5)
    assert scores.error_share == pytest.approx(error_share, abs=1e-5)
    expected, _ = reference.influence(graph.adjacency, outputs)
    np.testing.assert_allclose(graph.influence(), expected, atol=1e-5)


def test_that_a_graph_without_errors_scores_one():
    graph = random_graph(3, sparsity=0.0)
    clean = graph.subgraph(~graph.mask("error"))
    scores = clean.scores()
    assert (scores.replacement, scores.completeness, scores.error_share) == (1.0, pytest.approx(1.0), 0.0)


def test_that_share_threshold_equals_the_reference(seed=11):
    values = np.random.default_rng(seed).exponential(size=50)
    for share in (0.1, 0.5, 0.8, 0.98):
        assert share_threshold(values, share) == pytest.approx(reference.threshold(values, share))


@pytest.mark.parametrize("seed", range(4))
def test_that_pruning_ends_at_a_fixpoint_and_keeps_ends(seed):
    graph = random_graph(seed, positions=6, per_cell=6, sparsity=0.6)
    pruned = graph.prune(0.6, 0.9)
    inner = pruned.mask("feature", "error")
    assert 0 < inner.sum() < graph.mask("feature", "error").sum()
    assert (pruned.adjacency != 0).any(0)[inner].all()
    assert (pruned.adjacency != 0).any(1)[pruned.mask("feature")].all()
    for kind in ("token", "logit"):
        assert pruned.mask(kind).sum() == graph.mask(kind).sum()
    for t, s in zip(*np.nonzero(pruned.adjacency), strict=True):
        target, source = pruned.nodes[t].id, pruned.nodes[s].id
        assert pruned.adjacency[t, s] == graph.adjacency[graph.row(target), graph.row(source)]
    facts = pruned.meta["pruning"]
    assert facts["scores_before"] == vars(graph.scores()) and facts["scores_after"] == vars(pruned.scores())
    assert 0 < facts["influence_cut"] < 1 and 0 < facts["weight_cut"] < 1


def test_that_a_looser_threshold_keeps_more():
    graph = random_graph(2, positions=6, per_cell=6)
    sizes = [len(graph.prune(t, 0.98).nodes) for t in (0.4, 0.7, 0.9)]
    assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(AuditorError):
        graph.prune(0.0)


def test_that_a_random_circuit_of_equal_size_holds_less_influence():
    graph = random_graph(5, positions=6, per_cell=8)
    pruned = graph.prune(0.5, 0.95)
    null = random_circuit(graph, pruned, seed=1)
    assert len(null.nodes) == len(pruned.nodes)
    assert influence_held(graph, null) < influence_held(graph, pruned)


def test_that_response_is_the_exact_derivative_of_the_linear_graph():
    graph = random_graph(7)
    source = top_nodes(graph, 1)[0]
    delta = graph.response({source: -0.5})
    # Reference: run the linear graph forward with the source at half strength.
    level = np.array([n.activation for n in graph.nodes])
    start = level.copy()
    level[graph.row(source)] *= 0.5
    for depth in range(graph.node(source).layer + 1, graph.n_layers):
        for t, node in enumerate(graph.nodes):
            if node.layer == depth and node.kind in ("feature", "logit"):
                level[t] = start[t] + sum(graph.adjacency[t, s] * (level[s] / start[s] - 1) for s in range(len(level)))
    logits = graph.mask("logit")
    np.testing.assert_allclose(delta[logits], (level - start)[logits], atol=1e-4)
    assert np.abs(delta[logits]).max() > 0


def test_that_removing_all_sources_removes_the_values():
    graph = random_graph(8)
    change = {n.id: -1.0 for n in graph.nodes if n.kind != "logit"}
    delta = graph.response(change)
    logits = graph.mask("logit")
    np.testing.assert_allclose(delta[logits], -(graph.value - graph.bias)[logits], atol=1e-5)


def test_that_a_graph_file_round_trips_and_is_deterministic(tmp_path):
    graph = random_graph(9).prune(0.8)
    first = graph.save(tmp_path / "a.graph.json.gz").read_bytes()
    again = Graph.load(tmp_path / "a.graph.json.gz")
    assert again.nodes == graph.nodes and again.tokens == graph.tokens and again.meta == graph.meta
    for name in ("adjacency", "value", "bias"):
        np.testing.assert_array_equal(getattr(again, name), getattr(graph, name))
    assert again.save(tmp_path / "b.graph.json.gz").read_bytes() == first


def _broken(graph, tmp_path, change):
    path = graph.save(tmp_path / "x.graph.json.gz")
    content = json.loads(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(format="other"),
        lambda c: c.update(version=2),
        lambda c: c["nodes"].pop(),
        lambda c: c["nodes"][0].update(kind="evil"),
        lambda c: c["nodes"][0].update(layer=-4),
        lambda c: c["nodes"][0].update(layer=1 << 23),
        lambda c: c["nodes"][0].update(layer=True),
        lambda c: c["nodes"][0].update(position=len(c["tokens"])),
        lambda c: c["nodes"][0].update(id=c["nodes"][1]["id"]),
        lambda c: c["nodes"][0].update(id=["a", "list"]),
        lambda c: c["nodes"][0].update(activation="strong"),
        lambda c: c["nodes"][0].update(activation=float("nan")),
        lambda c: c["nodes"][0].update(prob=float("inf")),
        lambda c: c["nodes"][0].update(feature=1.5),
        lambda c: c["nodes"][0].update(cell=[1]),
        lambda c: c["nodes"][0].update(cell=[1, "2"]),
        lambda c: c["nodes"][0].update(token=None),
        lambda c: c["edges"].update(targets="!!"),
        lambda c: c.update(value=""),
        lambda c: c.pop("bias"),
    ],
)
def test_that_a_damaged_file_is_refused_with_a_sentence(tmp_path, change):
    with pytest.raises(AuditorError):
        Graph.load(_broken(random_graph(1), tmp_path, change))


def test_that_half_a_file_is_refused(tmp_path):
    path = random_graph(1).save(tmp_path / "x.graph.json.gz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(AuditorError):
        Graph.load(path)


def test_that_layout_has_no_overlap_and_follows_position_and_depth():
    graph = random_graph(4, positions=7, per_cell=21)
    spots = layout(graph)
    gap = np.abs(spots[:, None] - spots[None]).max(-1) + 9 * np.eye(len(spots))
    assert gap.min() > 0.999
    columns, layers = bands(graph, spots)
    assert (np.diff(columns, axis=0) > 0).all() and (columns[1:, 0] > columns[:-1, 1]).all()
    assert (layers[1:, 0] > layers[:-1, 1]).all()
    for node, (x, y) in zip(graph.nodes, spots, strict=True):
        assert columns[node.position, 0] <= x <= columns[node.position, 1]
        assert layers[node.layer, 0] <= y <= layers[node.layer, 1]


def _edge_length(graph, spots):
    t, s = np.nonzero(graph.adjacency)
    return (np.abs(graph.adjacency[t, s]) * np.abs(spots[t, 0] - spots[s, 0])).sum()


def test_that_layout_brings_neighbours_nearer_than_the_given_order():
    graph = random_graph(6, positions=3, per_cell=8, sparsity=0.9)
    spots = layout(graph)
    shuffled = spots.copy()
    generator = np.random.default_rng(0)
    cell = np.array([n.layer * 10 + n.position for n in graph.nodes])
    for c in np.unique(cell):
        rows = np.flatnonzero(cell == c)
        shuffled[rows] = spots[generator.permutation(rows)]
    assert _edge_length(graph, spots) < _edge_length(graph, shuffled)


def test_that_layout_of_two_thousand_nodes_is_quick():
    graph = random_graph(0, positions=20, hooks=3, per_cell=32)
    assert len(graph.nodes) >= 2000
    times = []
    for _ in range(5):
        start = time.thread_time()  # of this thread: other programs' work does not count
        layout(graph)
        times.append(time.thread_time() - start)
    assert min(times) < 0.05
