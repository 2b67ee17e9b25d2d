"""Gemma 3n with sounds: against the library's own reading, where they stand, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample, text_sample
from auditor.models import Ablate, open_model
from auditor.models.adapters.whisper import sound_of
from auditor.store.record import RecordConfig, record
from tests.models.tiny import ALL, Case, opened
from tests.models.tiny.multimodal import heard_by

TOKENS = 6


def case() -> Case:
    return opened(ALL["gemma3n"])


def test_that_a_sound_is_written_heard_and_placed_as_by_the_library() -> None:
    sample = case().samples[0]
    inputs = case().model.encode([sample])
    assert inputs.ids[0].tolist() == [1, 7, 12, *[-1] * TOKENS, 16, 8]
    make = transformers.Gemma3nAudioFeatureExtractor(feature_size=12)
    values = sound_of(sample, 16_000, 30.0)
    given = make([values], padding="max_length", max_length=15_360, return_tensors="pt")
    assert torch.equal(inputs.sound, given.input_features)
    ids = torch.where(inputs.ids < 0, 15, inputs.ids)
    with torch.no_grad():
        told = case().source(input_ids=ids, use_cache=False, **given).logits
    run = case().model.run(inputs, record=["audio_tokens", "embed"])
    assert run.logits is not None and torch.equal(run.logits, told)
    # Half a second: 50 columns, of which sixteen make a token; what is behind is the library's filling.
    assert inputs.kind[0, 3:9].tolist() == [int(PositionKind.AUDIO)] * 4 + [int(PositionKind.SPECIAL)] * 2
    assert inputs.unit[0, 3:7].tolist() == [0, 4, 8, 12] and inputs.frame_seconds == 0.04
    assert torch.equal(run.records["embed"][0, 3:7], run.records["audio_tokens"][0])
    assert torch.equal(run.records["embed"][0, 7], run.records["embed"][0, 8])


def test_that_a_sound_is_heard_alike_beside_others_and_read_by_its_own_text_alone() -> None:
    model, samples = case().model, case().samples
    inputs = model.encode(samples)
    clean = model.run(inputs, record=["audio_tokens"])
    places = clean.positions("audio_tokens")
    assert places.unit.tolist() == [[0, 4, 8, 12], [-1] * 4, [0, 4, -1, -1]]
    alone = model.run(samples[2:], record=["audio_tokens"]).rows("audio_tokens")[0]
    torch.testing.assert_close(clean.rows("audio_tokens")[2, :2], alone[:2], atol=1e-5, rtol=1e-4)
    edited = model.run(inputs, edits=[Ablate("audio.blocks.0.resid_post")]).logits
    assert clean.logits is not None and edited is not None
    moved = (clean.logits - edited).abs().flatten(1).amax(1) > 1e-4
    assert moved.tolist() == [True, False, True]


def test_that_a_text_alone_is_read_as_by_the_language_model_alone() -> None:
    model, text = case().model, "one two three cat"
    inputs = model.encode([text_sample(text)])
    language = case().source.model.language_model
    with torch.no_grad():
        told = language(input_ids=inputs.ids, use_cache=False).last_hidden_state
    run = model.run(inputs, record=["final_norm", "audio_tokens"])
    assert torch.equal(run.records["final_norm"], told) and run.records["audio_tokens"].shape[1] == 0


def test_that_a_store_keeps_frames_tokens_and_what_is_said_of_them(tmp_path: Path) -> None:
    hooks = ("audio.blocks.1.resid_post", "audio_tokens", "blocks.1.resid_post")
    made = RecordConfig(model="m", samples="s", hooks=hooks, batch_size=2, skip_first=False)
    ALL["gemma3n"].save(tmp_path / "m")
    store = record(made, open_model(tmp_path / "m"), case().samples, tmp_path / "a.store")
    counts = {hook: len(store.rows(slice(None), hook)) for hook in hooks}
    read = int((case().model.encode(case().samples).kind != int(PositionKind.PAD)).sum())
    assert counts == {hooks[0]: 13 + 8, hooks[1]: 4 + 2, hooks[2]: read}
    held = [map(store.at(hook).sample, range(3)) for hook in hooks]
    said = [next(sample.tokens for sample in samples if sample.id == "a") for samples in held]
    assert said[0] is not None and said[0][:3] == [" 0.00s", " 0.04s", " 0.08s"]
    assert said[1] == [" 0.00s", " 0.16s", " 0.32s", " 0.48s"] and said[2] is not None
    assert said[2][1] == "red" and said[2][3:7] == said[1] and said[2][-1] == "cat"


def test_that_a_tokenizer_without_the_token_of_sounds_is_told(tmp_path: Path) -> None:
    ALL["llama"].save(tmp_path / "other")
    ALL["gemma3n"].save(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    model = open_model(tmp_path / "m")
    assert "Pictures are not read" in model.notes[-1]
    with pytest.raises(AuditorError, match="0 tokens of sound in the place of 6"):
        model.encode(case().samples[:1])
    with pytest.raises(AuditorError, match="has no text"):
        model.encode([Sample("picture")])


@pytest.mark.parametrize(
    "said", [{"hop_length_ms": 0}, {"sampling_rate": "fast"}, {"per_bin_mean": [1.0]}, {"per_bin_stddev": [0.0] * 12}]
)
def test_that_spectra_that_cannot_be_are_told(tmp_path: Path, said: dict[str, Any]) -> None:
    ALL["gemma3n"].save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(AuditorError, match=r"impossible size|no usable"):
        open_model(tmp_path)


def test_that_the_weights_of_unread_keys_and_values_are_not_missed(tmp_path: Path) -> None:
    """Published files hold those of the last blocks, which look by the keys of others."""
    ALL["gemma3n"].save(tmp_path)
    file = tmp_path / "model.safetensors"
    more = {f"model.language_model.layers.2.self_attn.{name}_proj.weight": torch.zeros(16, 32) for name in "kv"}
    save_file(load_file(file) | more, file, metadata={"format": "pt"})
    inputs = case().model.encode(case().samples[:1])
    assert torch.equal(open_model(tmp_path).run(inputs).logits, heard_by(case().source, inputs).logits)
    assert np.isfinite(heard_by(case().source, inputs).logits.numpy()).all()
