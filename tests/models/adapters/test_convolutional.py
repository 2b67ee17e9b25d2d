"""Networks in stages: how their blocks are counted, and configs that name impossibly many."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.models import open_model
from tests.models.tiny import ALL, opened


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("resnet", {"depths": [1 << 30, 1]}),
        ("convnext", {"depths": [1] * 2000}),
        ("swin", {"depths": [2, 1 << 30]}),
        ("efficientnet", {"num_block_repeats": [1 << 30, 1]}),
        ("efficientnet", {"depth_coefficient": 1e9}),
        ("mobilenet_v2", {"depth_multiplier": 1e6}),
        ("qwen2_vl", {"vision_config": {"depth": 1 << 30}}),
    ],
)
def test_that_a_config_of_impossibly_many_blocks_is_refused_at_once(
    name: str, change: dict[str, Any], tmp_path: Path
) -> None:
    ALL[name].save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    begun = time.monotonic()
    with pytest.raises(AuditorError, match="impossible size") as caught:
        open_model(tmp_path)
    assert time.monotonic() - begun < 5 and len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet", [(8, 16), (8, 16), (4, 24)]),
        ("convnext", [(8, 8), (8, 8), (4, 16)]),
        ("efficientnet", [(16, 16), (8, 24), (8, 24)]),
    ],
)
def test_that_blocks_are_counted_through_all_stages_and_maps_shrink(name: str, sizes: list[tuple[int, int]]) -> None:
    model = opened(ALL[name]).model
    hooks = [f"vision.blocks.{number}.resid_post" for number in range(model.n_layers)]
    run = model.run(model.encode(opened(ALL[name]).samples), record=[*hooks, "vision.embed"])
    for hook, (side, width) in zip(hooks, sizes, strict=True):
        assert run.records[hook].shape == (2, side, side, width)
        positions = run.positions(hook)
        assert positions.grid == (side, side)
        assert torch.equal(positions.unit[0], torch.arange(side * side, dtype=torch.int32))
    assert model.d_model == sizes[-1][1]
