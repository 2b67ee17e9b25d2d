"""Opening folders: what is refused, in which words, and that nothing from them runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.data import text_sample
from auditor.models import open_model
from tests.models.tiny import ALL
from tests.models.tiny.entry import TEXT, word_tokenizer


def llama() -> Any:
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=2, tie_word_embeddings=False)
    return transformers.LlamaForCausalLM(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama with random weights, and a tokenizer of ten words."""
    target = tmp_path / "model"
    llama().save_pretrained(target)
    word_tokenizer(target, ends=False)
    return target


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | values), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(AuditorError) as caught:
        open_model(folder)
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message
    return caught.value.message


def test_that_a_missing_path_a_file_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    assert "no model at" in refusal(tmp_path / "nothing")
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    assert "is a file" in refusal(tmp_path / "a.txt")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refusal(tmp_path / "empty")


HOSTILE: dict[str, dict[str, Any]] = {
    "code": {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
    "nested code": {"rope_parameters": {"rope_type": "default", "auto_map": {"x": "evil.y"}}},
    "attention of the hub": {"_attn_implementation": "someone/kernels"},
    "internal attention": {"_attn_implementation_internal": "someone/kernels"},
    "open attention": {"attn_implementation": "someone/kernels"},
    "remote code": {"trust_remote_code": True},
    "quantiser": {"quantization_config": {"quant_method": "bitsandbytes"}},
    "family": {"model_type": "evil"},
    "no family": {"model_type": None},
    "layers": {"num_hidden_layers": 10**9},
    "width": {"hidden_size": 2**40},
    "labels": {"num_labels": 10**8},
    "negative": {"vocab_size": -7},
    "other width": {"hidden_size": 64},
    "more layers": {"num_hidden_layers": 4},
    "wrong kind of value": {"hidden_size": "wide"},
    "heads": {"num_attention_heads": 0},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_that_a_hostile_or_wrong_config_is_refused_in_one_sentence(folder: Path, name: str) -> None:
    (folder / "evil.py").write_text("open('canary', 'w')", encoding="utf-8")
    change(folder, **HOSTILE[name])
    before = set(sys.modules)
    assert refusal(folder)
    assert not [module for module in set(sys.modules) - before if "evil" in module]
    assert not list(folder.parent.rglob("canary"))


def test_that_sizes_that_do_not_go_together_are_told_in_the_librarys_words(folder: Path) -> None:
    change(folder, num_attention_heads=5)
    assert "(The hidden size" in refusal(folder) and "attention heads (5))." in refusal(folder)


def test_that_code_in_the_tokenizer_settings_is_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"auto_map": {"AutoTokenizer": ["evil.T", None]}}
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert "auto_map" in refusal(folder)


def test_that_an_unknown_family_names_the_nearest_ones_if_there_are_some(folder: Path) -> None:
    change(folder, model_type="gpt_neoxx")
    assert "“gpt_neoxx”, which neither" in refusal(folder) and "the nearest are “gpt_neox”" in refusal(folder)
    change(folder, model_type="?" * 40)
    assert "nearest" not in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_that_a_link_out_of_the_folder_is_refused_before_a_byte_is_read_through_it(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = folder.parent / "secret"
    shutil.move(folder / name, secret)
    (folder / name).symlink_to(secret)
    opened: list[str] = []
    for function in ("read_config_json", "check_safetensors"):
        monkeypatch.setattr(f"auditor.intake.weights.{function}", lambda path: opened.append(path.name))
    assert "is a link to a file outside the folder" in refusal(folder)
    assert opened == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def stub(path: Path) -> None:
    path.write_bytes(b"\x00\x01")


def pickle_named_safetensors(path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, path)


def overlapping(path: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}  # fmt: skip  # noqa: E501
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(12))


def twice(path: Path) -> None:
    entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    raw = f'{{"a": {entry}, "a": {entry}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))


def enormous(path: Path) -> None:
    raw = b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}'
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(16))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "cut short"), (stub, "cut short"), (pickle_named_safetensors, "pickle|cut short"),
        (overlapping, "overlap"), (twice, "not valid JSON"), (enormous, "cut short"),
    ],
)  # fmt: skip
def test_that_damaged_weights_are_told(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder / "model.safetensors")
    message = refusal(folder)
    assert any(part in message for part in said.split("|")), message


def test_that_missing_weights_and_missing_shards_are_told(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "elsewhere")
    assert "no weights" in refusal(folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "lacks model-00001-of-00002.safetensors" in refusal(folder)
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "no file of the folder" in refusal(folder)


def test_that_a_missing_tensor_is_told_and_not_made_up(folder: Path) -> None:
    tensors = load_file(str(folder / "model.safetensors"))
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    assert "lack 1 tensor: model.layers.1.mlp.up_proj.weight." in refusal(folder)


def test_that_a_tensor_of_another_shape_is_named_with_both(folder: Path) -> None:
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 5)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight is [3, 5] in place of [48, 32]" in refusal(folder)


