"""T5, mT5 and UMT5: an encoder that reads a text, and a decoder that writes another while it reads the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.hook_points import PATTERN, TOKENS, Blocks, Heads, HookPoint, Kind, Site, Stream, block_points
from auditor.models.inputs import Inputs, padded, text_row
from auditor.models.tokens import special_ids


class T5Adapter(TextAdapter):
    """Hook points of the encoder are ``encoder.…``, at the positions of the text; those of the decoder ``decoder.…``,
    at the positions of what it writes.

    The decoder is given its start token, and after it, as in training, the sample's label ``target`` if it has one:
    the translation, the summary, the answer. So logits tell the first token of the target at the start token, and its
    end at the last position; without a target there is one position, at which the first token is told.
    """

    family = "t5"
    config_class = "T5Config"
    architectures = ("T5ForConditionalGeneration", "T5EncoderModel")
    causal = False

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.encoder_layers = self.n_layers
        self.decoder_layers = int(self.config.num_decoder_layers) if hasattr(self.network, "decoder") else 0
        self.n_layers = self.encoder_layers + self.decoder_layers
        pad = int(self.config.pad_token_id or 0)
        start = facts.config.get("decoder_start_token_id")
        self.start = start if isinstance(start, int) and 0 <= start < int(self.config.vocab_size) else pad

    def mlp_width(self) -> int:
        return int(self.config.d_ff)

    def heads(self) -> Heads:
        count = int(self.config.num_heads)
        return Heads(count, count, int(self.config.d_kv))

    def hook_points(self) -> list[HookPoint]:
        def stack(part: str, layers: int) -> list[HookPoint]:
            return block_points(
                self.blocks_of(part), layers, self.d_model, self.mlp_width(), heads=self.heads(), within=self.network,
                prefix=f"{part}.", stream="target" if part == "decoder" else "text",
            )  # fmt: skip

        points = stack("encoder", self.encoder_layers)
        if self.decoder_layers:
            decoder = (self._with_cross_attention(point) for point in stack("decoder", self.decoder_layers))
            points += [point for several in decoder for point in several]
        return points

    def blocks_of(self, part: str) -> Blocks:
        """The table of the encoder or the decoder, whose MLP is the last layer of a block."""
        last = "layer.1" if part == "encoder" else "layer.2"
        gated = bool(self.config.is_gated_act)
        return Blocks(
            stack=f"{part}.block",
            embed=Site(f"{part}.embed_tokens"),
            attn_out=Site("layer.0.SelfAttention"),
            # What the MLP reads: after the cross-attention of a decoder.
            resid_mid=Site("layer.0" if part == "encoder" else "layer.1"),
            mlp_hidden=Site(f"{last}.DenseReluDense.wo", "input"),
            mlp_out=Site(f"{last}.DenseReluDense"),
            final_norm=Site(f"{part}.final_layer_norm"),
            q=Site("layer.0.SelfAttention.q"),
            k=Site("layer.0.SelfAttention.k"),
            v=Site("layer.0.SelfAttention.v"),
            pattern=Site("layer.0.SelfAttention", "inside", inside="dropout"),
            z=Site("layer.0.SelfAttention.o", "input"),
            mlp_pre=Site(f"{last}.DenseReluDense.{'wi_0' if gated else 'wi'}"),
            mlp_linear=Site(f"{last}.DenseReluDense.wi_1") if gated else None,
        )

    def _with_cross_attention(self, point: HookPoint) -> list[HookPoint]:
        """The point; after those of a block's self-attention, also ``cross_q`` … ``cross_attn_out``, of what the block
        reads of the encoder. Its keys and values are at the encoder's positions."""
        if not point.name.endswith(".attn_out"):
            return [point]
        block, heads = point.name.removesuffix("attn_out"), self.heads()
        module = point.module.replace("layer.0.SelfAttention", "layer.1.EncDecAttention")
        width = heads.count * heads.size

        def cross(site: str, width: int, path: str, tensor: Kind, stream: Stream = "target") -> HookPoint:
            axes, inside = (PATTERN, "dropout") if site == "pattern" else (TOKENS, "")
            ways = 0 if site == "attn_out" else heads.count
            name = f"{block}cross_{site}"
            return HookPoint(name, width, axes, module + path, 0, tensor, stream, inside=inside, heads=ways)

        return [
            point,
            cross("q", width, ".q", "output"),
            cross("k", width, ".k", "output", "text"),
            cross("v", width, ".v", "output", "text"),
            cross("pattern", 0, "", "inside"),
            cross("z", width, ".o", "input"),
            cross("attn_out", self.d_model, "", "output"),
        ]

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """`max_tokens` limits the text and the target alike, the start token counted."""
        inputs = super().encode(samples, max_tokens)
        return replace(inputs, target=self._target(samples, max_tokens)) if self.decoder_layers else inputs

    def _target(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        special = special_ids(self.tokenizer)
        rows = []
        for ids in self.tokenize([str(sample.labels.get("target", "")) for sample in samples], None):
            # What would come after the end token is no part of any text.
            written = ids[:-1] if ids and ids[-1] in special else ids
            rows.append(text_row([self.start, *written][:max_tokens], special | {self.start}))
        return padded(rows, samples, None, None)

    def forward(self, inputs: Inputs) -> Tensor | None:
        read = {"input_ids": inputs.ids.clamp(min=0), "attention_mask": inputs.mask.to(torch.int64)}
        if inputs.target is None:
            self.network(**read)
            return None
        # Padded on the right and causal: what a decoder writes never looks at its padding.
        written = inputs.target.ids.clamp(min=0)
        logits: Tensor = self.network(**read, decoder_input_ids=written, use_cache=False).logits
        return logits

    def unembed(self) -> Tensor | None:
        if not self.decoder_layers:
            return None
        weight = head_weight(self.network, "lm_head")
        return weight * self.d_model**-0.5 if self.scales() else weight

    def scales(self) -> bool:
        """Whether logits are divided by the root of the width."""
        return bool(self.config.scale_decoder_outputs)

    def final_norm(self) -> nn.Module | None:
        return self.network.get_submodule("decoder.final_layer_norm") if self.decoder_layers else None


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
