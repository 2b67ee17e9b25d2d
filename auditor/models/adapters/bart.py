"""BART and the translators, summarisers and talkers that are built like it, with norms after or before each sum."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.encoder_decoder import EncoderDecoderAdapter
from auditor.models.hook_points import Blocks, Heads, Site


class BartAdapter(EncoderDecoderAdapter):
    """`resid_mid` is what the MLP reads the sum of: after the cross-attention of a decoder.

    Where a norm stands after each sum (`norms_after`), `resid_mid`, `resid_post` and a decoder's `cross_resid_pre` are
    taken after it, and there is no final norm.
    """

    family = "bart"
    config_class = "BartConfig"
    architectures: ClassVar[tuple[str, ...]] = ("BartForConditionalGeneration", "BartModel")
    own, cross = "self_attn", "encoder_attn"
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    norms_after: ClassVar[bool] = True

    @property
    def prefix(self) -> str:
        return "model." if hasattr(self.network, "model") else ""

    def layers(self) -> tuple[int, int]:
        return int(self.config.encoder_layers), int(self.config.decoder_layers)

    def heads_of(self, part: str) -> Heads:
        count = int(getattr(self.config, f"{part}_attention_heads"))
        return Heads(count, count, self.d_model // count)

    def between(self) -> Site:
        if self.norms_after:
            return Site("self_attn_layer_norm")
        return Site("encoder_attn_layer_norm", "input", shared=True)

    def mlp_width_of(self, part: str) -> int:
        return int(getattr(self.config, f"{part}_ffn_dim"))

    def blocks_of(self, part: str) -> Blocks:
        stack = f"{self.prefix}{part}"
        last = "self_attn_layer_norm" if part == "encoder" else "encoder_attn_layer_norm"
        return Blocks(
            stack=f"{stack}.layers",
            # The sum of words and positions is no module's output in all of the families.
            embed=Site(f"{stack}.layers.0", "input"),
            attn_out=Site("self_attn"),
            resid_mid=Site(last) if self.norms_after else Site("final_layer_norm", "input", shared=True),
            mlp_hidden=Site("fc2", "input"),
            mlp_out=Site("fc2"),
            final_norm=None if self.norms_after else Site(f"{stack}.layer_norm"),
            q=Site("self_attn.q_proj"),
            k=Site("self_attn.k_proj"),
            v=Site("self_attn.v_proj"),
            pattern=Site("self_attn", "inside", inside="dropout"),
            z=Site("self_attn.out_proj", "input"),
            mlp_pre=Site("fc1"),
        )

    def readout(self, normed: Tensor) -> Tensor:
        bias = getattr(self.network, "final_logits_bias", None)
        return super().readout(normed) if bias is None else super().readout(normed) + bias


class M2M100Adapter(BartAdapter):
    """M2M-100 and NLLB."""

    family = "m2m_100"
    config_class = "M2M100Config"
    architectures = ("M2M100ForConditionalGeneration", "M2M100Model")
    norms_after = False

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        for part in ("encoder", "decoder"):
            # Computed, not read from the folder, and added to words of the chosen format.
            positions: Any = self.network.get_submodule(f"{self.prefix}{part}.embed_positions")
            positions.weights = positions.weights.to(dtype)


def _like(family: str, name: str, *, after: bool, head: str = "ForConditionalGeneration") -> type[BartAdapter]:
    facts = {
        "family": family, "config_class": f"{name}Config", "architectures": (f"{name}{head}", f"{name}Model"),
        "norms_after": after, "__doc__": f"{name}: see BartAdapter.",
    }  # fmt: skip
    return type(f"{name}Adapter", (BartAdapter,), facts)


BART_LIKE: tuple[type[BartAdapter], ...] = (
    BartAdapter,
    _like("plbart", "PLBart", after=True),
    _like("marian", "Marian", after=True, head="MTModel"),
    _like("blenderbot-small", "BlenderbotSmall", after=True),
    _like("blenderbot", "Blenderbot", after=False),
    _like("mbart", "MBart", after=False),
    _like("pegasus", "Pegasus", after=False),
    M2M100Adapter,
)
