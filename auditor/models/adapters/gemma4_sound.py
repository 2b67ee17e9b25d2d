"""Gemma 4's sounds among text and pictures: a conformer over a spectrum, each of whose frames becomes a token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.gemma3n_sound import spectra
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.whisper import sound_of
from auditor.models.hook_points import TOKENS, HookPoint, Kind
from auditor.models.inputs import Inputs, Positions, Row
from auditor.models.sheets import Sheet

TOWER = "model.audio_tower"
SECONDS = 30.0
"""How much is heard at once: what the library's processor has room for."""
# Inside a block, in the order in which it computes: name, module, which tensor, and whether the network writes into it.
_SITES: tuple[tuple[str, str, Kind, bool], ...] = (
    ("first_mlp_pre", "feed_forward1.ffw_layer_1", "output", False),
    ("first_mlp_hidden", "feed_forward1.ffw_layer_2", "input", False),
    ("first_mlp_out", "feed_forward1.post_layer_norm", "output", True),
    ("q", "self_attn.q_proj", "output", False),
    ("k", "self_attn.k_proj", "output", False),
    ("v", "self_attn.v_proj", "output", False),
    ("z", "self_attn.post", "input", False),
    ("attn_out", "norm_post_attn", "output", True),
    ("resid_mid", "lconv1d.pre_layer_norm", "input", False),
    ("mixer_hidden", "lconv1d.linear_end", "input", False),
    ("mixer_out", "lconv1d.linear_end", "output", True),
    ("mlp_pre", "feed_forward2.ffw_layer_1", "output", False),
    ("mlp_hidden", "feed_forward2.ffw_layer_2", "input", False),
    ("mlp_out", "feed_forward2.post_layer_norm", "output", True),
)


