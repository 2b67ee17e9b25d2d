"""Families without an adapter: transformers' own networks, opened with their modules as hook points."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample, text_sample
from auditor.intake.weights import FAMILIES
from auditor.models import Ablate, Model, open_model
from auditor.models.hook_points import TOKENS
from tests.models.tiny.entry import SIZES, TEXT, two_images, word_tokenizer


def xglm() -> Any:
    config = transformers.XGLMConfig(
        vocab_size=10, d_model=32, ffn_dim=48, num_layers=2, attention_heads=4, max_position_embeddings=40
    )
    return transformers.XGLMForCausalLM(config)


def neox_japanese() -> Any:
    config = transformers.GPTNeoXJapaneseConfig(
        vocab_size=10, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_multiple_size=2,
        max_position_embeddings=40, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.GPTNeoXJapaneseForCausalLM(config)


def xlnet() -> Any:
    """Its modules have positions before samples."""
    config = transformers.XLNetConfig(vocab_size=10, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=0)
    return transformers.XLNetLMHeadModel(config)


def dia() -> Any:
    """A decoder of nine streams of sound tokens, which takes texts of some lengths alone."""
    sizes = SIZES | {"num_hidden_layers": 1, "head_dim": 8}
    decoder = sizes | {
        "num_key_value_heads": 2, "cross_num_attention_heads": 4, "cross_num_key_value_heads": 4, "cross_head_dim": 8,
        "cross_hidden_size": 32, "vocab_size": 12, "num_channels": 9,
    }  # fmt: skip
    config = transformers.DiaConfig(
        encoder_config=sizes | {"num_key_value_heads": 4, "vocab_size": 10}, decoder_config=decoder, pad_token_id=9,
        bos_token_id=8, eos_token_id=7, delay_pattern=[0] * 9,
    )  # fmt: skip
    return transformers.DiaForConditionalGeneration(config)


def fnet() -> Any:
    return transformers.FNetForMaskedLM(transformers.FNetConfig(**TEXT | {"num_hidden_layers": 2}))


def mvp() -> Any:
    config = transformers.MvpConfig(
        vocab_size=10, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=0, forced_eos_token_id=2, max_position_embeddings=40,
    )  # fmt: skip
    return transformers.MvpForConditionalGeneration(config)


def poolformer() -> Any:
    config = transformers.PoolFormerConfig(
        hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1], num_labels=3, mlp_ratio=2.0
    )
    return transformers.PoolFormerForImageClassification(config)


def data2vec_vision() -> Any:
    return transformers.Data2VecVisionForImageClassification(
        transformers.Data2VecVisionConfig(**SIZES, image_size=16, patch_size=8, num_labels=3)
    )


def ijepa() -> Any:
    return transformers.IJepaForImageClassification(
        transformers.IJepaConfig(**SIZES, image_size=16, patch_size=8, num_labels=3)
    )


def whisper_like() -> Any:
    config = transformers.Speech2TextConfig(
        vocab_size=10, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, conv_channels=16, pad_token_id=0,
    )  # fmt: skip
    return transformers.Speech2TextForConditionalGeneration(config)


def vit_like(kind: str, **settings: Any) -> Callable[[], Any]:
    """Networks of pictures with a class token, one with tokens after the patches too."""

    def build() -> Any:
        config = getattr(transformers, f"{kind}Config")(**SIZES, image_size=[16, 16], patch_size=8, **settings)
        return getattr(transformers, f"{kind}Model")(config)

    return build


TEXTS: dict[str, Callable[[], Any]] = {
    "xglm": xglm, "gpt_neox_japanese": neox_japanese, "fnet": fnet, "mvp": mvp, "xlnet": xlnet,
}  # fmt: skip
PICTURES: dict[str, Callable[[], Any]] = {"poolformer": poolformer, "data2vec-vision": data2vec_vision}


# Each network is of a family that has no adapter: where one gets an adapter, another takes its place here.


def saved(build: Callable[[], Any], folder: Path) -> tuple[Any, Path]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = build().eval()
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name:  # computed, not saved, in some of them
                parameter.data.normal_(std=0.3)
    network.save_pretrained(folder)
    word_tokenizer(folder, ends=False)
    return network, folder


@pytest.fixture(scope="module", params=[*TEXTS, *PICTURES])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model, list[Sample]]:
    assert request.param not in FAMILIES, f"{request.param} has an adapter now: choose another family for this test"
    build = (TEXTS | PICTURES)[request.param]
    network, folder = saved(build, tmp_path_factory.mktemp("generic") / request.param)
    images = [Sample(f"image {number}", image=image) for number, image in enumerate(two_images())]
    second = "cat three" if request.param != "fnet" else "cat three one two sat"
    samples = images if request.param in PICTURES else [text_sample("one two red cat sat"), text_sample(second)]
    return network, open_model(folder), samples


def test_that_every_module_gives_what_its_hook_point_says(case: tuple[Any, Model, list[Sample]]) -> None:
    network, model, samples = case
    inputs = model.encode(samples)
    run = model.run(inputs, record=list(model.hook_points))
    plain = model.run(inputs).logits
    assert plain is not None and torch.equal(run.logits, plain)  # type: ignore[arg-type]
    assert len(model.hook_points) > 8 and model.notes and model.family == network.config.model_type
    for name, point in model.hook_points.items():
        rows, positions = run.rows(name), run.positions(name)
        assert rows.shape[-1] == point.width and rows.shape[0] == len(samples)
        assert positions.kind.shape == positions.unit.shape == rows.shape[:2]
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.network.named_modules():
        if name in model.hook_points:
            module.register_forward_hook(
                lambda module, args, output, name=name: seen.__setitem__(
                    name, output[0] if isinstance(output, tuple) else output
                )
            )
    model.run(inputs)
    for name, output in seen.items():
        assert torch.equal(run.rows(name).flatten().sort().values, output.flatten().sort().values)


def test_that_logits_are_the_librarys_own(case: tuple[Any, Model, list[Sample]]) -> None:
    network, model, samples = case
    inputs = model.encode(samples[:1])
    fed: dict[str, Any] = {"pixel_values": inputs.pixels} if inputs.pixels is not None else {"input_ids": inputs.ids}
    if network.config.is_encoder_decoder:
        fed["decoder_input_ids"] = torch.cat([torch.zeros(1, 1, dtype=torch.int64), inputs.ids[:, :-1]], 1)
    with torch.no_grad():
        told = network(**fed).logits
    torch.testing.assert_close(model.run(inputs).logits, told)


def test_that_padding_changes_nothing_that_is_read(case: tuple[Any, Model, list[Sample]]) -> None:
    _, model, samples = case
    if "image" in model.modalities:
        return
    together, alone = model.run(samples).logits, model.run(samples[1:]).logits
    assert together is not None and alone is not None
    torch.testing.assert_close(together[1, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)


def test_that_a_network_that_mixes_padding_in_runs_texts_of_one_length_alone(tmp_path: Path) -> None:
    _, folder = saved(fnet, tmp_path / "fnet")
    model = open_model(folder)
    assert any("padding would change" in note for note in model.notes)
    with pytest.raises(AuditorError, match="different lengths cannot be run together"):
        model.encode([text_sample("one two red cat sat"), text_sample("cat three")])
    assert model.run([text_sample("cat three")]).logits is not None


def test_that_edits_and_early_exits_work_at_a_module(case: tuple[Any, Model, list[Sample]]) -> None:
    _, model, samples = case
    inputs = model.encode(samples)
    name = list(model.hook_points)[len(model.hook_points) // 2]
    full = model.run(inputs, record=[name])
    cut = model.run(inputs, record=[name], logits=False)
    assert cut.logits is None and torch.equal(cut.records[name], full.records[name])
    edited = model.run(inputs, edits=[Ablate(name)]).logits
    assert edited is not None and full.logits is not None and edited.shape == full.logits.shape


def test_that_a_network_that_draws_numbers_as_it_runs_draws_the_same_each_time(tmp_path: Path) -> None:
    config = transformers.ViltConfig(**TEXT | SIZES, image_size=16, patch_size=8, max_position_embeddings=40)
    _, folder = saved(lambda: transformers.ViltModel(config), tmp_path / "vilt")
    model = open_model(folder)
    inputs = model.encode([Sample("both", text="one two red", image=two_images()[0])])
    first = model.run(inputs, record=list(model.hook_points)).records
    torch.rand(3)
    state = torch.random.get_rng_state()
    again = model.run(inputs, record=list(model.hook_points)).records
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_that_a_text_that_the_library_cannot_run_is_told_in_one_sentence(tmp_path: Path) -> None:
    _, folder = saved(dia, tmp_path / "dia")
    model = open_model(folder)
    with pytest.raises(AuditorError, match=r"cannot be run on this: shape") as caught:
        model.run([text_sample("one two red cat sat")])
    assert "\n" not in caught.value.message


def test_that_an_edit_that_fails_is_not_taken_for_the_librarys_fault(tmp_path: Path) -> None:
    class Broken(Ablate):
        def apply(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("a fault of ours")

    _, folder = saved(xglm, tmp_path / "xglm")
    model = open_model(folder)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        model.run([text_sample("one two")], edits=[Broken(list(model.hook_points)[3])])


def test_that_what_cannot_be_fed_is_told_in_one_sentence(tmp_path: Path) -> None:
    _, folder = saved(whisper_like, tmp_path / "sound")
    with pytest.raises(AuditorError, match="input_features") as caught:
        open_model(folder)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("build", "around"),
    [(vit_like("Yolos", num_detection_tokens=3), (1, 3)), (vit_like("Data2VecVision"), (1, 0)), (ijepa, (0, 0))],
    ids=["yolos", "data2vec_vision", "ijepa"],
)
def test_that_a_class_token_is_found_and_is_no_patch(
    build: Callable[[], Any], around: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "ijepa")  # type: ignore[arg-type]
    _, folder = saved(build, tmp_path / "model")
    model = open_model(folder)
    inputs = model.encode([Sample(f"image {number}", image=image) for number, image in enumerate(two_images())])
    rows = sum(around) + 4
    names = [
        name
        for name, point in model.hook_points.items()
        if point.axes == TOKENS and model.run(inputs, record=[name], logits=False).records[name].shape[1] == rows
    ]
    assert len(names) > 8 and len(model.notes) == 1
    for name in (names[0], names[-1], f"{names[-1]}.input"):
        run = model.run(inputs, record=[name], logits=False)
        found = run.positions(name)
        assert found.unit[1].tolist() == [-1] * around[0] + [0, 1, 2, 3] + [-1] * around[1]
        patch = found.unit >= 0
        assert (found.kind[patch] == PositionKind.IMAGE).all() and (found.kind[~patch] == PositionKind.SPECIAL).all()
        assert found.grid == (2, 2)


def test_that_rows_that_may_be_patches_or_not_are_said_to_be_so(tmp_path: Path) -> None:
    """DETR's queries look at all of the picture."""
    config = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5, num_labels=2, use_timm_backbone=False,
        use_pretrained_backbone=False, backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], out_features=["stage4"]
        ),
    )  # fmt: skip
    _, folder = saved(lambda: transformers.DetrForObjectDetection(config), tmp_path / "detr")
    assert any("cannot be told which rows" in note for note in open_model(folder).notes)


def test_that_only_the_librarys_own_classes_are_built(tmp_path: Path) -> None:
    _, folder = saved(xglm, tmp_path / "model")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for changed in (
        {"model_type": "no_such_family"},
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"model_type": "rag"},
        {"text_config": {"model_type": "evil"}},
        {"backbone": "someone/backbone"},
        {"d_model": 1 << 40},
        {"quantization_config": {"quant_method": "gptq"}},
    ):
        path.write_text(json.dumps(config | changed))
        with pytest.raises(AuditorError):
            open_model(folder)
    path.write_text(json.dumps(config | {"architectures": ["AutoModel", "os", "XGLMModel", "PreTrainedModel"]}))
    assert type(open_model(folder).network).__name__ == "XGLMModel"
