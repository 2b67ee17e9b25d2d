"""CLAP: its results against the library's own, how sounds are prepared, and which time a patch stands for."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from auditor.base.errors import AuditorError
from auditor.data import AudioRef, PositionKind, Sample, text_sample
from auditor.models import open_model
from auditor.store.capture import capture, encode
from auditor.store.recipe import RecordConfig, groups_of
from tests.models.tiny import ALL, opened
from tests.models.tiny.encoders import two_sounds

SPECIAL, AUDIO, PAD = (int(kind) for kind in (PositionKind.SPECIAL, PositionKind.AUDIO, PositionKind.PAD))


def noise(path: Path, seconds: float, loud_from: float = 2.0) -> Sample:
    """White noise, ten times as loud from some time on."""
    values = np.random.default_rng(3).standard_normal(int(16_000 * seconds)) * 0.02
    values[int(16_000 * loud_from) :] *= 10
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((values.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return Sample(path.stem, audio=AudioRef(path))


@pytest.mark.parametrize("name", ["clap", "clap fused"])
def test_that_spectra_and_logits_are_the_librarys(name: str) -> None:
    case = opened(ALL[name])
    inputs = case.model.encode(case.samples)
    sounds = [sample.audio.load(16_000) for sample in case.samples if sample.audio is not None]
    make = ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, hop_length=320, fft_window_size=512, max_length_s=1, frequency_min=50,
        frequency_max=8000, truncation="fusion" if name.endswith("fused") else "rand_trunc", padding="repeatpad",
    )  # fmt: skip
    given = make(sounds, sampling_rate=16_000, return_tensors="pt").input_features
    assert inputs.sound is not None
    torch.testing.assert_close(inputs.sound, given.float())
    with torch.no_grad():
        told = case.source(
            input_ids=inputs.ids.clamp(min=0), attention_mask=inputs.mask.long(), input_features=inputs.sound,
            is_longer=torch.zeros(2, 1, dtype=torch.bool),
        )  # fmt: skip
    torch.testing.assert_close(case.model.run(inputs).logits, told.logits_per_audio, atol=1e-4, rtol=1e-4)


def test_that_a_patch_stands_for_its_time(tmp_path: Path) -> None:
    model = opened(ALL["clap"]).model
    plain, loud = noise(tmp_path / "plain.wav", 1.0), noise(tmp_path / "loud.wav", 1.0, loud_from=0.7)
    run = model.run(model.encode([plain, loud]), record=["audio.embed", "audio.blocks.2.resid_pre"])
    rows, positions = run.rows("audio.embed"), run.positions("audio.embed")
    assert sorted(positions.unit[0].tolist()) == sorted([*range(16)] * 4)
    moved = (rows[0] - rows[1]).abs().amax(-1) > 1e-4
    # Of 16 steps a second; windows of the spectrum reach a little before.
    assert set(positions.unit[0][moved].tolist()) - {10} == set(range(11, 16))
    assert run.positions("audio.blocks.2.resid_pre").unit[0].reshape(4, 4).tolist() == [
        [0, 2, 4, 6], [0, 2, 4, 6], [8, 10, 12, 14], [8, 10, 12, 14],
    ]  # fmt: skip


def test_that_what_lies_behind_a_sounds_end_is_special_and_texts_have_no_rows_of_sound() -> None:
    model = opened(ALL["clap"]).model
    run = model.run(model.encode([*two_sounds(), text_sample("red cat")]), record=["audio.embed", "audio_embeds"])
    positions = run.positions("audio.embed")
    heard = [sorted(set(row[row >= 0].tolist())) for row in positions.unit]
    assert heard == [list(range(8)), list(range(5)), []]  # 0.5 s and 0.31 s
    assert set(positions.kind[1].tolist()) == {SPECIAL, AUDIO} and set(positions.kind[2].tolist()) == {PAD}
    assert run.positions("audio_embeds").kind.tolist() == [[AUDIO], [AUDIO], [PAD]] and run.logits is None
    assert not run.rows("audio_embeds")[2].any()


def test_that_recorded_patches_say_their_time() -> None:
    model = opened(ALL["clap"]).model
    hooks = ["audio.blocks.0.resid_post", "audio_embeds"]
    assert sorted(groups_of(model, hooks)) == ["sound", "tokens"]
    config = RecordConfig(model="m", samples="s", hooks=hooks[:1])
    found = capture(model, encode(model, two_sounds()[:1], config), hooks[:1], config)
    (sample,) = found.samples
    assert sample.tokens is not None and len(sample.tokens) == 64
    assert len(set(sample.tokens)) == 9 and sample.tokens.count("") == 32


def test_that_spectra_that_no_such_network_reads_are_refused(tmp_path: Path) -> None:
    ALL["clap"].save(tmp_path)
    for said in ({"hop_length": 0}, {"frequency_max": 90_000}, {"truncation": "some"}, {"max_length_s": "long"}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
        with pytest.raises(AuditorError, match="preprocessor_config"):
            open_model(tmp_path)
