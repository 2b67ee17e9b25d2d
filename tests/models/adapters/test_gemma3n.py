"""Gemma 3n: streams side by side, the blocks without keys of their own, and what is not said of its logits."""

from __future__ import annotations

from pathlib import Path

import torch

from auditor.features.decoder import writes_to_logits
from auditor.models import open_model
from auditor.store.record import RecordConfig, record
from tests.models.checks import Changed
from tests.models.tiny import ALL, Case, opened

STREAMS, WIDTH = 3, 32


def case() -> Case:
    return opened(ALL["gemma3n_text"])


def test_that_an_edit_of_one_stream_is_one_of_the_librarys() -> None:
    model, source = case().model, case().source
    inputs = model.encode(case().samples[:1])
    push = torch.zeros(STREAMS * WIDTH)
    push[WIDTH : 2 * WIDTH] = torch.linspace(-2, 2, WIDTH)
    run = model.run(inputs, record=["joined"], edits=[Changed("blocks.1.resid_post", lambda x: x + push)])

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
    assert writes_to_logits(model, rows, "final_norm")
    assert not writes_to_logits(model, rows, "blocks.1.mlp_out") and not writes_to_logits(model, rows, "embed")


def test_that_a_store_keeps_the_streams_side_by_side(tmp_path: Path) -> None:
    ALL["gemma3n_text"].save(tmp_path / "m")
    model, hook = open_model(tmp_path / "m"), "blocks.1.resid_post"
    made = RecordConfig(model="m", samples="s", hooks=(hook,), batch_size=1)
    store = record(made, model, case().samples[:1], tmp_path / "a.store")
    held = torch.from_numpy(store.rows(slice(None)))
    assert held.shape[1] == STREAMS * WIDTH
    told = model.run(case().samples[:1], record=[hook]).rows(hook)[0]
    torch.testing.assert_close(held, told[-len(held) :], atol=1e-2, rtol=1e-3)  # kept as float16
