"""Hostile adapter folders: each gets one sentence, runs nothing, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.project import Project
from tests.journeys.running import auditor
from tests.models.peft.make_fixtures import FIXTURES

BASE = FIXTURES / "base-llama"


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project, an adapter beside it, and a canary that must not come to be."""
    shutil.copytree(FIXTURES / "lora", tmp_path / "lora")
    Project.create(tmp_path / "project").close()
    return tmp_path


def refused(place: Path, *arguments: object) -> str:
    """The sentence with which the adapter is refused; the project is as it was, nothing was run."""
    told = auditor("open", place / "lora", *(arguments or ("--base", BASE)), "--project", place / "project")
    assert told.code == 2 and not told.out, told
    assert "Traceback" not in told.err and len(told.err.strip().splitlines()) <= 2, told.err
    assert not (place / "canary").exists()
    assert not list((place / "project").rglob("*.model.json*")) and not (place / "project/models").exists()
    with Project.open(place / "project", write=False) as project:
        assert project.artefacts() == []
    return told.err


def change(place: Path, **values: Any) -> None:
    path = place / "lora/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


CONFIGS: dict[str, dict[str, Any]] = {
    "huge rank": {"r": 1 << 60},
    "no rank": {"r": 0},
    "negative rank": {"r": -4},
    "rank of text": {"r": "8"},
    "rank of nothing": {"r": None},
    "rank that the tensors do not have": {"r": 4},
    "alpha of text": {"lora_alpha": "much"},
    "endless alpha": {"lora_alpha": 1e300},
    "list as pattern": {"rank_pattern": [1, 2]},
    "rank in a pattern": {"rank_pattern": {"q_proj": 1 << 40}},
    "pattern without end": {"rank_pattern": {"(.*)*(.*)*(.*)*x": 3}},
    "pattern of groups": {"alpha_pattern": {"(a|a)+b": 3}},
    "pattern that is none": {"alpha_pattern": {"(": 3}},
    "code": {"auto_map": {"x": "evil.Y"}},
    "own modules": {"custom_modules": "evil"},
    "unknown kind": {"peft_type": "EVIL"},
    "prompt tuning": {"peft_type": "PROMPT_TUNING"},
    "kind of a number": {"peft_type": 7},
    "layers repeated": {"layer_replication": [[0, 2], [1, 2]]},
    "dora that is none": {"use_dora": True},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_that_a_hostile_config_is_refused(place: Path, name: str) -> None:
    change(place, **CONFIGS[name])
    assert refused(place)


@pytest.mark.parametrize("said", ["../../etc", "/etc/passwd", "file:///etc", "someone/else", {"a": 1}, 7])
def test_that_what_the_file_says_of_its_base_is_never_followed(place: Path, said: object) -> None:
    change(place, base_model_name_or_path=said)
    assert "--base FOLDER" in refused(place, "--name", "x")
    told = auditor("open", place / "lora", "--base", BASE, "--project", place / "project", "--json")
    assert told.code == 0, told


def test_that_a_base_must_be_a_whole_model(place: Path) -> None:
    (place / "holiday").mkdir()
    for base, says in (
        (place / "nowhere", "neither a model"), (place / "holiday", "no config.json"), (place / "lora", "adapter"),
        (FIXTURES / "base-gpt2", "does not have"),
    ):  # fmt: skip
        assert says in refused(place, "--base", base)


def tensors(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "lora/adapter_model.safetensors")


def test_that_wrong_tensors_are_refused(place: Path) -> None:
    held, weights = tensors(place), place / "lora/adapter_model.safetensors"
    name = next(name for name in held if "lora_B" in name)
    path = name.removesuffix(".lora_B.weight")
    for wrong in (
        held | {name: torch.zeros(16, 2)}, held | {name: torch.zeros(1)},
        held | {name: torch.zeros(16, 3, dtype=torch.int8)},
        {key: value for key, value in held.items() if key != name}, {"evil": torch.zeros(3)}, {},
        held | {f"{path}.lora_magnitude_vector": torch.ones(16)}, held | {f"{path}.ia3_l": torch.ones(16, 1)},
        held | {"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.zeros(3, 16)},
        held | {"base_model.model.lm_head.weight": torch.zeros(11, 16)},
        held | {"base_model.model.forward": torch.zeros(3)}, held | {"base_model.model.": torch.zeros(3)},
        held | {f"{path}.base_layer.training": torch.zeros(1)},
    ):  # fmt: skip
        save_file(wrong, weights)
        assert refused(place)


def test_that_damaged_files_are_refused(place: Path) -> None:
    weights = place / "lora/adapter_model.safetensors"
    whole = weights.read_bytes()
    raw = b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}'
    for damaged in (whole[:-50], b"", whole[:4], struct.pack("<Q", len(raw)) + raw + bytes(16)):
        weights.write_bytes(damaged)
        assert refused(place)
    weights.unlink()
    assert "adapter_model.safetensors" in refused(place)


def test_that_a_folder_that_could_mean_either_is_refused(place: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BASE / name, place / "lora" / name)
    assert "is no adapter" in refused(place)
    assert "could mean either" in refused(place, "--name", "x")
    (place / "lora" / "model.safetensors").unlink()
    told = auditor("open", place / "lora", "--base", BASE, "--project", place / "project", "--json")
    assert told.code == 0 and told.json["adapter"]["kind"] == "lora"


@pytest.mark.parametrize("form", ["torch", "pickle", "in a list"])
def test_that_a_pickle_is_never_run(place: Path, form: str) -> None:
    (place / "lora/adapter_model.safetensors").unlink()
    evil = Payload(place / "canary")
    if form == "pickle":
        (place / "lora/adapter_model.bin").write_bytes(pickle.dumps({"a": evil}))
    else:
        torch.save([evil] if form == "in a list" else {"a": evil}, place / "lora/adapter_model.bin")
    assert "adapter_model.bin" in refused(place)


def test_that_links_out_of_the_folder_are_refused(place: Path) -> None:
    weights = place / "lora/adapter_model.safetensors"
    shutil.move(weights, place / "elsewhere.safetensors")
    weights.symlink_to(place / "elsewhere.safetensors")
    assert "link" in refused(place)


def test_that_a_link_to_itself_is_refused(place: Path) -> None:
    (place / "lora/ring").symlink_to("ring")
    assert "link" in refused(place)


@pytest.mark.parametrize(
    "said",
    [
        {}, {"adapter": "/etc", "base": "/etc"}, {"adapter": 7, "base": []},
        {"adapter": "x", "base": "../../etc"}, [], "x",
    ],
)
def test_that_a_file_that_names_no_adapter_and_base_is_refused(place: Path, said: Any) -> None:
    file = place / "evil.model.json"
    file.write_text(json.dumps(said if not isinstance(said, dict) else {"format": "auditor overlaid model 1"} | said))
    told = auditor("open", file, "--project", place / "project")
    assert told.code == 2 and "Traceback" not in told.err, told
