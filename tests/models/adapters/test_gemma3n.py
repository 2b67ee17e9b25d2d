"""Gemma 3n: streams side by side, the blocks without keys of their own, and what is not said of its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from auditor.features.decoder import writes_to_logits
from auditor.models import Ablate, Patch, open_model
from auditor.models.edits import CutEdge
from auditor.models.edits.wiring import WRITES
from auditor.store.record import RecordConfig, record
from tests.models.checks import Changed
from tests.models.edits.networks import See
from tests.models.tiny import ALL, Case, opened

STREAMS, WIDTH, BLOCKS = 3, 32, 4
LAST = f"blocks.{BLOCKS - 1}.streams_post"


def case() -> Case:
    return opened(ALL["gemma3n_text"])


def test_that_an_edit_of_one_stream_is_one_of_the_librarys() -> None:
    model, source = case().model, case().source
    inputs = model.encode(case().samples[:1])
    push = torch.zeros(STREAMS * WIDTH)
    push[WIDTH : 2 * WIDTH] = torch.linspace(-2, 2, WIDTH)
    run = model.run(inputs, record=["joined"], edits=[Changed("blocks.1.streams_post", lambda x: x + push)])

    def pushed(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:1], output[1:2] + push[WIDTH : 2 * WIDTH], output[2:]])

    handle = source.model.layers[1].register_forward_hook(pushed)
    try:
        with torch.no_grad():
            told = source(input_ids=inputs.ids).logits
    finally:
        handle.remove()
    torch.testing.assert_close(run.logits, told)
    assert run.records["joined"].shape == (1, inputs.ids.shape[1], WIDTH)
    assert run.logits is not None and not torch.allclose(run.logits, model.run(inputs).logits, atol=1e-3)


def test_that_the_last_blocks_look_by_keys_of_others() -> None:
    model = case().model
    assert "blocks.3.k" not in model.hook_points and "blocks.3.pattern" in model.hook_points
    inputs = model.encode(case().samples)
    clean, moved = (
        model.run(inputs, record=["blocks.3.z"], edits=edits).records["blocks.3.z"]
        for edits in ([], [Changed("blocks.1.v", lambda x: 2 * x)])
    )
    assert not torch.allclose(clean, moved, atol=1e-3)


def test_that_a_sparse_mlp_has_what_is_above_its_threshold() -> None:
    run = case().model.run(case().samples[:1], record=["blocks.0.mlp_pre", "blocks.1.mlp_pre"])
    sparse, dense = (run.records[f"blocks.{number}.mlp_pre"] for number in (0, 1))
    assert bool((sparse >= 0).all()) and 0.2 < float((sparse == 0).float().mean()) < 0.8 and bool((dense < 0).any())


def test_that_no_direct_effect_on_the_logits_is_told_of_what_other_streams_take_up() -> None:
    model, rows = case().model, torch.eye(WIDTH)
    assert writes_to_logits(model, rows, "final_norm") and writes_to_logits(model, rows, "joined")
    assert not writes_to_logits(model, rows, "blocks.1.mlp_out") and not writes_to_logits(model, rows, "embed")


def test_that_a_store_keeps_the_streams_side_by_side(tmp_path: Path) -> None:
    ALL["gemma3n_text"].save(tmp_path / "m")
    model, hook = open_model(tmp_path / "m"), "blocks.1.streams_post"
    made = RecordConfig(model="m", samples="s", hooks=(hook,), batch_size=1)
    store = record(made, model, case().samples[:1], tmp_path / "a.store")
    held = torch.from_numpy(store.rows(slice(None)))
    assert held.shape[1] == STREAMS * WIDTH
    told = model.run(case().samples[:1], record=[hook]).rows(hook)[0]
    torch.testing.assert_close(held, told[-len(held) :], atol=1e-2, rtol=1e-3)  # kept as float16


def rms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt((x**2).mean(-1, keepdims=True))


def brought(source: Any, r: dict[str, NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    """What the hook point `name` adds to `joined` [P, d]: Gemma 3n's arithmetic with its factors as they were."""
    w = {key: value.double().numpy() for key, value in source.model.state_dict().items()}
    lanes = {key: x.reshape(len(x), STREAMS, WIDTH).swapaxes(0, 1) for key, x in r.items() if "streams" in key}
    x, h = r[name], np.zeros((STREAMS, len(r[name]), WIDTH))
    if name == "embed":
        h[0] = x
        for j in range(1, STREAMS):
            y = x @ w[f"altup_projections.{j - 1}.weight"].T
            h[j] = y * rms(x) / rms(y)
    for n in range(BLOCKS):
        at, own = f"layers.{n}.altup.", name.removeprefix(f"blocks.{n}.")
        before, end = lanes[f"blocks.{n}.streams_pre"][0], r[f"blocks.{n}.activated"]
        routed, corrected = (
            np.tanh((y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * w[f"{at}router_norm.weight"] / WIDTH)
                    @ w[f"{at}modality_router.weight"].T)
            for y in (before, end)
        )  # fmt: skip
        m = (routed @ w[f"{at}prediction_coefs.weight"].T).reshape(-1, STREAMS, STREAMS)
        gain = 1 + corrected @ w[f"{at}correction_coefs.weight"].T
        p = h + np.einsum("tji,itd->jtd", m, h)
        e = (p[0] + x * (own in ("attn_out", "laurel_out"))) / np.sqrt(2) + x * (own == "mlp_out")
        h = p + gain.T[..., None] * (e - p[0])
        h[1:] += x * (own == "per_layer_out")
    ends = [h[0]]
    for j in range(1, STREAMS):
        v = w[f"altup_unembed_projections.{j - 1}.weight"].T
        ends.append(h[j] @ v * rms(lanes[LAST][0]) / rms(lanes[LAST][j] @ v))
    return np.mean(ends, axis=0)