class HearingAdapter(ImageTextAdapter):
    """A sample's sound stands where its text says so by the token of sounds, else before it. A folder without a tower
    for sounds hears none.

    ``audio.embed`` are the frames that the conformer reads, ``audio.blocks.N.…`` its blocks, as Gemma 3n has them, and
    ``audio_tokens`` what becomes of the frames.
    """

    strides: ClassVar[tuple[int, ...]] = (2, 2)
    """By how much each convolution makes the spectrum shorter."""

    def hears(self, facts: ModelFacts) -> None:
        """Take from the folder how sounds are prepared."""
        self.tower = self.whole.audio_config
        if self.tower is not None:
            self.modalities = self.modalities | {"audio"}
            self.audio_id = int(self.whole.audio_token_id)
            self.extractor = self.extracts(facts)

    def extracts(self, facts: ModelFacts) -> Any:
        """What makes features of sounds."""
        bands = int(self.tower.subsampling_conv_channels[0])  # the library's layer after its convolutions has it so
        return spectra(facts, "Gemma4AudioFeatureExtractor", bands)

    def listened(self, sounds: Sequence[Any]) -> Any:
        """Features of sounds, and which of them stand for what is heard."""
        longest = round(SECONDS * self.extractor.sampling_rate)
        return self.extractor(sounds, max_length=longest, return_tensors="pt")

    def hop(self) -> int:
        """Numbers of a sound for each column of its features."""
        return int(self.extractor.hop_length)

    @property
    def longest_sound(self) -> float | None:
        return None if self.tower is None else SECONDS

    def audio_points(self) -> list[HookPoint]:
        if self.tower is None:
            return []
        tokens = replace(_heard("audio_tokens", "model.embed_audio", self.d_model), cells="tokens")
        return [*self.conformer_points(), tokens]

    def conformer_points(self) -> list[HookPoint]:
        width, heads = int(self.tower.hidden_size), int(self.tower.num_attention_heads)
        found = [_heard("audio.embed", f"{TOWER}.subsample_conv_projection", width)]
        for number in range(int(self.tower.num_hidden_layers)):
            at, name = f"{TOWER}.layers.{number}", f"audio.blocks.{number}"
            found.append(_heard(f"{name}.resid_pre", at, width, "input"))
            for site, module, tensor, overwritten in _SITES:
                wide = 4 * width if site.endswith(("mlp_pre", "mlp_hidden")) else width
                point = replace(_heard(f"{name}.{site}", f"{at}.{module}", wide, tensor), overwritten=overwritten)
                ways = heads if site in ("q", "k", "v", "z") else 0
                found.append(replace(point, shared=site == "resid_mid", heads=ways))
            found.append(_heard(f"{name}.resid_post", at, width))
        return found

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        if self.tower is None or not any(sample.audio is not None for sample in samples):
            return super().encode(samples, max_tokens)
        rate = self.extractor.sampling_rate
        sounds = [sound_of(sample, rate, SECONDS) for sample in samples if sample.audio is not None]
        made = self.listened(sounds)
        mask = made["input_features_mask"].bool()
        counts = iter(self._frames(mask).sum(1).tolist())
        each = [0 if sample.audio is None else int(next(counts)) for sample in samples]
        written = [self._with_sound(sample, count) for sample, count in zip(samples, each, strict=True)]
        inputs = super().encode(written, max_tokens)
        here = inputs.ids == self.audio_id
        for number, (sample, count) in enumerate(zip(samples, each, strict=True)):
            found = int(here[number].sum()) if sample.audio is not None else count
            if found != count:
                raise AuditorError(
                    f"The text of sample “{sample.id}” came out with {found} tokens of sound in the place of {count}.",
                    "The model's tokenizer does not know its token of sounds: copy its folder from its source again.",
                )
        heard = torch.tensor([sample.audio is not None for sample in samples])[:, None] & here
        order = heard.cumsum(1) - 1
        return replace(
            inputs,
            ids=inputs.ids.masked_fill(heard, -1),
            kind=inputs.kind.masked_fill(heard, int(PositionKind.AUDIO)),
            unit=torch.where(heard, order.to(inputs.unit.dtype), inputs.unit),
            samples=tuple(samples),
            sound=made["input_features"].float(),
            frame_seconds=math.prod(self.strides) * self.hop() / rate,
            beside={**inputs.beside, "input_features_mask": mask},
        )

    def _with_sound(self, sample: Sample, count: int) -> Sample:
        """The sample with the tokens of its sound in its text, as the library's processor writes them."""
        if sample.audio is None:
            return sample
        begin, token, end = (
            self._name(int(number)) for number in (self.whole.boa_token_id, self.audio_id, self.whole.eoa_token_index)
        )
        text, said = sample.text or "", f"{begin}{token * count}{end}"
        at = max(text.find(token), 0) if token else 0
        mark = token if token and text.startswith(token, at) else ""
        longer = len(said) - len(mark)
        places = tuple(place + longer if place > at or (not mark and place == at) else place for place in sample.places)
        return replace(sample, text=f"{text[:at]}{said}{text[at + len(mark) :]}", places=places)

    def _row(
        self, ids: list[int], sample: Sample, sheet: Sheet | None, special: frozenset[int], max_tokens: int | None
    ) -> Row:
        if self.tower is not None and sample.audio is not None and max_tokens is not None:
            places = [place for place, token in enumerate(ids) if token == self.audio_id]
            max_tokens = max(max_tokens + len(places), places[-1] + 1 if places else 0)
        return super()._row(ids, sample, sheet, special, max_tokens)

    def filled(self, inputs: Inputs) -> Tensor:
        ids = super().filled(inputs)
        return ids if inputs.sound is None else ids.masked_fill(inputs.kind == int(PositionKind.AUDIO), self.audio_id)

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        given = super().arguments(inputs)
        if inputs.sound is None:
            return given
        mask = inputs.beside["input_features_mask"]
        return {**given, "input_features": inputs.sound.to(self.dtype), "input_features_mask": mask}

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        if point.stream != "sound":
            return super().laid(point, inputs)
        if inputs.sound is None:
            return None
        frames = self._frames(inputs.beside["input_features_mask"])
        held = torch.tensor([sample.audio is not None for sample in inputs.samples], device=frames.device)
        whose = held.cumsum(0) - 1
        place = torch.arange(int(frames.sum(1).max()), device=frames.device)
        inside = held[:, None] & (place < frames.sum(1)[whose.clamp(min=0)][:, None])
        rows = (whose[:, None] * frames.shape[1] + place).masked_fill(~inside, -1)
        unit = place.expand_as(rows).masked_fill(~inside, -1).to(torch.int32)
        kind = torch.where(inside, int(PositionKind.AUDIO), int(PositionKind.PAD)).to(torch.uint8)
        return rows, Positions(kind, unit, None)

    def _frames(self, mask: Tensor) -> Tensor:
        """Which frames stand for a sound, of which columns of its features do: bool [sounds, frames]."""
        for stride in self.strides:
            mask = mask[:, ::stride]
        return mask


def _heard(name: str, module: str, width: int, tensor: Kind = "output") -> HookPoint:
    return HookPoint(name, width, TOKENS, module, 0, tensor, "sound")
