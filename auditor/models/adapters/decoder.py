"""Decoders that predict the next token: logits are a head's product with the normed residual stream. The same networks
without that head embed texts, or judge them by another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from auditor.intake.weights import ModelFacts
from auditor.models import linearise
from auditor.models.adapters.adapter import TextAdapter, blocks_until, head_weight
from auditor.models.adapters.headless import Headless, load_decoder
from auditor.models.hook_points import Blocks, Part, Site
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart, Make

SELF_ATTENTION = Site("self_attn", "inside", inside="dropout")
"""The pattern of an attention that goes through transformers' interface: what its plain code drops out of."""


@dataclass(frozen=True)
class Frozen:
    """What is exchanged in a linearised run: `norms` inside a block by `norm`, and the module `mlp` by `exchange`."""

    norms: tuple[str, ...]
    norm: Make
    mlp: str
    exchange: Make
    argument: Any = None


class Decoder(TextAdapter):
    """Subclasses give the table; what stands here is read from it."""

    head: ClassVar[str] = "lm_head"
    frozen: ClassVar[Frozen | None] = None
    """None where linearised runs are not available."""
    plain: ClassVar[bool] = False
    """Blocks get hidden states first and give nothing but hidden states, so that they can be left out."""
    gain_offset: ClassVar[float] = 0.0
    """What the last norm adds to its weight before it multiplies."""

    def load(self, facts: ModelFacts, dtype: torch.dtype) -> nn.Module:
        return load_decoder(facts, self.config_class, self.architectures, dtype, self.below, self.head)

    @property
    def below(self) -> str:
        """The module that has everything but the head."""
        return self.blocks.stack.partition(".")[0]

    def notes(self) -> list[str]:
        if isinstance(self.network, Headless):
            return ["It has no head: it predicts no words and gives no logits."]
        if (judge := self.judge) is None:
            return []
        told = "one figure, such as a reward," if judge.out_features == 1 else f"{judge.out_features} classes"
        return [f"It judges texts: its logits are {told} after the last token."]

    @property
    def judge(self) -> Any:
        """The head of a network that tells classes of a text, or one figure; None of other networks."""
        return getattr(self.network, "score", None)

    def forward(self, inputs: Inputs) -> Tensor | None:
        if self.judge is None:
            return super().forward(inputs)
        # The library looks for the last token before padding, which it takes any token of that number for.
        rows: Tensor = self.judge(self.output(self.network.get_submodule(self.below), inputs).last_hidden_state)
        return rows[torch.arange(len(rows), device=rows.device), inputs.mask.sum(1) - 1]

    def unembed(self) -> Tensor | None:
        if not hasattr(self.network, self.head):
            return None
        weight, scale = head_weight(self.network, self.head), self.logit_scale()
        return weight if scale == 1.0 else weight * scale

    def logit_scale(self) -> float:
        """What the head's product is multiplied with."""
        return 1.0

    def final_norm(self) -> nn.Module | None:
        site = self.table().final_norm
        return None if site is None else self.network.get_submodule(site.module)

    def norm_gain(self) -> Tensor | None:
        gain = super().norm_gain()
        return gain if gain is None or not self.gain_offset else gain + self.gain_offset

    def readout(self, normed: Tensor) -> Tensor:
        logits, scale = normed @ head_weight(self.network, self.head), self.logit_scale()
        logits = logits if scale == 1.0 else logits * scale
        bias: Any = getattr(self.network.get_submodule(self.head), "bias", None)
        logits = logits if bias is None else logits + bias
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def before(self, hook: str) -> list[str]:
        return blocks_until(self.table().stack, hook) if self.plain else []

    def linear_parts(self) -> list[LinearPart]:
        table, frozen = self.table(), self.frozen
        if frozen is None or table.final_norm is None or not self.causal:
            return []
        held = {path for path, _ in self.network.named_modules()}
        parts = [LinearPart(table.final_norm.module, frozen.norm, frozen.argument)]
        for number in range(self.n_layers):
            at = f"{table.stack}.{number}."
            norms = [at + name for name in frozen.norms if at + name in held]
            parts += [LinearPart(path, frozen.norm, frozen.argument) for path in norms]
            # The last blocks of some families look by the keys of others.
            constant = [part for part in _constant(table) if at + part[0] in held]
            parts += [LinearPart(at + module, make, argument) for module, make, argument in constant]
            parts.append(LinearPart(at + frozen.mlp, frozen.exchange))
        return parts


def like(base: type[Decoder], family: str, config_class: str, **attributes: Any) -> type[Decoder]:
    """The adapter of a family that differs from `base` by names and by `attributes`."""
    architectures = (config_class.removesuffix("Config").removesuffix("Text") + "ForCausalLM",)
    named = {"family": family, "config_class": config_class, "architectures": architectures, "__module__": __name__}
    made: type[Decoder] = type(f"{family}Adapter", (base,), named | attributes)
    return made


def _constant(table: Blocks) -> list[tuple[str, Make, Any]]:
    """Exchanges by which a block's queries and keys are constants."""
    packed: dict[str, list[Part]] = {}
    for site in (table.q, table.k):
        if site is not None:
            packed.setdefault(site.module, []).extend([site.part] if isinstance(site.part, Part) else [])
    return [
        (module, linearise.constant_parts if parts else linearise.constant, tuple(parts) or None)
        for module, parts in packed.items()
    ]


def packed(module: str, counts: tuple[int, int, int], groups: int = 1) -> tuple[Site, Site, Site]:
    """Sites of queries, keys and values in one projection, of `counts` pieces each in every one of `groups`."""
    whole, first, second = sum(counts), counts[0], counts[0] + counts[1]
    ends = ((0, first), (first, second), (second, whole))
    query, key, value = (Site(module, part=Part(groups, whole, start, stop)) for start, stop in ends)
    return query, key, value