def test_that_what_components_write_adds_up_to_what_the_final_norm_reads() -> None:
    model, source = case().model, case().source
    names = [name for name in model.hook_points if name.rpartition(".")[2] in ("embed", *WRITES)]
    inputs = model.encode(case().samples[:1])
    run = model.run(inputs, record=case().stored)
    r = {name: x[0].double().numpy() for name, x in run.records.items()}
    shares = {name: brought(source, r, name) for name in names}
    np.testing.assert_allclose(sum(shares.values()), r["joined"], rtol=1e-4, atol=1e-4)
    gain, scale = model.norm_gain.double().numpy(), 1 / np.sqrt((r["joined"] ** 2).mean(-1, keepdims=True) + 1e-6)
    for name in ("embed", "blocks.0.laurel_out", "blocks.1.attn_out", "blocks.2.mlp_out", "blocks.1.per_layer_out"):
        see = See("final_norm")
        model.run(inputs, edits=[CutEdge(name, "final_norm"), see])
        told = r["final_norm"] - shares[name] * scale * gain
        np.testing.assert_allclose(see.x[0].numpy(), told, rtol=1e-4, atol=1e-4)
        assert np.abs(shares[name]).max() > 1e-2 * np.abs(r["joined"]).max()


def test_that_heads_share_what_their_attention_does_to_the_logits() -> None:
    model, inputs = case().model, case().model.encode(case().samples[:1])
    clean, found = model.run(inputs, record=["final_norm"]).rows("final_norm"), []
    for cut in [CutEdge("blocks.2.attn_out", "final_norm")] + [
        CutEdge("blocks.2.z", "final_norm", columns=list(range(8 * head, 8 * head + 8))) for head in range(4)
    ]:
        see = See("final_norm")
        model.run(inputs, edits=[cut, see])
        found.append(clean - see.x)
    torch.testing.assert_close(sum(found[1:]), found[0], atol=1e-5, rtol=1e-4)
    assert all(float(one.abs().max()) > 1e-3 for one in found)


@pytest.mark.parametrize("written", ["blocks.0.mlp_out", "blocks.1.attn_out", "blocks.1.per_layer_out"])
def test_that_a_contribution_is_what_the_network_lacks_where_all_else_is_kept(written: str) -> None:
    """The library's own blocks, with the factors by which they mix and all that others write as in the plain run."""
    model, inputs = case().model, case().model.encode(case().samples[:1])
    names = [name for name in model.hook_points if name.rpartition(".")[2] in WRITES]
    place, kept = "blocks.3.predicted", {}
    factors = [f"model.layers.{n}.altup.{kind}_coefs" for n in range(BLOCKS) for kind in ("prediction", "correction")]

    def pinned(path: str) -> Any:
        return lambda _, __, output: kept.setdefault(path, output)

    handles = [model.network.get_submodule(path).register_forward_hook(pinned(path)) for path in factors]
    try:
        clean = model.run(inputs, record=[*names, place])
        others = [Patch(name, clean.rows(name)) for name in names if name != written]
        same, without = (
            model.run(inputs, record=[place], edits=edits).rows(place) for edits in (others, [*others, Ablate(written)])
        )
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(same, clean.rows(place))
    mixing = model._adapter.mixing()
    seen = {path: (output, output) for path, output in kept.items()}
    told = mixing.carried(clean.rows(written), written, place, seen)
    torch.testing.assert_close(same - without, told, atol=1e-5, rtol=1e-4)
    assert float(told.abs().max()) > 1e-2


@pytest.mark.parametrize(("source", "place"), [("embed", "blocks.0.predicted"), ("blocks.3.per_layer_out", "joined")])
def test_that_a_linearised_run_holds_factors_and_magnitudes_of_streams_fixed(source: str, place: str) -> None:
    model, inputs = case().model, case().model.encode(case().samples[:1])
    mixing, seen, handles = model._adapter.mixing(), {}, []
    for path in mixing.watched(place):
        module = model.network.get_submodule(path)
        handles.append(module.register_forward_hook(lambda _, args, out, at=path: seen.update({at: (args[0], out)})))
    with model.linearised():
        run = model.run(inputs, record=[source, place], grad=True, logits=False)
        model.run(inputs)
    for handle in handles:
        handle.remove()
    towards = torch.linspace(-1, 1, WIDTH)
    slope = torch.autograd.grad((run.records[place] * towards).sum(), run.records[source])[0]
    # Along the values themselves the slope would be this also of magnitudes that follow them.
    step = torch.randn(slope.shape, generator=torch.Generator().manual_seed(2))
    told = (mixing.carried(step, source, place, seen) * towards).sum()
    torch.testing.assert_close((slope * step).sum(), told, atol=1e-4, rtol=1e-4)
