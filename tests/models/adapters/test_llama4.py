"""Llama 4: its mixture, without experts and expert by expert, and its pictures as the library reads them."""

from __future__ import annotations

import ast
import json
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.models import open_model
from tests.models.checks import Changed
from tests.models.test_several_pictures import interleaved
from tests.models.tiny import ALL, opened


def test_that_without_weights_the_mlp_beside_the_experts_is_left() -> None:
    case = opened(ALL["llama4_text"])
    inputs = case.model.encode(case.samples)
    edits = [Changed("blocks.2.expert_weights", lambda x: 0 * x)]
    run = case.model.run(inputs, record=["blocks.2.resid_mid", "blocks.2.mlp_out"], edits=edits)
    layer = case.source.model.layers[2]
    with torch.no_grad():
        told = layer.feed_forward.shared_expert(layer.post_attention_layernorm(run.records["blocks.2.resid_mid"]))
    torch.testing.assert_close(run.records["blocks.2.mlp_out"], told, atol=1e-5, rtol=1e-5)


def test_that_weights_are_the_sigmoids_of_the_chosen_logits_and_multiply_what_experts_read() -> None:
    case = opened(ALL["llama4_text"])
    inputs = case.model.encode(case.samples[:1])
    names = ["blocks.0.resid_mid", "blocks.0.router", "blocks.0.expert_weights", "blocks.0.mlp_out"]
    middle, logits, weights, out = (case.model.run(inputs, record=names).records[name] for name in names)
    chosen = weights != 0
    assert (chosen.sum(-1) == 2).all()
    torch.testing.assert_close(weights, torch.sigmoid(logits) * chosen)
    layer, expected = case.source.model.layers[0], []
    with torch.no_grad():
        for x, weight in zip(layer.post_attention_layernorm(middle)[0], weights[0], strict=True):
            read = weight[:, None] * x
            expected.append(layer.feed_forward.shared_expert(x) + layer.feed_forward.experts(read).sum(0))
    torch.testing.assert_close(out[0], torch.stack(expected), atol=1e-4, rtol=1e-4)


def library() -> dict[str, Any]:
    """What the library's image processor computes with, whose module wants torchvision."""
    import transformers

    file = Path(transformers.__file__).parent / "models" / "llama4" / "image_processing_llama4.py"
    names = ("get_factors", "get_max_res_without_distortion", "find_supported_resolutions", "get_best_fit")
    parts = [
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    for part in parts:
        part.decorator_list, part.returns = [], None
        for argument in part.args.args:
            argument.annotation = None
    found: dict[str, Any] = {"math": math, "torch": torch, "defaultdict": defaultdict}
    exec(compile(ast.Module(body=parts, type_ignores=[]), str(file), "exec"), found)
    assert set(names) <= set(found)
    return found


@pytest.mark.parametrize("widest", [False, True])
def test_that_pictures_are_laid_out_as_the_library_does(widest: bool) -> None:
    adapter: Any = opened(ALL["llama4"]).model._adapter
    theirs, drawn = library(), np.random.default_rng(3)
    shapes = [(20, 24), (16, 16), (3, 90), (64, 32), *(tuple(map(int, drawn.integers(1, 120, 2))) for _ in range(40))]
    canvases = torch.tensor(theirs["find_supported_resolutions"](16, SimpleNamespace(height=16, width=16)))
    held, adapter.widest = adapter.widest, widest
    try:
        for size in shapes:
            best = theirs["get_best_fit"](size, canvases, resize_to_max_canvas=widest).tolist()
            room = best if widest else [min(max(side, 16), most) for side, most in zip(size, best, strict=True)]
            inside = theirs["get_max_res_without_distortion"](size, room)
            laid = adapter.canvas(*size)
            assert [laid.down * 16, laid.across * 16] == best, size
            assert laid.inside == tuple(max(side, 1) for side in inside), size
    finally:
        adapter.widest = held


def test_that_tiles_are_written_as_the_library_does_and_two_pictures_are_read_so() -> None:
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    case, sample = opened(ALL["llama4"]), interleaved("red <|image|> cat <|image|> one", (20, 24), (10, 12))
    inputs = case.model.encode([sample])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    spelled = [Llama4Processor._prompt_split_image(None, ratio, 4) for ratio in ((2, 2), (1, 1))]
    text = f"<s> red {spelled[0]} cat {spelled[1]} one".replace("<|patch|>", " <image> ").replace("|><|", "|> <|")
    assert ids[0].tolist() == case.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert inputs.pixels is not None and inputs.pixels.shape == (6, 3, 16, 16)
    with torch.no_grad():
        told = case.source(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs.pixels).logits
    assert torch.equal(case.model.run(inputs).logits, told)  # type: ignore[arg-type]


def test_that_a_picture_is_cut_into_its_tiles_and_scaled_in_few_bits() -> None:
    adapter: Any = opened(ALL["llama4"]).model._adapter
    picture = np.random.default_rng(1).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    tiles = adapter.prepare(picture)
    assert tiles.shape == (7, 3, 16, 16)  # 2 × 3 tiles, in which it fits as it is, and the whole
    for number in range(6):
        top, left = number // 3 * 16, number % 3 * 16
        told = torch.from_numpy(picture[top : top + 16, left : left + 16]).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(tiles[number], told, atol=0.01, rtol=0)
    assert torch.equal(tiles, tiles.bfloat16().float()) and abs(float(tiles[6].mean() - tiles[:6].mean())) < 0.02


def test_that_impossible_numbers_of_tiles_are_told(tmp_path: Path) -> None:
    ALL["llama4"].save(tmp_path)
    for most in (0, 1000, "many"):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"max_patches": most}), encoding="utf-8")
        with pytest.raises(AuditorError, match="impossible tiles"):
            open_model(tmp_path)
