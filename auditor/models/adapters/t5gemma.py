"""T5Gemma: a Gemma 2 that sees both ways reads, and one that looks at what it reads writes; each has sizes of its own.

Zhang et al. 2025, arXiv:2504.06225.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import head_weight, heads_of
from auditor.models.adapters.encoder_decoder import EncoderDecoderAdapter
from auditor.models.adapters.post_norm import SANDWICHED
from auditor.models.hook_points import Blocks, Heads, HookPoint, Site, Stream, block_points
from auditor.models.tokens import load_tokenizer
from auditor.models.weights import load_transformers


class T5GemmaAdapter(EncoderDecoderAdapter):
    """`attn_out`, `cross_attn_out` and `mlp_out` are taken behind the norms through which they enter the sum."""

    family = "t5gemma"
    config_class = "T5GemmaConfig"
    architectures = ("T5GemmaForConditionalGeneration", "T5GemmaModel", "T5GemmaEncoderModel")
    own, cross = "post_self_attn_layernorm", "cross_attn"
    projections = ("q_proj", "k_proj", "v_proj", "o_proj")
    head = "lm_head.out_proj"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.config = network, network.config
        self.prefix = "model." if hasattr(network, "model") else ""
        self.tokenizer = load_tokenizer(facts.folder)
        self.encoder_layers, self.decoder_layers = self.layers()
        self.n_layers = self.encoder_layers + self.decoder_layers
        self.d_model = self.width_of("decoder" if self.decoder_layers else "encoder")
        self.start = self.start_of(facts.config)

    def start_of(self, said: Mapping[str, Any]) -> int:
        begin = self.config.decoder.bos_token_id
        return super().start_of({"decoder_start_token_id": begin, **said})

    def layers(self) -> tuple[int, int]:
        decodes = hasattr(self.network.get_submodule(self.prefix.rstrip(".")), "decoder")
        written = int(self.config.decoder.num_hidden_layers) if decodes else 0
        return int(self.config.encoder.num_hidden_layers), written

    def width_of(self, part: str) -> int:
        return int(getattr(self.config, part).hidden_size)

    def heads_of(self, part: str) -> Heads:
        return heads_of(getattr(self.config, part))

    def mlp_width_of(self, part: str) -> int:
        return int(getattr(self.config, part).intermediate_size)

    def longest(self) -> int | None:
        return int(self.config.encoder.max_position_embeddings)

    def between(self) -> Site:
        return Site("pre_cross_attn_layernorm", "input", shared=True)

    def blocks_of(self, part: str) -> Blocks:
        stack = f"{self.prefix}{part}"
        return replace(
            SANDWICHED,
            stack=f"{stack}.layers",
            # Embeddings are multiplied before they enter the first block.
            embed=Site(f"{stack}.layers.0", "input"),
            attn_out=Site(self.own),
            final_norm=Site(f"{stack}.norm"),
        )

    def _stack(self, part: str, layers: int) -> list[HookPoint]:
        stream: Stream = "target" if part == "decoder" else "text"
        return block_points(
            self.blocks_of(part), layers, self.width_of(part), self.mlp_width_of(part), heads=self.heads_of(part),
            within=self.network, prefix=f"{part}.", stream=stream,
        )  # fmt: skip

    def _with_cross_attention(self, point: HookPoint) -> list[HookPoint]:
        heads, found = self.heads_of("decoder"), list[HookPoint]()
        for one in super()._with_cross_attention(point):
            if one.name.endswith(("cross_k", "cross_v")):
                one = replace(one, width=heads.groups * heads.size, heads=heads.groups)
            if one.name.endswith("cross_attn_out"):
                one = replace(one, module=one.module.removesuffix(self.cross) + "post_cross_attn_layernorm")
            found.append(one)
        return found

    def unembed(self) -> Tensor | None:
        return head_weight(self.network, self.head) if hasattr(self.network, "lm_head") else None

    def norm_gain(self) -> Tensor | None:
        # Gemma keeps its norms' weights less one.
        gain = super().norm_gain()
        return None if gain is None else gain + 1.0

    def readout(self, normed: Tensor) -> Tensor:
        logits, cap = super().readout(normed), self.config.decoder.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap
