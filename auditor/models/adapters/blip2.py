"""BLIP-2: a vision transformer, a few learnt queries that read it in a transformer of their own (the Q-Former), and an
OPT, or a T5, that reads those.

Li et al. 2023, arXiv:2301.12597.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, check_lengths, head_weight, heads_of
from auditor.models.adapters.opt import OptAdapter
from auditor.models.adapters.t5 import T5Adapter
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Part, Site, block_points
from auditor.models.inputs import Inputs, Row, joined, padded, text_row
from auditor.models.pictures import CLIP, picture_rule
from auditor.models.sheets import Box
from auditor.models.tokens import load_tokenizer, special_ids
from auditor.models.weights import load_transformers

DECODER = "language_model.model.decoder."
_Q, _K, _V = (Site("self_attn.qkv", part=Part(1, 3, number, number + 1)) for number in range(3))
TOWER = Blocks(
    stack="vision_model.encoder.layers",
    embed=Site("vision_model.embeddings"),
    attn_out=Site("self_attn"),
    resid_mid=Site("layer_norm2", "input", shared=True),
    mlp_hidden=Site("mlp.fc2", "input"),
    mlp_out=Site("mlp"),
    final_norm=Site("vision_model.post_layernorm"),
    q=_Q,
    k=_K,
    v=_V,
    pattern=Site("self_attn", "inside", inside="dropout"),
    z=Site("self_attn.projection", "input"),
    mlp_pre=Site("mlp.fc1"),
)


def _former(attention: str) -> Blocks:
    """A block's table, with its attention to the queries or that to the picture."""
    return Blocks(
        stack="qformer.encoder.layer",
        embed=Site("qformer.layernorm"),
        attn_out=Site(f"{attention}.output.dense"),
        resid_mid=Site(attention),
        mlp_hidden=Site("output_query.dense", "input"),
        mlp_out=Site("output_query.dense"),
        final_norm=None,
        q=Site(f"{attention}.attention.query"),
        k=Site(f"{attention}.attention.key"),
        v=Site(f"{attention}.attention.value"),
        pattern=Site(f"{attention}.attention", "inside", inside="dropout"),
        z=Site(f"{attention}.output.dense", "input"),
        mlp_pre=Site("intermediate_query.dense"),
    )


_ATTENTION = ("q", "k", "v", "pattern", "z", "attn_out")


