"""T5, mT5 and UMT5: RMS norms before each sum, relative positions as a bias in attention that is not scaled."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from auditor.models.adapters.encoder_decoder import EncoderDecoderAdapter
from auditor.models.hook_points import Blocks, Heads, Site


class T5Adapter(EncoderDecoderAdapter):
    family = "t5"
    config_class = "T5Config"
    architectures: ClassVar[tuple[str, ...]] = ("T5ForConditionalGeneration", "T5EncoderModel")
    own, cross = "layer.0.SelfAttention", "layer.1.EncDecAttention"
    projections = ("q", "k", "v", "o")

    def layers(self) -> tuple[int, int]:
        decodes = hasattr(self.network.get_submodule(self.at.rstrip(".")), "decoder")
        return int(self.config.num_layers), int(self.config.num_decoder_layers) if decodes else 0

    def heads_of(self, part: str) -> Heads:
        count = int(self.config.num_heads)
        return Heads(count, count, int(self.config.d_kv))

    def between(self) -> Site:
        return Site("layer.0")

    def mlp_width_of(self, part: str) -> int:
        return int(self.config.d_ff)

    def longest(self) -> int | None:
        return None

    def blocks_of(self, part: str) -> Blocks:
        # The MLP is the last layer of a block.
        last = "layer.1" if part == "encoder" else "layer.2"
        gated = bool(self.config.is_gated_act)
        return Blocks(
            stack=f"{self.at}{part}.block",
            embed=Site(f"{self.at}{part}.embed_tokens"),
            attn_out=Site("layer.0.SelfAttention"),
            # What the MLP reads: after the cross-attention of a decoder.
            resid_mid=Site("layer.0" if part == "encoder" else "layer.1"),
            mlp_hidden=Site(f"{last}.DenseReluDense.wo", "input"),
            mlp_out=Site(f"{last}.DenseReluDense"),
            final_norm=Site(f"{self.at}{part}.final_layer_norm"),
            q=Site("layer.0.SelfAttention.q"),
            k=Site("layer.0.SelfAttention.k"),
            v=Site("layer.0.SelfAttention.v"),
            pattern=Site("layer.0.SelfAttention", "inside", inside="dropout"),
            z=Site("layer.0.SelfAttention.o", "input"),
            mlp_pre=Site(f"{last}.DenseReluDense.{'wi_0' if gated else 'wi'}"),
            mlp_linear=Site(f"{last}.DenseReluDense.wi_1") if gated else None,
        )

    def unembed(self) -> Tensor | None:
        weight = super().unembed()
        return weight if weight is None or not self.scales() else weight * self.d_model**-0.5

    def scales(self) -> bool:
        """Whether logits are divided by the root of the width."""
        return bool(self.config.scale_decoder_outputs)


class Mt5Adapter(T5Adapter):
    family = "mt5"
    config_class = "MT5Config"
    architectures = ("MT5ForConditionalGeneration", "MT5EncoderModel")

    def scales(self) -> bool:
        return False


class Umt5Adapter(T5Adapter):
    family = "umt5"
    config_class = "UMT5Config"
    architectures = ("UMT5ForConditionalGeneration", "UMT5EncoderModel")

    def scales(self) -> bool:
        return bool(self.config.tie_word_embeddings)
