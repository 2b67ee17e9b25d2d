"""Llama 4's mixture: what is left without experts, and what one that reads twice as much gives."""

from __future__ import annotations

import torch

from tests.models.checks import Changed
from tests.models.tiny import ALL, opened


def test_that_without_weights_the_mlp_beside_the_experts_is_left() -> None:
    case = opened(ALL["llama4_text"])
    inputs = case.model.encode(case.samples)
    edits = [Changed("blocks.2.expert_weights", lambda x: 0 * x)]
    run = case.model.run(inputs, record=["blocks.2.resid_mid", "blocks.2.mlp_out"], edits=edits)
    layer = case.source.model.layers[2]
    with torch.no_grad():
        told = layer.feed_forward.shared_expert(layer.post_attention_layernorm(run.records["blocks.2.resid_mid"]))
    torch.testing.assert_close(run.records["blocks.2.mlp_out"], told, atol=1e-5, rtol=1e-5)


def test_that_weights_are_the_sigmoids_of_the_chosen_logits_and_multiply_what_experts_read() -> None:
    case = opened(ALL["llama4_text"])
    inputs = case.model.encode(case.samples[:1])
    names = ["blocks.0.resid_mid", "blocks.0.router", "blocks.0.expert_weights", "blocks.0.mlp_out"]
    middle, logits, weights, out = (case.model.run(inputs, record=names).records[name] for name in names)
    chosen = weights != 0
    assert (chosen.sum(-1) == 2).all()
    torch.testing.assert_close(weights, torch.sigmoid(logits) * chosen)
    layer, expected = case.source.model.layers[0], []
    with torch.no_grad():
        for x, weight in zip(layer.post_attention_layernorm(middle)[0], weights[0], strict=True):
            read = weight[:, None] * x
            expected.append(layer.feed_forward.shared_expert(x) + layer.feed_forward.experts(read).sum(0))
    torch.testing.assert_close(out[0], torch.stack(expected), atol=1e-4, rtol=1e-4)
