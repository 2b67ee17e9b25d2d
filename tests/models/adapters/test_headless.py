"""Decoders without the head that predicts words: networks that embed texts, and those that judge them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.data import text_sample
from auditor.models import Ablate, Model, open_model
from auditor.models.adapters.headless import Headless
from tests.models.tiny import ALL
from tests.models.tiny.decoders import GROUPED
from tests.models.tiny.entry import word_tokenizer

# Their paths differ: below “model”, “transformer”, “model.decoder”, and with mixers beside attention.
FAMILIES = ("mistral", "gemma3_text", "gpt2", "opt", "qwen3_5_text", "llama4_text", "gemma3n_text")
TEXTS = [text_sample("one two red cat sat"), text_sample("cat three")]


def saved(network: Any, folder: Path, **config: Any) -> Path:
    network.save_pretrained(folder)
    word_tokenizer(folder, ends=False)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | config), encoding="utf-8")
    return folder


def parts(name: str, folder: Path) -> tuple[Model, Any, Path]:
    """The tiny network of a family as it is opened with its head, the library's network below the head, and the folder
    of that."""
    whole = ALL[name].save(folder / "whole")
    model = open_model(folder / "whole")
    below: Any = whole.get_submodule(next(iter(model.hook_points.values())).module.partition(".")[0])
    return model, below, saved(below, folder / "below")


@pytest.mark.parametrize("name", FAMILIES)
def test_that_a_decoder_without_its_head_has_all_but_the_logits(name: str, tmp_path: Path) -> None:
    whole, below, folder = parts(name, tmp_path)
    model = open_model(folder)
    assert list(model.hook_points) == list(whole.hook_points) and model.unembed is None
    assert any("gives no logits" in note for note in model.notes)
    assert type(model.network.get_submodule(model.network.base_model_prefix)) is type(below)  # type: ignore[arg-type]
    stored = [hook for hook, point in model.hook_points.items() if point.width]
    run, told = model.run(TEXTS, record=stored), whole.run(TEXTS, record=stored)
    assert run.logits is None
    for hook in stored:
        assert torch.equal(run.records[hook], told.records[hook]), hook
    with torch.no_grad():
        last = below(input_ids=run.inputs.ids[:1]).last_hidden_state
    torch.testing.assert_close(run.records[stored[-1]][:1], last)


def test_that_files_of_what_is_below_a_head_open_as_that_whatever_class_is_named(tmp_path: Path) -> None:
    """Qwen3-Embedding names the class that predicts words, and its files have no head."""
    _, _, folder = parts("qwen3", tmp_path)
    saved(open_model(folder).network.model, folder, architectures=["Qwen3ForCausalLM"])
    model = open_model(folder)
    assert isinstance(model.network, Headless) and model.run(TEXTS, record=["final_norm"]).logits is None


def test_that_a_network_that_lost_its_head_is_no_network_without_one(tmp_path: Path) -> None:
    ALL["qwen3"].save(tmp_path)
    tensors = load_file(str(tmp_path / "model.safetensors"))
    del tensors["lm_head.weight"]
    save_file(tensors, str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(AuditorError, match="lack 1 tensor: lm_head"):
        open_model(tmp_path)


def test_that_only_as_much_of_it_is_opened_as_is_asked_for(tmp_path: Path) -> None:
    _, _, folder = parts("mistral", tmp_path)
    whole, part = open_model(folder), open_model(folder, until=["blocks.0.resid_post"])
    assert part.until == "blocks.0.resid_post" and part.digest == whole.digest
    told, found = (
        one.run(TEXTS, record=["blocks.0.resid_post"], logits=False).records["blocks.0.resid_post"]
        for one in (whole, part)
    )
    assert torch.equal(told, found)
    with pytest.raises(AuditorError, match="opened as far as"):
        part.run(TEXTS, record=["final_norm"], logits=False)


def test_that_another_head_is_left_out_and_told(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        network = transformers.LlamaForTokenClassification(transformers.LlamaConfig(**GROUPED, num_labels=3)).eval()
    model = open_model(saved(network, tmp_path))
    run = model.run(TEXTS[:1], record=["final_norm"])
    assert run.logits is None and any("score.weight" in note or "score.bias" in note for note in model.notes)
    with torch.no_grad():
        told = network.model(input_ids=run.inputs.ids).last_hidden_state
    torch.testing.assert_close(run.records["final_norm"], told)


@pytest.mark.parametrize("pad", [0, None])
def test_that_a_judge_gives_the_librarys_classes_of_each_text(pad: int | None, tmp_path: Path) -> None:
    """A reward model has one class. The library takes no batch of a network that names no token for padding."""
    config = transformers.Qwen3Config(**GROUPED | {"pad_token_id": pad}, head_dim=8, num_labels=3)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = transformers.Qwen3ForSequenceClassification(config).eval()
    model = open_model(saved(network, tmp_path))
    assert any("judges texts" in note for note in model.notes) and model.unembed is None
    run = model.run(TEXTS, record=["blocks.1.resid_post"])
    assert run.logits is not None and run.logits.shape == (2, 3)
    for row in range(2):
        alone = run.inputs.ids[row : row + 1, : int(run.inputs.mask[row].sum())]
        with torch.no_grad():
            told = network(input_ids=alone, output_hidden_states=True)
        torch.testing.assert_close(run.logits[row : row + 1], told.logits)
        found = run.records["blocks.1.resid_post"][row : row + 1, : alone.shape[1]]
        torch.testing.assert_close(found, told.hidden_states[2])
    edited = model.run(TEXTS, edits=[Ablate("blocks.1.mlp_out")]).logits
    assert edited is not None and not torch.allclose(edited, run.logits)
