"""Pictures alone, from a folder to heat maps, with a vision transformer and a convolutional network."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from auditor.features.index import open_index
from auditor.features.picture import card
from auditor.project import Project
from auditor.store import open_store
from auditor.tasks.opening import fires as fires_of
from tests.journeys.running import done, made
from tests.models.tiny import ALL

PICTURES = 24
# Family → hook point, rows and columns of its patches, its processor's config (the shorter side, a crop), and what it
# keeps of a picture.
CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any], tuple[float, ...]]] = {
    "dinov2 with registers": (
        "vision.blocks.1.resid_post", (4, 4),
        {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
        (0, 28 / 96, 1, 68 / 96),
    ),
    "convnext": (
        "vision.blocks.1.resid_post", (8, 8), {"size": {"shortest_edge": 32}, "crop_pct": 0.8},
        (0.1, 32 / 96, 0.9, 64 / 96),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide pictures, red in the middle and blue at both ends, which a crop leaves out."""
    target = tmp_path_factory.mktemp("wide") / "pictures"
    target.mkdir()
    generator = np.random.default_rng(3)
    for number in range(PICTURES):
        pixels = generator.integers(0, 60, (40, 96, 3), dtype=np.uint8)
        pixels[..., 2] += 150
        pixels[:, 28:68] = pixels[:, 28:68, ::-1]
        Image.fromarray(pixels).save(target / f"{number:02d}.png")
    return target


@pytest.mark.parametrize("family", CASES)
def test_that_pictures_go_from_a_folder_to_heat_maps(family: str, folder: Path, tmp_path: Path) -> None:
    hook, grid, config, kept_part = CASES[family]
    model = tmp_path / family.replace(" ", "-")
    model.mkdir()
    ALL[family].save(model)
    (model / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    where = ("--project", tmp_path / "project")
    told = done("open", model, *where)
    assert told["modalities"] == ["image"] and hook in [point["hook"] for point in told["hook_points"]]
    done("open", folder, *where)
    recorded = done(
        "record", "--model", model.name, "--samples", folder.name, "--hooks", hook, "--batch-size", 5, *where
    )
    cells = grid[0] * grid[1]
    leading = 4 if "registers" in family else 0
    assert recorded["image_rows"] + recorded.get("special_rows", 0) == recorded["rows"] == PICTURES * (cells + leading)
    assert recorded["image_rows"] >= 0.95 * PICTURES * cells
    store = open_store(made(recorded, "store"))
    sample = store.sample(3)
    assert sample.grid == grid and sample.image is not None
    seen = np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB")).astype(int)
    # Only the red middle is seen, so only that is shown under the heat map.
    assert abs(seen.shape[0] - seen.shape[1]) <= 1 and bool((seen[..., 0] > seen[..., 2]).mean() > 0.95)
    done("train", "--d-sae", 64, "--k", 4, "--batch-size", 128, "--steps", 30, "--evaluate-rows", 256, "--device",
         "cpu", *where)  # fmt: skip
    index = open_index(made(done("index", "--top", 4, "--per-band", 1, *where), "index"))
    kept = [(number, example) for number in range(64) for example in index.feature(number).examples]
    examples = [example for _, example in kept]
    assert examples and {example.kind for example in examples} == {"image"}
    for number, example in kept:
        assert example.grid == grid and len(example.activations) == cells
        step = index.table["max_act"][number] / 510  # to which all but the peak's is exact
        assert max(example.activations) - step <= example.activations[example.peak] == example.peak_activation > 0
    assert {example.peak for example in examples} != {0}
    feature, strongest = max(kept, key=lambda pair: pair[1].peak_activation)
    assert Image.open(io.BytesIO(card(index.feature(feature)))).size[0] == 1400
    with Project.open(tmp_path / "project") as project:
        _, fires = fires_of(project, "", None, folder / f"{int(Path(strongest.sample_id).stem):02d}.png")
    assert fires.grid == grid and fires.seen == pytest.approx(kept_part, abs=0.02)
    # What fires on the picture now is what the index kept of it.
    fire = next(fire for fire in fires if fire.feature == feature)
    now = dict(zip(fires.units.tolist(), fire.values, strict=True))
    assert [now[cell] for cell in range(cells)] == pytest.approx(
        strongest.activations, rel=0.02, abs=0.02 * max(fire.values)
    )
