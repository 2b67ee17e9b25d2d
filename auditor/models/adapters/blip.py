"""BLIP: a vision transformer, and a decoder of words that looks at its patches in every block.

Li et al. 2022, arXiv:2201.12086.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, check_lengths, heads_of
from auditor.models.adapters.bert import bert_blocks
from auditor.models.adapters.blip2 import TOWER
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import HookPoint, Site, block_points
from auditor.models.inputs import Inputs, padded, text_row
from auditor.models.pictures import CLIP, picture_rule
from auditor.models.sheets import Box
from auditor.models.tokens import load_tokenizer, special_ids
from auditor.models.weights import load_transformers

_ATTENTION = ("q", "k", "v", "pattern", "z", "attn_out", "resid_mid")


class BlipAdapter(TextAdapter):
    """A sample has a picture, and a text or none; the text begins with the decoder's begin token, at which the first
    word is told, and has no end token. ``cross_…`` of a block is what it reads of the picture: ``cross_k`` and
    ``cross_v`` are at its patches. Norms stand after each sum, where `resid_mid`, `resid_post` and ``cross_resid_pre``
    are taken; between the last block and a word's logit is a layer of the head.
    """

    family = "blip"
    modalities = frozenset({"text", "image"})
    normed_after = True
    packs = False

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, "BlipConfig", ("BlipForConditionalGeneration",), dtype)
        self.network, self.library, self.dtype = network, network, dtype
        self.whole, self.config = network.config, network.config.text_config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        size = pair(self.whole.vision_config.image_size)
        usual = CLIP | {"size": {"height": size[0], "width": size[1]}, "do_center_crop": False}
        self.rule = picture_rule(facts.folder, usual, size)

    def hook_points(self) -> list[HookPoint]:
        vision = self.whole.vision_config
        sizes = int(vision.num_hidden_layers), int(vision.hidden_size), int(vision.intermediate_size)
        *tower, normed = block_points(
            TOWER, *sizes, heads=heads_of(vision), prefix="vision.", stream="vision", leading=1
        )
        # The tower norms its class token once more, which nothing reads.
        return [*tower, replace(normed, call=0), *self.text_points()]

    def text_points(self) -> list[HookPoint]:
        table = bert_blocks("text_decoder.bert.")
        sites: dict[str, Site] = {site: getattr(table, site) for site in _ATTENTION}
        other = replace(table, **{site: replace(at, module=f"cross{at.module}") for site, at in sites.items()})  # type: ignore[arg-type]
        sizes = self.n_layers, self.d_model, self.mlp_width()
        own, crossing = (block_points(one, *sizes, heads=self.heads()) for one in (table, other))
        crossed: dict[str, list[HookPoint]] = {}
        for point in crossing:
            block, _, site = point.name.rpartition(".")
            if site not in _ATTENTION:
                continue
            named = point if site == "resid_mid" else replace(point, name=f"{block}.cross_{site}")
            seen = replace(named, stream="vision", leading=1) if site in ("k", "v") else named
            crossed.setdefault(block, []).append(seen)
        found: list[HookPoint] = []
        for point in own:
            block, _, site = point.name.rpartition(".")
            if site == "resid_mid":
                found += [replace(point, name=f"{block}.cross_resid_pre"), *crossed[block]]
            else:
                found.append(point)
        return found

    def grid_of(self, point: HookPoint) -> tuple[int, int]:
        return self.rule.grid(pair(self.whole.vision_config.patch_size))

    def seen(self, rows: int, columns: int) -> Box:
        return self.rule.seen(rows, columns)

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        for sample in samples:
            if sample.image is None:
                raise AuditorError(
                    f"Sample “{sample.id}” has no image, and this model tells what it sees in one.",
                    "Choose images, with texts or without.",
                )
        first = int(self.config.bos_token_id)
        special = (special_ids(self.tokenizer) if self.tokenizer is not None else frozenset[int]()) | {first}
        numbers = self.numbers([sample.text or "" for sample in samples], None)
        rows = [[first, *(ids[1:] if ids[:1] and ids[0] in special else ids)] for ids in numbers]
        # Whatever the tokenizer writes at the end is not of a text that goes on.
        rows = [ids[:-1] if len(ids) > 1 and ids[-1] == self.config.sep_token_id else ids for ids in rows]
        rows = [ids[:max_tokens] for ids in rows]
        check_lengths(rows, self.longest())
        return padded([text_row(ids, special) for ids in rows], samples, None, None)

    def must_take(self, rows: int, columns: int) -> None:
        self.rule.must_take(rows, columns)

    def pictured(self, inputs: Inputs) -> Inputs:
        return replace(inputs, pixels=self.rule.batch(inputs.samples))

    def forward(self, inputs: Inputs) -> Tensor:
        assert inputs.pixels is not None
        ids = inputs.ids.clamp(min=0)
        logits: Tensor = self.library(inputs.pixels.to(self.dtype), input_ids=ids, use_cache=False).logits
        return logits
