"""Where rows lie in a picture: for a picture with one bright quarter, the rows of those patches are the ones that
differ, at each family's first hook point, in its image tokens and in the language model's stream."""

from __future__ import annotations

from re import fullmatch

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.data import ImageRef, PositionKind, Sample
from auditor.models import Ablate, Model, Run
from auditor.models.inputs import Positions
from auditor.models.sheets import Panel, Sheet
from tests.models.checks import Changed
from tests.models.tiny import ALL, opened
from tests.models.tiny.multimodal import MULTIMODAL
from tests.models.tiny.vision import VISION

# These hear only, or have a tower of another library.
HEARING = ("clap", "clap fused", "qwen2_audio", "gemma3n")
SEEING = [tiny.name for tiny in (*VISION, *MULTIMODAL) if tiny.name not in HEARING]
# Cells of a map that a stem's convolutions reach beyond the pixels of their own.
REACH = 2
NEAR = 1e-6
# Transformers whose patches overlap.
OVERLAPPING = ("segformer", "segformer of classes", "sam2", "sam2_video", "sam2 vision")
# Resizing, which these families' processors never leave out, blurs the quarter's edge.
RESIZED = ("idefics3", "smolvlm", "internvl", "siglip2", "siglip2 vision", "aya_vision")
# Its norm of a patch's pixels takes a patch's brightness away.
NORMED = ("gemma4_unified",)
# Two towers that never meet in one stream, text that looks at pictures, and tokens that look at a whole one.
NO_TOKENS = ("clip", "metaclip_2", "siglip", "siglip2", "chinese_clip", "clipseg", "owlvit", "idefics",
             "idefics second blocks", "idefics2", "mllama", "blip", "blip-2", "blip-2 t5", "instructblip",
             "instructblip t5")  # fmt: skip


