"""WavLM, UniSpeech, data2vec and AST: their results against the library's own, and how sounds are prepared."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import AudioRef, PositionKind, Sample
from auditor.models import open_model
from auditor.store.capture import token_rows
from tests.models.tiny import ALL, opened
from tests.models.tiny.encoders import two_sounds

AST = "audio-spectrogram-transformer"


@pytest.mark.parametrize("name", ["wavlm", "unispeech", "data2vec-audio"])
def test_that_logits_of_each_sound_of_a_batch_are_the_librarys_of_it_alone(name: str) -> None:
    case = opened(ALL[name])
    inputs = case.model.encode(case.samples)
    together = case.model.run(inputs).logits
    assert inputs.sound is not None and together is not None
    for row, length in enumerate(inputs.beside["lengths"].tolist()):
        with torch.no_grad():
            told = case.source(inputs.sound[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(together[row, : len(told)], told, atol=1e-4, rtol=1e-4)


def test_that_a_spectrum_and_its_classes_are_the_librarys(tmp_path: Path) -> None:
    from transformers import ASTFeatureExtractor

    source = ALL[AST].save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"mean": -3.0, "std": 2.5}), encoding="utf-8")
    model = open_model(tmp_path)
    sample = two_sounds()[0]
    assert sample.audio is not None
    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=64, mean=-3.0, std=2.5)
    given = extractor(sample.audio.load(16_000), sampling_rate=16_000, return_tensors="pt").input_values
    inputs = model.encode([sample])
    assert inputs.sound is not None
    torch.testing.assert_close(inputs.sound, given)
    with torch.no_grad():
        torch.testing.assert_close(model.run(inputs).logits, source(given).logits, atol=1e-5, rtol=1e-4)
    # 0.5 s are 48 windows: all five times begin within them, the last one at 0.4 s; there are two bands.
    assert inputs.unit[0].tolist() == [-1, -1, *range(5), *range(5)] and inputs.frame_seconds == 0.1
    (said,) = token_rows(model, inputs)
    assert said is not None and said[:2] == ["", ""] and said[2:7] == said[7:] and len(set(said)) == 6


def test_that_patches_behind_the_end_of_a_sound_are_special() -> None:
    case = opened(ALL[AST])
    kind = case.model.encode(case.samples).kind[1].tolist()  # 0.31 s: 29 windows, which three times begin in
    special, audio = int(PositionKind.SPECIAL), int(PositionKind.AUDIO)
    assert kind == [special, special, *([audio] * 3 + [special] * 2) * 2]


def test_that_a_sound_shorter_than_a_window_and_impossible_norms_are_told(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "click.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(300, "<i2").tobytes())
    with pytest.raises(AuditorError, match="too short"):
        opened(ALL[AST]).model.encode([Sample("click", audio=AudioRef(tmp_path / "click.wav"))])
    ALL[AST].save(tmp_path / "m")
    for said in ({"std": 0}, {"mean": "low"}, {"sampling_rate": 8000}):
        (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
        with pytest.raises(AuditorError, match="preprocessor_config"):
            open_model(tmp_path / "m")
