"""A linearised run: forward values as they are, gradients of the network with its non-linear parts held fixed.

Attention patterns are constants (queries and keys are detached), denominators of norms are constants, an activation
act(x) counts as x times the constant act(x)/x, and a product of two activations passes half of its value to each.
The network is then linear in the residual stream, as in layer-wise relevance propagation for transformers (Achtibat
et al. 2024, AttnLRP) and in attribution graphs (Ameisen et al. 2025): without biases, embeddings times the gradient
of a logit sum to that logit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from auditor.models.hook_points import Part

Make = Callable[[nn.Module, Any], Callable[..., Any]]


@dataclass(frozen=True)
class LinearPart:
    """The module at `path` gets the forward method that `make(module, argument)` gives, during a linearised run."""

    path: str
    make: Make
    argument: Any = None


@contextlib.contextmanager
def linear_parts_in_place(network: nn.Module, parts: Sequence[LinearPart]) -> Iterator[None]:
    """The network with `parts` exchanged; put back on leaving, whatever happens."""
    changed: list[nn.Module] = []
    try:
        for part in parts:
            module = network.get_submodule(part.path)
            changed.append(module)
            # An instance attribute hides the class's forward and leaves every other instance alone.
            module.forward = MethodType(part.make(module, part.argument), module)
        yield
    finally:
        for module in changed:
            module.__dict__.pop("forward", None)


def secant(x: Tensor, value: Tensor) -> Tensor:
    """`value` = act(x), with the gradient act(x)/x in x; the slope is 0 where x is too small to divide by."""
    slope = torch.where(x.abs() > 1e-12, value / x, torch.zeros_like(x)).detach()
    return value.detach() + slope * (x - x.detach())


def shared_product(left: Tensor, right: Tensor) -> Tensor:
    """left · right, with half of its gradient to each factor (the half rule)."""
    product: Tensor = 0.5 * (left * right.detach() + left.detach() * right)
    return product


def rms_norm(module: nn.Module, argument: Any) -> Callable[..., Tensor]:
    """Llama's RMS norm with its denominator held fixed; the same operations in the same order."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        dtype = hidden_states.dtype
        x = hidden_states.to(torch.float32)
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).detach()
        result: Tensor = self.weight * (x * scale).to(dtype)
        return result

    return forward


def layer_norm(module: nn.Module, argument: Any) -> Callable[..., Tensor]:
    """Layer norm with its denominator held fixed; the values are the module's own. `argument`, if any, is added to the
    weight (Nemotron)."""
    original = type(module).forward
    eps = next((float(getattr(module, name)) for name in ("eps", "variance_epsilon") if hasattr(module, name)), 1e-5)

    def forward(self: Any, x: Tensor) -> Tensor:
        value: Tensor = original(self, x)
        scale = torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + eps).detach()
        linear: Tensor = (x - x.mean(-1, keepdim=True)) * scale
        weight = getattr(self, "weight", None)
        if weight is not None:
            linear = linear * (weight if argument is None else weight + argument)
        return value.detach() + (linear - linear.detach())

    return forward


def gated_mlp(module: nn.Module, argument: Any) -> Callable[..., Tensor]:
    """Llama's MLP: secant at the gate's activation, half rule at gate times up."""

    def forward(self: Any, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        opened = secant(gate, self.act_fn(gate))
        result: Tensor = self.down_proj(shared_product(opened, self.up_proj(x)))
        return result

    return forward


def packed_gated_mlp(module: nn.Module, argument: Any) -> Callable[..., Tensor]:
    """Phi-3's MLP, gate and up in one projection; as `gated_mlp`."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        result: Tensor = self.down_proj(shared_product(up, secant(gate, self.activation_fn(gate))))
        return result

    return forward


def activation(module: nn.Module, argument: Any) -> Callable[..., Tensor]:
    """An element-wise activation by its secant. So is any RMS norm with its denominator held fixed."""
    original = type(module).forward

    def forward(self: Any, x: Tensor) -> Tensor:
        return secant(x, original(self, x))

    return forward


def constant(module: nn.Module, argument: Any) -> Callable[..., Tensor]:
    """A module whose output counts as a constant: projections to queries and keys."""
    original = type(module).forward

    def forward(self: Any, x: Tensor) -> Tensor:
        value: Tensor = original(self, x)
        return value.detach()

    return forward


def constant_parts(module: nn.Module, argument: Sequence[Part]) -> Callable[..., Tensor]:
    """One projection to queries, keys and values, of whose output the parts in `argument` are constants."""
    original = type(module).forward

    def forward(self: Any, x: Tensor) -> Tensor:
        value: Tensor = original(self, x)
        for part in argument:
            value = part.put(value, part.take(value).detach())
        return value

    return forward
