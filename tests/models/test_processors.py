"""Networks that read pictures among text, without an adapter: fed by the processor in their folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample, text_sample
from auditor.intake.weights import FAMILIES
from auditor.models import Ablate, Model, open_model
from tests.models.test_generic import saved
from tests.models.tiny.entry import SIZES, TEXT, two_images

TOWER = SIZES | {"num_hidden_layers": 2, "image_size": 16, "patch_size": 8}


def tokenizer(folder: Path, **marks: str) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<pad>", extra_special_tokens=marks,
    )  # fmt: skip


def vipllava() -> Any:
    text = transformers.LlamaConfig(**TEXT)
    config = transformers.VipLlavaConfig(
        text_config=text, vision_config=transformers.CLIPVisionConfig(**TOWER), image_token_index=3,
        vision_feature_layers=[-1, -2],
    )  # fmt: skip
    return transformers.VipLlavaForConditionalGeneration(config)


def vipllava_processor(folder: Path) -> Any:
    return transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16),
        tokenizer=tokenizer(folder, image_token="<image>"), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def gemma3() -> Any:
    text = transformers.Gemma3TextConfig(**TEXT | {"vocab_size": 16, "num_key_value_heads": 2, "head_dim": 8})
    config = transformers.Gemma3Config(
        text_config=text, vision_config=transformers.SiglipVisionConfig(**TOWER), mm_tokens_per_image=4,
        image_token_index=3, boi_token_index=10, eoi_token_index=11,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


def gemma3_processor(folder: Path) -> Any:
    return transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer=tokenizer(folder, image_token="<image>", boi_token="<boi>", eoi_token="<eoi>"), image_seq_length=4,
    )  # fmt: skip


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Path], Any], str]] = {
    "vipllava": (vipllava, vipllava_processor, "<image>"), "gemma3": (gemma3, gemma3_processor, "<boi>"),
}  # fmt: skip
Case = tuple[str, Any, Model, Any]


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    build, processor, _ = KINDS[request.param]
    network, folder = saved(build, tmp_path_factory.mktemp("pictures") / request.param)
    made = processor(folder)
    made.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patched:  # as if there were no adapter of it
        patched.delitem(FAMILIES, request.param, raising=False)  # type: ignore[arg-type]
        return request.param, network, open_model(folder), made


def samples() -> list[Sample]:
    first, second = two_images()
    return [Sample("a", text="red <image> cat", image=first), Sample("b", text="one two three cat", image=second)]


def test_that_logits_are_the_librarys_own(case: Case) -> None:
    name, network, model, processor = case
    mark = KINDS[name][2]
    for sample, text in zip(samples(), (f"red {mark} cat", f"{mark} one two three cat"), strict=True):
        assert sample.image is not None
        fed = processor(text=[text], images=[[Image.fromarray(sample.image.load())]], return_tensors="pt")
        with torch.no_grad():
            told = network(**fed).logits
        torch.testing.assert_close(model.run([sample]).logits, told, atol=1e-4, rtol=1e-4)


def test_that_several_pictures_are_read_as_by_the_librarys_processor(case: Case) -> None:
    name, network, model, processor = case
    mark, (first, second) = KINDS[name][2], two_images()
    sample = Sample("a", text="red <image> cat <image> one", image=first, more=(second,))
    images = [[Image.fromarray(picture.load()) for picture in sample.pictures]]
    fed = processor(text=[f"red {mark} cat {mark} one"], images=images, return_tensors="pt")
    with torch.no_grad():
        told = network(**fed).logits
    torch.testing.assert_close(model.run([sample]).logits, told, atol=1e-4, rtol=1e-4)
    tower = next(hook for hook, point in model.hook_points.items() if point.stream == "vision")
    run = model.run([sample], record=[tower])
    with pytest.raises(AuditorError, match="rows for each picture apart"):
        run.positions(tower)


def test_that_positions_say_where_the_picture_is(case: Case) -> None:
    kind, _, model, _ = case
    assert model.modalities == {"text", "image"} and len(model.notes) == 1
    inputs = model.encode(samples())
    for row in range(2):
        is_image = inputs.kind[row] == PositionKind.IMAGE
        assert inputs.unit[row][is_image].tolist() == [0, 1, 2, 3] and (inputs.ids[row][is_image] == -1).all()
        texts = inputs.unit[row][inputs.kind[row] == PositionKind.TEXT]
        assert texts.tolist() == list(range(len(texts)))
    record = list(model.hook_points)
    run = model.run(inputs, record=record)
    assert {point.stream for point in model.hook_points.values()} == {"text", "vision"}
    for name in record:
        assert run.rows(name).shape[-1] == model.hook_points[name].width
        assert run.positions(name).kind.shape == run.rows(name).shape[:2]
    towers = [name for name in record if model.hook_points[name].stream == "vision" and run.rows(name).shape[1] == 5]
    assert bool(towers) == (kind == "vipllava") and all(run.positions(name).unit[0, 0] == -1 for name in towers)
    tower = next(name for name in record if model.hook_points[name].stream == "vision")
    assert not torch.equal(model.run(inputs, edits=[Ablate(tower)]).logits, run.logits)  # type: ignore[arg-type]


def test_that_texts_alone_run_and_a_batch_of_both_is_refused(case: Case) -> None:
    _, network, model, _ = case
    text = text_sample("one two red cat")
    with torch.no_grad():
        told = network(input_ids=model.encode([text]).ids).logits
    torch.testing.assert_close(model.run([text]).logits, told, atol=1e-4, rtol=1e-4)
    with pytest.raises(AuditorError, match="only some"):
        model.encode([text, samples()[0]])


def test_that_a_text_is_cut_and_the_picture_is_not(case: Case) -> None:
    _, _, model, _ = case
    inputs = model.encode(samples()[1:], max_tokens=2)
    kinds = inputs.kind[0].tolist()
    assert kinds.count(int(PositionKind.IMAGE)) == 4 and kinds.count(int(PositionKind.TEXT)) == 2


def test_that_without_a_processor_only_texts_are_read(tmp_path: Path) -> None:
    _, folder = saved(vipllava, tmp_path / "bare")
    model = open_model(folder)
    assert model.modalities == {"text"} and "pictures are left out" in model.notes[1]
    assert {point.stream for point in model.hook_points.values()} == {"text"}


@pytest.mark.parametrize(
    "huge", [{"size": {"shortest_edge": 1 << 30}}, {"crop_size": 1 << 30}, {"image_grid_pinpoints": [[1 << 20, 336]]}]
)
def test_that_a_processor_that_makes_huge_pictures_is_not_used(tmp_path: Path, huge: dict[str, Any]) -> None:
    _, folder = saved(vipllava, tmp_path / "huge")
    vipllava_processor(folder).save_pretrained(folder)
    path = folder / "processor_config.json"
    said = json.loads(path.read_text())
    said["image_processor"] |= huge
    path.write_text(json.dumps(said))
    assert open_model(folder).modalities == {"text"}


def test_that_a_processor_that_brings_code_is_refused(tmp_path: Path) -> None:
    _, folder = saved(vipllava, tmp_path / "evil")
    vipllava_processor(folder).save_pretrained(folder)
    path = folder / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoProcessor": "evil.P"}}))
    with pytest.raises(AuditorError, match="auto_map"):
        open_model(folder)
