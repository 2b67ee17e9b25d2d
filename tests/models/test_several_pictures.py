"""Several pictures in a sample: against the library's own processors and forward passes, and where each token lies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, PositionKind, Sample, text_sample
from auditor.models import Ablate, Inputs, Run, open_model
from auditor.models.adapters.idefics3 import AROUND
from auditor.models.marks import around_pictures
from auditor.models.sheets import Sheet
from tests.models.test_image_text import llava, paligemma, qwen, tiled
from tests.models.tiny import ALL, Case, opened

IMAGE = int(PositionKind.IMAGE)
READ = [
    "llava", "llava full", "llava_onevision", "paligemma", "gemma3", "gemma3 crops", "gemma4",
    "idefics3", "smolvlm", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_5", "mistral3",
]  # fmt: skip


def pictures(*shapes: tuple[int, int], seed: int = 5) -> list[ImageRef]:
    drawn = np.random.default_rng(seed)
    return [ImageRef.of(drawn.integers(0, 255, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def interleaved(text: str = "one <image> red <image> cat", *shapes: tuple[int, int], seed: int = 5) -> Sample:
    first, *more = pictures(*(shapes or ((20, 24), (33, 12))), seed=seed)
    return Sample("both", text=text, image=first, more=tuple(more))


def with_marks(inputs: Inputs) -> torch.Tensor:
    return torch.where((inputs.ids < 0) & inputs.mask, 3, inputs.ids)


def fast(case: Case) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=case.model.tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("name", "make"), [("smolvlm", tiled), ("llava", llava), ("paligemma", paligemma)])
def test_that_interleaved_pictures_are_written_and_read_as_the_librarys_processor_does(name: str, make: Any) -> None:
    case, sample = opened(ALL[name]), interleaved()
    images = [[image.load() for image in sample.pictures]]
    text = f"{'' if name == 'paligemma' else '<s> '}{sample.text}"
    given = make(fast(case))(images=images, text=[text], return_tensors="pt")
    inputs = case.model.encode([sample])
    assert inputs.pixels is not None
    assert torch.equal(with_marks(inputs), given["input_ids"])
    assert torch.equal(inputs.pixels, given["pixel_values"].reshape(inputs.pixels.shape))
    with torch.no_grad():
        told = case.source(**{key: value for key, value in given.items() if key != "labels"}).logits
    found = case.model.run(inputs).logits
    assert found is not None
    if name != "llava":
        assert torch.equal(found, told)
    else:  # its tokens are placed by Auditor's own code, and no mask is given
        torch.testing.assert_close(found, told, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_that_two_pictures_of_different_shapes_are_read_by_qwen_as_by_the_library(name: str) -> None:
    case, sample = opened(ALL[name]), interleaved("one <image> red <image>", (20, 24), (9, 40))
    given = qwen(None)(images=[image.load() for image in sample.pictures], return_tensors="pt")
    inputs = case.model.encode([sample])
    ids = with_marks(inputs)
    assert inputs.pixels is not None and torch.equal(inputs.pixels, given["pixel_values"])
    first, second = (int(grid.prod()) // 4 for grid in given["image_grid_thw"])
    assert first != second
    assert ids[0].tolist() == [1, 4, 12, *[3] * first, 13, 7, 12, *[3] * second, 13]
    with torch.no_grad():
        told = case.source(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 3).int(), **given
        ).logits
    assert torch.equal(case.model.run(inputs).logits, told)  # type: ignore[arg-type]


def test_that_idefics_reads_pictures_beside_its_text_as_the_library_does() -> None:
    from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
    from transformers.models.idefics.processing_idefics import IdeficsProcessor

    case, sample = opened(ALL["idefics"]), interleaved("one <image> red <image> <image> cat", (20, 24), (9, 40), (8, 8))
    first, *others = (Image.fromarray(picture.load()) for picture in sample.pictures)
    processor = IdeficsProcessor(IdeficsImageProcessorPil(image_size=16), fast(case), image_size=16)
    given = processor(text=["one", first, "red", *others, "cat"], add_eos_token=False)
    inputs = case.model.encode([sample])
    assert inputs.pixels is not None and torch.equal(with_marks(inputs), given["input_ids"])
    torch.testing.assert_close(inputs.pixels, given["pixel_values"][0], atol=1e-5, rtol=0)
    with torch.no_grad():
        told = case.source(**given).logits
    torch.testing.assert_close(case.model.run(inputs).logits, told, atol=2e-5, rtol=2e-5)


def test_that_tiles_have_their_rows_and_columns_written_beside_them() -> None:
    adapter = opened(ALL["smolvlm"]).model._adapter
    sample = interleaved("red <image>", (20, 40))
    sheet = adapter._sheet([(20, 40)])  # type: ignore[attr-defined]
    (text,) = adapter.written(sample, sheet)  # type: ignore[attr-defined]
    tokens = "<image>" * 4
    assert text == (
        f"red {AROUND}<row_1_col_1>{tokens}{AROUND}<row_1_col_2>{tokens}\n\n{AROUND}<global-img>{tokens}{AROUND}"
    )


@pytest.mark.parametrize("name", READ)
def test_that_a_sample_of_several_pictures_has_the_same_values_beside_others_as_alone(name: str) -> None:
    model = opened(ALL[name]).model
    samples = [text_sample("one two"), interleaved(), interleaved("red <image>", (20, 24), seed=6)]
    record = ["vision.embed", "vision.blocks.1.resid_post", "image_tokens", "embed", "blocks.1.resid_post"]
    together = model.run(model.encode(samples), record=record)
    for row, sample in enumerate(samples):
        alone = model.run(model.encode([sample]), record=record)
        for hook in record:
            kept = alone.rows(hook)[0]
            torch.testing.assert_close(together.rows(hook)[row, : len(kept)], kept, atol=2e-4, rtol=1e-4)
            kinds, units = together.positions(hook).kind[row], together.positions(hook).unit[row]
            assert torch.equal(units[: len(kept)], alone.positions(hook).unit[0])
            assert not kinds[len(kept) :].any()


@pytest.mark.parametrize("name", READ)
def test_that_one_corner_of_one_picture_changes_the_tokens_over_it_and_no_others(name: str) -> None:
    """Without attention, at the first layer of the tower, in the image tokens and in the language model's stream."""
    model = opened(ALL[name]).model
    plain = interleaved("one <image> red <image> cat", (32, 32), (32, 32))
    pixels = plain.more[0].load().copy()
    pixels[:16, 16:] = 255 - pixels[:16, 16:]
    changed = replace(plain, more=(ImageRef.of(pixels),))
    silent = [Ablate(hook) for hook in model.hook_points if hook.startswith("vision.") and hook.endswith(".attn_out")]
    hooks = ["vision.embed", "vision.blocks.0.resid_post", "image_tokens", "embed"]
    before, after = (model.run([sample], record=hooks, edits=silent) for sample in (plain, changed))
    for hook in hooks:
        moved = (before.rows(hook) - after.rows(hook))[0].norm(dim=-1)
        over, near = over_corner(before, hook, 0), over_corner(before, hook, 8)
        assert 0 < int(over.sum()) < int(near.sum()) < len(moved)
        assert bool((moved[over] > 1e-3).all()), hook
        # Resizing blurs the corner's edge.
        assert float(moved[~near].max()) < 0.05 * float(moved[over].min()), hook


