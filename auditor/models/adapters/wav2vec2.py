"""Wav2Vec 2.0, HuBERT and their like: convolutions over a sound's own samples, and an encoder over what they give.

Baevski et al. 2020, arXiv:2006.11477; Hsu et al. 2021, arXiv:2106.07447; UniSpeech and UniSpeech-SAT (arXiv:2101.07597,
2110.05752); data2vec (arXiv:2202.03555).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts, read_config_json
from auditor.models.adapters.adapter import TextAdapter
from auditor.models.adapters.whisper import sound_of
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Site
from auditor.models.inputs import Inputs, padded, sound_row
from auditor.models.weights import load_transformers

SECONDS = 30.0
"""The longest sound read at once: attention grows with its square."""
_LARGEST_RATE = 192_000


class Wav2Vec2Adapter(TextAdapter):
    """Positions are frames, 20 ms each, and ``features`` is what the convolutions give there; logits [B, P, letters] of
    a network that spells what it hears (CTC), else none.

    Convolutions read each sound by itself, and the encoder is told where it ends, so that padding reaches nothing: the
    library's own batches let it, where the first convolution is normed over time. In the `do_stable_layer_norm` form
    norms stand before each part, in the other after each sum, where `resid_mid` and `resid_post` are taken.
    """

    family = "wav2vec2"
    config_class = "Wav2Vec2Config"
    architectures = ("Wav2Vec2Model", "Wav2Vec2ForCTC")
    modalities = frozenset({"audio"})
    causal = False
    base: ClassVar[str] = "wav2vec2"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.config, self.dtype = network, network.config, dtype
        self.body: Any = getattr(network, self.base, network)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        self.normed_after = not getattr(self.config, "do_stable_layer_norm", False)
        self.rate, self.normed = _heard(facts)

    @property
    def longest_sound(self) -> float:
        return SECONDS

    @property
    def prefix(self) -> str:
        return f"{self.base}." if hasattr(self.network, self.base) else ""

    def hook_points(self) -> list[HookPoint]:
        given = HookPoint("features", self.given_width(), TOKENS, f"{self.prefix}feature_projection", 0, "input")
        return [given, *super().hook_points()]

    def given_width(self) -> int:
        """Of what the encoder is given, before it is projected."""
        return int(self.config.conv_dim[-1])

    def table(self) -> Blocks:
        prefix = self.prefix
        after = self.normed_after
        return Blocks(
            stack=f"{prefix}encoder.layers",
            # With positions, which a convolution over frames gives.
            embed=Site(f"{prefix}encoder.layers.0", "input"),
            attn_out=Site("attention"),
            resid_mid=Site("layer_norm") if after else Site("final_layer_norm", "input", shared=True),
            mlp_hidden=Site("feed_forward.output_dense", "input"),
            mlp_out=Site("feed_forward"),
            final_norm=None if after else Site(f"{prefix}encoder.layer_norm"),
            q=Site("attention.q_proj"),
            k=Site("attention.k_proj"),
            v=Site("attention.v_proj"),
            pattern=Site("attention", "inside", inside="dropout"),
            z=Site("attention.out_proj", "input"),
            mlp_pre=Site("feed_forward.intermediate_dense"),
        )

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """A sound longer than 30 s is cut there. AuditorError for one that is too short for one frame."""
        sounds = [self._normed(sound_of(sample, self.rate, SECONDS)) for sample in samples]
        frames = [self._frames(len(sound)) for sound in sounds]
        for sample, sound, count in zip(samples, sounds, frames, strict=True):
            if count < 1:
                raise AuditorError(
                    f"The sound of sample “{sample.id}” is too short for this model: {len(sound)} values at "
                    f"{self.rate} Hz.",
                    "Leave it out.",
                )
        rows = [sound_row(count, max(frames)) for count in frames]
        return replace(
            padded(rows, samples, None, None),
            sound=pad_sequence([torch.from_numpy(sound) for sound in sounds], batch_first=True),
            frame_seconds=math.prod(self.config.conv_stride) / self.rate,
            beside={"lengths": torch.tensor([len(sound) for sound in sounds])},
        )

    def forward(self, inputs: Inputs) -> Tensor | None:
        assert inputs.sound is not None
        sounds = zip(inputs.sound.to(self.dtype), inputs.beside["lengths"].tolist(), strict=True)
        each = [self.body.feature_extractor(sound[None, :length])[0].T for sound, length in sounds]
        return self.told(pad_sequence(each, batch_first=True), inputs)

    def told(self, given: Tensor, inputs: Inputs) -> Tensor | None:
        """Logits of what the encoder is given [B, frames, width]."""
        projected = self.body.feature_projection(given)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        mask = None if bool(inputs.mask.all()) else inputs.mask
        hidden = self.encoded(hidden, mask)
        head: Any = getattr(self.network, "lm_head", None)
        if head is None or getattr(self.body, "adapter", None) is not None:  # it would join frames
            return None
        logits: Tensor = head(hidden)
        return logits

    def encoded(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What the encoder makes of projected features; `mask` bool [B, frames], None without padding."""
        given: Tensor = self.body.encoder(hidden, attention_mask=mask).last_hidden_state
        return given

    def _frames(self, length: int) -> int:
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
        return length

    def _normed(self, sound: np.ndarray) -> np.ndarray:
        """Of mean 0 and variance 1, as the library's feature extractor makes it, where the folder says so."""
        sound = sound.astype(np.float32)
        return (sound - sound.mean()) / np.sqrt(sound.var() + np.float32(1e-7)) if self.normed and len(sound) else sound


class HubertAdapter(Wav2Vec2Adapter):
    family = "hubert"
    config_class = "HubertConfig"
    architectures = ("HubertModel", "HubertForCTC")
    base = "hubert"


class UnispeechAdapter(Wav2Vec2Adapter):
    family = "unispeech"
    config_class = "UniSpeechConfig"
    architectures = ("UniSpeechModel", "UniSpeechForCTC")
    base = "unispeech"


class UnispeechSatAdapter(Wav2Vec2Adapter):
    family = "unispeech_sat"
    config_class = "UniSpeechSatConfig"
    architectures = ("UniSpeechSatModel", "UniSpeechSatForCTC")
    base = "unispeech_sat"


class Data2vecAudioAdapter(Wav2Vec2Adapter):
    family = "data2vec_audio"
    config_class = "Data2VecAudioConfig"
    architectures = ("Data2VecAudioModel", "Data2VecAudioForCTC")
    base = "data2vec_audio"

    def encoded(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Positions come from several convolutions, each of which would carry padding on from what the last gave."""
        if mask is None:
            return super().encoded(hidden, mask)
        with contextlib.ExitStack() as taken:
            for layer in self.body.encoder.pos_conv_embed.layers:
                hook = layer.register_forward_pre_hook(lambda _, args: (args[0] * mask[:, None],))
                taken.callback(hook.remove)
            return super().encoded(hidden, mask)


def _heard(facts: ModelFacts) -> tuple[int, bool]:
    """Samples a second, and whether each sound is normed, as preprocessor_config.json says."""
    file = facts.folder / "preprocessor_config.json"
    said = read_config_json(file) if file.exists() else {}
    rate = said.get("sampling_rate", 16_000)
    if not isinstance(rate, int) or not 1 <= rate <= _LARGEST_RATE:
        raise AuditorError(f"{file.name} in “{facts.name}” gives an impossible rate: {rate}.", "Copy it again.")
    return rate, bool(said.get("do_normalize", True))
