"""Qwen2-Audio, against the library's own maker of spectra and forward pass."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from auditor.base.errors import AuditorError
from auditor.data import AudioRef, PositionKind, Sample
from auditor.store.capture import capture, encode
from auditor.store.recipe import RecordConfig
from tests.models.tiny import ALL, Case, opened

AUDIO, TEXT, SPECIAL = (int(kind) for kind in (PositionKind.AUDIO, PositionKind.TEXT, PositionKind.SPECIAL))


def case() -> Case:
    return opened(ALL["qwen2_audio"])


def test_that_a_sound_among_text_is_read_as_by_the_library() -> None:
    sample = case().samples[2]
    assert sample.audio is not None
    make = WhisperFeatureExtractor(feature_size=8, chunk_length=1, hop_length=160, n_fft=400, sampling_rate=16_000)
    given = make(
        sample.audio.load(16_000), sampling_rate=16_000, max_length=12_800, return_attention_mask=True,
        return_tensors="pt",
    )  # fmt: skip
    inputs = case().model.encode([sample])
    assert inputs.sound is not None
    torch.testing.assert_close(inputs.sound, given.input_features.float())
    assert torch.equal(inputs.beside["feature_attention_mask"], given.attention_mask.long())
    # 0.31 s: 31 columns, 16 frames, 8 tokens.
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert ids.tolist() == [[1, 4, *[3] * 8, 7, 8]]
    with torch.no_grad():
        told = (
            case()
            .source(input_ids=ids, attention_mask=torch.ones_like(ids), input_features=inputs.sound, **inputs.beside)
            .logits
        )
    torch.testing.assert_close(case().model.run(inputs).logits, told, atol=1e-5, rtol=1e-5)


def test_that_frames_and_tokens_stand_for_times() -> None:
    run = case().model.run(case().samples, record=["audio.blocks.0.z", "audio_tokens"])
    frames, tokens = (run.positions(name) for name in ("audio.blocks.0.z", "audio_tokens"))
    assert [int((kind == AUDIO).sum()) for kind in frames.kind] == [25, 0, 16]
    assert tokens.unit[2].tolist() == [*range(0, 16, 2), -1, -1, -1, -1] and run.inputs.frame_seconds == 0.02
    placed = run.inputs.kind == AUDIO
    assert placed.sum(1).tolist() == [12, 0, 8] and run.inputs.unit[2][placed[2]].tolist() == list(range(0, 16, 2))
    assert run.inputs.kind[0, :2].tolist() == [SPECIAL, SPECIAL]  # begin, and what is written before a sound


def test_that_recorded_frames_say_their_time() -> None:
    config = RecordConfig(model="m", samples="s", hooks=["audio.blocks.0.z"])
    found = capture(case().model, encode(case().model, case().samples[:1], config), config.hooks, config)
    (sample,) = found.samples
    assert sample.tokens is not None and len(sample.tokens) == 25 and sample.tokens[:2] == [" 0.00s", " 0.02s"]


def test_that_a_click_and_a_second_token_of_a_sound_are_told(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "click.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(300, "<i2").tobytes())
    with pytest.raises(AuditorError, match="too short"):
        case().model.encode([Sample("click", audio=AudioRef(tmp_path / "click.wav"))])
    with pytest.raises(AuditorError, match="tokens of sound"):
        case().model.encode([replace(case().samples[2], text="<image> red <image>")])
