"""Wav2Vec 2.0, HuBERT and W2v-BERT: sounds as the library's own extractor gives them, each by itself."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import AudioRef, Sample
from auditor.models import open_model
from tests.models.tiny import ALL, opened
from tests.models.tiny.encoders import two_sounds


@pytest.mark.parametrize("normed", [True, False])
def test_that_a_sound_and_its_logits_are_the_librarys(tmp_path: Path, normed: bool) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    source = ALL["wav2vec2"].save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": normed}), encoding="utf-8")
    model = open_model(tmp_path)
    sample = two_sounds()[0]
    assert sample.audio is not None
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normed)
    given = extractor(sample.audio.load(16_000), sampling_rate=16_000, return_tensors="pt").input_values
    inputs = model.encode([sample])
    assert inputs.sound is not None
    torch.testing.assert_close(inputs.sound, given, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        told = source(given).logits
    torch.testing.assert_close(model.run(inputs).logits, told, atol=1e-5, rtol=1e-4)
    assert inputs.frame_seconds == 200 / 16_000 and told.shape[1] == int(inputs.mask.sum())


@pytest.mark.parametrize("seconds", [0.5, 0.31, 0.297])
def test_that_a_spectrum_and_its_logits_are_the_librarys(seconds: float, tmp_path: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    case = opened(ALL["wav2vec2-bert"])
    sound = case.samples[0].audio
    assert sound is not None
    heard = sound.load(16_000)[: round(16_000 * seconds)]
    with wave.open(str(tmp_path / "cut.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((heard * 32767).astype("<i2").tobytes())
    sample = Sample("cut", audio=AudioRef(tmp_path / "cut.wav"))
    assert sample.audio is not None
    extractor = SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16)
    given = extractor(sample.audio.load(16_000), sampling_rate=16_000, return_tensors="pt")
    inputs, count = case.model.encode([sample]), int(given["attention_mask"].sum())
    assert inputs.sound is not None and inputs.mask.sum() == count and inputs.frame_seconds == 0.02
    torch.testing.assert_close(inputs.sound, given["input_features"][:, :count], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        told = case.source(**given).logits[:, :count]
    torch.testing.assert_close(case.model.run(inputs).logits, told, atol=1e-4, rtol=1e-4)


def test_that_the_librarys_own_batch_lets_padding_in_and_ours_does_not() -> None:
    case = opened(ALL["wav2vec2"])
    inputs = case.model.encode(case.samples)
    short = case.model.run(case.samples[1:]).logits
    together = case.model.run(inputs).logits
    assert inputs.sound is not None and short is not None and together is not None
    length = short.shape[1]
    torch.testing.assert_close(together[1, :length], short[0], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        theirs = case.source(inputs.sound).logits
    assert not torch.allclose(theirs[1, :length], short[0], atol=1e-3)


@pytest.mark.parametrize("family", ["hubert", "wav2vec2-bert"])
def test_that_a_sound_without_a_frame_is_told(family: str, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "click.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(12, "<i2").tobytes())
    with pytest.raises(AuditorError, match="too short"):
        opened(ALL[family]).model.encode([Sample("click", audio=AudioRef(tmp_path / "click.wav"))])
