"""Wav2Vec 2.0 over a conformer, whose blocks also have convolutions over frames, between two MLPs; and W2v-BERT 2.0,
whose conformer reads spectra.

Gulati et al. 2020, arXiv:2005.08100; Wang et al. 2020, arXiv:2010.05171; Seamless Communication 2023, arXiv:2312.05187.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.wav2vec2 import SECONDS, Wav2Vec2Adapter
from auditor.models.adapters.whisper import sound_of
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.inputs import Inputs, padded, sound_row

_WINDOW, _HOP, _JOINED = 400, 160, 2
"""Numbers of a sound in a column of its spectrum, and from one column to the next; columns that become one frame."""


class Wav2Vec2ConformerAdapter(Wav2Vec2Adapter):
    """A block's first MLP has ``first_mlp_…``; `resid_mid` is behind attention, in front of the convolutions, which
    write ``mixer_out``. What both MLPs give enters the sum times ½; `resid_post` is behind the block's last norm."""

    family = "wav2vec2_conformer"
    config_class = "Wav2Vec2ConformerConfig"
    architectures = ("Wav2Vec2ConformerModel", "Wav2Vec2ConformerForCTC")
    base = "wav2vec2_conformer"

    def table(self) -> Blocks:
        return replace(
            super().table(),
            attn_out=Site("self_attn"),
            resid_mid=Site("conv_module", "input", shared=True),
            mlp_pre=Site("ffn2.intermediate_dense"),
            mlp_hidden=Site("ffn2.output_dense", "input"),
            mlp_out=Site("ffn2"),
            final_norm=Site(f"{self.prefix}encoder.layer_norm"),
            q=Site("self_attn.linear_q"),
            k=Site("self_attn.linear_k"),
            v=Site("self_attn.linear_v"),
            pattern=Site("self_attn", "inside", inside="dropout"),
            z=Site("self_attn.linear_out", "input"),
        )

    def hook_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        points = super().hook_points()
        second = {point.name: point for point in points}
        for point in points:
            block, _, site = point.name.rpartition(".")
            if site == "q":
                first = (second[f"{block}.{name}"] for name in ("mlp_pre", "mlp_hidden", "mlp_out"))
                found += [
                    replace(one, name=one.name.replace("mlp_", "first_mlp_"), module=one.module.replace("ffn2", "ffn1"))
                    for one in first
                ]
            found.append(point)
            if site == "resid_mid":
                found.append(replace(point, name=f"{block}.mixer_out", tensor="output", shared=False))
        return found

    def encoded(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Convolutions would carry on what stands behind a sound's end."""
        with contextlib.ExitStack() as taken:
            for layer in self.body.encoder.layers if mask is not None else ():
                taken.callback(
                    layer.conv_module.depthwise_conv.register_forward_pre_hook(
                        lambda _, args: (args[0] * mask[:, None],)  # type: ignore[index]
                    ).remove
                )
            return super().encoded(hidden, mask)


class Wav2Vec2BertAdapter(Wav2Vec2ConformerAdapter):
    """``features`` are columns of a spectrum, two by two. Convolutions look back only, and stop at a sound's end."""

    family = "wav2vec2_bert"
    config_class = "Wav2Vec2BertConfig"
    architectures = ("Wav2Vec2BertModel", "Wav2Vec2BertForCTC")
    base = "wav2vec2_bert"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        from transformers import SeamlessM4TFeatureExtractor

        super().__init__(facts, dtype)
        bands = self.given_width() // _JOINED
        self.spectrum = SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands, sampling_rate=self.rate)

    def given_width(self) -> int:
        return int(self.config.feature_projection_input_dim)

    def table(self) -> Blocks:
        return replace(super().table(), final_norm=None)

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """A sound longer than 30 s is cut there. AuditorError for one that is too short for one frame."""
        each = []
        for sample in samples:
            sound = sound_of(sample, self.rate, SECONDS)
            if len(sound) < _WINDOW + _HOP:
                raise AuditorError(f"The sound of sample “{sample.id}” is too short for this model.", "Leave it out.")
            made = self.spectrum(sound, sampling_rate=self.rate, return_tensors="pt")
            each.append(made.input_features[0, : int(made.attention_mask.sum())].float())
        longest = max(map(len, each))
        return replace(
            padded([sound_row(len(one), longest) for one in each], samples, None, None),
            sound=pad_sequence(each, batch_first=True),
            frame_seconds=_JOINED * _HOP / self.rate,
        )

    def forward(self, inputs: Inputs) -> Tensor | None:
        assert inputs.sound is not None
        return self.told(inputs.sound.to(self.dtype), inputs)

    def encoded(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        given: Tensor = self.body.encoder(hidden, attention_mask=mask).last_hidden_state
        if (more := self.body.intermediate_ffn) is not None:
            given = given + 0.5 * more(given)
        return given
