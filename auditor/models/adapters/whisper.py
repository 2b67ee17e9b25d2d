"""Whisper's encoder: a sound as log-mel spectra, two convolutions, then blocks whose positions are frames."""

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
from auditor.models.adapters.adapter import Adapter
from auditor.models.hook_points import Blocks, Heads, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, padded, sound_row
from auditor.models.weights import load_transformers

STRIDE = 2
"""Columns of the spectrum a position: of the second convolution."""
SPECTRUM = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
MAX_SECONDS = 3600.0
_LARGEST = {"sampling_rate": 192_000, "hop_length": 1 << 14, "n_fft": 1 << 14}


class WhisperAdapter(Adapter):
    """Positions are frames of two columns of the spectrum, 20 ms each; those after the end of the sound, which the
    network reads as silence, are padding. The decoder is not run, so there are no logits."""

    family = "whisper"
    modalities = frozenset({"audio"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        classes = ("WhisperForConditionalGeneration", "WhisperModel", "WhisperForAudioClassification")
        network: Any = load_transformers(facts, "WhisperConfig", classes, dtype)
        self.network, self.config = network, network.config
        self.encoder = "model.encoder" if hasattr(network, "model") else "encoder"
        self.n_layers, self.d_model = int(self.config.encoder_layers), int(self.config.d_model)
        self.dtype = dtype
        self.frames = int(self.config.max_source_positions)
        self.spectrum = _spectrum(facts)
        if self.longest_sound > MAX_SECONDS:
            raise AuditorError(
                f"“{facts.name}” would hear {self.longest_sound:,.0f} s at once, as its two configs have it.",
                "Copy the folder from its source again.",
            )

    @property
    def longest_sound(self) -> float:
        return self.frames * STRIDE * self.spectrum["hop_length"] / self.spectrum["sampling_rate"]

    def hook_points(self) -> list[HookPoint]:
        table = Blocks(
            stack=f"{self.encoder}.layers",
            # The sum of the convolutions and the positions is no module's output.
            embed=Site(f"{self.encoder}.layers.0", "input"),
            attn_out=Site("self_attn"),
            resid_mid=Site("final_layer_norm", "input", shared=True),
            mlp_hidden=Site("fc2", "input"),
            mlp_out=Site("fc2"),
            final_norm=Site(f"{self.encoder}.layer_norm"),
            q=Site("self_attn.q_proj"),
            k=Site("self_attn.k_proj"),
            v=Site("self_attn.v_proj"),
            pattern=Site("self_attn", "inside", inside="dropout"),
            z=Site("self_attn.out_proj", "input"),
            mlp_pre=Site("fc1"),
        )
        count = int(self.config.encoder_attention_heads)
        return block_points(
            table, self.n_layers, self.d_model, int(self.config.encoder_ffn_dim), prefix="encoder.",
            heads=Heads(count, count, self.d_model // count), within=self.network,
        )  # fmt: skip

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """A sound longer than the network reads (30 s) is cut there; `max_tokens` counts no frames."""
        rate, hop = self.spectrum["sampling_rate"], self.spectrum["hop_length"]
        longest = self.frames * STRIDE * hop
        sounds = [_sound(sample, rate, self.longest_sound)[:longest] for sample in samples]
        rows = [sound_row(min(-(-len(sound) // (STRIDE * hop)), self.frames), self.frames) for sound in sounds]
        features = self._extractor()(sounds, sampling_rate=rate, max_length=longest, return_tensors="pt")
        frame_seconds = STRIDE * hop / rate
        encoded = padded(rows, samples, None, None)
        return replace(encoded, sound=features.input_features.float(), frame_seconds=frame_seconds)

    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(feature_size=int(self.config.num_mel_bins), chunk_length=1, **self.spectrum)

    def forward(self, inputs: Inputs) -> Tensor | None:
        assert inputs.sound is not None
        self.network.get_submodule(self.encoder)(inputs.sound.to(self.dtype))
        return None


def _sound(sample: Sample, rate: int, longest: float) -> np.ndarray:
    if sample.audio is None:
        raise AuditorError(
            f"Sample “{sample.id}” has no sound, and this model hears sounds only.",
            "Choose WAV files, or a model that reads text or images.",
        )
    return sample.audio.pieces(longest)[0].load(rate)


def _spectrum(facts: ModelFacts) -> dict[str, int]:
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
