"""InstructBLIP: BLIP-2 whose learnt queries also look at the words that they are asked with; a Llama, or a T5, reads
them.

Dai et al. 2023, arXiv:2305.06500.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.blip2 import Blip2Adapter, Blip2T5Adapter, QueryingAdapter
from auditor.models.adapters.llama import llama_blocks
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.inputs import Inputs, Positions
from auditor.models.tokens import encode_texts, load_tokenizer

DECODER = "language_model.model."
# What the Q-Former has of its queries and, behind them, of the words.
_BOTH = ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "cross_resid_pre", "resid_post")


class _AskedAdapter(QueryingAdapter):
    """The words are also read by the Q-Former's own tokenizer. Its hook points have the rows of the queries alone, but
    for `k` and `v`, which the words have too; there they are special."""

    config_class = "InstructBlipConfig"
    architectures: ClassVar[tuple[str, ...]] = ("InstructBlipForConditionalGeneration",)

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.asking = load_tokenizer(facts.folder / "qformer_tokenizer")
        if self.asking is None:
            raise AuditorError(
                f"“{facts.name}” holds no tokenizer of its Q-Former (qformer_tokenizer).",
                "Copy the folder from its source again.",
            )

    def former_points(self) -> list[HookPoint]:
        found = []
        for point in super().former_points():
            block, _, site = point.name.rpartition(".")
            if site == "embed":
                point = replace(point, module="qformer.embeddings")
            elif site in ("k", "v"):
                point = replace(point, cells="context", leading=0)
            found.append(replace(point, keys=f"{block}.k") if site == "pattern" else point)
        return found

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        inputs = super().encode(samples, max_tokens)
        if all(sample.image is None for sample in samples):
            return inputs
        longest = int(self.whole.qformer_config.max_position_embeddings)
        texts = [sample.text or "" for sample in samples]
        asked = [torch.tensor(ids) for ids in encode_texts(self.asking, texts, begin=False, max_tokens=longest)]
        words = {
            "qformer_input_ids": pad_sequence(asked, batch_first=True).long(),
            "qformer_attention_mask": pad_sequence([torch.ones(len(ids)) for ids in asked], batch_first=True).long(),
        }
        return replace(inputs, beside=words)

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        block, _, site = point.name.rpartition(".")
        own = block.startswith("qformer.blocks.") and site in _BOTH and "crossattention" not in point.module
        if not inputs.beside or not (own or point.name == "qformer.embed"):
            return None
        mask = inputs.beside["qformer_attention_mask"]
        count, words = len(mask), mask.shape[1]
        device = mask.device
        held = inputs.has_image[:, None].to(device)
        place = torch.arange(self.queries + (words if point.cells == "context" else 0), device=device)
        query = (place < self.queries).expand(count, -1)
        there = held & (query | torch.cat([torch.ones_like(query[:, : self.queries]), mask.bool()], dim=1)[:, place])
        rows = place + torch.arange(count, device=device)[:, None] * (self.queries + words)
        kind = torch.where(query, int(PositionKind.IMAGE), int(PositionKind.SPECIAL))
        kind = kind.masked_fill(~there, int(PositionKind.PAD)).to(torch.uint8)
        unit = place.expand(count, -1).masked_fill(~(there & query), -1).to(torch.int32)
        return rows.masked_fill(~there, -1), Positions(kind, unit, None)


class InstructBlipAdapter(_AskedAdapter, Blip2Adapter):
    family = "instructblip"

    def table(self) -> Blocks:
        return replace(llama_blocks(DECODER), embed=Site(f"{DECODER}layers.0", "input"))

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size)

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{DECODER}norm")


class InstructBlipT5Adapter(_AskedAdapter, Blip2T5Adapter):
    family = "instructblip_t5"
