"""Other names of hook points: TransformerLens', modules' paths, and what is none of them."""

from __future__ import annotations

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import text_sample
from auditor.models import Ablate, Model
from auditor.models.aliases import spread_out
from auditor.store.recipe import RecordConfig, chosen_hooks
from tests.models.tiny import ALL, opened


@pytest.fixture(scope="module")
def llama() -> Model:
    return opened(ALL["llama"]).model


def test_that_names_of_transformer_lens_mean_the_canonical_points(llama: Model) -> None:
    named = {
        "hook_embed": "embed", "blocks.0.hook_resid_pre": "blocks.0.resid_pre",
        "blocks.1.hook_resid_mid": "blocks.1.resid_mid", "blocks.2.hook_resid_post": "blocks.2.resid_post",
        "blocks.1.hook_attn_out": "blocks.1.attn_out", "blocks.1.hook_mlp_out": "blocks.1.mlp_out",
        "blocks.1.attn.hook_q": "blocks.1.q", "blocks.1.attn.hook_k": "blocks.1.k",
        "blocks.1.attn.hook_v": "blocks.1.v", "blocks.1.attn.hook_z": "blocks.1.z",
        "blocks.1.attn.hook_pattern": "blocks.1.pattern",
        "blocks.1.mlp.hook_pre": "blocks.1.mlp_pre", "blocks.1.mlp.hook_pre_linear": "blocks.1.mlp_linear",
        "blocks.1.mlp.hook_post": "blocks.1.mlp_hidden", "ln_final.hook_normalized": "final_norm",
        "model.layers.1.mlp": "blocks.1.mlp_out", "layers.1": "blocks.1.resid_post",
        "model.layers.1.input": "blocks.1.resid_pre", "model.layers.1.self_attn.q_proj": "blocks.1.q",
    }  # fmt: skip
    for other, canonical in named.items():
        assert llama.hook_points[other].name == canonical
    assert not set(named) & set(llama.hook_points.keys())


def test_that_a_pattern_stands_for_hook_points_by_any_of_their_names(llama: Model) -> None:
    each = [f"blocks.{number}.resid_post" for number in range(llama.n_layers)]
    for pattern in ("blocks.*.resid_post", "blocks.*.hook_resid_post", f"model.layers.0:{llama.n_layers}"):
        assert spread_out([pattern], llama.hook_points) == each
    assert spread_out(["blocks.1:3.z", "final_norm", "blocks.1.z"], llama.hook_points) == [
        "blocks.1.z", "blocks.2.z", "final_norm"
    ]  # fmt: skip
    assert spread_out(["blocks.*.nothing", "blocks.*.*.q"], llama.hook_points) == ["blocks.*.nothing", "blocks.*.*.q"]


def test_that_a_recording_takes_patterns_and_leaves_out_what_a_store_cannot_keep(llama: Model) -> None:
    def chosen(*names: str) -> list[str]:
        return chosen_hooks(RecordConfig(model="m", samples="s", hooks=names), llama)

    assert chosen("blocks.*.resid_post,blocks.0.q") == ["blocks.0.q", *chosen("blocks.*.hook_resid_post")]
    inside = chosen("blocks.1.*")
    assert {"blocks.1.q", "blocks.1.z", "blocks.1.resid_post"} <= set(inside) and "blocks.1.pattern" not in inside
    for wrong in ("blocks.*.pattern", "blocks.1.pattern"):
        with pytest.raises(AuditorError, match="attention patterns"):
            chosen(wrong)
    with pytest.raises(AuditorError, match=r"no hook point “blocks\.7:9\.z”"):
        chosen("blocks.7:9.z")


def test_that_a_run_takes_and_gives_other_names(llama: Model) -> None:
    inputs = llama.encode([text_sample("one two red cat sat")])
    run = llama.run(inputs, record=["blocks.1.hook_resid_post", "model.layers.1.mlp"])
    assert list(run.records) == ["blocks.1.mlp_out", "blocks.1.resid_post"]
    assert torch.equal(run.records["blocks.1.hook_resid_post"], run.records["blocks.1.resid_post"])
    assert run.rows("model.layers.1.mlp").shape == run.rows("blocks.1.mlp_out").shape
    edited = llama.run(inputs, edits=[Ablate("blocks.1.hook_mlp_out")]).logits
    assert torch.equal(edited, llama.run(inputs, edits=[Ablate("blocks.1.mlp_out")]).logits)  # type: ignore[arg-type]
    assert not torch.equal(edited, llama.run(inputs).logits)  # type: ignore[arg-type]


def test_that_a_module_that_is_no_listed_point_is_one_of_its_own(llama: Model) -> None:
    path = "model.layers.1.post_attention_layernorm"
    inputs = llama.encode([text_sample("one two red cat sat")])
    point = llama.hook_points[path]
    seen = []
    handle = llama.network.get_submodule(path).register_forward_hook(lambda module, args, output: seen.append(output))
    run = llama.run(inputs, record=[path, "blocks.2.resid_pre"])
    handle.remove()
    assert point.name == path and point.width == llama.d_model
    assert torch.equal(run.records[path], seen[0])
    assert llama.hook_points["blocks.1.resid_mid"].depth < point.depth < llama.hook_points["blocks.1.mlp_out"].depth
    seen.clear()
    cut = llama.run(inputs, record=[path], logits=False)
    assert cut.logits is None and torch.equal(cut.records[path], run.records[path])
    norms = llama.run(inputs, edits=[Ablate(path)], record=["blocks.1.mlp_out"]).records["blocks.1.mlp_out"]
    assert not norms.any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox in turn"])
