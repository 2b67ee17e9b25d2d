"""Nodes and edges broken in the real network, beside the graph's prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.analysis.circuits import AttributeConfig, attribute
from auditor.analysis.circuits.ablation import ablate_edge, ablate_node, faithfulness
from auditor.analysis.circuits.graph import top_nodes
from auditor.base.errors import AuditorError
from auditor.data.sample import text_sample

PROMPT = "The capital of Germany is"


@pytest.fixture(scope="module")
def graph(smollm2, saes):
    return attribute(smollm2, saes, PROMPT, AttributeConfig(max_logits=5))


def logits_of(model, edits=()):
    with torch.no_grad():
        return model.run(model.encode([text_sample(PROMPT)]), edits=edits).logits[0, -1]


def test_that_ablating_a_feature_is_what_subtracting_its_writing_does(graph, smollm2, saes):
    from auditor.models import AddDirection

    node = graph.node(top_nodes(graph, 1)[0])
    effect = ablate_node(smollm2, saes, PROMPT, graph, node.id)
    direction = saes[node.hook].W_dec[node.feature]
    after = logits_of(smollm2, [AddDirection(node.hook, direction, -node.activation, [node.position])])
    change = after - after.mean() - (logits_of(smollm2) - logits_of(smollm2).mean())
    ids = [n.token_id for n in graph.nodes if n.kind == "logit"]
    np.testing.assert_allclose(effect.true, change[ids], atol=2e-3)
    assert effect.outputs == [n.token for n in graph.nodes if n.kind == "logit"]
    assert effect.after[0][1] == pytest.approx(float(after.softmax(-1).max()), abs=1e-3)
    assert effect.kl > 0 and effect.before[0][0] == graph.nodes[-5].token


def test_that_the_linear_network_predicts_what_ablation_does(graph, smollm2, saes):
    result = faithfulness(smollm2, saes, PROMPT, graph, n=12, seed=3)
    assert result.linear.estimate > 0.5 and result.linear.n == 12
    assert result.linear.interval[0] < result.linear.estimate < result.linear.interval[1]
    last = [e for e in result.effects if graph.node(e.nodes[0]).layer == 3]
    for effect in last:  # no dictionary lies between the last one and the logits
        np.testing.assert_allclose(effect.predicted, effect.linear, rtol=1e-3, atol=1e-3)
    assert last and result.top.estimate > result.random.estimate
    again = faithfulness(smollm2, saes, PROMPT, graph, n=12, seed=3)
    assert again.correlation == result.correlation and again.p == result.p


def test_that_a_set_of_nodes_of_every_kind_falls_together(graph, smollm2, saes):
    error = max((n for n in graph.nodes if n.kind == "error" and n.position > 0), key=lambda n: n.layer)
    features = [
        n.id for n in graph.nodes if n.kind == "feature" and (n.layer, n.position) == (error.layer, error.position)
    ]
    everything = ablate_node(smollm2, saes, PROMPT, graph, [error.id, *features])
    from auditor.models import Patch

    left = saes[error.hook].b_dec  # all that the nodes do not hold
    after = logits_of(smollm2, [Patch(error.hook, left, [error.position])])
    change = after - after.mean() - (logits_of(smollm2) - logits_of(smollm2).mean())
    ids = [n.token_id for n in graph.nodes if n.kind == "logit"]
    np.testing.assert_allclose(everything.true, change[ids], atol=2e-3)
    token = ablate_node(smollm2, saes, PROMPT, graph, "token/4")
    assert token.kl > 0.1


def test_that_one_edge_can_be_cut(graph, smollm2, saes):
    rows = np.flatnonzero(graph.mask("feature"))
    top = [graph.row(i) for i in top_nodes(graph, 40) if graph.node(i).layer == 2]
    t = top[0]
    s = rows[np.argmax(np.abs(graph.adjacency[t, rows]))]
    effect = ablate_edge(smollm2, saes, PROMPT, graph, graph.nodes[s].id, graph.nodes[t].id)
    whole = ablate_node(smollm2, saes, PROMPT, graph, graph.nodes[t].id)
    assert effect.kl > 0
    share = min(graph.adjacency[t, s] / graph.nodes[t].activation, 1.0)
    np.testing.assert_allclose(effect.predicted, np.array(whole.predicted) * share, rtol=1e-3, atol=1e-5)


def test_that_what_cannot_be_ablated_is_refused(graph, smollm2, saes):
    logit, feature = graph.nodes[-1].id, top_nodes(graph, 1)[0]
    with pytest.raises(AuditorError, match="outcome"):
        ablate_node(smollm2, saes, PROMPT, graph, logit)
    with pytest.raises(AuditorError, match="no node"):
        ablate_node(smollm2, saes, PROMPT, graph, "nothing/1")
    with pytest.raises(AuditorError, match="another prompt"):
        ablate_node(smollm2, saes, "Another prompt", graph, feature)
    with pytest.raises(AuditorError, match="missing"):
        ablate_node(smollm2, [saes["blocks.7.resid_post"]], PROMPT, graph, feature)
    with pytest.raises(AuditorError, match="into a feature"):
        ablate_edge(smollm2, saes, PROMPT, graph, feature, logit)
