"""Every family, on small random networks saved as folders: hook points against transformers' own hidden states."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, PositionKind, Sample, text_sample
from auditor.models import Ablate, AddDirection, Model, open_model

WORDS = ["<pad>", "<s>", "</s>", "<image>", "one", "two", "three", "red", "cat", "sat"]
TEXT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
VISION = TEXT | {"image_size": 16, "patch_size": 8}
PREFIX = {"gpt2": "transformer", "gpt_neox": "gpt_neox", "neox_in_turn": "gpt_neox", "bert": "bert", "llama": "model"}


def word_tokenizer(folder: Path, *, ends: bool) -> None:
    """A tokenizer over ten words, with begin and end tokens of its own if `ends`."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[:4])
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=10, n_positions=40, n_embd=32, n_layer=3, n_head=4)
    return transformers.GPT2LMHeadModel(config)


def neox(parallel: bool) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.GPTNeoXConfig(vocab_size=10, **TEXT, use_parallel_residual=parallel)
        return transformers.GPTNeoXForCausalLM(config)

    return build


def llama() -> Any:
    config = transformers.LlamaConfig(vocab_size=10, **TEXT, num_key_value_heads=2, tie_word_embeddings=False)
    return transformers.LlamaForCausalLM(config)


def bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=10, **TEXT, max_position_embeddings=40))


def vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, num_labels=4))


def clip() -> Any:
    text = TEXT | {"vocab_size": 10, "max_position_embeddings": 20, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))


def llava(strategy: str) -> Callable[[], Any]:
    def build() -> Any:
        text = transformers.LlamaConfig(vocab_size=10, **TEXT, num_key_value_heads=2)
        vision = transformers.CLIPVisionConfig(**VISION, projection_dim=16)
        config = transformers.LlavaConfig(
            text_config=text, vision_config=vision, image_token_id=3, image_token_index=3,
            vision_feature_layer=-2, vision_feature_select_strategy=strategy,
        )  # fmt: skip
        return transformers.LlavaForConditionalGeneration(config)

    return build


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": llama, "gpt2": gpt2, "gpt_neox": neox(True), "neox_in_turn": neox(False), "bert": bert, "vit": vit,
    "clip": clip, "llava": llava("default"), "llava_full": llava("full"),
}  # fmt: skip


@dataclass
class Case:
    name: str
    source: Any
    model: Model
    samples: list[Sample]


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", names, indirect=True)


