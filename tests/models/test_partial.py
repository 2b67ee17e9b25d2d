"""Models opened as far as a hook point: the rows of the whole network from fewer weights, and nothing behind them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, Sample
from auditor.models import Model, open_model
from auditor.models.partial import deepest_of
from tests.models.tiny import ALL

PEAK = """
import gc, json, sys
from pathlib import Path
from auditor.models import open_model
def kept(name):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
open_model(sys.argv[2]).run("One two", record=["blocks.0.resid_post"], logits=False)
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = kept("VmRSS")
model = open_model(sys.argv[1], until=["blocks.9.resid_post"])
rows = model.run("One two three", record=["blocks.9.resid_post"], logits=False).rows("blocks.9.resid_post")
print(json.dumps([kept("VmHWM") - before, rows[0, -1].tolist()]))
"""


def weights(model: Model) -> int:
    """Bytes of the weights that are held."""
    return sum({id(one): one.numel() * one.element_size() for one in model.network.parameters()}.values())


@pytest.mark.parametrize(
    "name",
    ["llama", "gemma3_text", "gpt2", "mixtral", "mamba", "bert", "bart", "t5", "vit", "swin", "clip", "llava",
     "gemma3n", "gemma4 with sounds", "t5gemma", "shieldgemma2"],
)  # fmt: skip
def test_that_rows_are_those_of_the_whole_network(name: str, tmp_path: Path) -> None:
    tiny = ALL[name]
    tiny.save(tmp_path / "model")
    whole, samples = open_model(tmp_path / "model"), tiny.samples()
    inputs = whole.encode(samples)
    posts = [hook for hook in whole.hook_points if hook.endswith(".resid_post")]
    for hook in (posts[len(posts) // 2], posts[0]):
        found = open_model(tmp_path / "model", until=[hook])
        recorded = [h for h, point in found.hook_points.items() if point.depth <= found.hook_points[hook].depth]
        ours = found.run(inputs, record=recorded, logits=False)
        theirs = whole.run(inputs, record=recorded, logits=False)
        assert all(torch.equal(ours.records[one], theirs.records[one]) for one in recorded)
        assert found.digest == whole.digest and list(found.hook_points) == list(whole.hook_points)
    assert found.until == hook and weights(found) < weights(whole)


def test_that_a_head_of_its_own_is_left_out_and_one_that_is_the_embedding_is_not(tmp_path: Path) -> None:
    ALL["llama"].save(tmp_path / "apart")
    apart = open_model(tmp_path / "apart", until=["final_norm"])
    assert apart.network.get_submodule("lm_head").weight.numel() == 0 and apart.unembed is None
    told = json.loads((tmp_path / "apart/config.json").read_text("utf-8"))
    assert not told["tie_word_embeddings"]


def test_that_what_lies_behind_is_refused_and_the_hook_point_named(tiny_llama_folder: Path) -> None:
    model = open_model(tiny_llama_folder, until=["blocks.0.resid_post", "blocks.0.z"])
    assert model.run("One two", record=["blocks.0.z"], logits=False).rows("blocks.0.z").shape[0] == 1
    with pytest.raises(AuditorError, match=r"as far as “blocks\.0\.resid_post”, and blocks\.1\.z lie"):
        model.run("One two", record=["blocks.1.z"], logits=False)
    with pytest.raises(AuditorError, match="its logits lie behind it"):
        model.run("One two", record=["blocks.0.z"])


def test_that_names_that_are_not_the_familys_own_open_the_whole_network(tiny_llama_folder: Path) -> None:
    model = open_model(tiny_llama_folder, until=["model.layers.0.mlp.act_fn"])
    assert model.until is None and model.run("One two").logits is not None


def test_that_without_names_it_is_opened_as_far_as_the_middle(tiny_llama: Model) -> None:
    assert deepest_of(tiny_llama.hook_points, []) == "blocks.1.resid_post"
    assert deepest_of(tiny_llama.hook_points, ["blocks.1.z", "blocks.0.resid_post"]) == "blocks.1.z"
    assert deepest_of(tiny_llama.hook_points, ["blocks.1.z", "no such"]) is None


def test_that_a_batch_without_pictures_has_no_rows_in_a_tower(tiny_paired_folder: Path, tiny_paired: Model) -> None:
    hook, picture = "vision.blocks.3.resid_post", np.random.default_rng(0).integers(0, 255, (60, 70, 3), np.uint8)
    model = open_model(tiny_paired_folder, until=[hook])
    assert weights(model) < weights(tiny_paired)
    none = model.run([Sample("text", text="Hello there")], record=[hook], logits=False)
    assert none.rows(hook).shape[1] == 0
    samples = [Sample("picture", image=ImageRef.of(picture))]
    rows = [one.run(samples, record=[hook], logits=False).rows(hook) for one in (model, tiny_paired)]
    assert rows[0].shape[1] > 0 and torch.equal(*rows)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_that_opening_as_far_as_a_third_holds_less_than_the_whole(
    smollm2_folder: Path, tiny_llama_folder: Path, smollm2: Model
) -> None:
    """Of SmolLM2's 538 MB of weights the embeddings and ten of thirty blocks are 255; the rows are those of the whole
    network."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, smollm2_folder, tiny_llama_folder],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    peak, row = json.loads(done.stdout)
    assert 0 < peak < 0.7 * weights(smollm2), f"{peak / 1e6:.0f} MB"
    hook = "blocks.9.resid_post"
    whole = smollm2.run("One two three", record=[hook], logits=False).rows(hook)[0, -1]
    assert torch.equal(torch.tensor(row), whole)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_that_what_lies_before_all_blocks_is_opened_in_few_bits_too(dtype: str, tiny_llama_folder: Path) -> None:
    rows = [
        open_model(tiny_llama_folder, dtype=dtype, until=until).run("One two", record=["embed"], logits=False)
        for until in (["embed"], None)
    ]
    assert torch.equal(rows[0].rows("embed"), rows[1].rows("embed"))
