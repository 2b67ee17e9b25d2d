"""Linearised runs on SmolLM2's real weights."""

from __future__ import annotations

import pytest
import torch

from auditor.data import text_sample
from auditor.models import Ablate, Model


def test_that_relevance_is_conserved_from_the_embeddings_to_every_top_logit(smollm2: Model) -> None:
    inputs = smollm2.encode([text_sample("The capital of France is")])
    with smollm2.linearised():
        run = smollm2.run(inputs, record=["embed", "blocks.12.resid_post"], grad=True)
    assert run.logits is not None
    logits = run.logits[0, -1]
    for token in logits.topk(3).indices.tolist():
        for name, tensor in run.records.items():
            gradient = torch.autograd.grad(logits[token], tensor, retain_graph=True)[0]
            total = float((gradient * tensor).sum().detach())
            assert total == pytest.approx(float(logits[token].detach()), abs=2e-3), (name, token)


def test_that_a_linearised_run_has_the_values_of_a_plain_one_and_leaves_no_trace(smollm2: Model) -> None:
    inputs = smollm2.encode([text_sample("Two plus two equals")])
    record = ["blocks.29.resid_post"]
    plain = smollm2.run(inputs, record=record, logits=False).records[record[0]]
    with smollm2.linearised():
        linear = smollm2.run(inputs, record=record, logits=False).records[record[0]]
        inside = [m for m in smollm2.network.modules() if "forward" in m.__dict__]
    after = smollm2.run(inputs, record=record, logits=False).records[record[0]]
    # One float32 rounding apart at most, seen against the largest activation.
    assert float((linear - plain).abs().max()) <= 1e-5 * float(plain.abs().max())
    assert torch.equal(plain, after) and not inside


def test_that_the_local_map_is_linear_in_what_is_written_to_the_stream(tiny_llama: Model) -> None:
    """Gradients of a linearised run do not change when a value far from zero is scaled."""
    inputs = tiny_llama.encode([text_sample("The capital of France is")])
    gradients = []
    with tiny_llama.linearised():
        for edits in ([], [Ablate("blocks.1.mlp_out", positions=[1])]):
            run = tiny_llama.run(inputs, record=["blocks.1.attn_out"], edits=edits, grad=True)
            assert run.logits is not None
            gradients.append(torch.autograd.grad(run.logits[0, -1, 7], run.records["blocks.1.attn_out"])[0])
    # The last token's logit of a last block does not depend on another position's MLP.
    torch.testing.assert_close(gradients[0], gradients[1])
