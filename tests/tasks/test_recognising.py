"""What a folder is said to be, by a look at files that anybody may have put there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.tasks.open import recognise

SAELENS = Path(__file__).parents[1] / "sae" / "formats" / "fixtures" / "sae-lens" / "topk"


@pytest.mark.parametrize("manifest", ["[" * 100_000, "{", "[]", '{"format": 3}', "a pipe", "a folder"])
def test_that_a_strange_manifest_makes_no_store(tmp_path: Path, manifest: str) -> None:
    place = tmp_path / "manifest.json"
    if manifest == "a pipe":
        os.mkfifo(place)
    elif manifest == "a folder":
        place.mkdir()
    else:
        place.write_text(manifest, encoding="utf-8")
    assert recognise(tmp_path) == "samples"


def test_that_a_dictionary_of_saelens_is_sent_to_the_doctor_and_one_of_ours_is_opened(tmp_path: Path) -> None:
    from auditor.sae.formats.saelens import read

    with pytest.raises(AuditorError, match="is a dictionary") as told:
        recognise(SAELENS)
    assert f"auditor import {SAELENS}" in told.value.hint and "File → Import" in told.value.hint
    read(SAELENS).save(tmp_path / "ours")
    assert recognise(tmp_path / "ours") == "dictionary"


@pytest.mark.parametrize(
    "file", ["chunk-00000000.safetensors", "layers.1/shard-2-chunk-00000003.safetensors", "layers.1/0_255.safetensors"]
)
def test_that_activations_and_latents_of_others_are_sent_to_the_import(tmp_path: Path, file: str) -> None:
    (tmp_path / "cached" / file).parent.mkdir(parents=True)
    (tmp_path / "cached" / file).write_bytes(b"")
    with pytest.raises(AuditorError, match="another program's activations or latents") as told:
        recognise(tmp_path / "cached")
    assert f"auditor import {tmp_path / 'cached'}" in told.value.hint


def test_that_a_data_set_in_arrow_is_told_from_activations(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")
    for features, told in (
        ({"text": {"dtype": "string", "_type": "Value"}}, "is a data set as Hugging Face's library saves it"),
        ({"h": {"shape": [4, 3], "_type": "Array2D"}}, "holds another program's activations"),
        ({}, "holds another program's activations"), ("x", "holds another program's activations"),
    ):  # fmt: skip
        (tmp_path / "dataset_info.json").write_text(json.dumps({"features": features}), encoding="utf-8")
        with pytest.raises(AuditorError, match=told):
            recognise(tmp_path)
