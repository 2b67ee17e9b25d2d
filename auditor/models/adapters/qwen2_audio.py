"""Qwen2-Audio: a tower of sounds built like Whisper's encoder, whose states, two by two, stand among a Qwen2's tokens.

Chu et al. 2024, arXiv:2407.10759.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import check_lengths, text_of
from auditor.models.adapters.llama import LlamaAdapter, llama_blocks
from auditor.models.adapters.whisper import STRIDE, must_hear, sound_of, spectrum_of
from auditor.models.hook_points import TOKENS, Blocks, Heads, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, Positions, Row, laid_sounds, padded, text_row
from auditor.models.tokens import load_tokenizer, special_ids
from auditor.models.weights import load_transformers

LANGUAGE = "model.language_model."
TOWER = "model.audio_tower."
BEGIN, END = "<|audio_bos|>", "<|audio_eos|>"
JOINED = 2
"""Frames of the tower that become one token."""


class Qwen2AudioAdapter(LlamaAdapter):
    """A sound stands where the text says so by its token, else before it. ``audio.…`` is the tower, at frames of 20 ms
    up to the sound's end; two frames are joined behind its last block, before ``audio.final_norm``, and become one of
    ``audio_tokens``."""

    family = "qwen2_audio"
    config_class = "Qwen2AudioConfig"
    architectures = ("Qwen2AudioForConditionalGeneration",)
    modalities = frozenset({"text", "audio"})
    blocks = replace(llama_blocks(LANGUAGE), embed=Site(f"{LANGUAGE}layers.0", "input"))
    frozen = None
    plain = False

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.whole, self.dtype = network, network.config, dtype
        self.config, self.tower = self.whole.text_config, self.whole.audio_config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        self.audio_id, self.frames = int(self.whole.audio_token_id), int(self.tower.max_source_positions)
        self.spectrum = spectrum_of(facts)
        must_hear(facts, self.longest_sound)

    @property
    def longest_sound(self) -> float:
        return self.frames * STRIDE * self.spectrum["hop_length"] / self.spectrum["sampling_rate"]

    def hook_points(self) -> list[HookPoint]:
        count, width = int(self.tower.encoder_attention_heads), int(self.tower.d_model)
        table = Blocks(
            stack=f"{TOWER}layers",
            embed=Site(f"{TOWER}layers.0", "input"),
            attn_out=Site("self_attn"),
            resid_mid=Site("final_layer_norm", "input", shared=True),
            mlp_hidden=Site("fc2", "input"),
            mlp_out=Site("fc2"),
            final_norm=None,
            q=Site("self_attn.q_proj"),
            k=Site("self_attn.k_proj"),
            v=Site("self_attn.v_proj"),
            pattern=Site("self_attn", "inside", inside="dropout"),
            z=Site("self_attn.out_proj", "input"),
            mlp_pre=Site("fc1"),
        )
        heard = block_points(
            table, int(self.tower.encoder_layers), width, int(self.tower.encoder_ffn_dim), prefix="audio.",
            stream="sound", heads=Heads(count, count, width // count),
        )  # fmt: skip
        joined = HookPoint(
            "audio.final_norm", width, TOKENS, f"{TOWER}layer_norm", 0, "output", "sound", cells="tokens"
        )
        tokens = replace(joined, name="audio_tokens", width=self.d_model, module="model.multi_modal_projector")
        return [*heard, joined, tokens, *super().hook_points()]

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """`max_tokens` counts the text, never the sound's tokens; nothing before these is cut."""
        rate, hop = self.spectrum["sampling_rate"], self.spectrum["hop_length"]
        longest = self.frames * STRIDE * hop
        sounds = [
            None if sample.audio is None else sound_of(sample, rate, self.longest_sound)[:longest] for sample in samples
        ]
        counts = [None if sound is None else self._counts(-(-len(sound) // hop)) for sound in sounds]
        for sample, count in zip(samples, counts, strict=True):
            if count is not None and count[1] < 2:
                raise AuditorError(f"The sound of sample “{sample.id}” is too short for this model.", "Leave it out.")
        special = special_ids(self.tokenizer) | {self.audio_id} if self.tokenizer is not None else frozenset[int]()
        texts = [self._written(sample, count and count[1]) for sample, count in zip(samples, counts, strict=True)]
        rows = [
            self._row(ids, sample, special, max_tokens, count and count[1])
            for ids, sample, count in zip(self.numbers(texts, None), samples, counts, strict=True)
        ]
        check_lengths([row.ids for row in rows], self.longest())
        inputs = replace(padded(rows, samples, None, None), frame_seconds=STRIDE * hop / rate)
        heard = [sound for sound in sounds if sound is not None]
        if not heard:
            return inputs
        made = self._extractor()(
            heard, sampling_rate=rate, max_length=longest, return_attention_mask=True, return_tensors="pt"
        )
        return replace(
            inputs, sound=made.input_features.float(), beside={"feature_attention_mask": made.attention_mask.long()}
        )

    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(feature_size=int(self.tower.num_mel_bins), chunk_length=1, **self.spectrum)

    def _counts(self, columns: int) -> tuple[int, int]:
        """Frames of the tower, and tokens, of so many columns of a spectrum."""
        frames = (columns - 1) // STRIDE + 1
        return frames, (frames - 2) // JOINED + 1

    def _written(self, sample: Sample, count: int | None) -> str:
        """The sample's text, with its sound's tokens, as the library's processor writes it."""
        if count is None:
            return text_of(sample)
        token, text = self._name(), sample.text or ""
        return (
            text.replace(token, token * count, 1) if token and token in text else f"{BEGIN}{token * count}{END}{text}"
        )

    def _name(self) -> str:
        known = self.tokenizer is not None and 0 <= self.audio_id < len(self.tokenizer)
        return (self.tokenizer.convert_ids_to_tokens(self.audio_id) or "") if known else ""

    def _row(
        self, ids: list[int], sample: Sample, special: frozenset[int], max_tokens: int | None, count: int | None
    ) -> Row:
        """`count`: the tokens of its sound; None without one."""
        places = [place for place, token in enumerate(ids) if token == self.audio_id]
        if len(places) != (count or 0):
            raise AuditorError(
                f"The text of sample “{sample.id}” came out with {len(places)} tokens of sound in the place of "
                f"{count or 0}.",
                "A text with one sound has one token for it at most, and the model's tokenizer has to know it.",
            )
        if max_tokens is not None:
            ids = ids[: max(max_tokens + len(places), places[-1] + 1 if places else 0)]
        row = text_row(ids, special)
        for number, place in enumerate(places):
            row.ids[place], row.unit[place], row.kind[place] = -1, number * JOINED, int(PositionKind.AUDIO)
        return row

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        if point.stream != "sound" or inputs.sound is None:
            return None
        frames = (inputs.beside["feature_attention_mask"].sum(1) - 1) // STRIDE + 1
        joined = point.cells == "tokens"
        counts = (frames - 2) // JOINED + 1 if joined else frames
        each = self.frames // JOINED if joined else self.frames
        return laid_sounds(inputs.samples, counts, each, JOINED if joined else 1)

    def forward(self, inputs: Inputs) -> Tensor | None:
        if inputs.sound is None:
            return super().forward(inputs)
        ids = inputs.ids.masked_fill((inputs.ids < 0) & inputs.mask, self.audio_id).clamp(min=0)
        logits: Tensor = self.network(
            input_ids=ids, input_features=inputs.sound.to(self.dtype), attention_mask=inputs.mask.to(torch.int64),
            use_cache=False, **inputs.beside,
        ).logits  # fmt: skip
        return logits
