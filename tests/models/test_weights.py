"""Reading weights: tensor by tensor, the same as the library reads them, and never twice in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.base.digest import digest_folder
from auditor.base.errors import AuditorError
from auditor.models import open_model
from auditor.models.weights import left_over, tensors_in
from tests.models.tiny import ALL

PEAK = """
import gc, json, sys
from pathlib import Path
from auditor.models import open_model
def kept(name):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
open_model(sys.argv[2])
told = {}
for dtype in ("bfloat16", "float32"):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = kept("VmRSS")
    model = open_model(sys.argv[1], dtype=dtype)
    held = {id(one): one.numel() * one.element_size() for one in model.network.parameters()}
    told[dtype] = [kept("VmHWM") - before, sum(held.values())]
    del model
print(json.dumps(told))
"""


def test_that_tensors_are_those_that_the_library_reads(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "a": torch.randn(3, 5, generator=generator), "b": torch.randn(2, 2, 2, generator=generator).bfloat16(),
        "c": torch.tensor(7, dtype=torch.int64), "d": torch.zeros(0, 4), "e": torch.tensor([True, False, True]),
        "f": torch.randn(9, generator=generator).to(torch.float8_e4m3fn),
        "g": torch.randn(6, generator=generator).half(), "h": torch.arange(5, dtype=torch.uint8),
    }  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    ours, theirs = dict(tensors_in(tmp_path / "x.safetensors")), load_file(tmp_path / "x.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and ours[name].shape == value.shape
        assert torch.equal(*(one.reshape(-1).view(torch.uint8) for one in (ours[name], value)))


@pytest.mark.parametrize("name", ["deepseek_v3", "ernie4_5_moe", "llama"])
def test_that_half_precision_keeps_whole_what_the_library_does(name: str, tmp_path: Path) -> None:
    """Experts are chosen by a bias whose rounded values would choose others."""
    saved = ALL[name].save(tmp_path)
    kept = open_model(tmp_path, dtype="bfloat16").network.state_dict()
    theirs = type(saved).from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert {key: value.dtype for key, value in kept.items()} == {key: value.dtype for key, value in theirs.items()}
    assert all(torch.equal(kept[key], value) for key, value in theirs.items())
    assert (torch.float32 in {value.dtype for value in kept.values()}) == (name != "llama")


@pytest.mark.parametrize(
    ("name", "prefix", "computed"), [("codegen", "transformer.", "causal_mask"), ("openai-gpt", "", "bias")]
)
def test_that_masks_that_old_files_keep_are_not_told_as_left_over(
    name: str, prefix: str, computed: str, tmp_path: Path
) -> None:
    """As CodeGen and GPT were published, GPT under the names of its body alone."""
    ALL[name].save(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {key.replace("transformer.", prefix): value for key, value in load_file(file).items()}
    save_file(tensors | {f"{prefix}h.0.attn.{computed}": torch.ones(1, 1, 8, 8)}, file, {"format": "pt"})
    assert not left_over(open_model(tmp_path).network)


@pytest.mark.parametrize("name", ["openai-gpt", "swinv2"])
def test_that_what_a_network_computes_for_itself_has_its_number_format(name: str, tmp_path: Path) -> None:
    ALL[name].save(tmp_path)
    samples = ALL[name].samples()
    full, half = (
        model.run(model.encode(samples)).logits
        for model in (open_model(tmp_path, dtype=dtype) for dtype in ("float32", "bfloat16"))
    )
    assert full is not None and half is not None and half.dtype == torch.bfloat16
    assert float((half.float() - full).norm()) < 0.03 * float(full.norm())


def test_that_a_network_does_not_change_with_its_file(tmp_path: Path) -> None:
    ALL["llama"].save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    before = model.run("one two cat").logits
    weights = tmp_path / "model/model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(weights.stat().st_size // 2)
        file.write(bytes(weights.stat().st_size // 4))
    assert torch.equal(model.run("one two cat").logits, before)  # type: ignore[arg-type]


def test_that_a_file_that_is_cut_short_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(100), "b": torch.zeros(100)}, path)
    tensors = tensors_in(path)
    next(tensors)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 200)
    with pytest.raises(AuditorError, match="cannot be read"):
        next(tensors)


def test_that_the_digest_is_the_folders_and_files_are_hashed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import auditor.base.digest as digest

    ALL["llama"].save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    read: list[str] = []
    plain = digest.sha256_file
    monkeypatch.setattr(digest, "sha256_file", lambda path: (read.append(str(path)), plain(path))[1])
    assert model.digest and model.files
    assert sorted(read) == sorted(str(model.path / name) for name in model.files)
    assert model.digest == digest_folder(model.path)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_that_opening_holds_the_weights_once(smollm2_folder: Path, tiny_llama_folder: Path) -> None:
    """The peak of memory while SmolLM2-135M is opened, less what was there before, over the bytes that stay."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, smollm2_folder, tiny_llama_folder],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    for dtype, (peak, held) in json.loads(done.stdout).items():
        assert 0 < peak < 1.3 * held, f"{dtype}: {peak / 1e6:.0f} MB for a network of {held / 1e6:.0f} MB"
