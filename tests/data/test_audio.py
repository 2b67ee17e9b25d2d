"""Sounds as samples: rates, channels, stretches, folders and manifests."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.data import AudioRef, open_samples
from auditor.data.chunking import sounds_in_pieces


def tone(path: Path, rate: int, seconds: float, hertz: float, channels: int = 1) -> Path:
    """A sine of amplitude 0.5; further channels are silent."""
    values = np.zeros((int(rate * seconds), channels))
    values[:, 0] = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(values)) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((values * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 11_025])
def test_that_a_tone_is_the_same_tone_at_another_rate(tmp_path: Path, rate: int) -> None:
    heard = AudioRef(tone(tmp_path / "a.wav", rate, 0.5, 440.0)).load(16_000)
    assert heard.dtype == np.float32 and abs(len(heard) - 8_000) <= 1
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16_000)
    np.testing.assert_allclose(heard[400:-400], wanted[400:-400], atol=0.005)


def test_that_a_tone_above_half_the_new_rate_does_not_come_back_as_another(tmp_path: Path) -> None:
    heard = AudioRef(tone(tmp_path / "a.wav", 44_100, 0.5, 12_000.0)).load(16_000)
    assert float(np.abs(heard[400:-400]).max()) < 0.01


def test_that_channels_are_averaged(tmp_path: Path) -> None:
    one = AudioRef(tone(tmp_path / "a.wav", 16_000, 0.1, 440.0)).load(16_000)
    four = AudioRef(tone(tmp_path / "b.wav", 16_000, 0.1, 440.0, channels=4)).load(16_000)
    np.testing.assert_allclose(4 * four, one, atol=1e-4)


def test_that_pieces_put_together_are_the_whole(tmp_path: Path) -> None:
    whole = AudioRef(tone(tmp_path / "a.wav", 8_000, 1.03, 300.0))
    parts = whole.pieces(0.25)
    assert [round(part.seconds, 4) for part in parts] == [0.25] * 4 + [0.03]
    np.testing.assert_array_equal(np.concatenate([part.load(8_000) for part in parts]), whole.load(8_000))
    assert whole.pieces(2.0) == [whole] and parts[1].pieces(0.25) == [parts[1]]
    assert len({part.digest for part in [whole, *parts]}) == 6


def test_that_a_folder_of_sounds_is_a_set_of_samples(tmp_path: Path) -> None:
    (tmp_path / "dogs").mkdir()
    tone(tmp_path / "dogs" / "a.wav", 8_000, 0.5, 300.0)
    tone(tmp_path / "b.WAV", 8_000, 0.25, 300.0)
    found = open_samples(tmp_path)
    assert [(s.id, s.group, s.labels["seconds"]) for s in found] == [
        ("b.WAV", "b", "0.25"),
        ("dogs/a.wav", "dogs", "0.50"),
    ]
    assert found.modalities == {"audio"} and all(s.text is None and s.image is None for s in found)
    before = found.digest
    tone(tmp_path / "b.WAV", 8_000, 0.25, 301.0)
    assert open_samples(tmp_path).digest != before
    assert open_samples(tmp_path / "b.WAV")[0].audio == AudioRef(tmp_path / "b.WAV")


def test_that_a_manifest_gives_sounds_their_labels(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 8_000, 0.5, 300.0)
    rows = [{"file": "a.wav", "id": "first", "caption": "a low tone", "concept": "tone", "pitch": 300}]
    (tmp_path / "sounds.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (sample,) = open_samples(tmp_path)
    assert (sample.id, sample.group, sample.labels["caption"], sample.labels["pitch"]) == (
        "first", "tone", "a low tone", 300,
    )  # fmt: skip
    assert sample.audio == AudioRef(tmp_path / "a.wav") and sample.image is None


def test_that_a_bad_sound_of_a_folder_is_named_before_it_is_recorded(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 8_000, 0.5, 300.0)
    (tmp_path / "b.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    found = open_samples(tmp_path)
    assert [sample.id for sample in found] == ["a.wav"]
    assert found.skips.count == 1 and "b.wav" in found.skips.first[0]
    with pytest.raises(AuditorError, match=r"b\.wav"):
        open_samples(tmp_path, strict=True)


def test_that_long_sounds_are_cut_and_short_ones_pass(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 8_000, 1.1, 300.0)
    tone(tmp_path / "b.wav", 8_000, 0.4, 300.0)
    cut = sounds_in_pieces(open_samples(tmp_path), 0.5)
    assert [(s.id, s.group, s.labels["seconds"]) for s in cut] == [
        ("a.wav#1", "a", "0.50"), ("a.wav#2", "a", "0.50"), ("a.wav#3", "a", "0.10"), ("b.wav", "b", "0.40"),
    ]  # fmt: skip
