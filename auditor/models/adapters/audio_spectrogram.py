"""AST: a vision transformer over the log-mel spectrum of a sound, in patches that overlap.

Gong et al. 2021, arXiv:2104.01778.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts, read_config_json
from auditor.models.adapters.adapter import TextAdapter
from auditor.models.adapters.vision import projections
from auditor.models.adapters.whisper import MAX_SECONDS, sound_of
from auditor.models.hook_points import Blocks, Site
from auditor.models.inputs import Inputs, Row, padded
from auditor.models.weights import load_transformers

RATE, HOP, WINDOW = 16_000, 160, 400
LEADING = 2
"""Positions before the patches: the class token, and one of distillation."""


class AudioSpectrogramAdapter(TextAdapter):
    """Positions are patches of the spectrum, band by band from the lowest, each over all of the time; what is counted
    is the time, so that patches above one another have one number. Patches behind the sound's end, which the network
    reads as silence, are special. Logits [B, classes] of a classifier, else none."""

    family = "audio_spectrogram_transformer"
    config_class = "ASTConfig"
    architectures = ("ASTForAudioClassification", "ASTModel")
    modalities = frozenset({"audio"})
    causal = False

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.config, self.dtype = network, network.config, dtype
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        self.frames, self.bins = int(self.config.max_length), int(self.config.num_mel_bins)
        self.extractor = self._extractor(facts)
        if self.longest_sound > MAX_SECONDS:
            raise AuditorError(
                f"“{facts.name}” would hear {self.longest_sound:,.0f} s at once, as its config has it.",
                "Copy the folder from its source again.",
            )

    @property
    def longest_sound(self) -> float:
        return self.frames * HOP / RATE

    def table(self) -> Blocks:
        at = f"{self.family}." if hasattr(self.network, self.family) else ""
        return Blocks(
            stack=f"{at}layers",
            embed=Site(f"{at}embeddings"),
            attn_out=Site("attention"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("mlp"),
            final_norm=Site(f"{at}layernorm"),
            **projections("attention"),
            mlp_pre=Site("mlp.fc1"),
        )

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """A sound longer than the network hears is cut there. AuditorError for one shorter than one window."""
        sounds = [sound_of(sample, RATE, self.longest_sound).astype(np.float32) for sample in samples]
        for sample, sound in zip(samples, sounds, strict=True):
            if len(sound) < WINDOW:
                raise AuditorError(
                    f"The sound of sample “{sample.id}” is too short for this model: {len(sound)} values at {RATE} Hz.",
                    "Leave it out.",
                )
        spectra = self.extractor(sounds, sampling_rate=RATE, return_tensors="pt").input_values
        step = int(self.config.time_stride)
        return replace(
            padded([self._row(len(sound)) for sound in sounds], samples, None, None), sound=spectra.float(),
            frame_seconds=step * HOP / RATE,
        )  # fmt: skip

    def forward(self, inputs: Inputs) -> Tensor | None:
        assert inputs.sound is not None
        logits: Tensor | None = getattr(self.network(input_values=inputs.sound.to(self.dtype)), "logits", None)
        return logits

    def _row(self, length: int) -> Row:
        """Of a sound of so many values."""
        size, step = int(self.config.patch_size), int(self.config.time_stride)
        bands = (self.bins - size) // int(self.config.frequency_stride) + 1
        times = (self.frames - size) // step + 1
        heard = min(-(-(1 + (length - WINDOW) // HOP) // step), times)
        kinds = [int(PositionKind.AUDIO)] * heard + [int(PositionKind.SPECIAL)] * (times - heard)
        units = [*range(heard), *[-1] * (times - heard)]
        count = LEADING + bands * times
        return Row([-1] * count, [int(PositionKind.SPECIAL)] * LEADING + kinds * bands, [-1] * LEADING + units * bands)

    def _extractor(self, facts: ModelFacts) -> Any:
        from transformers import ASTFeatureExtractor

        file = facts.folder / "preprocessor_config.json"
        said = read_config_json(file) if file.exists() else {}
        numbers = {name: said[name] for name in ("mean", "std") if name in said}
        rate = said.get("sampling_rate", RATE)
        usable = all(isinstance(value, (int, float)) for value in numbers.values()) and numbers.get("std", 1) > 0
        if rate != RATE or not usable:
            raise AuditorError(
                f"{file.name} in “{facts.name}” gives a rate or norms that no such network has been trained with.",
                "Copy it again.",
            )
        return ASTFeatureExtractor(
            num_mel_bins=self.bins, max_length=self.frames, do_normalize=bool(said.get("do_normalize", True)), **numbers
        )
