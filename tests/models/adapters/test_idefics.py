"""Idefics' gated blocks and its latents, against plain forward hooks on the library's modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from auditor.data import PositionKind, Sample, text_sample
from auditor.models import Ablate, Edit, Inputs, Patch, open_model
from auditor.models.edits import CutEdge, EditWeight
from auditor.store.record import record
from tests.models.checks import Changed
from tests.models.test_several_pictures import interleaved, pictures
from tests.models.tiny import ALL, Case, opened
from tests.store.test_pictures import config

LATENTS, WIDTH, PATCHES = 3, 24, 4
BOTH = ["idefics", "idefics second blocks"]


def case(name: str = "idefics") -> Case:
    return opened(ALL[name])


def batch(name: str = "idefics") -> Inputs:
    """Samples of two pictures, of none and of one."""
    return case(name).model.encode(
        [
            interleaved("one <image> red <image> cat sat"),
            text_sample("two three"),
            Sample("c", text="red <image>", image=pictures((20, 24), seed=6)[0]),
        ]
    )


def hooked(network: Any, run: Callable[[], Any], *paths: str) -> dict[str, Tensor]:
    """What modules give, and are given (``.input``), in a run."""
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            seen[path] = (output[0] if isinstance(output, tuple) else output).clone()
            given = args[0] if args else kwargs["hidden_states"]
            seen[f"{path}.input"] = given.clone()

        return hook

    handles = [network.get_submodule(path).register_forward_hook(keep(path), with_kwargs=True) for path in paths]
    run()
    for handle in handles:
        handle.remove()
    return seen


def laid(x: Tensor, each: int) -> Tensor:
    """Rows of the three pictures in turn [3, each, width] by sample: two, none, one."""
    none = torch.zeros(each, x.shape[-1])
    rows = [torch.cat([x[0], x[1]]), torch.cat([none, none]), torch.cat([x[2], none])]
    return torch.stack(rows)


@pytest.mark.parametrize(("name", "block", "layer"), [("idefics", 1, 1), ("idefics second blocks", 2, 1)])
def test_that_a_gated_blocks_values_are_those_of_plain_hooks(name: str, block: int, layer: int) -> None:
    model, inputs = case(name).model, batch(name)
    names = [point for point in model.hook_points if point.startswith(f"blocks.{block}.cross_")]
    assert [point.rpartition("cross_")[2] for point in names] == [
        "resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_pre", "mlp_linear", "mlp_hidden",
        "mlp_out", "resid_post",
    ]  # fmt: skip
    at = f"model.gated_cross_attn_layers.{layer}"
    inner = ("cross_attn", "cross_attn.q_proj", "cross_attn.k_proj", "cross_attn.v_proj", "cross_attn.o_proj",
             "post_attention_layernorm", "mlp", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
    told = hooked(model.network, lambda: model.run(inputs), at, *(f"{at}.{path}" for path in inner))
    run = model.run(inputs, record=names)
    own = {point.rpartition("cross_")[2]: run.records[point] for point in names}
    gates: Any = model.network.get_submodule(at)
    attending = ((inputs.ids < 0) & inputs.mask).cumsum(1) > 0
    written = told[f"{at}.cross_attn"] * attending[..., None]
    same = {
        "resid_pre": told[f"{at}.input"], "q": told[f"{at}.cross_attn.q_proj"],
        "z": told[f"{at}.cross_attn.o_proj.input"],
        "attn_out": gates.alpha_cross_attn.tanh() * written, "resid_mid": told[f"{at}.post_attention_layernorm.input"],
        "mlp_pre": told[f"{at}.mlp.gate_proj"], "mlp_linear": told[f"{at}.mlp.up_proj"],
        "mlp_hidden": told[f"{at}.mlp.down_proj.input"], "mlp_out": gates.alpha_dense.tanh() * told[f"{at}.mlp"],
        "resid_post": told[at],
    }  # fmt: skip
    for site, values in same.items():
        assert torch.equal(own[site], values), site
    each = LATENTS if name == "idefics" else 1 + PATCHES
    for site in ("k", "v"):
        # Every sample has places for two pictures; those of what it lacks are no one's.
        values = told[f"{at}.cross_attn.{site}_proj"].unflatten(1, (2, each))
        values = values * torch.tensor([[1, 1], [0, 0], [1, 0]])[..., None, None]
        assert torch.equal(own[site], values.flatten(1, 2)), site
    # Each position looks at one picture alone; before the first, at all alike, and nothing is written.
    pattern = own["pattern"].unflatten(-1, (2, each)).sum(-1)
    torch.testing.assert_close(pattern[:, 0].sum(-1), torch.ones(pattern.shape[0], pattern.shape[2]))
    second = ((inputs.ids < 0) & inputs.mask).cumsum(1)[0] == 2
    first = ~second & attending[0]
    assert bool((pattern[0, :, second, 1] > 0.9999).all()) and bool((pattern[0, :, first, 0] > 0.9999).all())
    assert not own["attn_out"][~attending].any() and own["attn_out"][attending].any(-1).all()


def test_that_the_latents_values_are_those_of_plain_hooks() -> None:
    model, inputs = case().model, batch()
    names = [point for point in model.hook_points if point.startswith("resampler.blocks.1.")]
    assert [point.rpartition(".")[2] for point in names] == [
        "resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_pre", "mlp_hidden", "mlp_out",
        "resid_post",
    ]  # fmt: skip
    at = "model.perceiver_resampler.blocks.1"
    paths = (f"{at}.0.latents_layer_norm", f"{at}.0.q_proj", f"{at}.0.k_proj", f"{at}.0.v_proj", f"{at}.0.output_proj",
             f"{at}.0", f"{at}.1", f"{at}.1.fc", f"{at}.1.c_proj", "model.perceiver_resampler")  # fmt: skip
    inner = "model.perceiver_resampler.layer_norm"
    told = hooked(model.network, lambda: model.run(inputs), *paths, inner)
    run = model.run(inputs, record=[*names, "resampler.final_norm"])
    same = {
        "resid_pre": f"{at}.0.latents_layer_norm.input", "q": f"{at}.0.q_proj", "z": f"{at}.0.output_proj.input",
        "attn_out": f"{at}.0", "resid_mid": f"{at}.1.input", "mlp_pre": f"{at}.1.fc",
        "mlp_hidden": f"{at}.1.c_proj.input", "mlp_out": f"{at}.1", "resid_post": f"{inner}.input",
    }  # fmt: skip
    for site, path in same.items():
        assert torch.equal(run.records[f"resampler.blocks.1.{site}"], laid(told[path], LATENTS)), site
    assert torch.equal(run.records["resampler.final_norm"], laid(told["model.perceiver_resampler"], LATENTS))
    for site in ("k", "v"):
        values = laid(told[f"{at}.0.{site}_proj"], 1 + PATCHES + LATENTS)
        assert torch.equal(run.records[f"resampler.blocks.1.{site}"], values), site
    pattern = run.records["resampler.blocks.1.pattern"]
    assert pattern.shape == (3, 2, 2 * LATENTS, 2 * (1 + PATCHES + LATENTS))
    blocks = pattern.unflatten(-1, (2, -1)).sum(-1).unflatten(-2, (2, LATENTS))
    held = torch.tensor([[[1.0, 0], [0, 1]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]])[:, None, :, None].expand(blocks.shape)
    torch.testing.assert_close(blocks, held)


@pytest.mark.parametrize("name", BOTH)
def test_that_rows_of_pictures_say_what_they_stand_for_and_have_a_grid_where_they_are_patches(name: str) -> None:
    model, inputs = case(name).model, batch(name)
    image, special, pad = (int(PositionKind[kind]) for kind in ("IMAGE", "SPECIAL", "PAD"))
    run = model.run(inputs, record=[point for point in model.hook_points if model.hook_points[point].width])
    tower = run.positions("vision.blocks.0.resid_post")
    assert tower.kind[2].tolist() == [special, *[image] * PATCHES, *[pad] * (1 + PATCHES)]
    if name == "idefics":
        for point in ("resampler.blocks.0.resid_post", "resampler.final_norm", "blocks.0.cross_k", "blocks.2.cross_v"):
            found = run.positions(point)
            assert found.grid is None and found.kind.shape == (3, 2 * LATENTS), point
            assert found.kind[2].tolist() == [image] * LATENTS + [pad] * LATENTS, point
            assert found.unit[0].tolist() == list(range(2 * LATENTS)), point
        keys = run.positions("resampler.blocks.1.k")
        each = [special, *[image] * PATCHES, *[special] * LATENTS]
        assert keys.kind[0].tolist() == each * 2 and keys.kind[2].tolist() == each + [pad] * len(each)
        # The patches of a picture's keys are those that the tower has, on the same sheet.
        assert keys.unit[0][keys.kind[0] == image].tolist() == tower.unit[0][tower.kind[0] == image].tolist()
        assert keys.sheets == tower.sheets and keys.grid_of(0) == tower.grid_of(0) == (2, 5)
    else:
        for point in ("blocks.0.cross_k", "blocks.2.cross_v"):
            found = run.positions(point)
            assert torch.equal(found.kind, tower.kind) and torch.equal(found.unit, tower.unit), point
            assert found.grid_of(2) == tower.grid_of(2) == (2, 2), point
    assert torch.equal(run.positions("blocks.0.cross_q").kind, inputs.kind)


@pytest.mark.parametrize("name", BOTH)
def test_that_own_values_put_back_change_no_bit_and_an_edit_is_undone(name: str) -> None:
    model, inputs = case(name).model, batch(name)
    names = [point for point in model.hook_points if "cross_" in point or point.startswith("resampler.")]
    clean = model.run(inputs, record=names)
    assert clean.logits is not None
    for point in names:
        own = clean.records[point]
        back: Edit = Patch(point, own) if own.ndim == 3 else Changed(point, lambda x, own=own: own)
        assert torch.equal(model.run(inputs, edits=[back]).logits, clean.logits), point  # type: ignore[arg-type]
        moved = model.run(inputs, edits=[Changed(point, lambda x: 0.5 * x)]).logits
        # A text without a picture hears of none.
        assert moved is not None and not torch.equal(moved, clean.logits), point
        stream = point.endswith(("resid_pre", "resid_mid", "resid_post")) and not point.startswith("resampler.")
        heard = stream or "cross_mlp" in point
        assert heard or torch.allclose(moved[1], clean.logits[1], atol=1e-6), point
    assert torch.equal(model.run(inputs).logits, clean.logits)  # type: ignore[arg-type]


def test_that_a_closed_gate_lets_nothing_through_and_is_open_again() -> None:
    model, inputs = case().model, batch()
    record = ["blocks.1.cross_resid_pre", "blocks.1.cross_attn_out", "blocks.1.cross_mlp_out", "blocks.1.resid_pre"]
    clean = model.run(inputs, record=record)
    at = "model.gated_cross_attn_layers.1"
    closed = [EditWeight(f"{at}.{gate}", "scale", 0.0) for gate in ("alpha_cross_attn", "alpha_dense")]
    run = model.run(inputs, record=record, edits=closed)
    assert not run.records["blocks.1.cross_attn_out"].any() and not run.records["blocks.1.cross_mlp_out"].any()
    assert torch.equal(run.records["blocks.1.resid_pre"], run.records["blocks.1.cross_resid_pre"])
    assert torch.equal(model.run(inputs).logits, clean.logits)  # type: ignore[arg-type]


def test_that_what_a_gated_block_writes_is_followed_along_the_stream() -> None:
    """Cutting what it adds out of a later block's reading is reading the stream without it."""
    model, inputs = case().model, batch()
    source, reads = "blocks.1.cross_attn_out", "blocks.1.q"
    clean = model.run(inputs, record=[source, reads, "blocks.1.resid_pre"]).records
    cut = model.run(inputs, record=[reads], edits=[CutEdge(source, reads, norm="live")])
    layer: Any = model.network.get_submodule("model.layers.1")
    without = layer.self_attn.q_proj(layer.input_layernorm(clean["blocks.1.resid_pre"] - clean[source]))
    after = model.run(inputs, record=["blocks.1.attn_out"], edits=[CutEdge(source, reads, norm="live")]).records
    told = model.run(inputs, record=["blocks.1.attn_out"], edits=[Patch(reads, without)]).records
    torch.testing.assert_close(after["blocks.1.attn_out"], told["blocks.1.attn_out"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(without, clean[reads], atol=1e-3) and cut.logits is not None
    own = model.run(inputs, record=["blocks.2.mlp_out"], edits=[CutEdge(source, "blocks.2.mlp", norm="live")]).records
    assert torch.isfinite(own["blocks.2.mlp_out"]).all()


def test_that_texts_without_any_picture_have_no_rows_of_pictures() -> None:
    model = case().model
    names = ["resampler.blocks.0.k", "resampler.final_norm", "blocks.0.cross_k", "blocks.0.cross_attn_out"]
    run = model.run("one two red", record=[*names, "resampler.blocks.0.resid_post"])
    assert [run.rows(name).shape[1] for name in names] == [0, 0, 0, 4]
    assert not run.records["blocks.0.cross_attn_out"].any()
    edited = model.run("one two red", edits=[Ablate("blocks.0.cross_k"), Ablate("resampler.final_norm")])
    assert torch.equal(edited.logits, run.logits)  # type: ignore[arg-type]


def test_that_a_store_keeps_latents_and_what_they_look_at_beside_one_another(tmp_path: Path) -> None:
    ALL["idefics"].save(tmp_path / "idefics")
    model = open_model(tmp_path / "idefics")
    hooks = ("vision.blocks.0.resid_post", "resampler.blocks.0.k", "resampler.blocks.0.z", "blocks.0.cross_v",
             "blocks.1.cross_resid_post")  # fmt: skip
    sample = interleaved("one <image> red <image>")
    store = record(config(*hooks), model, [sample], tmp_path / "a.store")
    run = model.run(model.encode([sample]), record=hooks)
    context = 1 + PATCHES + LATENTS
    count = dict(zip(hooks, (2 * (1 + PATCHES), 2 * context, 2 * LATENTS, 2 * LATENTS), strict=False))
    for hook in hooks:
        held = store.at(hook)
        assert torch.equal(torch.from_numpy(held.rows(slice(0, held.n_rows), hook)), run.rows(hook)[0]), hook
        assert held.n_rows == count.get(hook, int(run.inputs.mask.sum())), hook
    keys = store.at("resampler.blocks.0.k")
    at = keys.positions(slice(0, keys.n_rows))
    grid = keys.sample(0).grid
    assert grid == (2, 5) and (at.unit[at.kind == int(PositionKind.IMAGE)] < 10).all()
    assert store.at("resampler.blocks.0.z").sample(0).grid is None


def test_that_it_opens_as_far_as_its_latents(tmp_path: Path) -> None:
    ALL["idefics"].save(tmp_path / "idefics")
    whole, inputs = case().model, batch()
    for hook in ("resampler.blocks.0.attn_out", "blocks.1.cross_attn_out"):
        model = open_model(tmp_path / "idefics", until=[hook])
        assert model.until == hook
        found = model.run(inputs, record=[hook], logits=False).records[hook]
        assert torch.equal(found, whole.run(inputs, record=[hook]).records[hook])
