"""Converted weights that are kept: made once, compared at each opening, and never in the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from auditor.base.digest import digest_folder, sha256_file
from auditor.base.errors import AuditorError
from auditor.data import text_sample
from auditor.intake import convert, converted
from auditor.intake.converted import as_safetensors
from auditor.intake.weights import checked_model
from auditor.models import Model, open_model
from tests.models.tiny.entry import TEXT, word_tokenizer
from tests.small_disks import disk_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted weights are kept; a machine on which nothing is kept yet."""
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small Llama whose weights are pickled."""
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=2, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    word_tokenizer(tmp_path / "model", ends=False)
    weights = tmp_path / "model" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "model" / "pytorch_model.bin")
    weights.unlink()
    return tmp_path / "model"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """In place of the jailed child what writes as it does, at once; the folders that were converted."""
    seen: list[Path] = []

    def write(facts: Any, target: Path) -> None:
        seen.append(facts.weights[0])
        torch.manual_seed(0)
        shutil.copy(facts.folder / "config.json", target)
        (target / "model.safetensors").write_bytes(sha256_file(facts.weights[0]).encode() * 1000)

    monkeypatch.setattr(convert, "convert", write)
    return seen


def logits(model: Model) -> torch.Tensor:
    found = model.run(model.encode([text_sample("one two cat")])).logits
    assert found is not None
    return found


def opened(folder: Path) -> tuple[bytes, str]:
    with as_safetensors(checked_model(folder)) as (place, told):
        return (place / "model.safetensors").read_bytes(), told


def wanted(folder: Path) -> bytes:
    return sha256_file(folder / "pytorch_model.bin").encode() * 1000


def entries(kept: Path) -> list[Path]:
    return sorted(kept.iterdir()) if kept.exists() else []


def change(folder: Path, byte: int = 200) -> None:
    with open(folder / "pytorch_model.bin", "r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ 1]))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the jailed child that convert."""
    calls: list[str] = []
    jailed = convert.jailed

    def counted(name: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return jailed(name, *args, **kwargs)

    monkeypatch.setattr(convert, "jailed", counted)
    return calls


def test_that_pickled_weights_are_converted_once_and_the_digest_is_the_folders_own(
    model: Path, kept: Path, children: list[str]
) -> None:
    first, again = open_model(model), open_model(model)
    assert len(children) == 1 and len(entries(kept)) == 1
    assert torch.equal(logits(first), logits(again))
    assert first.digest == again.digest == digest_folder(model)
    assert again.name == "model" and again.path == model and "are kept in" in again.notes[-1]
    assert (kept.stat().st_mode & 0o777, entries(kept)[0].stat().st_mode & 0o777) == (0o700, 0o700)


def test_that_a_gguf_file_is_converted_once_under_any_name(
    tmp_path: Path, kept: Path, children: list[str], small_gguf: Path
) -> None:
    first = open_model(small_gguf)
    assert first.digest == sha256_file(small_gguf) and first.name == "small"
    elsewhere = tmp_path / "other name.gguf"
    shutil.copy(small_gguf, elsewhere)
    again = open_model(elsewhere)
    assert len(children) == 1 and again.name == "other name" and again.digest == first.digest
    assert torch.equal(logits(first), logits(again))


def flip(place: Path) -> None:
    data = bytearray((place / "model" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "model" / "model.safetensors").write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped byte": flip,
    "another config": lambda place: (place / "model" / "config.json").write_text("{}", encoding="utf-8"),
    "a file more": lambda place: (place / "model" / "tokenizer.json").write_text("{}", encoding="utf-8"),
    "a file less": lambda place: (place / "model" / "config.json").unlink(),
    "cut short": lambda place: os.truncate(place / "model" / "model.safetensors", 5),
    "no facts": lambda place: (place / "kept.json").unlink(),
    "facts that are none": lambda place: (place / "kept.json").write_bytes(b"[" * 100_000),
    "facts too long": lambda place: (place / "kept.json").write_bytes(b" " * (2 << 20)),
    "nothing": lambda place: shutil.rmtree(place / "model"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_that_what_is_not_as_it_was_made_is_made_again(model: Path, kept: Path, quick: list[Path], damage: str) -> None:
    opened(model)
    DAMAGE[damage](entries(kept)[0])
    assert opened(model)[0] == wanted(model) and len(quick) == 2
    assert opened(model)[0] == wanted(model) and len(quick) == 2 and len(entries(kept)) == 1


def test_that_a_changed_file_other_settings_and_another_converter_are_made_anew(
    model: Path, kept: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(model)
    change(model)
    assert opened(model)[0] == wanted(model) and len(quick) == 2
    (model / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    opened(model)
    assert len(quick) == 3
    monkeypatch.setattr(convert, "VERSION", convert.VERSION + 1)
    opened(model)
    assert len(quick) == 4 == len(entries(kept))


def test_that_a_file_that_changes_meanwhile_is_told_and_nothing_stays(
    model: Path, kept: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = convert.convert

    def late(facts: Any, target: Path) -> None:
        write(facts, target)
        change(model)

    monkeypatch.setattr(convert, "convert", late)
    with pytest.raises(AuditorError, match="changed while it was converted"):
        opened(model)
    assert not entries(kept)


KILLED = """
import os, sys
from pathlib import Path
from auditor.intake import convert
from auditor.intake.converted import as_safetensors
from auditor.intake.weights import checked_model

def half(facts, target):
    (target / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), 9)

convert.convert = half
with as_safetensors(checked_model(Path(sys.argv[1]))):
    pass
"""


def test_that_what_a_kill_left_is_never_read_and_goes_with_the_next(model: Path, kept: Path, quick: list[Path]) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(model)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert [place.suffix for place in entries(kept)] == [".partial"]
    assert opened(model)[0] == wanted(model)
    assert [place.suffix for place in entries(kept)] == [""]


def test_that_two_at_once_both_have_the_model_and_one_copy_stays(
    model: Path, kept: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, both, found = convert.convert, threading.Barrier(2, timeout=60), list[bytes]()

    def together(facts: Any, target: Path) -> None:
        both.wait()
        write(facts, target)

    monkeypatch.setattr(convert, "convert", together)
    threads = [threading.Thread(target=lambda: found.append(opened(model)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted(model)] * 2 and len(entries(kept)) == 1 and entries(kept)[0].suffix == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; skipped where none may be mounted."""
    with disk_of("64k", tmp_path / "disk") as place:
        yield place


def test_that_a_full_disk_is_told_and_the_model_opens_all_the_same(
    model: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITOR_CACHE", str(small_disk))
    found = open_model(model)
    assert logits(found).isfinite().all()
    assert "converted anew at each opening: the disk that holds" in found.notes[-1]
    assert not entries(small_disk / "converted")
    monkeypatch.setattr(converted, "large_temporary", lambda: small_disk)
    with pytest.raises(AuditorError, match="The disk is full: there is no room for the converted weights"):
        open_model(model)
    assert not entries(small_disk / "converted") and [place.name for place in small_disk.iterdir()] == ["converted"]


def test_that_on_a_full_disk_other_models_make_room(
    model: Path, kept: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(model)
    change(model)
    write = convert.convert

    def where_there_is_room(facts: Any, target: Path) -> None:
        if len(entries(kept)) > 1:
            raise convert.NoRoom("full")
        write(facts, target)

    monkeypatch.setattr(convert, "convert", where_there_is_room)
    data, told = opened(model)
    assert data == wanted(model) and "are kept" in told and len(entries(kept)) == 1


def test_that_what_was_not_used_for_longest_goes_first_and_what_is_read_stays(
    model: Path, kept: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = {}
    for number in range(4):
        change(model, 200 + number)
        opened(model)
        (new,) = set(entries(kept)) - set(ages)
        ages[new] = 1_000_000 + number
        os.utime(new / "kept.json", (ages[new], ages[new]))
    first, second, third, _ = ages
    size = converted.kept().bytes // 4
    monkeypatch.setattr(converted, "MOST_BYTES", 3 * size + size // 2)
    with contextlib.ExitStack() as stack:
        assert converted._found(first.name, stack) is not None  # so that it is the newest, and in use
        os.utime(first / "kept.json", (1, 1))
        change(model, 300)
        opened(model)
        assert first.exists() and not second.exists() and not third.exists() and len(entries(kept)) == 3
    monkeypatch.setattr(converted, "MOST_BYTES", size // 2)
    change(model, 301)
    before = entries(kept)
    data, told = opened(model)
    assert data == wanted(model) and "no more than" in told and entries(kept) == before


def test_that_nothing_is_kept_where_others_may_write_or_nobody(
    model: Path, kept: Path, quick: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(model)
    kept.chmod(0o777)
    data, told = opened(model)
    assert data == wanted(model) and len(quick) == 2 and "others may write there" in told
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path / "file"))
    data, told = opened(model)
    assert data == wanted(model) and "nothing can be kept in" in told


def test_that_a_link_in_the_place_of_a_kept_model_is_not_followed(
    model: Path, kept: Path, quick: list[Path], tmp_path: Path
) -> None:
    opened(model)
    (place,) = entries(kept)
    shutil.move(place, tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    assert opened(model)[0] == wanted(model) and len(quick) == 2


def test_that_the_doctor_says_what_is_kept_where(model: Path, kept: Path, quick: list[Path]) -> None:
    assert str(converted.kept()).startswith("0 models")
    opened(model)
    assert str(converted.kept()).startswith(f"1 model, 0.0 GB, in {kept}; at most 20 GB; delete the folder")


@pytest.fixture
def small_gguf(tmp_path: Path) -> Path:
    """A small Llama as llama.cpp keeps it, with a tokenizer of single bytes."""
    import gguf

    file = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    words = ["<s>", "</s>", *(chr(code) for code in range(33, 127)), "Ġ", "on", "tw"]
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, *(1 for _ in words[2:])])
    writer.add_token_merges(["o n", "t w"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    torch.manual_seed(3)
    shapes = {"token_embd": (len(words), 32), "output_norm": (32,), "output": (len(words), 32)}
    for number in range(2):
        shapes |= {f"blk.{number}.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{number}.{name}_norm": (32,) for name in ("attn", "ffn")}
        shapes |= {f"blk.{number}.ffn_{name}": (48, 32) for name in ("gate", "up")} | {
            f"blk.{number}.ffn_down": (32, 48)
        }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape).mul_(0.2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
