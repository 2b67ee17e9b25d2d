"""The text+image model and its vision part: layout, mixed batches, maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.analysis.next_token import SetRows
from auditor.base.errors import AuditorError
from auditor.data import ImageRef, PositionKind, Sample, text_sample
from auditor.models import Ablate, AddDirection, Model, open_model
from auditor.models.networks.efficientnet_lite import preprocess
from tests.models_fixtures import sample_folder

PAD, TEXT, IMAGE, SPECIAL = (int(kind) for kind in list(PositionKind)[:4])


@pytest.fixture(scope="module")
def image() -> ImageRef:
    return ImageRef.of(np.random.default_rng(0).integers(0, 255, (60, 70, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def mixed(image: ImageRef) -> list[Sample]:
    return [Sample("both", text="A picture of", image=image), text_sample("Hello there"), Sample("only", image=image)]


def test_that_image_tokens_stand_between_the_begin_token_and_the_text(tiny_paired: Model, mixed: list[Sample]) -> None:
    inputs = tiny_paired.encode(mixed)
    assert inputs.kind[0].tolist() == [SPECIAL, *[IMAGE] * 16, *[TEXT] * 3]
    assert inputs.unit[0].tolist() == [-1, *range(16), 0, 1, 2]
    assert inputs.kind[1].tolist() == [SPECIAL, TEXT, TEXT, *[PAD] * 17]
    assert inputs.kind[2].tolist() == [SPECIAL, *[IMAGE] * 16, *[PAD] * 3]
    assert inputs.grid == (4, 4) and inputs.ids[0, 1:17].tolist() == [-1] * 16
    assert tiny_paired.token_strings(inputs.ids[0])[17:] == ["A", " picture", " of"]


def test_that_the_projectors_tokens_enter_as_embeddings(tiny_paired: Model, mixed: list[Sample]) -> None:
    run = tiny_paired.run(tiny_paired.encode(mixed), record=["vision.head", "image_tokens", "embed"])
    tokens = run.records["image_tokens"]
    assert torch.equal(run.records["embed"][0, 1:17], tokens[0])
    features = run.records["vision.head"].permute(0, 3, 1, 2)
    torch.testing.assert_close(tiny_paired.network.get_submodule("projector")(features), tokens)
    assert mixed[0].image is not None
    by_hand = tiny_paired.network.get_submodule("vision").features(preprocess(mixed[0].image.load(), 128)[None])
    torch.testing.assert_close(by_hand[0], features[0], atol=1e-4, rtol=1e-4)


def test_that_a_text_runs_as_in_the_language_model_alone(tiny_paired: Model, tiny_llama: Model) -> None:
    sample = [text_sample("The capital of France is")]
    paired, alone = tiny_paired.run(tiny_paired.encode(sample)), tiny_llama.run(tiny_llama.encode(sample))
    assert paired.logits is not None and alone.logits is not None
    torch.testing.assert_close(paired.logits, alone.logits)


def test_that_mixed_batches_give_each_sample_what_it_gets_alone(tiny_paired: Model, mixed: list[Sample]) -> None:
    names = ["vision.blocks.5.resid_post", "image_tokens", "blocks.1.resid_post"]
    batch = tiny_paired.run(tiny_paired.encode(mixed), record=names)
    for row, sample in enumerate(mixed):
        alone = tiny_paired.run(tiny_paired.encode([sample]), record=names)
        for name in names:
            kept = alone.rows(name)[0]
            torch.testing.assert_close(batch.rows(name)[row, : len(kept)], kept, atol=1e-3, rtol=1e-3)
            kinds = batch.positions(name).kind[row]
            assert torch.equal(kinds[: len(kept)], alone.positions(name).kind[0][: len(kept)])
            assert not kinds[len(kept) :].any()


def test_that_vision_rows_are_patches_row_by_row(tiny_paired: Model, mixed: list[Sample]) -> None:
    run = tiny_paired.run(tiny_paired.encode(mixed), record=["vision.blocks.3.resid_post"], logits=False)
    recorded, positions = run.records["vision.blocks.3.resid_post"], run.positions("vision.blocks.3.resid_post")
    assert recorded.shape == (3, 16, 16, 40) and positions.grid == (16, 16)
    assert torch.equal(run.rows("vision.blocks.3.resid_post")[0, 2 * 16 + 5], recorded[0, 2, 5])
    assert positions.unit[0, :3].tolist() == [0, 1, 2]
    assert positions.kind[1].tolist() == [PAD] * 256 and positions.kind[2].tolist() == [IMAGE] * 256


def test_that_an_edit_of_a_map_at_one_patch_stays_there(tiny_paired: Model, mixed: list[Sample]) -> None:
    inputs = tiny_paired.encode(mixed[:1])
    push = torch.randn(1280, generator=torch.Generator().manual_seed(2))
    edit = AddDirection("vision.head", push, 1.0, positions=[6])
    clean = tiny_paired.run(inputs, record=["vision.head", "image_tokens"])
    edited = tiny_paired.run(inputs, record=["vision.head", "image_tokens"], edits=[edit])
    assert torch.equal(clean.records["vision.head"], edited.records["vision.head"])
    features = clean.records["vision.head"].clone()
    features[0, 1, 2] += push
    expected = tiny_paired.network.get_submodule("projector")(features.permute(0, 3, 1, 2))
    torch.testing.assert_close(edited.records["image_tokens"], expected)


def test_that_a_batch_without_images_has_no_vision_rows(tiny_paired: Model) -> None:
    run = tiny_paired.run(tiny_paired.encode([text_sample("Hi")]), record=["vision.head", "image_tokens", "embed"])
    assert run.rows("vision.head").shape == (1, 0, 1280) and run.rows("image_tokens").shape == (1, 0, 576)
    assert run.positions("vision.head").kind.shape == (1, 0)


def test_that_gradients_of_a_logit_reach_the_picture_tokens(tiny_paired: Model, mixed: list[Sample]) -> None:
    inputs = tiny_paired.encode(mixed[:1])
    with tiny_paired.linearised():
        run = tiny_paired.run(inputs, record=["image_tokens", "embed"], grad=True)
    assert run.logits is not None
    logit = run.logits[0, -1, 50]
    by_image, by_embed = torch.autograd.grad(logit, [run.records["image_tokens"], run.records["embed"]])
    torch.testing.assert_close(by_image[0], by_embed[0, 1:17])
    assert float((by_embed * run.records["embed"]).sum().detach()) == pytest.approx(float(logit.detach()), abs=1e-3)


def test_that_the_classifier_knows_what_the_plain_network_knows(image: ImageRef) -> None:
    model = open_model(sample_folder("efficientnet-lite0"))
    inputs = model.encode([Sample("a", image=image)])
    run = model.run(inputs, record=list(model.hook_points))
    assert run.logits is not None and inputs.pixels is not None
    network = model.network.get_submodule("network")
    with torch.no_grad():
        assert torch.equal(run.logits, network(inputs.pixels))
    widths = {name: point.width for name, point in model.hook_points.items()}
    assert widths["vision.embed"] == 32 and widths["vision.blocks.15.resid_post"] == 320 and len(widths) == 18
    ablated = model.run(inputs, edits=[Ablate("vision.head")]).logits
    torch.testing.assert_close(ablated[0] if ablated is not None else None, network._fc.bias)
    with pytest.raises(AuditorError, match="has no image"):
        model.encode([text_sample("words")])


def test_that_a_run_from_given_rows_needs_no_picture(tiny_paired: Model, mixed: list[Sample]) -> None:
    hook = "blocks.0.resid_post"
    inputs = tiny_paired.encode(mixed)
    whole = tiny_paired.run(inputs, record=[hook])
    seen: list[torch.Tensor] = []
    handle = tiny_paired.network.get_submodule("projector").register_forward_hook(lambda *_: seen.append(_[2]))
    try:
        with tiny_paired.given(hook):
            rest = tiny_paired.run(inputs, edits=[SetRows(hook, whole.rows(hook))])
    finally:
        handle.remove()
    assert not seen
    assert whole.logits is not None and rest.logits is not None and torch.equal(whole.logits, rest.logits)


def test_that_a_language_model_without_its_head_is_no_part_of_a_pair(tiny_paired_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_paired_folder.parent, tmp_path / "models")
    folder = tmp_path / "models" / tiny_paired_folder.name
    text = (folder / json.loads((folder / "config.json").read_text("utf-8"))["text"] / "config.json").resolve()
    text.write_text(json.dumps(json.loads(text.read_text("utf-8")) | {"architectures": ["LlamaModel"]}), "utf-8")
    with pytest.raises(AuditorError, match="predicts no words"):
        open_model(folder)