def over_corner(run: Run, hook: str, beyond: int) -> torch.Tensor:
    """bool [P]: rows whose area reaches into the top right corner of the second picture, or `beyond` pixels of it."""
    positions = run.positions(hook)
    sheet = positions.sheets[0]
    assert isinstance(sheet, Sheet)
    cells = set()
    for panel in sheet.panels:
        for cell, unit in enumerate(sheet.units(panel).tolist()):
            top, left, bottom, right = panel.area(cell)
            shared = max(min(bottom, 16) - top, 0) * max(right - max(left, 16), 0)
            mostly = shared > 0.4 * (bottom - top) * (right - left)
            touched = top < 16 + beyond and right > 16 - beyond
            if panel.picture == 1 and (touched if beyond else mostly):
                cells.add(unit)
    is_image = positions.kind[0] == IMAGE
    return torch.tensor([int(unit) in cells for unit in positions.unit[0]]) & is_image


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (3, 1), (20, 21), (4, 4)])
def test_that_there_is_paper_around_a_picture_that_is_filled_up_to_a_square(shape: tuple[int, int]) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    (panel,) = opened(ALL["llava_onevision"]).model._adapter._sheet([shape, shape]).panels[:1]  # type: ignore[attr-defined]
    shown, side = Sheet.of([panel]).drawn([picture], 64), max(shape)
    wanted = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    wanted[top : top + shape[0], left : left + shape[1]] = 0
    assert np.array_equal(shown, wanted)


