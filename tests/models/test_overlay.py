"""Adapters laid over a base: against networks of peft's own, against numpy, and switched off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.models import Inputs, open_model
from auditor.models.edits.weight import EditWeight
from auditor.models.inputs import padded, text_row
from tests.models.peft.make_fixtures import FIXTURES, IDS

BASES = {"conv1d": "base-gpt2", "conv1d-dora": "base-gpt2", "conv1d-ia3": "base-gpt2"}
NAMES = ["lora", "patterns", "dora", "saved", "embedding", "ia3", *BASES]


def inputs() -> Inputs:
    from auditor.data import text_sample

    return padded([text_row(ids, frozenset()) for ids in IDS], [text_sample(str(ids)) for ids in IDS], None, None)


def base_of(name: str) -> Path:
    return FIXTURES / BASES.get(name, "base-llama")


@pytest.fixture(scope="module")
def told() -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / "logits.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_that_a_network_under_an_adapter_gives_what_peft_gives(name: str, told: dict[str, torch.Tensor]) -> None:
    model = open_model(FIXTURES / name, base=base_of(name))
    logits = model.run(inputs()).logits
    assert logits is not None
    torch.testing.assert_close(logits, told[name], atol=2e-5, rtol=1e-4)
    assert float((told[name] - told[base_of(name).name]).abs().max()) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_that_switched_off_it_is_the_base_bit_for_bit(name: str) -> None:
    model, base = open_model(FIXTURES / name, base=base_of(name)), open_model(base_of(name))
    hooks = list(base.hook_points)
    plain = base.run(inputs(), record=hooks)
    with model.without_overlay():
        off = model.run(inputs(), record=hooks)
    assert torch.equal(off.logits, plain.logits)  # type: ignore[arg-type]
    assert all(torch.equal(off.records[hook], plain.records[hook]) for hook in hooks)
    on = model.run(inputs(), record=hooks)
    assert any(not torch.equal(on.records[hook], plain.records[hook]) for hook in hooks)


def test_that_the_weight_in_a_run_is_w_plus_scale_b_a() -> None:
    model = open_model(FIXTURES / "patterns", base=FIXTURES / "base-llama")
    written, base = (
        {name: value.numpy() for name, value in load_file(FIXTURES / file).items()}
        for file in ("patterns/adapter_model.safetensors", "base-llama/model.safetensors")
    )
    for path, rank, alpha in (
        ("model.layers.1.self_attn.q_proj", 5, 6), ("model.layers.0.mlp.down_proj", 2, 6),
        ("model.layers.0.self_attn.v_proj", 3, 1), ("model.layers.1.self_attn.v_proj", 3, 6),
    ):  # fmt: skip
        a, b = (written[f"base_model.model.{path}.lora_{part}.weight"] for part in "AB")
        expected = base[f"{path}.weight"] + alpha / np.sqrt(rank) * b @ a
        found = model.network.get_submodule(path).weight
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_that_the_base_tensors_are_never_written_to() -> None:
    before = load_file(FIXTURES / "base-llama/model.safetensors")
    model = open_model(FIXTURES / "lora", base=FIXTURES / "base-llama")
    model.run(inputs())
    held = dict(model.network.named_parameters())
    path = "model.layers.0.self_attn.q_proj"
    assert torch.equal(held[f"{path}.parametrizations.weight.original"], before[f"{path}.weight"])


def test_that_the_digest_covers_adapter_and_base(tmp_path: Path) -> None:
    for name in ("lora", "base-llama"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    first = open_model(tmp_path / "lora", base=tmp_path / "base-llama")
    assert set(first.parts) == {"adapter", "base"}
    assert first.parts["base"]["digest"] == open_model(tmp_path / "base-llama").digest
    for changed in ("lora/adapter_config.json", "base-llama/config.json"):
        path = tmp_path / changed
        path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "x"}))
        again = open_model(tmp_path / "lora", base=tmp_path / "base-llama")
        assert again.digest != first.digest
        first = again


def test_that_a_weight_under_an_adapter_is_not_edited_by_mistake() -> None:
    model = open_model(FIXTURES / "lora", base=FIXTURES / "base-llama")
    with pytest.raises(AuditorError, match="computed as it is read"):
        model.run(inputs(), edits=[EditWeight("model.layers.0.self_attn.q_proj.weight", "scale", 2.0)])
    edit = EditWeight("model.layers.0.mlp.up_proj.weight", "scale", 2.0)
    assert not torch.equal(model.run(inputs(), edits=[edit]).logits, model.run(inputs()).logits)  # type: ignore[arg-type]


def test_that_a_pickled_adapter_goes_through_the_child(tmp_path: Path, told: dict[str, torch.Tensor]) -> None:
    shutil.copytree(FIXTURES / "lora", tmp_path / "lora")
    weights = tmp_path / "lora/adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "lora/adapter_model.bin")
    weights.unlink()
    logits = open_model(tmp_path / "lora", base=FIXTURES / "base-llama").run(inputs()).logits
    torch.testing.assert_close(logits, told["lora"], atol=2e-5, rtol=1e-4)


def test_that_an_adapter_lies_over_8_bit_weights(told: dict[str, torch.Tensor]) -> None:
    logits = open_model(FIXTURES / "lora", base=FIXTURES / "base-llama", dtype="int8").run(inputs()).logits
    assert logits is not None
    assert 0 < float((logits - told["lora"]).norm() / told["lora"].norm()) < 0.05


def test_that_an_adapter_without_its_base_asks_for_it() -> None:
    with pytest.raises(AuditorError) as caught:
        open_model(FIXTURES / "lora")
    assert "“someone/llama”" in caught.value.message and "--base FOLDER" in caught.value.hint
    with pytest.raises(AuditorError, match="has no base"):
        open_model(FIXTURES / "base-llama", base=FIXTURES / "base-llama")


def test_that_another_base_is_told_by_its_shapes(tmp_path: Path) -> None:
    with pytest.raises(AuditorError, match="which the base does not have"):
        open_model(FIXTURES / "lora", base=FIXTURES / "base-gpt2")
    shutil.copytree(FIXTURES / "lora", tmp_path / "lora")
    weights = tmp_path / "lora/adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_A" in name)
    save_file(tensors | {name: torch.zeros(3, 17)}, weights)
    with pytest.raises(AuditorError, match="would fit"):
        open_model(tmp_path / "lora", base=FIXTURES / "base-llama")
