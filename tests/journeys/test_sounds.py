"""A folder of WAV files, from what it is to features of its frames, on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data.test_audio import tone
from tests.journeys.running import done, made
from tests.models.tiny import ALL

HOOK = "encoder.blocks.1.resid_post"


def test_that_a_folder_of_sounds_is_recorded_learned_from_and_shown(tmp_path: Path) -> None:
    from auditor.features import open_index

    sounds, model, project = tmp_path / "tones", tmp_path / "whisper", tmp_path / "project"
    sounds.mkdir()
    for number in range(6):
        tone(sounds / f"{number}.wav", (8_000, 44_100)[number % 2], 0.3 + 0.1 * number, 200.0 + 100 * number)
    ALL["whisper"].save(model)
    told = done("open", model, "--project", project)
    assert (told["family"], told["modalities"], told["width"]) == ("whisper", ["audio"], 32)
    told = done("open", sounds, "--project", project)
    assert (told["samples"], told["with_sound"], told["with_image"]) == (6, 6, 0)
    told = done("record", "--model", "whisper", "--samples", "tones", "--hooks", HOOK, "--project", project)
    # 0.3, 0.4 … 0.8 s, of 20 ms a frame.
    assert told["rows"] == 15 + 20 + 25 + 30 + 35 + 40 and told["audio_rows"] > 0.9 * told["rows"]
    store = made(told, "store").stem
    told = done("train", "--store", store, "--d-sae", 32, "--k", 4, "--steps", 60, "--batch-size", 64,
                "--project", project)  # fmt: skip
    assert 0 < told["fvu_audio"] < 1
    told = done("index", "--store", store, "--dictionary", made(told, "dictionary").stem, "--project", project)
    fired = done("search", "--image", sounds / "3.wav", "--project", project)["features"]
    assert fired and all(fire["token"].endswith("s") and float(fire["token"][:-1]) < 0.6 for fire in fired)
    index = open_index(made(told, "index"))
    shown = index.feature(int(np.argmax(index.table["density"]))).examples_of("text", "top")
    assert shown and all(token.endswith("s") and float(token[:-1]) < 0.8 for token in shown[0].tokens)


def test_that_a_damaged_sound_is_left_out_and_named(tmp_path: Path) -> None:
    sounds = tmp_path / "tones"
    sounds.mkdir()
    tone(sounds / "a.wav", 8_000, 0.3, 200.0)
    whole = (sounds / "a.wav").read_bytes()
    (sounds / "b.wav").write_bytes(whole[:-100])
    told = done("open", sounds, "--project", tmp_path / "project")
    assert (told["samples"], told["unreadable"]) == (1, 1)
    assert "b.wav" in str(told["first_unreadable"]) and "cut short" in str(told["first_unreadable"])
