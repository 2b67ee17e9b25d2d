"""Recordings of sounds, and of what a decoder writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.models import Model, open_model
from auditor.store import open_store
from auditor.store.record import RecordConfig, record
from tests.data.test_audio import tone
from tests.models.tiny import ALL
from tests.models.tiny.encoders import translations, two_sounds


def saved(name: str, folder: Path) -> Model:
    ALL[name].save(folder)
    return open_model(folder)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Model:
    return saved("whisper", tmp_path_factory.mktemp("models") / "whisper")


def config(hook: str, **changes: object) -> RecordConfig:
    return RecordConfig(**{"model": "m", "samples": "s", "hooks": (hook,), "store_dtype": "float32"} | changes)


def test_that_the_rows_of_a_recording_are_the_frames_of_its_sounds(whisper: Model, tmp_path) -> None:
    hook, samples = "encoder.blocks.1.resid_post", two_sounds()
    record(config(hook), whisper, samples, tmp_path / "a.store")
    store = open_store(tmp_path / "a.store")
    assert store.n_rows == 25 + 16 and sum(store.counts().values()) == store.n_rows
    assert store.counts()["audio"] > 0 and "text" not in store.counts()
    for number in range(2):
        held = store.sample(number)
        source = next(sample for sample in samples if sample.id == held.id)
        rows = slice(held.first_row, held.first_row + held.n_rows)
        told = whisper.run([source], record=[hook]).records[hook][0, : held.n_rows]
        torch.testing.assert_close(torch.from_numpy(store.rows(rows, hook)), told, atol=1e-5, rtol=1e-5)
        assert store.positions(rows).unit.tolist() == list(range(held.n_rows))
        assert set(store.positions(rows).token.tolist()) == {-1}
        assert held.tokens is not None and held.tokens[:3] == [" 0.00s", " 0.02s", " 0.04s"]
    assert len(next(store.batches(8, seed=1))) == 8


def test_that_a_sound_longer_than_the_network_hears_is_recorded_in_pieces(whisper: Model, tmp_path) -> None:
    from auditor.data import open_samples

    tone(tmp_path / "long.wav", 8_000, 2.0, 300.0)
    samples = open_samples(tmp_path / "long.wav")
    hook = "encoder.blocks.0.resid_post"
    whole = record(config(hook), whisper, samples, tmp_path / "a.store")
    assert sorted(whole.sample(n).id for n in range(whole.n_samples)) == ["long.wav#1", "long.wav#2", "long.wav#3"]
    assert whole.n_rows == 40 + 40 + 20
    times = {whole.sample(n).id[-1]: whole.sample(n).tokens for n in range(3)}
    assert all(told is not None for told in times.values())
    assert [times[piece][0] for piece in "123"] == [" 0.00s", " 0.80s", " 1.60s"]
    start = record(config(hook, split_long=False), whisper, samples, tmp_path / "b.store")
    assert (start.n_samples, start.n_rows) == (1, 40)


def test_that_what_a_decoder_writes_has_rows_of_its_own(tmp_path) -> None:
    model, samples = saved("t5", tmp_path / "t5"), translations()
    hook = "decoder.blocks.1.resid_post"
    store = record(config(hook), model, samples, tmp_path / "a.store")
    for number in range(2):
        held = store.sample(number)
        source = next(sample for sample in samples if sample.id == held.id)
        run = model.run([source], record=[hook])
        assert run.inputs.target is not None
        rows = slice(held.first_row, held.first_row + held.n_rows)
        np.testing.assert_allclose(store.rows(rows, hook), run.records[hook][0].numpy(), atol=1e-5)
        assert store.positions(rows).token.tolist() == run.inputs.target.ids[0].tolist()
        assert held.tokens == model.token_strings(run.inputs.target.ids[0]) and held.text == source.text


def test_that_a_recording_of_sounds_is_repeated_bit_by_bit(whisper: Model, tmp_path) -> None:
    from auditor.data import open_samples
    from auditor.store.replay import replay

    (tmp_path / "tones").mkdir()
    for number in range(3):
        tone(tmp_path / "tones" / f"{number}.wav", 44_100, 0.5 + 0.4 * number, 200.0 + 100 * number)
    store = record(config("encoder.blocks.1.mlp_out"), whisper, open_samples(tmp_path / "tones"), tmp_path / "a.store")
    again = replay(store, whisper, open_samples(tmp_path / "tones"))
    assert (again.rows, again.equal, again.differing) == (store.n_rows, True, [])
