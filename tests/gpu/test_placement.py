"""Networks that do not fit a GPU: blocks brought over from main memory, against the network that is all there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from auditor.data import text_sample
from auditor.models import open_model
from tests.models.tiny import ALL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
SAMPLES = [text_sample("one two red cat sat"), text_sample("cat three")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_that_a_split_network_gives_the_bits_of_the_whole(tmp_path: Path, dtype: str) -> None:
    ALL["llama"].save(tmp_path / "llama")
    whole = open_model(tmp_path / "llama", device="cuda", dtype=dtype)
    most = whole.placement.bytes_held * 5 // 6
    split = open_model(tmp_path / "llama", device="cuda", dtype=dtype, most_bytes=most)
    assert split.brought and not whole.brought and split.device.type == "cuda"
    homes = [tensor.device.type for one in split.brought for tensor in one.tensors()]
    assert set(homes) == {"cpu"}
    inputs, hooks = whole.encode(SAMPLES), ["embed", "blocks.1.resid_post", "blocks.2.mlp_out"]
    ours, theirs = split.run(inputs, record=hooks), whole.run(inputs, record=hooks)
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(ours.records[hook], theirs.records[hook]) for hook in hooks)
    found = []
    for model in (split, whole):
        run = model.run(inputs, record=["embed"], grad=True)
        found.append(torch.autograd.grad(run.logits[0, -1, 5].float(), run.records["embed"])[0])
    assert torch.equal(*found)
    split.run(inputs, record=["blocks.2.attn_out"], logits=False)
    assert {tensor.device.type for one in split.brought for tensor in one.tensors()} == {"cpu"}


def test_that_memory_on_the_gpu_stays_within_the_plan(tmp_path: Path, smollm2_folder: Path) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    most = 160 << 20
    model = open_model(smollm2_folder, device="cuda", dtype="bfloat16", most_bytes=most)
    torch.cuda.reset_peak_memory_stats()
    inputs = model.encode([text_sample("The capital of France is Paris.")])
    model.run(inputs, record=["blocks.20.resid_post"], logits=False)
    assert 0 < torch.cuda.max_memory_allocated() - before < most + (64 << 20)