def test_that_norms_inside_a_block_have_their_names(family: str) -> None:
    model = opened(ALL[family]).model
    run = model.run("one two red", record=["blocks.1.ln1.hook_normalized", "blocks.1.ln2.hook_normalized",
                                           "blocks.1.resid_pre", "blocks.1.resid_mid"])  # fmt: skip
    for name, source in (("ln1", "resid_pre"), ("ln2", "resid_mid")):
        point = model.hook_points[f"blocks.1.{name}.hook_normalized"]
        norm = model.network.get_submodule(point.module)
        expected = norm(run.records[f"blocks.1.{source}"])
        torch.testing.assert_close(run.records[point.name], expected)


@pytest.mark.parametrize("family", ["olmo2", "olmo3", "exaone4", "opt 350m form"])
def test_that_networks_without_a_norm_in_that_place_lack_its_name(family: str) -> None:
    points = opened(ALL[family]).model.hook_points
    assert not [f"blocks.1.ln{n}.hook_normalized" for n in (1, 2) if f"blocks.1.ln{n}.hook_normalized" in points]


def test_that_the_input_of_a_module_is_reached_too(llama: Model) -> None:
    inputs = llama.encode([text_sample("one two red cat sat")])
    run = llama.run(inputs, record=["model.norm.input", "blocks.2.resid_post"])
    assert torch.equal(run.records["model.norm.input"], run.records["blocks.2.resid_post"])


def test_that_a_store_keeps_the_canonical_name(llama: Model) -> None:
    hooks = ("model.layers.0", "blocks.0.hook_resid_post", "blocks.0.hook_mlp_out")
    config = RecordConfig(model="m", samples="s", hooks=hooks)
    assert chosen_hooks(config, llama) == ["blocks.0.mlp_out", "blocks.0.resid_post"]


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_psot", "model.layers.9", "blocks.1.attn.hook_nothing", "lm", ""])
def test_that_an_unknown_name_gets_the_closest_ones(llama: Model, name: str) -> None:
    with pytest.raises(AuditorError, match="no hook point") as caught:
        llama.run("one two", record=[name])
    assert name != "blocks.1.hook_resid_psot" or "blocks.1.resid_post" in caught.value.hint


def test_that_token_vectors_are_told_from_their_sum_with_positions() -> None:
    model = opened(ALL["gpt2"]).model
    run = model.run("one two red", record=["hook_embed", "embed"])
    assert model.hook_points["hook_embed"].name == "transformer.wte"
    weight = model.network.get_submodule("transformer.wte").weight
    assert torch.equal(run.records["hook_embed"], weight[run.inputs.ids])
    assert not torch.equal(run.records["hook_embed"], run.records["embed"])


@pytest.mark.parametrize("family", ["bert", "opt 350m form"])
def test_that_norms_after_the_sum_are_told_from_the_sum(family: str) -> None:
    points = opened(ALL[family]).model.hook_points
    assert points["blocks.1.hook_normalized_resid_post"].name == "blocks.1.resid_post"
    assert "blocks.1.hook_resid_post" not in points
    assert points["blocks.1.hook_mlp_out"].name == "blocks.1.mlp_out"


def test_that_a_decoders_stream_has_its_names_before_and_after_it_looks_at_the_encoder() -> None:
    points = opened(ALL["t5"]).model.hook_points
    named = {
        "decoder.1.hook_resid_mid": "cross_resid_pre", "decoder.1.hook_resid_mid_cross": "resid_mid",
        "decoder.1.hook_cross_attn_out": "cross_attn_out", "decoder.1.cross_attn.hook_q": "cross_q",
        "decoder.1.cross_attn.hook_pattern": "cross_pattern", "decoder.1.attn.hook_q": "q",
    }  # fmt: skip
    for other, canonical in named.items():
        assert points[other].name == f"decoder.blocks.1.{canonical}"
    assert points["encoder.1.hook_resid_mid"].name == "encoder.blocks.1.resid_mid"


def test_that_blocks_of_pictures_answer_to_the_same_names() -> None:
    assert opened(ALL["vit"]).model.hook_points["blocks.1.hook_resid_post"].name == "vision.blocks.1.resid_post"


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "beit", "llava", "swin"])
def test_that_rows_of_a_pictures_module_stand_for_the_patches_that_listed_ones_do(family: str) -> None:
    case = opened(ALL[family])
    model = case.model
    listed = next(name for name in model.hook_points if name.endswith("blocks.0.mlp_out") and "vision" in name)
    paths = (path for path, _ in model.network.named_modules())
    ends = ("layernorm_before", "layer_norm1", "norm1")
    own = next(path for path in paths if path.endswith(ends) and "language" not in path)
    run = model.run(case.samples, record=[listed, own], logits=False)
    said, wanted = run.positions(own), run.positions(listed)
    assert torch.equal(said.unit, wanted.unit) and torch.equal(said.kind, wanted.kind) and said.grid == wanted.grid


def test_that_a_module_of_a_network_of_sounds_is_told_apart_by_its_name_alone() -> None:
    case = opened(ALL["whisper"])
    with pytest.raises(AuditorError, match="no hook point “model"):
        case.model.run(case.samples, record=["model.encoder.layers.0.self_attn_layer_norm"])
