"""Tiny networks that edits are tested on, and what must be as before when a run is over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from auditor.data import text_sample
from auditor.models import Edit, Inputs, Model
from tests.models.tiny import ALL, opened

# Norms of both kinds, before and after what they norm; gated and plain MLPs; in turn and side by side; fused
# projections, grouped keys, biases, a mixture of experts.
PLAIN = ("llama", "qwen2", "qwen3", "gemma2", "olmo2", "gpt2", "gpt_neox", "gpt_neox in turn", "phi", "phi3", "bloom",
         "opt", "mixtral")  # fmt: skip
TEXT = "one two red cat sat three"


def network(name: str) -> Model:
    return opened(ALL[name]).model


def inputs_of(model: Model, *texts: str) -> Inputs:
    return model.encode([text_sample(text) for text in texts or (TEXT,)])


def left(module: nn.Module) -> dict[str, Any]:
    """Hooks, exchanged methods and objects of parameters by module, and how attention is computed."""
    found: dict[str, Any] = {}
    for path, held in module.named_modules():
        hooks = (held._forward_hooks, held._forward_pre_hooks, held._backward_hooks)
        found[path] = (
            [len(h) for h in hooks],
            "forward" in held.__dict__,
            {n: id(p) for n, p in held._parameters.items()},
        )
        if (config := getattr(held, "config", None)) is not None:
            found[f"{path} attention"] = getattr(config, "_attn_implementation", None)
    return found


class See(Edit):
    """Keeps what a hook point holds after the edits before it."""

    x: Tensor

    def apply(self, x: Tensor) -> Tensor:
        self.x = x.clone()
        return x


class Fail(Edit):
    def apply(self, x: Tensor) -> Tensor:
        raise RuntimeError("deliberate")


def logits_of(model: Model, inputs: Inputs, *edits: Edit) -> Tensor:
    with torch.no_grad():
        logits = model.run(inputs, edits=edits).logits
    assert logits is not None
    return logits


def head_columns(model: Model, hook: str, head: int) -> list[int]:
    point = model.hook_points[hook]
    size = point.width // point.heads
    return list(range(head * size, (head + 1) * size))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance` of the largest value."""
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max().clamp(min=1e-6)))
