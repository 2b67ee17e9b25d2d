"""Gemma 4: what its blocks multiply, heads of two sizes, a mixture beside an MLP, and pictures of any shape."""

from __future__ import annotations

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.models.edits import CutEdge
from auditor.models.edits.wiring import wiring_of
from tests.models.checks import Changed
from tests.models.edits.networks import inputs_of, network


@pytest.mark.parametrize(
    ("name", "last"), [("gemma4_text", 3), ("gemma4_unified_text", 2), ("granite", 2), ("llama", 2)]
)
def test_that_a_unit_is_scaled_on_its_way_as_the_network_scales_it(name: str, last: int) -> None:
    model = network(name)
    wiring, end = wiring_of(model, inputs_of(model)), f"blocks.{last}.resid_post"
    sites = ("attn_out", "mlp_out", "per_layer_out", "resid_pre", "resid_mid", "resid_post")
    hooks = ["embed", *(f"blocks.{number}.{site}" for number in (0, 1) for site in sites)]
    told = [model.scaled(hook) for hook in hooks if hook in model.hook_points]
    measured = [wiring.way(hook, end) for hook in hooks if hook in model.hook_points]
    assert [way.factor for way in measured if way is not None] == pytest.approx(told, rel=1e-4)
    assert (set(told) == {1.0}) == (name == "llama")


def test_that_blocks_have_heads_of_two_sizes() -> None:
    points = network("gemma4_text mixture").hook_points
    found = [points[f"blocks.{number}.{site}"] for number in (0, 1) for site in "qkvz"]
    assert [(point.width, point.heads) for point in found] == [
        (32, 4), (16, 2), (16, 2), (32, 4), (48, 4), (12, 1), (12, 1), (48, 4),
    ]  # fmt: skip


def test_that_values_are_made_of_what_keys_are_made_of() -> None:
    model = network("gemma4_text mixture")
    inputs, names = inputs_of(model), ["blocks.0.v", "blocks.1.v"]
    for number, moved in ((0, False), (1, True)):
        change = Changed(f"blocks.{number}.k", lambda x: x.flip(-1))
        clean, edited = (model.run(inputs, record=names, edits=edits).records for edits in ([], [change]))
        assert torch.equal(clean[names[number]], edited[names[number]]) != moved


def test_that_an_edge_into_a_mixture_beside_an_mlp_is_told_part_by_part() -> None:
    model = network("gemma4_text mixture")
    with pytest.raises(AuditorError, match="its MLP, its router and its experts"):
        model.run(inputs_of(model), edits=[CutEdge("blocks.0.mlp_out", "blocks.1.mlp")])
    name = "blocks.1.mlp_pre"
    clean = model.run(inputs_of(model), record=[name]).rows(name)
    every = ["embed", "blocks.0.attn_out", "blocks.0.mlp_out", "blocks.1.attn_out"]
    seen: list[torch.Tensor] = []
    edits = [*(CutEdge(source, name) for source in every), Changed(name, lambda x: (seen.append(x.clone()), x)[1])]
    model.run(inputs_of(model), edits=edits)
    assert float(seen[0].abs().max()) < 1e-4 < 1e-1 < float(clean.abs().max())


def test_that_attention_whose_values_are_normed_is_cut_off_as_a_whole() -> None:
    model, target = network("gemma4_unified_text"), "blocks.2.attn_out"
    inputs, source, layer = inputs_of(model), "blocks.0.mlp_out", model.network.model.layers[2]
    clean = model.run(inputs, record=[source, "blocks.2.resid_pre", target])
    cut = model.run(inputs, record=[target], edits=[CutEdge(source, "blocks.2.attn")]).rows(target)
    r, c = clean.rows("blocks.2.resid_pre"), 0.75 * clean.rows(source)  # the factor of block 1
    share = c * torch.rsqrt(r.square().mean(-1, keepdim=True) + 1e-6) * layer.input_layernorm.weight
    handle = layer.self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "hidden_states": kwargs["hidden_states"] - share}), with_kwargs=True
    )
    try:
        told = model.run(inputs, record=[target]).rows(target)
    finally:
        handle.remove()
    torch.testing.assert_close(cut, told, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(cut, clean.rows(target), atol=1e-2)
    with pytest.raises(AuditorError, match="does not read the residual stream"):
        model.run(inputs, edits=[CutEdge(source, "blocks.2.v")])
