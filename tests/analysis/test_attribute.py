"""Attribution graphs of SmolLM2 with real weights: no mass is missing, and edges are what they claim to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.analysis.circuits import AttributeConfig, attribute
from auditor.analysis.circuits.graph import Graph
from auditor.analysis.circuits.linear import trace
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import text_sample
from auditor.models import open_model
from auditor.sae import Sae
from tests.analysis.dictionaries import activation_dictionary
from tests.models.tiny import ALL, opened
from tests.reference import linear_llama

PROMPT = "The capital of Germany is"


@pytest.fixture(scope="module")
def graph(smollm2, saes):
    return attribute(smollm2, saes, PROMPT, labels=lambda hook, feature: f"{hook}#{feature}")


def assert_conserved(graph):
    rows = graph.mask("feature", "logit")
    scale = np.abs(graph.adjacency).sum(1)[rows] + np.abs(graph.value[rows])
    assert np.abs(graph.missing()[rows] / scale).max() < 2e-5


def test_that_every_target_is_the_sum_of_its_incoming_edges(graph):
    assert_conserved(graph)
    assert (graph.adjacency[graph.mask("error", "token")] == 0).all()


def test_that_values_are_those_of_the_model(graph, smollm2, saes):
    inputs = smollm2.encode([text_sample(PROMPT)])
    run = smollm2.run(inputs, record=list(saes))
    logits = run.logits[0, -1]
    for node in graph.nodes:
        row = graph.index[node.id]
        if node.kind == "feature":
            x, sae = run.rows(node.hook)[0, node.position], saes[node.hook]
            assert graph.value[row] == pytest.approx(float(x @ sae.W_enc[:, node.feature]), rel=1e-3, abs=0.02)
            assert node.activation == pytest.approx(float(sae.encode(x)[node.feature]), rel=1e-3, abs=0.02)
            assert node.label == f"{node.hook}#{node.feature}"
        elif node.kind == "logit":
            assert graph.value[row] == pytest.approx(float(logits[node.token_id] - logits.mean()), rel=1e-3, abs=0.01)
            assert node.prob == pytest.approx(float(logits.softmax(-1)[node.token_id]), abs=1e-3)
    assert " Berlin" in [n.token for n in graph.nodes if n.kind == "logit"]
    assert graph.tokens == smollm2.token_strings(inputs.ids[0])


def test_that_the_graph_is_layered_and_causal(graph):
    for t, s in zip(*np.nonzero(graph.adjacency), strict=True):
        target, source = graph.nodes[t], graph.nodes[s]
        assert target.layer == source.layer + 1 and target.position >= source.position
    scores = graph.scores()
    assert 0 < scores.replacement < 1 and 0 < scores.completeness < 1 and 0 < scores.error_share < 1


def test_that_features_beyond_the_limit_go_into_errors_and_nothing_is_lost(graph, smollm2, saes):
    few = attribute(smollm2, saes, PROMPT, AttributeConfig(max_features=25))
    assert few.mask("feature").sum() == 25
    assert sum(few.meta["fired"].values()) == graph.mask("feature").sum()
    assert_conserved(few)
    # An edge between nodes that both graphs have does not depend on what was left out.
    shared = [n.id for n in few.nodes if n.kind in ("feature", "token", "logit")]
    pick = [graph.index[i] for i in shared], [few.index[i] for i in shared]
    big, small = graph.adjacency[np.ix_(pick[0], pick[0])], few.adjacency[np.ix_(pick[1], pick[1])]
    np.testing.assert_allclose(small, big, rtol=1e-3, atol=1e-3 * np.abs(big).max())
    # The selection is better than chance at holding influence.
    influence, feature = graph.influence(), graph.mask("feature")
    kept = np.array([n.id in few.index for n in graph.nodes]) & feature
    assert influence[kept].mean() > 2 * influence[feature].mean()


def test_that_edges_equal_a_numpy_block_with_frozen_patterns_norms_and_gates(smollm2):
    """Two dictionaries one block apart: what a feature or an error writes, sent through the block by hand."""
    low, high = (activation_dictionary(smollm2, f"blocks.{n}.resid_post", seed=n) for n in (8, 9))
    graph = attribute(smollm2, [low, high], PROMPT)
    x = smollm2.run(smollm2.encode([text_sample(PROMPT)]), record=[low.hook]).rows(low.hook)[0]
    z = low.encode(x)
    error = (x - low.decode(z)).numpy()
    block, config = smollm2.network.get_submodule("model.layers.9"), smollm2.network.config
    weights = {name.split(".")[-2]: p.detach().numpy() for name, p in block.named_parameters()}
    facts = {"heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads, "eps": config.rms_norm_eps}
    theta = config.rope_parameters["rope_theta"]
    sources = [n for n in graph.nodes if n.layer == 1 and n.position in (1, 3)][::4]
    assert {n.kind for n in sources} == {"feature", "error"}
    for source in sources:
        change = np.zeros(x.shape)
        if source.kind == "error":
            change[source.position] = error[source.position]
        else:
            change[source.position] = source.activation * low.W_dec[source.feature].numpy()
        out = linear_llama.block_map(weights, x.double().numpy(), change, theta=theta, **facts)
        for target in [n for n in graph.nodes if n.layer == 2 and n.kind == "feature"]:
            expected = out[target.position] @ high.W_enc[:, target.feature].numpy()
            edge = graph.adjacency[graph.index[target.id], graph.index[source.id]]
            assert edge == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("arch", ["topk", "relu"])
def test_that_one_dictionary_is_enough(smollm2, arch):
    sae = activation_dictionary(smollm2, "blocks.10.resid_mid", seed=5, arch=arch)
    graph = attribute(smollm2, [sae], "Two plus two is", AttributeConfig(max_logits=3))
    assert graph.n_layers == 3 and graph.mask("feature").any()
    assert_conserved(graph)


def test_that_named_tokens_and_an_earlier_position_are_explained(smollm2, saes):
    config = AttributeConfig(targets=(" of", " is"), position=1)
    graph = attribute(smollm2, saes, PROMPT, config)
    assert [n.token for n in graph.nodes if n.kind == "logit"] == [" of", " is"]
    assert max(n.position for n in graph.nodes) == 1 and len(graph.tokens) == 2
    assert_conserved(graph)


def test_that_tracing_twice_gives_the_same_file(graph, smollm2, saes, tmp_path):
    again = attribute(smollm2, saes, PROMPT, labels=lambda hook, feature: f"{hook}#{feature}")
    first, second = graph.save(tmp_path / "a.graph.json.gz"), again.save(tmp_path / "b.graph.json.gz")
    assert first.read_bytes() == second.read_bytes()
    assert Graph.load(first).meta == graph.meta


def test_that_progress_is_told_in_targets(smollm2, saes):
    class Listener(Reporter):
        seen: list[tuple[int, int]] = []

        def step(self, done, total=0, note="", unit=""):
            self.seen.append((done, total))

    graph = attribute(smollm2, saes, "Hello there", AttributeConfig(batch_size=16), Listener())
    expected = int(graph.mask("feature", "logit").sum())
    assert Listener.seen[-1] == (expected, expected)


def test_that_wrong_input_is_refused_with_a_sentence(smollm2, saes):
    good = saes["blocks.7.resid_post"]
    with pytest.raises(AuditorError, match="empty"):
        attribute(smollm2, saes, "  ")
    with pytest.raises(AuditorError, match="at least one dictionary"):
        attribute(smollm2, [], PROMPT)
    with pytest.raises(AuditorError, match="does not cut"):
        attribute(smollm2, {"blocks.3.mlp_out": good}, PROMPT)
    with pytest.raises(AuditorError, match="no hook point"):
        attribute(smollm2, {"blocks.99.resid_post": good}, PROMPT)
    with pytest.raises(AuditorError, match="Two dictionaries"):
        attribute(smollm2, [good, good], PROMPT)
    with pytest.raises(AuditorError, match="not one"):
        attribute(smollm2, [good], PROMPT, AttributeConfig(targets=(" antidisestablishmentarianism",)))
    with pytest.raises(AuditorError, match="Position 40"):
        attribute(smollm2, [good], PROMPT, AttributeConfig(position=40))


def random_dictionary(model, hook):
    width, generator = model.hook_points[hook].width, torch.Generator().manual_seed(3)
    decoder = torch.nn.functional.normalize(torch.randn(16, width, generator=generator), dim=1)
    zeros = torch.zeros(16), torch.zeros(width)
    return Sae(W_enc=decoder.T.contiguous(), W_dec=decoder, b_enc=zeros[0], b_dec=zeros[1], hook=hook, arch="topk", k=4)


def tiny(name, folder):
    ALL[name].save(folder)
    return open_model(folder)


def test_that_streams_side_by_side_are_cut_together_or_not_at_all(tmp_path):
    model, prompt = tiny("gemma3n_text", tmp_path), "one two red cat sat"
    assert_conserved(attribute(model, [random_dictionary(model, "blocks.0.streams_post")], prompt))
    with pytest.raises(AuditorError, match="one of several streams"):
        attribute(model, [random_dictionary(model, "blocks.0.resid_post")], prompt)
    # The last block reads keys and values of block 1.
    with pytest.raises(AuditorError, match="keys and values of block 1, which pass by it"):
        attribute(model, [random_dictionary(model, "blocks.1.streams_post")], prompt)


def test_that_no_cut_is_made_where_keys_and_values_pass_by_it(tmp_path):
    model, prompt = tiny("gemma4_text", tmp_path), "one two red cat sat"
    ways = {hook: model.beyond(hook) for hook in model.hook_points if hook.endswith(("resid_pre", "resid_post"))}
    assert [hook for hook, way in ways.items() if not way] == ["blocks.0.resid_pre", "blocks.3.resid_post"]
    both = [random_dictionary(model, "blocks.0.resid_pre"), random_dictionary(model, "blocks.3.resid_post")]
    assert_conserved(attribute(model, both, prompt))
    with pytest.raises(AuditorError, match="does not cut all"):
        attribute(model, [random_dictionary(model, "blocks.2.resid_pre")], prompt)


def test_that_a_prompt_with_a_sound_is_traced_whole():
    case = opened(ALL["gemma3n"])
    heard = next(sample for sample in case.samples if sample.audio is not None and sample.text)
    run = trace(case.model, ["blocks.0.streams_post"], heard)
    assert run.inputs.mask.shape[1] > 8 and run.prefix(1) is run


def test_that_leaving_out_later_positions_changes_no_edge(smollm2, saes, monkeypatch):
    from auditor.analysis.circuits import linear

    text = "One two three four five six seven eight nine ten eleven twelve"
    sae, config = saes["blocks.7.resid_post"], AttributeConfig(batch_size=8, max_logits=2, max_features=40)
    short = attribute(smollm2, [sae], text, config)
    monkeypatch.setattr(linear, "_PREFIX_STEP", 1000)
    whole = attribute(smollm2, [sae], text, config)
    assert len(whole.tokens) > 8 and [n.id for n in short.nodes] == [n.id for n in whole.nodes]
    limit = 1e-5 * np.abs(whole.adjacency).max()
    np.testing.assert_allclose(short.adjacency, whole.adjacency, rtol=1e-3, atol=limit)
    assert_conserved(short)