def test_that_tensors_that_the_network_has_no_place_for_are_told(folder: Path) -> None:
    assert not open_model(folder).notes
    tensors = load_file(str(folder / "model.safetensors"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), encoding="utf-8")
    (note,) = open_model(folder).notes
    gone = sorted(name for name in tensors if name.startswith("model.layers.") and ".layers.0." not in name)
    assert note == f"Its files hold {len(gone)} tensors that are no part of this network: {gone[0]} and others."


def test_that_links_out_of_the_folder_are_refused(folder: Path) -> None:
    outside = folder.parent / "secret.safetensors"
    shutil.move(folder / "model.safetensors", outside)
    (folder / "model.safetensors").symlink_to(outside)
    assert "link" in refusal(folder)


def test_that_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / "ring").symlink_to("ring")
    assert "link" in refusal(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "tokenizer.json", "vocab.json", "chat_template.jinja"]
)
def test_that_a_pipe_in_the_place_of_a_file_holds_nothing_up(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with contextlib.suppress(AuditorError):
        open_model(folder)


def test_that_sharded_weights_open_as_one(folder: Path) -> None:
    whole = open_model(folder)
    parts = folder.with_name("parts")
    transformers.LlamaForCausalLM.from_pretrained(folder).save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    shutil.copy(folder / "tokenizer.json", parts)
    shutil.copy(folder / "tokenizer_config.json", parts)
    inputs = whole.encode([text_sample("one two cat")])
    assert torch.equal(whole.run(inputs).logits, open_model(parts).run(inputs).logits)  # type: ignore[arg-type]


def test_that_the_digest_follows_every_file(folder: Path) -> None:
    first = open_model(folder).digest
    assert open_model(folder).digest == first
    change(folder, rms_norm_eps=1e-4)
    assert open_model(folder).digest != first


def test_that_an_unknown_device_and_number_format_are_told(folder: Path) -> None:
    with pytest.raises(AuditorError, match="not a device"):
        open_model(folder, device="toaster")
    with pytest.raises(AuditorError, match="number format"):
        open_model(folder, dtype="int3")


def test_that_pickled_tensors_open_through_the_child_and_hostile_ones_do_not(folder: Path) -> None:
    model = open_model(folder)
    inputs = model.encode([text_sample("one two cat")])
    expected = model.run(inputs).logits
    tensors = load_file(str(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    reopened = open_model(folder)
    assert reopened.path == folder and reopened.name == "model"
    assert torch.equal(reopened.run(inputs).logits, expected)  # type: ignore[arg-type]

    canary = folder.parent / "canary"
    torch.save({"weight": Hostile(f"open({str(canary)!r}, 'w').close()")}, folder / "pytorch_model.bin")
    assert "more than tensors" in refusal(folder)
    assert not canary.exists()


def test_that_a_damaged_gguf_and_a_choice_of_two_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGML" + bytes(100))
    assert "does not start as one" in refusal(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"GGUF" + bytes(100))
    assert "2 GGUF files" in refusal(tmp_path)


class Hostile:
    """Unpickling this runs code, where anybody lets it."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """Names of audit events that would mean code or a network."""
    seen: list[str] = []
    state = {"on": True}

    def hook(event: str, args: Any) -> None:
        if state["on"] and event in ("socket.connect", "subprocess.Popen", "os.exec", "os.system", "os.posix_spawn"):
            seen.append(event)

    sys.addaudithook(hook)
    yield seen
    state["on"] = False


def test_that_opening_a_folder_touches_no_network_and_starts_nothing(folder: Path, watched: list[str]) -> None:
    open_model(folder)
    assert not watched
    with socket.socket() as probe, pytest.raises(AuditorError):
        probe.connect(("127.0.0.1", 9))
    assert watched == ["socket.connect"] or not watched


def test_that_a_paired_model_may_only_name_its_neighbours(tiny_paired_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "paired"
    shutil.copytree(tiny_paired_folder, target)
    for text in ("/etc", "../../elsewhere", "..", ".", 7):
        change(target, text=text)
        assert "outside" in refusal(target)


def test_that_a_vocabulary_that_nothing_says_how_to_use_is_told(tmp_path: Path) -> None:
    """The library would give ALBERT a tokenizer of five special tokens, to which every text is unknown."""
    for family in ("albert", "bert"):
        ALL[family].save(tmp_path / family)
        (tmp_path / family / "tokenizer.json").unlink()
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "cat", *"abcdefghijklmnopqrstuvw"]
        (tmp_path / family / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(AuditorError, match=r"vocab.txt in “albert” holds 30 tokens, .* how a text is cut"):
        open_model(tmp_path / "albert")
    assert open_model(tmp_path / "bert").tokenizer("red cat")["input_ids"] == [2, 5, 6, 3]


def test_that_a_tokenizer_of_another_model_is_told(folder: Path) -> None:
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["vocab"]["seven"] = 700
    path.write_text(json.dumps(told))
    model = open_model(folder)
    with pytest.raises(AuditorError, match="gave token 700, and the network has"):
        model.run("one seven")
    del told["model"]["vocab"][told["model"]["unk_token"]]
    path.write_text(json.dumps(told))
    with pytest.raises(AuditorError, match="cannot take these texts apart"):
        open_model(folder).run("one neverheard")