def lit(side: int) -> tuple[ImageRef, ImageRef]:
    """A grey picture, and the same with a bright top right quarter; as large as the network reads, to be left sharp."""
    plain = np.random.default_rng(1).integers(90, 110, (side, side, 3), dtype=np.uint8)
    bright = plain.copy()
    bright[: side // 2, side // 2 :] += 100
    return ImageRef.of(plain), ImageRef.of(bright)


def in_quarter(run: Run, name: str, reach: int = 0, *, partly: bool = False) -> Tensor:
    """bool [P]: rows whose patch lies in the top right quarter of a picture, or of a part in which it is read, or
    `reach` cells from it; `partly`: or a part of it does."""
    positions = run.positions(name)
    sheet = sheet_of(positions)
    boxes = [panel.box for panel in sheet.panels]
    middle, across = ((min(box[at] for box in boxes) + max(box[at + 2] for box in boxes)) / 2 for at in (0, 1))
    held = set()
    for panel in sheet.panels:
        for cell, unit in enumerate(sheet.units(panel).tolist()):
            top, left, bottom, right = panel.area(cell)
            y, x = top - reach * (bottom - top), (right if partly else left) + reach * (right - left)
            held |= {unit} if y < middle - NEAR and x > across + (NEAR if partly else -NEAR) else set()
    found = torch.tensor([int(unit) in held for unit in positions.unit[0]])
    return found & (positions.kind[0] == int(PositionKind.IMAGE))


def sheet_of(positions: Positions) -> Sheet:
    """Where a sample's pictures lie on its grid."""
    assert positions.grid is not None
    sheet = positions.sheets[0] if positions.sheets else None
    return Sheet.of([Panel(0, (0, 0, 1, 1), *positions.grid)]) if sheet is None else sheet


def side_of(model: Model) -> int:
    """Of a picture that is to be left sharp: what the network reads, or any number of its patches."""
    expects = getattr(model._adapter.rule, "expects", None)  # type: ignore[attr-defined]
    return int(expects[0]) if expects else 16 if model.family.startswith(("glm", "gemma4")) else 32


@pytest.mark.parametrize("name", [name for name in SEEING if name not in NORMED])
def test_that_a_bright_quarter_changes_the_rows_of_its_patches(name: str) -> None:
    """Without attention, which carries it everywhere, at every depth; in maps as far as convolutions reach."""
    model = opened(ALL[name]).model
    silent = [Ablate(hook) for hook in model.hook_points if hook.startswith("vision.") and hook.endswith(".attn_out")]
    is_map = not silent
    reach = REACH if is_map or name in OVERLAPPING else 0
    hooks = ["vision.embed"]
    if not is_map and name not in OVERLAPPING:
        hooks += [hook for hook in model.hook_points if fullmatch(r"vision\..+\.resid_post", hook)]
    plain, bright = (
        model.run([Sample("a", text="red" if "text" in model.modalities else None, image=image)], record=hooks,
                  edits=silent)
        for image in lit(side_of(model))
    )  # fmt: skip
    for hook in hooks:
        positions = plain.positions(hook)
        assert positions.grid is not None
        assert int((positions.unit >= 0).sum()) == sum(map(len, sheet_of(positions).panels))
        changed = (plain.rows(hook) - bright.rows(hook))[0].norm(dim=-1)
        assert bool((changed[in_quarter(plain, hook)] > 1e-3).all())
        beyond = ~in_quarter(plain, hook, reach, partly=True)
        share = 0.2 if name in RESIZED else 1e-6
        assert bool(beyond.any()) and float(changed[beyond].max()) < share * float(changed.max()), hook


@pytest.mark.parametrize("name", [tiny.name for tiny in MULTIMODAL if tiny.name not in (*NO_TOKENS, *HEARING)])
def test_that_a_pictures_tokens_stand_in_the_text_in_the_order_of_its_patches(name: str) -> None:
    case = opened(ALL[name])
    model = case.model
    inputs = model.encode(case.samples)
    # The last hook point of the tower that the language model reads.
    last = [point for point in model.hook_points if point.startswith("vision.")][-1]
    if name.startswith(("llava", "aya")):
        last = f"vision.blocks.{1 if name.startswith('llava') else 2}.resid_post"
    plain = model.run(inputs, record=[last, "image_tokens", "embed"])
    inside = in_quarter(plain, last, partly=name == "gemma4_unified")  # of a picture one patch wide
    assert 0 < int(inside.sum()) < len(inside)
    push = Changed(last, lambda x: x + torch.where(inside[:, None], torch.linspace(-1, 1, x.shape[-1]), 0.0))
    pushed = model.run(inputs, record=["image_tokens", "embed"], edits=[push])
    moved = {at: (plain.rows(at) - pushed.rows(at)).norm(dim=-1) > 1e-6 for at in ("image_tokens", "embed")}
    assert torch.equal(moved["image_tokens"][0], in_quarter(plain, "image_tokens", partly=True))
    assert torch.equal(moved["embed"][0], in_quarter(plain, "embed", partly=True))
    assert not moved["embed"][1].any()
    assert plain.positions("embed").grid == inputs.grid
    # LLaVA-OneVision joins the tokens of many tiles on their way into the text.
    assert (plain.positions("image_tokens").grid == inputs.grid) == (name != "llava_onevision")
    for row, sample in enumerate(case.samples):
        seen = (inputs.kind[row] == int(PositionKind.IMAGE)).nonzero().flatten().tolist()
        sheet = inputs.sheets[row]
        assert (sheet is None) == (sample.image is None) == (not seen)
        cells = [unit for panel in sheet.panels for unit in sheet.units(panel).tolist()] if sheet else []
        assert sorted(inputs.unit[row][seen].tolist()) == sorted(cells)
        if sheet is not None and len(sheet.panels) == 1:  # parts of one have marks between them
            assert inputs.unit[row][seen].tolist() == cells
            between = sheet.panels[0].rows - 1 if name == "mistral3" else 0  # lines of one have marks between them
            assert seen[-1] - seen[0] == len(cells) - 1 + between
        words = inputs.kind[row] == int(PositionKind.TEXT)
        assert model.token_strings(inputs.ids[row][words]) == [
            word for word in (sample.text or "").split() if word not in ("<image>", "<sound>")
        ]