def all_but(*names: str) -> pytest.MarkDecorator:
    return only(*(name for name in FAMILIES if name not in names))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A network with random weights of unit scale (so that no branch is negligible), saved and opened again."""
    folder = tmp_path_factory.mktemp("families") / request.param
    with torch.random.fork_rng():
        torch.manual_seed(11)
        network = FAMILIES[request.param]().eval()
        for parameter in network.parameters():
            if parameter.ndim:
                parameter.data.normal_(std=0.4 if parameter.ndim > 1 else 0.1).add_(float(parameter.ndim == 1) * 0.7)
    network.save_pretrained(folder)
    word_tokenizer(folder, ends=request.param in ("bert", "clip"))
    return Case(request.param, network, open_model(folder), samples_for(request.param))


def samples_for(name: str) -> list[Sample]:
    generator = np.random.default_rng(4)
    images = [ImageRef.of(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(2)]
    if name == "vit":
        return [Sample(f"image {n}", image=image) for n, image in enumerate(images)]
    if name == "clip":
        return [Sample("a", text="red cat", image=images[0]), Sample("b", text="one two three", image=images[1])]
    if name.startswith("llava"):
        return [Sample("a", text="red <image> cat", image=images[0]), text_sample("one two three cat sat one"),
                Sample("c", text="two", image=images[1])]  # fmt: skip
    return [text_sample("one two red cat sat"), text_sample("cat three")]


def test_that_recording_all_hook_points_changes_no_bit(case: Case) -> None:
    inputs = case.model.encode(case.samples)
    plain, full = case.model.run(inputs), case.model.run(inputs, record=list(case.model.hook_points))
    assert plain.logits is not None and full.logits is not None
    assert torch.equal(plain.logits, full.logits)
    for name, point in case.model.hook_points.items():
        rows, positions = full.rows(name), full.positions(name)
        assert not point.width or rows.shape[-1] == point.width
        assert not point.width or positions.kind.shape == positions.unit.shape == rows.shape[:2]


@all_but("clip", "llava", "llava_full")
def test_that_the_residual_stream_is_transformers_hidden_states(case: Case) -> None:
    inputs = case.model.encode(case.samples[:1])
    prefix = "vision." if case.name == "vit" else ""
    run = case.model.run(inputs, record=list(case.model.hook_points))
    arguments = {"pixel_values": inputs.pixels} if prefix else {"input_ids": inputs.ids}
    with torch.no_grad():
        told = case.source(**arguments, output_hidden_states=True)
    states = told.hidden_states
    assert torch.equal(run.records[prefix + "embed"], states[0])
    for number in range(case.model.n_layers - 1):
        assert torch.equal(run.records[f"{prefix}blocks.{number}.resid_post"], states[number + 1])
    torch.testing.assert_close(run.logits, told.logits)
    if prefix + "final_norm" in run.records and not prefix:
        torch.testing.assert_close(run.records["final_norm"], states[-1])


@all_but("bert")
def test_that_what_is_written_sums_to_the_residual_stream(case: Case) -> None:
    run = case.model.run(case.model.encode(case.samples), record=list(case.model.hook_points))
    starts = {name.rsplit(".", 1)[0] for name in case.model.hook_points if "blocks." in name}
    for block in starts:
        parts = {name: run.records[f"{block}.{name}"] for name in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
        total = parts["resid_pre"] + parts["attn_out"] + parts["mlp_out"]
        torch.testing.assert_close(total, parts["resid_post"], atol=1e-4, rtol=1e-4)
        middle = run.records.get(f"{block}.resid_mid")
        assert (middle is None) == (case.name == "gpt_neox")
        if middle is not None:
            torch.testing.assert_close(parts["resid_pre"] + parts["attn_out"], middle, atol=1e-4, rtol=1e-4)


@all_but("bert", "gpt_neox")
def test_that_an_edit_in_the_middle_reaches_both_branches(case: Case) -> None:
    """Pushing the middle of the residual stream is pushing what attention writes to it."""
    inputs = case.model.encode(case.samples)
    for prefix in {name[: name.index("blocks.")] for name in case.model.hook_points if "blocks." in name}:
        hook, last = f"{prefix}blocks.1.resid_mid", f"{prefix}blocks.2.resid_post"
        push = torch.randn(case.model.hook_points[hook].width, generator=torch.Generator().manual_seed(9))
        middle = case.model.run(inputs, edits=[AddDirection(hook, push, 2.0)], record=[last, hook])
        written = AddDirection(f"{prefix}blocks.1.attn_out", push, 2.0)
        expected = case.model.run(inputs, edits=[written], record=[last, hook])
        clean = case.model.run(inputs, record=[last, hook])
        torch.testing.assert_close(middle.records[last], expected.records[last], atol=1e-4, rtol=1e-4)
        assert torch.equal(middle.records[hook], clean.records[hook])
        assert not torch.allclose(middle.records[last], clean.records[last], atol=1e-2)


def test_that_padding_changes_nothing_that_is_read(case: Case) -> None:
    record = [name for name in case.model.hook_points if name.endswith("blocks.2.resid_post")]
    batch = case.model.run(case.model.encode(case.samples), record=record)
    for row, sample in enumerate(case.samples):
        alone = case.model.run(case.model.encode([sample]), record=record)
        for name in record:
            kept = alone.rows(name)[0]
            torch.testing.assert_close(batch.rows(name)[row, : len(kept)], kept, atol=1e-4, rtol=1e-4)


@only("llama", "gpt2", "gpt_neox", "neox_in_turn")
def test_that_a_linearised_run_keeps_values_and_conserves_relevance(case: Case) -> None:
    """Without biases, embeddings times the gradient of a logit sum to the logit; the true gradient's do not."""
    model = open_model(case.model.path)
    for name, parameter in model.network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    inputs = model.encode(case.samples[:1])
    plain = model.run(inputs, record=["embed"], grad=True)
    with model.linearised():
        linear = model.run(inputs, record=["embed"], grad=True)
    assert plain.logits is not None and linear.logits is not None
    torch.testing.assert_close(linear.logits, plain.logits, atol=1e-5, rtol=1e-5)
    totals = []
    for run in (linear, plain):
        logits = run.logits
        assert logits is not None
        gradient = torch.autograd.grad(logits[0, -1, 5], run.records["embed"])[0]
        totals.append(float((gradient * run.records["embed"]).sum().detach()))
    logit = float(plain.logits[0, -1, 5].detach())
    assert totals[0] == pytest.approx(logit, rel=1e-4, abs=1e-4)
    assert totals[1] != pytest.approx(logit, rel=1e-2)


