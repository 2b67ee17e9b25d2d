"""Whisper: an encoder of sounds, as log-mel spectra and two convolutions, and a decoder of what is said in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts, read_config_json
from auditor.models.adapters.bart import BartAdapter
from auditor.models.inputs import Inputs, padded, sound_row

STRIDE = 2
"""Columns of the spectrum a position: of the second convolution."""
SPECTRUM = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
MAX_SECONDS = 3600.0
_LARGEST = {"sampling_rate": 192_000, "hop_length": 1 << 14, "n_fft": 1 << 14}


class WhisperAdapter(BartAdapter):
    """The encoder's positions are frames of two columns of the spectrum, 20 ms each; those after the end of the sound,
    which the network reads as silence, are padding. The decoder is given the sample's label ``target``, what is said in
    the sound, as `EncoderDecoderAdapter` has it."""

    family = "whisper"
    config_class = "WhisperConfig"
    architectures = ("WhisperForConditionalGeneration", "WhisperModel", "WhisperForAudioClassification")
    modalities = frozenset({"audio"})
    norms_after = False
    head = "proj_out"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.dtype = dtype
        self.frames = int(self.config.max_source_positions)
        self.spectrum = spectrum_of(facts)
        must_hear(facts, self.longest_sound)

    @property
    def longest_sound(self) -> float:
        return self.frames * STRIDE * self.spectrum["hop_length"] / self.spectrum["sampling_rate"]

    def layers(self) -> tuple[int, int]:
        decodes = hasattr(self.network.get_submodule(self.prefix.rstrip(".")), "decoder")
        return int(self.config.encoder_layers), int(self.config.decoder_layers) if decodes else 0

    def longest(self) -> int:
        return int(self.config.max_target_positions)

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """A sound longer than the network reads (30 s) is cut there; `max_tokens` counts tokens of the target alone."""
        rate, hop = self.spectrum["sampling_rate"], self.spectrum["hop_length"]
        longest = self.frames * STRIDE * hop
        sounds = [sound_of(sample, rate, self.longest_sound)[:longest] for sample in samples]
        rows = [sound_row(min(-(-len(sound) // (STRIDE * hop)), self.frames), self.frames) for sound in sounds]
        features = self._extractor()(sounds, sampling_rate=rate, max_length=longest, return_tensors="pt")
        return replace(
            padded(rows, samples, None, None), sound=features.input_features.float(), frame_seconds=STRIDE * hop / rate,
            target=self.target(samples, max_tokens) if self.decoder_layers else None,
        )  # fmt: skip

    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(feature_size=int(self.config.num_mel_bins), chunk_length=1, **self.spectrum)

    def forward(self, inputs: Inputs) -> Tensor | None:
        assert inputs.sound is not None
        return self.run({"input_features": inputs.sound.to(self.dtype)}, inputs)


def sound_of(sample: Sample, rate: int, longest: float) -> np.ndarray:
    """The sample's first `longest` seconds of sound, so many numbers a second; AuditorError where it has none."""
    if sample.audio is None:
        raise AuditorError(
            f"Sample “{sample.id}” has no sound, and this model hears sounds only.",
            "Choose WAV files, or a model that reads text or images.",
        )
    return sample.audio.pieces(longest)[0].load(rate)


def must_hear(facts: ModelFacts, seconds: float) -> None:
    """AuditorError where a network would hear more at once than any does."""
    if seconds > MAX_SECONDS:
        raise AuditorError(
            f"“{facts.name}” would hear {seconds:,.0f} s at once, as its two configs have it.",
            "Copy the folder from its source again.",
        )


def spectrum_of(facts: ModelFacts) -> dict[str, int]:
    """How spectra are made, as preprocessor_config.json says. AuditorError for sizes that cannot be."""
    file = facts.folder / "preprocessor_config.json"
    said = read_config_json(file) if file.exists() else {}
    sizes = {}
    for name, usual in SPECTRUM.items():
        size = said.get(name, usual)
        if not isinstance(size, int) or not 1 <= size <= _LARGEST[name]:
            raise AuditorError(
                f"{file.name} in “{facts.name}” gives an impossible size: {name} = {size}.", "Copy it again."
            )
        sizes[name] = size
    return sizes
