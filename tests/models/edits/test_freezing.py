"""Attention and norms frozen at another run, and at their own."""

from __future__ import annotations

import threading

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.models import Scale
from auditor.models.edits import FreezeAttention, FreezeNorms
from auditor.models.edits.wiring import _known, wiring_of
from tests.models.checks import Changed
from tests.models.edits.networks import PLAIN, close, inputs_of, logits_of, network
from tests.models.tiny import ALL, opened


@pytest.mark.parametrize("name", PLAIN)
def test_that_attention_frozen_at_its_own_is_bit_equal_to_the_run_that_records_it(name: str) -> None:
    model = network(name)
    inputs = inputs_of(model)
    recorded = model.run(inputs, record=["blocks.0.pattern"]).logits
    frozen = logits_of(model, inputs, FreezeAttention.at(model, inputs))
    assert recorded is not None and torch.equal(frozen, recorded)
    close(frozen, logits_of(model, inputs), 1e-5)  # which the fastest kernel gave


@pytest.mark.parametrize(("name", "prefix"), [("t5", "decoder."), ("idefics", ""), ("idefics second blocks", "")])
def test_that_attention_to_another_sequence_is_frozen_too(name: str, prefix: str) -> None:
    case = opened(ALL[name])
    inputs, z, reads = case.model.encode(case.samples), f"{prefix}blocks.0.cross_z", f"{prefix}blocks.0.cross_q"
    push = Changed(reads, lambda x: 2.0 * x.flip(-1))
    frozen = FreezeAttention.at(case.model, inputs)
    clean, own, moved, held = (
        case.model.run(inputs, record=[z], edits=edits) for edits in ([], [frozen], [push], [frozen, push])
    )
    assert torch.equal(own.logits, clean.logits)  # type: ignore[arg-type]
    torch.testing.assert_close(held.records[z], clean.records[z], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(moved.records[z], clean.records[z], atol=1e-3)


def test_that_frozen_attention_moves_values_as_in_the_other_run() -> None:
    model = network("gpt2")
    inputs, other = inputs_of(model), inputs_of(model, "cat cat one three two red")
    frozen = FreezeAttention.at(model, other, blocks=[1])
    run = model.run(inputs, edits=[frozen], record=["blocks.1.v", "blocks.1.z", "blocks.1.pattern"])
    values = run.rows("blocks.1.v").unflatten(-1, (4, 8))
    moved = torch.einsum("bhqk,bkhd->bqhd", frozen.patterns["blocks.1.pattern"], values).flatten(-2)
    torch.testing.assert_close(run.rows("blocks.1.z"), moved, atol=1e-5, rtol=1e-4)
    own = torch.einsum("bhqk,bkhd->bqhd", run.records["blocks.1.pattern"], values).flatten(-2)
    assert not torch.allclose(moved, own, atol=1e-2)
    one = model.run(inputs, edits=[FreezeAttention.at(model, other, [1], heads=[2])], record=["blocks.1.z"])
    torch.testing.assert_close(one.rows("blocks.1.z")[..., 16:24], moved[..., 16:24], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.rows("blocks.1.z")[..., :16], own[..., :16], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_that_norms_frozen_at_their_own_are_bit_equal(name: str) -> None:
    model = network(name)
    inputs = inputs_of(model)
    assert torch.equal(logits_of(model, inputs, FreezeNorms.at(model, inputs)), logits_of(model, inputs))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_that_a_frozen_norm_is_linear(name: str) -> None:
    """With all norms and patterns frozen at the clean run, the last block's output scaled by two is normed as twice."""
    model = network(name)
    inputs, last = inputs_of(model), "blocks.2.resid_post"
    clean = model.run(inputs, record=["final_norm"]).rows("final_norm")
    edits = [FreezeNorms.at(model, inputs), Scale(last, 2.0)]
    twice = model.run(inputs, edits=edits, record=["final_norm"]).rows("final_norm")
    path = model.hook_points["final_norm"].module
    bias = getattr(model.network.get_submodule(path), "bias", None)
    close(twice, 2 * clean - (0 if bias is None else bias))
    live = model.run(inputs, edits=[Scale(last, 2.0)], record=["final_norm"]).rows("final_norm")
    close(live, clean, 1e-3)


def test_that_nothing_of_another_threads_runs_is_frozen_or_taken_for_the_wiring() -> None:
    model = network("llama")
    inputs, longer = inputs_of(model, "cat cat"), inputs_of(model)
    done = threading.Event()

    def runs() -> None:
        while not done.is_set():
            model.run(longer)

    other = threading.Thread(target=runs)
    other.start()
    try:
        for _ in range(10):
            seen = FreezeNorms.at(model, inputs).seen
            _known.pop(model, None)
            read = wiring_of(model, inputs).read
            assert all(len(calls) == 1 and calls[0][0].shape[1] == 3 for calls in seen.values())
            assert all(x.shape[-2] == 3 for x in read.values())
    finally:
        done.set()
        other.join()


def test_that_runs_of_other_lengths_are_refused() -> None:
    model = network("llama")
    inputs, other = inputs_of(model), inputs_of(model, "cat cat")
    with pytest.raises(AuditorError, match="3 positions and this one 7"):
        model.run(inputs, edits=[FreezeAttention.at(model, other)])
    with pytest.raises(AuditorError, match="3 positions and this one 7"):
        model.run(inputs, edits=[FreezeNorms.at(model, other)])
    with pytest.raises(AuditorError, match="no attention patterns in these blocks"):
        FreezeAttention.at(model, inputs, blocks=[9])


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mixtral"])
def test_that_norms_frozen_at_one_sample_hold_for_each_of_a_batch(name: str) -> None:
    model = network(name)
    one, other = "one two red cat sat three", "cat cat one three two red"
    frozen = FreezeNorms.at(model, inputs_of(model, other))
    together = logits_of(model, inputs_of(model, one, other), frozen)
    for row, text in enumerate((one, other)):
        alone = logits_of(model, inputs_of(model, text), frozen)[0]
        # Another sample's scales can make logits hundreds: small ones beside them are as exact as the large ones.
        assert (together[row] - alone).norm() < 1e-5 * alone.norm()
    assert not torch.allclose(together[0], logits_of(model, inputs_of(model, one))[0], atol=1e-3)


def test_that_a_run_of_several_samples_is_frozen_at_as_many_alone() -> None:
    model = network("llama")
    texts = ("one two red", "cat three sat", "sat sat one")
    both = inputs_of(model, *texts[:2])
    assert torch.equal(logits_of(model, both, FreezeNorms.at(model, both)), logits_of(model, both))
    for count in (1, 3):
        with pytest.raises(AuditorError, match=f"2 samples and this one of {count}"):
            model.run(inputs_of(model, *texts[:count]), edits=[FreezeNorms.at(model, both)])
    with pytest.raises(AuditorError, match="2 samples and this one of 3"):
        model.run(inputs_of(model, *texts), edits=[FreezeAttention.at(model, both)])