class QueryingAdapter(TextAdapter):
    """A sample has one picture at most, whose tokens stand before the begin token; they are the queries after the
    Q-Former, and no places in the picture.

    Blocks of the Q-Former are ``qformer.blocks.N``, with norms after each sum; some also look at the picture, behind
    ``cross_resid_pre``, and ``cross_k`` and ``cross_v`` are at its patches.
    """

    config_class = "Blip2Config"
    architectures: ClassVar[tuple[str, ...]] = ("Blip2ForConditionalGeneration",)
    modalities = frozenset({"text", "image"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.library, self.dtype = network, network, dtype
        self.whole, self.config = network.config, network.config.text_config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        self.queries = int(self.whole.num_query_tokens)
        size = pair(self.whole.vision_config.image_size)
        usual = CLIP | {"size": {"height": size[0], "width": size[1]}, "do_center_crop": False}
        self.rule = picture_rule(facts.folder, usual, size)

    def hook_points(self) -> list[HookPoint]:
        vision = self.whole.vision_config
        sizes = int(vision.num_hidden_layers), int(vision.hidden_size), int(vision.intermediate_size)
        *tower, normed = block_points(
            TOWER, *sizes, heads=heads_of(vision), prefix="vision.", stream="vision", leading=1
        )
        tokens = HookPoint(
            "image_tokens", self.d_model, TOKENS, "language_projection", 0, "output", "vision", cells="tokens"
        )
        # The tower norms its class token once more, which nothing reads.
        return [*tower, replace(normed, call=0), *self.former_points(), tokens, *super().hook_points()]

    def former_points(self) -> list[HookPoint]:
        said = self.whole.qformer_config
        sizes = int(said.num_hidden_layers), int(said.hidden_size), int(said.intermediate_size)
        own, crossing = (
            block_points(
                _former(attention), *sizes, heads=heads_of(said), within=self.network, prefix="qformer.",
                stream="vision",
            )
            for attention in ("attention", "crossattention")
        )  # fmt: skip
        crossed: dict[str, list[HookPoint]] = {}
        for point in crossing:
            block, _, site = point.name.rpartition(".")
            if site in _ATTENTION:
                cells, leading = ("context", 1) if site in ("k", "v") else ("tokens", 0)
                named = replace(point, name=f"{block}.cross_{site}", cells=cells, leading=leading)  # type: ignore[arg-type]
                crossed.setdefault(block, []).append(named)
            elif site == "resid_mid":
                crossed[block].append(replace(point, cells="tokens"))
        found: list[HookPoint] = []
        for point in own:
            block, _, site = point.name.rpartition(".")
            point, others = replace(point, cells="tokens"), crossed.get(block, [])
            if site == "resid_mid" and others:
                found += [replace(point, name=f"{block}.cross_resid_pre"), *others]
            else:
                found.append(point)
        return found

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return None if point.cells == "tokens" else self.rule.grid(pair(self.whole.vision_config.patch_size))

    def seen(self, rows: int, columns: int) -> Box:
        return self.rule.seen(rows, columns)

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """`max_tokens` counts the begin token and the text, never the picture."""
        special = special_ids(self.tokenizer) if self.tokenizer is not None else frozenset[int]()
        numbers = self.numbers([sample.text or "" for sample in samples], max_tokens)
        rows = [joined(self._row(sample), text_row(ids, special)) for sample, ids in zip(samples, numbers, strict=True)]
        check_lengths([row.ids for row in rows], self.longest())
        return padded(rows, samples, None, None)

    def must_take(self, rows: int, columns: int) -> None:
        self.rule.must_take(rows, columns)

    def pictured(self, inputs: Inputs) -> Inputs:
        return replace(inputs, pixels=self.rule.batch(inputs.samples))

    def _row(self, sample: Sample) -> Row:
        count = 0 if sample.image is None else self.queries
        return Row([-1] * count, [int(PositionKind.IMAGE)] * count, list(range(count)))

    def embedded(self, inputs: Inputs) -> Tensor:
        """[B, P, width]: what the language model reads."""
        embedded: Tensor = self.library.get_input_embeddings()(inputs.ids.clamp(min=0))
        if inputs.pixels is None:
            return embedded
        tokens = self.library.get_image_features(inputs.pixels.to(self.dtype), **inputs.beside).pooler_output
        places = ((inputs.ids < 0) & inputs.mask)[..., None]
        return embedded.masked_scatter(places, tokens[inputs.has_image].to(embedded.dtype))


class Blip2Adapter(QueryingAdapter):
    family = "blip_2"

    def mlp_width(self) -> int:
        return int(self.config.ffn_dim)

    def table(self) -> Blocks:
        return replace(
            OptAdapter.blocks, stack=f"{DECODER}layers", embed=Site(f"{DECODER}layers.0", "input"),
            final_norm=Site(f"{DECODER}final_layer_norm"),
        )  # fmt: skip

    def forward(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self.library.language_model(inputs_embeds=self.embedded(inputs), use_cache=False).logits
        return logits

    def unembed(self) -> Tensor | None:
        return head_weight(self.network, "language_model.lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{DECODER}final_layer_norm")


class Blip2T5Adapter(QueryingAdapter, T5Adapter):
    """The encoder reads the picture's tokens and the text, the decoder writes the sample's label ``target``, as
    `EncoderDecoderAdapter` has it."""

    family = "blip_2_t5"
    at = "language_model."

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.encoder_layers, self.decoder_layers = self.layers()
        self.n_layers = self.encoder_layers + self.decoder_layers
        self.start = self.start_of(facts.config.get("text_config") or {})

    def blocks_of(self, part: str) -> Blocks:
        # Of words and picture alike, and not of the words that were embedded to stand beside the picture.
        return replace(super().blocks_of(part), embed=Site(f"{self.at}{part}.block.0", "input"))

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        return replace(super().encode(samples, max_tokens), target=self.target(samples, max_tokens))

    def forward(self, inputs: Inputs) -> Tensor | None:
        read = {"inputs_embeds": self.embedded(inputs), "attention_mask": inputs.mask.to(torch.int64)}
        return self.run(read, inputs)
