"""Weights edited on a copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.models.edits import EditWeight
from auditor.models.edits.weight import parsed_index
from tests.models.edits.networks import inputs_of, left, logits_of, network

OUT = "model.layers.1.self_attn.o_proj.weight"


@pytest.mark.parametrize(
    ("change", "index"),
    [("set", (3,)), ("scale", ()), ("add", (slice(None), 5)), ("scale", (slice(2, 9), slice(0, 4)))],
)
def test_that_an_indexed_change_is_that_of_numpy(change: str, index: tuple) -> None:
    model = network("llama")
    inputs, state = inputs_of(model), left(model.network)
    run = model.run(inputs, edits=[EditWeight(OUT, change, -0.7, index)], record=["blocks.1.z", "blocks.1.attn_out"])  # type: ignore[arg-type]
    own = model.network.get_submodule("model.layers.1.self_attn.o_proj").weight
    weight = own.numpy().copy()
    weight[index] = {"set": np.float32(-0.7), "scale": weight[index] * -0.7, "add": weight[index] - 0.7}[change]
    expected = run.rows("blocks.1.z").numpy() @ weight.T
    np.testing.assert_allclose(run.rows("blocks.1.attn_out").numpy(), expected, rtol=1e-4, atol=1e-4)
    assert left(model.network) == state


def test_that_low_rank_changes_compose_in_order() -> None:
    model = network("llama")
    inputs, generator = inputs_of(model), torch.Generator().manual_seed(2)
    left_, right = torch.randn(32, 2, generator=generator), torch.randn(2, 32, generator=generator)
    both = [EditWeight(OUT, amount=0.5, left=left_, right=right), EditWeight(OUT, "scale", 2.0)]
    run = model.run(inputs, edits=both, record=["blocks.1.z", "blocks.1.attn_out"])
    weight = model.network.get_submodule("model.layers.1.self_attn.o_proj").weight
    expected = run.rows("blocks.1.z") @ (2 * (weight + 0.5 * left_ @ right)).T
    torch.testing.assert_close(run.rows("blocks.1.attn_out"), expected, atol=1e-4, rtol=1e-4)


def test_that_tied_weights_change_together_and_come_back() -> None:
    model = network("gpt2")
    head, embedding = model.network.get_submodule("lm_head"), model.network.get_submodule("transformer.wte")
    assert head.weight is embedding.weight
    inputs, before = inputs_of(model), logits_of(model, inputs_of(model))
    run = model.run(inputs, edits=[EditWeight("lm_head.weight", "scale", 0.0)], record=["embed"])
    assert run.logits is not None and not run.logits.any()
    positions = model.network.get_submodule("transformer.wpe").weight[: run.rows("embed").shape[1]]
    torch.testing.assert_close(run.rows("embed")[0], positions)
    assert head.weight is embedding.weight and torch.equal(logits_of(model, inputs), before)


def test_that_gradients_reach_the_amount() -> None:
    model = network("llama")
    inputs, amount = inputs_of(model), torch.zeros((), requires_grad=True)
    ones = torch.ones(32, 1), torch.ones(1, 32)
    run = model.run(inputs, edits=[EditWeight(OUT, amount=amount, left=ones[0], right=ones[1])], grad=True)
    assert run.logits is not None
    slope = torch.autograd.grad(run.logits[0, -1, 3], amount)[0]
    sides = [
        logits_of(model, inputs, EditWeight(OUT, amount=s, left=ones[0], right=ones[1]))[0, -1, 3]
        for s in (1e-2, -1e-2)
    ]
    torch.testing.assert_close(slope, (sides[0] - sides[1]) / 2e-2, atol=2e-2, rtol=2e-2)


def test_that_the_control_is_as_long_and_in_the_same_place() -> None:
    model = network("llama")
    weight = model.network.get_submodule("model.layers.1.self_attn.o_proj").weight
    edit = EditWeight(OUT, "set", 0.0, (4,))
    drawn = edit.control([3]).changed(weight) - weight
    own = edit.changed(weight) - weight
    torch.testing.assert_close(drawn.norm(), own.norm())
    assert not drawn[[0, 1, 5]].any() and drawn[4].any()
    torch.testing.assert_close(edit.control([3]).changed(weight) - weight, drawn)


def test_that_bad_weights_are_told() -> None:
    model = network("llama")
    for edit, said in (
        (EditWeight("model.layers.1.self_attn.oproj.weight"), "has no weight"),
        (EditWeight(OUT, index=(99,)), "is not an index"),
        (EditWeight(OUT, left=torch.ones(3, 1), right=torch.ones(1, 32)), r"\[3, 32\]"),
    ):
        with pytest.raises(AuditorError, match=said):
            model.run(inputs_of(model), edits=[edit])
    with pytest.raises(AuditorError, match="both of its factors"):
        EditWeight(OUT, left=torch.ones(3, 1))
    assert parsed_index("3,:") == (3, slice(None)) and parsed_index("0:16, -1") == (slice(0, 16), -1)
    assert parsed_index("") == ()
    for text in ("a", "1,,2", "1:2:3"):
        with pytest.raises(AuditorError, match="not an index"):
            parsed_index(text)