@only("bert", "vit")
def test_that_a_family_without_linear_parts_says_so(case: Case) -> None:
    with pytest.raises(AuditorError, match="Linearised"), case.model.linearised():
        pass


@only("clip", "llava", "llava_full")
def test_that_clip_and_llava_agree_with_transformers(case: Case) -> None:
    inputs = case.model.encode(case.samples)
    run = case.model.run(inputs, record=list(case.model.hook_points))
    assert run.logits is not None
    if case.name == "clip":
        with torch.no_grad():
            ids = inputs.ids.clamp(min=0)
            told = case.source(input_ids=ids, pixel_values=inputs.pixels, output_hidden_states=True)
        torch.testing.assert_close(run.logits, told.logits_per_image)
        assert torch.equal(run.records["vision.blocks.2.resid_post"], told.vision_model_output.hidden_states[-1])
        text = told.text_model_output.hidden_states[2]
        # The library masks the padding, a causal tower has no need to: the words' own positions agree.
        torch.testing.assert_close(run.records["blocks.1.resid_post"], text, atol=1e-4, rtol=1e-4)
        return
    ids = torch.where(inputs.mask & (inputs.ids < 0), 3, inputs.ids.clamp(min=0))
    with torch.no_grad():
        pictures = inputs.pixels[[0, 2]] if inputs.pixels is not None else None
        told = case.source(input_ids=ids, pixel_values=pictures, attention_mask=inputs.mask.long())
    for row in range(3):
        length = int(inputs.mask[row].sum())
        torch.testing.assert_close(run.logits[row, :length], told.logits[row, :length], atol=1e-4, rtol=1e-4)
    kinds = inputs.kind[0].tolist()
    full = [PositionKind.SPECIAL] if case.name == "llava_full" else []
    expected = [PositionKind.SPECIAL, PositionKind.TEXT, *full, *[PositionKind.IMAGE] * 4, PositionKind.TEXT]
    assert kinds[: len(expected)] == expected
    assert inputs.unit[0][inputs.kind[0] == PositionKind.IMAGE].tolist() == [0, 1, 2, 3]
    assert inputs.grid == (2, 2) and run.positions("image_tokens").grid == (2, 2)


@only("llava", "llava_full")
def test_that_an_edit_at_the_layer_llava_reads_is_seen_by_the_language_model(case: Case) -> None:
    inputs = case.model.encode(case.samples[:1])
    clean = case.model.run(inputs).logits
    edited = case.model.run(inputs, edits=[Ablate("vision.blocks.1.resid_post")]).logits
    unread = case.model.run(inputs, edits=[Ablate("vision.blocks.2.resid_post")]).logits
    assert clean is not None and edited is not None and unread is not None
    assert not torch.allclose(clean, edited, atol=1e-3)
    assert torch.equal(clean, unread)
