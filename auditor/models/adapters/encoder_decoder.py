"""Networks that read one sequence and write another: what their families share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.hook_points import (
    PATTERN,
    TOKENS,
    Blocks,
    Heads,
    HookPoint,
    Kind,
    Site,
    Stream,
    block_points,
)
from auditor.models.inputs import Inputs, padded, text_row
from auditor.models.tokens import load_tokenizer, special_ids
from auditor.models.unpacked import nothing_packed
from auditor.models.weights import load_transformers


class EncoderDecoderAdapter(TextAdapter):
    """Hook points of the encoder are ``encoder.…``, at the positions of what is read; those of the decoder
    ``decoder.…``, at the positions of what is written.

    The decoder is given its start token, and after it, as in training, the sample's label ``target`` if it has one:
    the translation, the summary, the answer. So logits tell the first token of the target at the start token, and its
    end at the last position; without a target there is one position, at which the first token is told.
    """

    causal = False
    own: ClassVar[str]
    """Path of the self-attention in a decoder's block."""
    cross: ClassVar[str]
    """Path of the attention to the encoder."""
    projections: ClassVar[tuple[str, str, str, str]]
    """What either calls its projections to q, k and v and its output projection."""
    head: ClassVar[str] = "lm_head"
    at: ClassVar[str] = ""
    """Below which its modules are named, where it is a part of a network."""

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.config = network, network.config
        self.tokenizer = load_tokenizer(facts.folder)
        self.d_model = int(self.config.d_model)
        self.encoder_layers, self.decoder_layers = self.layers()
        self.n_layers = self.encoder_layers + self.decoder_layers
        self.start = self.start_of(facts.config)

    def start_of(self, said: Mapping[str, Any]) -> int:
        """The decoder's start token, from what config.json says of the network."""
        start = said.get("decoder_start_token_id")
        fits = isinstance(start, int) and 0 <= start < int(self.config.vocab_size)
        return int(start if fits else self.config.pad_token_id or 0)  # type: ignore[arg-type]

    @abstractmethod
    def layers(self) -> tuple[int, int]:
        """Blocks of the encoder and of the decoder, 0 of one that the network lacks."""

    @abstractmethod
    def blocks_of(self, part: str) -> Blocks:
        """The table of ``encoder`` or ``decoder``."""

    @abstractmethod
    def between(self) -> Site:
        """Where a decoder's block has the residual stream between its two attentions."""

    @abstractmethod
    def heads_of(self, part: str) -> Heads:
        """How its attention splits."""

    @abstractmethod
    def mlp_width_of(self, part: str) -> int:
        """Channels inside its MLPs."""

    def hook_points(self) -> list[HookPoint]:
        points = self._stack("encoder", self.encoder_layers)
        for point in self._stack("decoder", self.decoder_layers) if self.decoder_layers else ():
            points += self._with_cross_attention(point)
        return points

    def _stack(self, part: str, layers: int) -> list[HookPoint]:
        stream: Stream = "target" if part == "decoder" else "text"
        return block_points(
            self.blocks_of(part), layers, self.d_model, self.mlp_width_of(part), heads=self.heads_of(part),
            within=self.network, prefix=f"{part}.", stream=stream,
        )  # fmt: skip

    def _with_cross_attention(self, point: HookPoint) -> list[HookPoint]:
        """The point; after those of a block's self-attention, also ``cross_resid_pre``, ``cross_q`` …
        ``cross_attn_out``, of what the block reads of the encoder. Its keys and values are at the encoder's positions.
        """
        if not point.name.endswith(".attn_out"):
            return [point]
        block, heads = point.name.removesuffix("attn_out"), self.heads_of("decoder")
        within, site = point.module.removesuffix(self.own), self.between()
        module = within + self.cross
        q, k, v, out = self.projections
        width = heads.count * heads.size

        def cross(site: str, width: int, path: str, tensor: Kind, stream: Stream = "target") -> HookPoint:
            axes, inside = (PATTERN, "dropout") if site == "pattern" else (TOKENS, "")
            ways = 0 if site == "attn_out" else heads.count
            name = f"{block}cross_{site}"
            return HookPoint(name, width, axes, module + path, 0, tensor, stream, inside=inside, heads=ways)

        return [
            point,
            replace(
                point, name=f"{block}cross_resid_pre", module=within + site.module, tensor=site.tensor,
                shared=site.shared,
            ),
            cross("q", width, f".{q}", "output"),
            cross("k", width, f".{k}", "output", "text"),
            cross("v", width, f".{v}", "output", "text"),
            cross("pattern", 0, "", "inside"),
            cross("z", width, f".{out}", "input"),
            cross("attn_out", self.d_model, "", "output"),
        ]  # fmt: skip

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """`max_tokens` limits the text and the target alike, the start token counted."""
        inputs = super().encode(samples, max_tokens)
        return replace(inputs, target=self.target(samples, max_tokens)) if self.decoder_layers else inputs

    def target(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """What the decoder is given."""
        told = [str(sample.labels.get("target") or "") for sample in samples]
        tokens = self.tokenize(told, None) if any(told) or self.tokenizer is not None else [[] for _ in told]
        special = special_ids(self.tokenizer) if self.tokenizer is not None else frozenset()
        rows = []
        for ids in tokens:
            # What would come after the end token is no part of any text; some tokenizers begin with the start token.
            written = ids[:-1] if ids and ids[-1] in special else ids
            written = written[1:] if written[:1] == [self.start] else written
            rows.append(text_row([self.start, *written][:max_tokens], special | {self.start}))
        return padded(rows, samples, None, None)

    def forward(self, inputs: Inputs) -> Tensor | None:
        read = {"input_ids": inputs.ids.clamp(min=0), "attention_mask": inputs.mask.to(torch.int64)}
        with nothing_packed(inputs.ragged):
            return self.run(read, inputs)

    def run(self, read: dict[str, Tensor], inputs: Inputs) -> Tensor | None:
        """Logits of the network that is given `read`, and the target of `inputs` if it has a decoder."""
        network = self.network.get_submodule(self.at.rstrip("."))
        written: dict[str, Any] = {}
        if inputs.target is not None:
            # Padded on the right and causal: what a decoder writes never looks at its padding.
            written = {"decoder_input_ids": inputs.target.ids.clamp(min=0), "use_cache": False}
        logits: Tensor | None = getattr(network(**read, **written), "logits", None)
        return logits

    def unembed(self) -> Tensor | None:
        network = self.network.get_submodule(self.at.rstrip("."))
        if self.final_norm() is None or not hasattr(network, self.head):
            return None
        return head_weight(network, self.head)

    def final_norm(self) -> nn.Module | None:
        norm = self.blocks_of("decoder").final_norm if self.decoder_layers else None
        return None if norm is None else self.network.get_submodule(norm.module)
