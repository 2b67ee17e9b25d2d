"""Where rows lie in a picture: for a picture with one bright quarter, the rows of those patches are the ones that
differ, at each family's first hook point, in its image tokens and in the language model's stream."""

from __future__ import annotations

from re import fullmatch

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.data import ImageRef, PositionKind, Sample
from auditor.models import Ablate, Run
from tests.models.checks import Changed
from tests.models.tiny import ALL, opened
from tests.models.tiny.multimodal import MULTIMODAL
from tests.models.tiny.vision import VISION

SEEING = [tiny.name for tiny in (*VISION, *MULTIMODAL)]
# Cells of a map that a stem's convolutions reach beyond the pixels of their own.
REACH = 2


def lit(side: int) -> tuple[ImageRef, ImageRef]:
    """A grey picture, and the same with a bright top right quarter; as large as the network reads, to be left sharp."""
    plain = np.random.default_rng(1).integers(90, 110, (side, side, 3), dtype=np.uint8)
    bright = plain.copy()
    bright[: side // 2, side // 2 :] += 100
    return ImageRef.of(plain), ImageRef.of(bright)


def in_quarter(run: Run, name: str, reach: int = 0) -> Tensor:
    """bool [P]: rows whose patch lies in the top right quarter, or `reach` cells from it."""
    positions = run.positions(name)
    assert positions.grid is not None
    rows, columns = positions.grid
    unit = positions.unit[0].long()
    inside = (unit // columns < rows / 2 + reach) & (unit % columns >= columns / 2 - reach)
    return inside & (unit >= 0) & (positions.kind[0] == int(PositionKind.IMAGE))


@pytest.mark.parametrize("name", SEEING)
def test_that_a_bright_quarter_changes_the_rows_of_its_patches(name: str) -> None:
    """Without attention, which carries it everywhere, at every depth; in maps as far as convolutions reach."""
    model = opened(ALL[name]).model
    silent = [Ablate(hook) for hook in model.hook_points if hook.startswith("vision.") and hook.endswith(".attn_out")]
    is_map = not silent
    hooks = ["vision.embed"]
    hooks += [] if is_map else [hook for hook in model.hook_points if fullmatch(r"vision\..+\.resid_post", hook)]
    plain, bright = (
        model.run([Sample("a", text="red" if "text" in model.modalities else None, image=image)], record=hooks,
                  edits=silent)
        for image in lit(model._adapter.rule.expects[0])  # type: ignore[attr-defined]
    )  # fmt: skip
    for hook in hooks:
        positions = plain.positions(hook)
        assert positions.grid is not None
        assert int((positions.unit >= 0).sum()) == positions.grid[0] * positions.grid[1]
        changed = (plain.rows(hook) - bright.rows(hook))[0].norm(dim=-1)
        assert bool((changed[in_quarter(plain, hook)] > 1e-3).all())
        beyond = ~in_quarter(plain, hook, REACH if is_map else 0)
        # Idefics' processor resizes twice, which blurs the quarter's edge.
        share = 0.2 if name in ("idefics3", "smolvlm") else 1e-6
        assert bool(beyond.any()) and float(changed[beyond].max()) < share * float(changed.max()), hook


@pytest.mark.parametrize("name", [tiny.name for tiny in MULTIMODAL if tiny.name not in ("clip", "siglip")])
def test_that_a_pictures_tokens_stand_in_the_text_in_the_order_of_its_patches(name: str) -> None:
    case = opened(ALL[name])
    model = case.model
    inputs = model.encode(case.samples)
    # The last hook point of the tower that the language model reads.
    last = [point for point in model.hook_points if point.startswith("vision.")][-1]
    if name.startswith("llava"):
        last = "vision.blocks.1.resid_post"
    plain = model.run(inputs, record=[last, "image_tokens", "embed"])
    inside = in_quarter(plain, last)
    assert 0 < int(inside.sum()) < len(inside)
    push = Changed(last, lambda x: x + torch.where(inside[:, None], torch.linspace(-1, 1, x.shape[-1]), 0.0))
    pushed = model.run(inputs, record=["image_tokens", "embed"], edits=[push])
    moved = {at: (plain.rows(at) - pushed.rows(at)).norm(dim=-1) > 1e-6 for at in ("image_tokens", "embed")}
    assert torch.equal(moved["image_tokens"][0], in_quarter(plain, "image_tokens"))
    assert torch.equal(moved["embed"][0], in_quarter(plain, "embed"))
    assert not moved["embed"][1].any()
    assert plain.positions("embed").grid == plain.positions("image_tokens").grid == inputs.grid
    for row, sample in enumerate(case.samples):
        seen = (inputs.kind[row] == int(PositionKind.IMAGE)).nonzero().flatten().tolist()
        count = 0 if sample.image is None else inputs.grid[0] * inputs.grid[1] if inputs.grid else -1
        assert inputs.unit[row][seen].tolist() == list(range(count)) and (not seen or seen[-1] - seen[0] == count - 1)
        words = inputs.kind[row] == int(PositionKind.TEXT)
        assert model.token_strings(inputs.ids[row][words]) == (sample.text or "").replace("<image>", " ").split()
