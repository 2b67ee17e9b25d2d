"""Inside the projector: its hidden layer and its output, against the library's own module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from auditor.data import PositionKind
from auditor.models import Ablate
from tests.models.tiny import ALL, opened

PROJECTORS = {
    "llava": "multi_modal_projector",
    "llava full": "multi_modal_projector",
    "llava with siglip": "multi_modal_projector",
    "llava_next": "multi_modal_projector",
    "llava_onevision": "multi_modal_projector",
    "internvl": "multi_modal_projector",
    "mistral3": "multi_modal_projector",
    "lighton_ocr": "vision_projection",
    "qwen2_vl": "visual.merger",
    "qwen2_5_vl": "visual.merger",
    "qwen3_vl": "visual.merger",
    "qwen3_5": "visual.merger",
}


def layers_of(projector: Any) -> list[nn.Linear]:
    """Its last two linear layers: before and after the activation function."""
    return [module for module in projector.modules() if isinstance(module, nn.Linear)][-2:]


@pytest.mark.parametrize("name", PROJECTORS)
def test_that_the_projectors_hidden_layer_gives_its_output_and_is_heard_of_behind_it(name: str) -> None:
    case = opened(ALL[name])
    record = ["projector.mlp_pre", "projector.mlp_hidden", "image_tokens"]
    inputs = case.model.encode(case.samples)
    run = case.model.run(inputs, record=record)
    pre, hidden, tokens = (run.rows(hook) for hook in record)
    assert pre.shape == hidden.shape and pre.shape[:2] == tokens.shape[:2] and hidden.abs().max() > 0
    first, last = layers_of(case.source.model.get_submodule(PROJECTORS[name]))
    assert (pre.shape[-1], tokens.shape[-1]) == (first.out_features, last.out_features)
    held = run.positions("image_tokens")
    assert torch.equal(run.positions("projector.mlp_pre").unit, held.unit)
    real = held.kind != int(PositionKind.PAD)
    with torch.no_grad():
        torch.testing.assert_close(last(hidden)[real], tokens[real], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(nn.functional.gelu(pre)[real], hidden[real], atol=1e-6, rtol=1e-6)
    edited = case.model.run(inputs, record=["image_tokens", "embed"], edits=[Ablate("projector.mlp_hidden")])
    assert torch.allclose(edited.rows("image_tokens")[real], last.bias if last.bias is not None else torch.zeros(()))
    assert not torch.equal(edited.records["embed"], case.model.run(inputs, record=["embed"]).records["embed"])
    alone = case.model.run(inputs, record=["projector.mlp_pre"], logits=False)
    assert torch.equal(alone.rows("projector.mlp_pre"), pre)


def test_that_paths_of_modules_lead_to_the_same_hook_points() -> None:
    points = opened(ALL["llava"]).model.hook_points
    assert points["model.multi_modal_projector.linear_1"].name == "projector.mlp_pre"
    assert points["model.multi_modal_projector.linear_2.input"].name == "projector.mlp_hidden"
    assert points["model.multi_modal_projector"].name == "image_tokens"