SHOWN = [(name, 2) for name in ("qwen2_vl", "smolvlm", "llava_next", "idefics2", "llava_onevision")]


@pytest.mark.parametrize("hook", ["vision.blocks.1.resid_post", "blocks.1.resid_post"])
@pytest.mark.parametrize(("name", "count"), [*SHOWN, ("llava_onevision", 1)])
def test_that_a_grid_lies_over_what_is_shown(name: str, count: int, hook: str) -> None:
    """Pictures that are dark on the left and bright on the right: under a cell lies what the cell stands for."""
    model = opened(ALL[name]).model
    tall = np.broadcast_to(np.linspace(0, 240, 150)[:, None], (200, 150, 3)).astype(np.uint8)
    flat = np.full((24, 20, 3), 120, np.uint8)
    more = (ImageRef.of(flat),) if count == 2 else ()
    sample = Sample("a", text="one <image> red <image>", image=ImageRef.of(tall), more=more)
    inputs = model.encode([sample])
    shown = model.shown(inputs, 0, 128, [hook])
    assert shown is not None
    if name == "idefics2" and hook.startswith("blocks"):  # its tokens have no places, and both pictures are shown
        assert (shown == 120).any() and (shown < 40).any()
        return
    sheet = model.run(inputs, record=[hook], logits=False).positions(hook).sheets[0]
    assert sheet is not None
    high, wide = shown.shape[0] / sheet.grid[0], shown.shape[1] / sheet.grid[1]
    for panel in sheet.panels:
        for cell, unit in enumerate(sheet.units(panel).tolist()):
            y, x = divmod(unit, sheet.grid[1])
            _, left, _, right = panel.area(cell)
            wanted = 120 if panel.picture else float(tall[0, int((left + right) / 2), 0])
            assert abs(float(shown[int((y + 0.5) * high), int((x + 0.5) * wide), 0]) - wanted) < 25


