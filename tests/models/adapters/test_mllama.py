"""Llama 3.2 Vision, against the library's own processor and forward pass: tiles, and who looks at which picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample, text_sample
from auditor.models import Ablate, open_model
from auditor.models.edits import EditWeight
from auditor.store.record import RecordConfig, record
from tests.models.checks import Changed
from tests.models.test_several_pictures import interleaved, pictures
from tests.models.tiny import ALL, Case, opened

IMAGE, SPECIAL, PAD = int(PositionKind.IMAGE), int(PositionKind.SPECIAL), int(PositionKind.PAD)


def case() -> Case:
    return opened(ALL["mllama"])


def processor() -> Any:
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
    from transformers.models.mllama.processing_mllama import MllamaProcessor

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=case().model.tokenizer.backend_tokenizer, bos_token="<s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    half = [0.5, 0.5, 0.5]
    images = MllamaImageProcessorPil(size={"height": 16, "width": 16}, image_mean=half, image_std=half)
    return MllamaProcessor(images, tokenizer)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("<image> red cat", [(20, 24)]),
        ("one <image> red <image> cat sat", [(20, 24), (60, 9)]),
        ("<image> <image> red one", [(10, 12), (90, 90)]),
        ("red <image> <image> cat <image>", [(15, 40), (7, 90), (16, 16)]),
    ],
)
def test_that_pictures_and_texts_are_read_as_the_librarys_processor_and_network_do(text: str, shapes: Any) -> None:
    sample = interleaved(text, *shapes)
    given = processor()(
        images=[[image.load() for image in sample.pictures]], text=[sample.text], add_special_tokens=False,
        return_tensors="pt",
    )  # fmt: skip
    inputs = case().model.encode([sample])
    assert inputs.pixels is not None
    ids = torch.where((inputs.ids < 0) & inputs.mask, 3, inputs.ids)
    assert torch.equal(ids, given["input_ids"])
    torch.testing.assert_close(inputs.pixels, given["pixel_values"][0].flatten(0, 1), atol=1e-6, rtol=1e-6)
    assert torch.equal(inputs.beside["shape"], given["aspect_ratio_ids"][0])
    with torch.no_grad():
        told = case().source(**given).logits
    torch.testing.assert_close(case().model.run(inputs).logits, told, atol=1e-4, rtol=1e-4)


def test_that_a_text_alone_passes_by_the_blocks_that_look_and_a_begin_token_is_not_written_twice() -> None:
    model, source = case().model, case().source
    for text in ("one two", "<s> one two"):
        inputs = model.encode([text_sample(text)])
        assert inputs.ids.tolist() == [[1, 4, 5]]
        run = model.run(inputs, record=["blocks.1.cross_attn_out", "blocks.1.mlp_out", "blocks.1.cross_k"])
        with torch.no_grad():
            told = source(input_ids=inputs.ids, attention_mask=torch.ones_like(inputs.ids)).logits
        torch.testing.assert_close(run.logits, told)
        assert not run.records["blocks.1.cross_attn_out"].any() and not run.records["blocks.1.mlp_out"].any()
        assert run.records["blocks.1.cross_k"].shape[1] == 0


def test_that_rows_say_which_patch_of_which_tile_they_are() -> None:
    model = case().model
    samples = [interleaved("one <image> <image>", (20, 24), (10, 12)), text_sample("red")]
    run = model.run(samples, record=["vision.embed", "vision.context", "blocks.1.cross_k"])
    # Two pictures of 4 tiles of 5 rows each, which the tower fills up to 8.
    for name, each in (("vision.embed", 8), ("vision.context", 5), ("blocks.1.cross_k", 5)):
        found = run.positions(name)
        assert found.kind.shape == (2, 2 * 4 * each) and (found.kind[1] == PAD).all(), name
        kinds = [int((found.kind[0] == kind).sum()) for kind in (IMAGE, SPECIAL, PAD)]
        assert kinds == [16 + 4, 4 + 1, 8 * each - 25]
        units = found.unit[0][found.kind[0] == IMAGE].tolist()
        assert len(set(units)) == 20 and found.grid_of(0) is not None
    keys, tokens = run.positions("blocks.1.cross_k"), run.positions("vision.context")
    assert keys.unit[0].tolist() != tokens.unit[0].tolist()
    layer = case().source.model.language_model.layers[1].cross_attn
    order, other = (
        [row for _, row in sorted((unit, row) for row, unit in enumerate(found.unit[0].tolist()) if unit >= 0)]
        for found in (keys, tokens)
    )
    told = layer.k_proj(run.records["vision.context"][0, other])
    torch.testing.assert_close(run.records["blocks.1.cross_k"][0, order], told, atol=1e-5, rtol=1e-5)


def test_that_what_gates_let_through_is_recorded_and_a_closed_gate_silences_a_block() -> None:
    model, source = case().model, case().source
    inputs = model.encode(case().samples[:1])
    names = ["blocks.1.cross_z", "blocks.1.cross_attn_out", "blocks.1.mlp_hidden", "blocks.1.mlp_out"]
    z, written, hidden, computed = (model.run(inputs, record=names).records[name] for name in names)
    layer = source.model.language_model.layers[1]
    torch.testing.assert_close(written, layer.cross_attn.o_proj(z) * layer.cross_attn_attn_gate.tanh())
    seen = (inputs.ids < 0).cumsum(1)[..., None] > 0
    torch.testing.assert_close(computed, layer.mlp.down_proj(hidden) * layer.cross_attn_mlp_gate.tanh() * seen)
    path = "model.language_model.layers.1.cross_attn_attn_gate"
    shut = model.run(inputs, record=names, edits=[EditWeight(path, "set", 0.0)]).records
    assert not shut["blocks.1.cross_attn_out"].any() and shut["blocks.1.mlp_out"].any()


def test_that_an_edit_of_one_picture_is_heard_of_by_its_own_sample_alone() -> None:
    model = case().model
    samples = [Sample("a", text="red <image> cat", image=pictures((20, 24))[0]), interleaved(), text_sample("one two")]
    inputs = model.encode(samples)
    first = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    clean = model.run(inputs).logits
    for hook in ("vision.blocks.0.resid_post", "vision.global.blocks.1.attn_out", "vision.context", "blocks.1.cross_v"):
        edit = Changed(hook, lambda x: x + first * torch.linspace(0, 1, x.shape[-1]))
        moved = model.run(inputs, edits=[edit]).logits
        assert clean is not None and moved is not None and not torch.allclose(moved[0], clean[0], atol=1e-3), hook
        torch.testing.assert_close(moved[1:], clean[1:], atol=1e-5, rtol=1e-5)
    dark = model.run(inputs, edits=[Ablate("vision.context")]).logits
    assert dark is not None and clean is not None
    torch.testing.assert_close(dark[2], clean[2])


def test_that_a_store_keeps_patches_and_leaves_out_what_fills_up(tmp_path: Path) -> None:
    ALL["mllama"].save(tmp_path / "m")
    hooks = ("vision.global.blocks.0.resid_post", "vision.context", "blocks.1.resid_post")
    made = RecordConfig(model="m", samples="s", hooks=hooks, batch_size=2)
    store = record(made, open_model(tmp_path / "m"), case().samples, tmp_path / "a.store")
    assert [store.at(hook).n_rows for hook in hooks] == [2 * 20, 2 * 20, 4 + 7 + 3]


def test_that_shapes_that_no_tiles_have_are_told(tmp_path: Path) -> None:
    ALL["mllama"].save(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    said["vision_config"]["supported_aspect_ratios"].reverse()
    (tmp_path / "config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(AuditorError, match="shapes of pictures"):
        open_model(tmp_path)
