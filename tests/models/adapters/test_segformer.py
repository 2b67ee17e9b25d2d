"""SegFormer: grids that shrink from stage to stage, and coarser ones of keys and values."""

from __future__ import annotations

import torch

from tests.models.tiny import ALL, opened


def test_that_each_hook_point_has_its_own_grid() -> None:
    case = opened(ALL["segformer"])
    grids = {"embed": (8, 8), "blocks.1.v": (4, 4), "blocks.1.z": (8, 8), "blocks.2.v": (4, 4), "final_norm": (4, 4)}
    run = case.model.run(case.samples, record=[f"vision.{name}" for name in grids])
    for name, grid in grids.items():
        positions = run.positions(f"vision.{name}")
        assert positions.grid == grid and positions.unit[1].tolist() == list(range(grid[0] * grid[1])), name


def test_that_values_are_of_the_cells_that_a_convolution_leaves() -> None:
    case = opened(ALL["segformer"])
    run = case.model.run(case.samples, record=["vision.blocks.0.resid_pre", "vision.blocks.0.v"])
    block = case.source.segformer.stages[0].blocks[0]
    normed = block.layernorm_before(run.records["vision.blocks.0.resid_pre"])
    cells = normed.transpose(1, 2).unflatten(2, (8, 8))
    fewer = block.attention.sequence_reduction
    left = fewer.layer_norm(fewer.sequence_reduction(cells).flatten(2).transpose(1, 2))
    told = block.attention.v_proj(left)
    torch.testing.assert_close(run.records["vision.blocks.0.v"], told, atol=1e-5, rtol=1e-5)