@pytest.mark.parametrize(("name", "before"), [("llava", 4), ("qwen2_vl", 7), ("llava_onevision", 4)])
def test_that_a_context_that_ends_before_the_last_picture_is_told(name: str, before: int) -> None:
    model, sample = opened(ALL[name]).model, interleaved("one two <image> red <image> cat sat")
    sizes = [picture.load().shape[:2] for picture in sample.pictures]
    shortest, longer = (model.encode([sample], context).ids for context in (before, before + 1))
    assert shortest[0, -1] < 0 <= longer[0, -1] and torch.equal(longer[:, :-1], shortest)
    model.must_fit(sample, sizes, before)
    with pytest.raises(AuditorError, match=f"has {before} tokens of text before its last .* context is {before - 1}"):
        model.must_fit(sample, sizes, before - 1)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("llava", "neverheard <image> <image>", "cannot take these texts apart"),
        ("qwen2_vl", "one <image> <image>", "came out with 1 image tokens in the place of 7"),
        ("idefics2", "one <image> <image>", "came out with 0 image tokens in the place of 30"),
    ],
)
def test_that_a_tokenizer_that_lacks_a_part_is_told_of_samples_as_of_a_batch(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    ALL[name].save(tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    held = json.loads(file.read_text())
    held["model"]["unk_token"] = "lacking" if "never" in text else "<pad>"
    if "never" not in text:
        held["added_tokens"] = [token for token in held["added_tokens"] if "image" not in token["content"]]
    file.write_text(json.dumps(held))
    model, sample = open_model(tmp_path / "m"), interleaved(text, (4, 4), (20, 24))
    for asked in (lambda: model.must_fit(sample, [(4, 4), (20, 24)], 64), lambda: model.encode([sample], 64)):
        with pytest.raises(AuditorError, match=told):
            asked()


@pytest.mark.parametrize("name", ["llava", "paligemma", "smolvlm", "qwen2_vl"])
def test_that_a_text_that_spells_the_token_of_a_picture_is_text(name: str) -> None:
    model = opened(ALL[name]).model
    spelled = model.encode([text_sample("red <image> cat <image>")])
    assert not (spelled.kind == IMAGE).any() and not (spelled.ids == 3).any()
    assert {7, 8} <= set(spelled.ids[0].tolist())
    assert model.run(spelled).logits is not None
    # The first mark is where the picture stands; the second is text.
    both = model.encode([interleaved("red <image> cat <image>", (20, 24))])
    alone = model.encode([interleaved("red <image> cat", (20, 24))])
    assert int((both.kind == IMAGE).sum()) == int((alone.kind == IMAGE).sum()) > 0
    assert both.ids.shape[1] > alone.ids.shape[1] and model.run(both).logits is not None


def test_that_places_go_before_marks_and_pictures_without_either_stand_first() -> None:
    first, second = pictures((8, 8), (8, 8))
    sample = Sample("a", text="x <image> y", image=first, more=(second,))
    assert around_pictures(sample) == ["", "x ", " y"]
    assert around_pictures(replace(sample, places=(2, 11))) == ["x ", "<image> y", ""]
    assert around_pictures(text_sample("x <image> y")) == ["x <image> y"]


@pytest.mark.parametrize(
    ("name", "sample", "said"),
    [
        ("qwen2_vl", interleaved("<image>", (2, 900)), "too long and narrow"),
        ("llava", interleaved("red", *[(8, 8)] * 600), "600 pictures of 2,400 tokens in all; the model reads at most"),
        ("vit", interleaved("", (8, 8), (8, 8)), "has 2 pictures, and this model reads one a sample"),
    ],
)
def test_that_what_cannot_be_read_is_one_sentence(name: str, sample: Sample, said: str) -> None:
    model = opened(ALL[name]).model
    sizes = [picture.load().shape[:2] for picture in sample.pictures]
    with pytest.raises(AuditorError, match=said):
        model.must_fit(sample, [(rows, columns) for rows, columns in sizes])


@pytest.mark.parametrize("name", ["idefics3", "smolvlm", "qwen2_5_vl", "llava"])
def test_that_the_smallest_picture_is_read(name: str) -> None:
    model = opened(ALL[name]).model
    run = model.run([interleaved("<image> red", (1, 1))], record=["image_tokens"])
    assert run.logits is not None and bool(torch.isfinite(run.logits).all())


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm", "llava full"])
def test_that_an_edit_of_one_pictures_patches_reaches_its_tokens_alone(name: str) -> None:
    model = opened(ALL[name]).model
    inputs = model.encode([interleaved()])
    last = "vision.blocks.1.resid_post" if name.startswith("llava") else "vision.blocks.2.resid_post"
    clean = model.run(inputs, record=[last, "image_tokens", "embed"])
    sheets = clean.positions(last).sheets
    assert sheets[0] is not None
    second = {unit for panel in sheets[0].panels if panel.picture == 1 for unit in sheets[0].units(panel).tolist()}
    chosen = torch.tensor([int(unit) in second for unit in clean.positions(last).unit[0]])
    from tests.models.checks import Changed

    push = Changed(last, lambda x: x + torch.where(chosen[:, None], torch.linspace(-1, 1, x.shape[-1]), 0.0))
    pushed = model.run(inputs, record=["image_tokens", "embed"], edits=[push])
    for hook in ("image_tokens", "embed"):
        tokens = clean.positions(hook).sheets[0]
        assert tokens is not None
        wanted = {unit for panel in tokens.panels if panel.picture == 1 for unit in tokens.units(panel).tolist()}
        moved = (clean.rows(hook) - pushed.rows(hook))[0].norm(dim=-1) > 1e-6
        assert {int(unit) for unit in clean.positions(hook).unit[0][moved]} == wanted


@pytest.mark.parametrize("name", ["llava", "paligemma", "qwen2_vl"])
def test_that_a_text_longer_than_the_network_reads_is_cut_to_the_context_behind_its_pictures(name: str) -> None:
    model = opened(ALL[name]).model
    longest = model._adapter.longest()  # type: ignore[attr-defined]
    long, short = (interleaved("red <image>" + " cat" * count, (20, 24)) for count in (longest, 40))
    assert torch.equal(model.encode([long], 16).ids, model.encode([short], 16).ids)
    with pytest.raises(AuditorError, match="the model reads at most"):
        model.encode([long])
