"""Edits as a list: in order, composed, gone afterwards, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.base.errors import AuditorError
from auditor.models import Ablate, AddDirection, Edit, Patch, Scale
from auditor.models.edits import CutEdge, EditWeight, FreezeAttention, FreezeNorms
from tests.models.edits.networks import PLAIN, Fail, See, close, head_columns, inputs_of, left, logits_of, network

HOOKS = ("blocks.0.resid_post", "blocks.1.mlp_out", "blocks.0.z")
WIDTH = 32
numbers = st.floats(-3, 3, width=32)
places = st.none() | st.lists(st.integers(-6, 5), min_size=1, max_size=3)
channels = st.none() | st.integers(0, 3).map(lambda head: list(range(8 * head, 8 * head + 8)))
kinds = st.tuples(st.sampled_from(["zero", "mean", "scale", "add", "patch"]), numbers, places, channels)


def made(kind: str, number: float, at: list[int] | None, of: list[int] | None, hook: str) -> Edit:
    vector = torch.linspace(-1, number, WIDTH)
    if kind == "scale":
        return Scale(hook, number, at, of)
    if kind == "add":
        return AddDirection(hook, vector, number, at, of)
    if kind == "patch":
        return Patch(hook, vector[None, None], at, of)
    return Ablate(hook, "mean" if kind == "mean" else "zero", vector, at, of)


def by_hand(x: np.ndarray, kind: str, number: float, at: list[int] | None, of: list[int] | None) -> np.ndarray:
    """The same edit of x [B, P, width] in numpy."""
    vector, chosen = np.linspace(-1, number, WIDTH, dtype=np.float32), np.zeros(x.shape, dtype=bool)
    chosen[np.ix_(range(len(x)), range(x.shape[1]) if at is None else at, range(WIDTH) if of is None else of)] = True
    new = {"zero": 0 * x, "scale": x * np.float32(number), "add": x + np.float32(number) * vector}.get(kind, vector)
    return np.where(chosen, new, x)


@settings(max_examples=25, deadline=None)
@given(st.lists(kinds, max_size=4))
def test_that_composed_edits_are_those_of_numpy_in_their_order(drawn: list[tuple]) -> None:
    model = network("llama")
    inputs = inputs_of(model)
    plain = model.run(inputs, record=["blocks.1.resid_pre"])
    edits = [made(*one, "blocks.0.resid_post") for one in drawn]
    run = model.run(inputs, edits=edits, record=["blocks.0.resid_post", "blocks.1.resid_pre"])
    expected = plain.rows("blocks.1.resid_pre").numpy()
    for one in drawn:
        expected = by_hand(expected, *one)
    np.testing.assert_allclose(run.rows("blocks.1.resid_pre").numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(run.rows("blocks.0.resid_post"), plain.rows("blocks.1.resid_pre"))  # seen before the edits


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(kinds, st.sampled_from(HOOKS)), max_size=4))
def test_that_a_run_after_edits_is_the_run_before_them(drawn: list[tuple]) -> None:
    model = network("llama")
    inputs = inputs_of(model, "one two red", "cat sat three one two")
    before, state = logits_of(model, inputs), left(model.network)
    logits_of(model, inputs, *(made(*one, hook) for one, hook in drawn))
    assert left(model.network) == state
    assert torch.equal(logits_of(model, inputs), before)


def test_that_the_order_of_two_edits_matters_as_composed() -> None:
    model, hook = network("gpt2"), "blocks.1.attn_out"
    inputs, push = inputs_of(model), torch.linspace(-1, 1, WIDTH)
    add, scale = AddDirection(hook, push, 2.0), Scale(hook, 3.0)
    first = logits_of(model, inputs, add, scale)
    close(first, logits_of(model, inputs, Scale(hook, 3.0), AddDirection(hook, 3 * push, 2.0)), 1e-5)
    assert not torch.allclose(first, logits_of(model, inputs, scale, add))


@pytest.mark.parametrize("name", PLAIN)
def test_that_nothing_is_left_behind_after_an_error_in_the_middle(name: str) -> None:
    model = network(name)
    inputs = inputs_of(model)
    before, state = logits_of(model, inputs), left(model.network)
    weight = model.hook_points["blocks.0.z"].module + ".weight"
    edits: list[Edit] = [
        EditWeight(weight, "scale", 2.0), FreezeNorms.at(model, inputs), FreezeAttention.at(model, inputs),
        CutEdge("blocks.0.z", "blocks.2.mlp"), CutEdge("embed", "final_norm"), Scale("blocks.0.z", 3.0),
    ]  # fmt: skip
    assert not torch.allclose(logits_of(model, inputs, *edits), before)
    assert left(model.network) == state
    for place in ("blocks.0.attn_out", "blocks.2.mlp_out"):
        with pytest.raises(RuntimeError, match="deliberate"):
            model.run(inputs, edits=[*edits, Fail(place)])
        assert left(model.network) == state
    assert torch.equal(logits_of(model, inputs), before)


@pytest.mark.parametrize("name", PLAIN)
def test_that_ablating_every_head_leaves_the_output_bias_alone(name: str) -> None:
    model = network(name)
    inputs = inputs_of(model)
    heads = model.hook_points["blocks.1.z"].heads
    each = [Ablate("blocks.1.z", columns=head_columns(model, "blocks.1.z", head)) for head in range(heads)]
    run = model.run(inputs, edits=each, record=["blocks.1.attn_out"])
    assert torch.equal(
        run.rows("blocks.1.attn_out"), run.rows("blocks.1.attn_out")[:, :1].expand_as(run.rows("blocks.1.attn_out"))
    )
    whole = logits_of(model, inputs, Patch("blocks.1.attn_out", run.rows("blocks.1.attn_out")))
    torch.testing.assert_close(logits_of(model, inputs, *each), whole)
    out = model.network.get_submodule(model.hook_points["blocks.1.z"].module)
    if name not in ("gemma2", "olmo2"):  # whose output is normed before it is written
        bias = getattr(out, "bias", None)
        expected = torch.zeros(WIDTH) if bias is None else bias
        torch.testing.assert_close(run.rows("blocks.1.attn_out")[0, 0], expected)


def test_that_a_head_of_a_pattern_is_edited_alone() -> None:
    model = network("llama")
    inputs, hook = inputs_of(model), "blocks.1.pattern"
    see = See(hook)
    model.run(inputs, edits=[Ablate(hook, columns=[2]), see], record=[hook])
    clean = model.run(inputs, record=[hook]).records[hook]
    assert not see.x[:, 2].any() and torch.equal(see.x[:, [0, 1, 3]], clean[:, [0, 1, 3]])


def test_that_resampled_rows_are_other_samples_rows() -> None:
    model, hook = network("llama"), "blocks.0.resid_post"
    inputs = inputs_of(model, "one two red", "cat sat", "three one")
    rows = model.run(inputs, record=[hook]).rows(hook)
    see = See(hook)
    model.run(inputs, edits=[Ablate(hook, "resample", seed=3), see])
    again = See(hook)
    model.run(inputs, edits=[Ablate(hook, "resample", seed=3), again])
    assert torch.equal(see.x, again.x)
    ordinary = (inputs.kind != 0) & (inputs.kind != 3)
    for row in range(3):
        pool = torch.cat([rows[other][ordinary[other]] for other in range(3) if other != row])
        assert all(bool((pool == x).all(1).any()) for x in see.x[row])
    store = torch.randn(5, WIDTH)
    given_rows = See(hook)
    model.run(inputs, edits=[Ablate(hook, "resample", rows=store), given_rows])
    assert all(bool((store == x).all(1).any()) for x in given_rows.x.flatten(0, 1))
    with pytest.raises(AuditorError, match="no other sample"):
        model.run(inputs_of(model), edits=[Ablate(hook, "resample")])


def test_that_values_are_patched_from_aligned_positions_of_another_run() -> None:
    model, hook = network("gpt2"), "blocks.1.resid_post"
    other = model.run(inputs_of(model, "cat cat three two"), record=[hook])
    inputs, see = inputs_of(model), See(hook)
    model.run(inputs, edits=[Patch.from_run(hook, other, [-1, 2], [1, 0]), see])
    clean = model.run(inputs, record=[hook]).rows(hook)[0].clone()
    clean[-1], clean[2] = other.rows(hook)[0, 1], other.rows(hook)[0, 0]
    torch.testing.assert_close(see.x[0], clean)
    with pytest.raises(AuditorError, match="positions at"):
        model.run(inputs, edits=[Patch.from_run(hook, other)])
    with pytest.raises(AuditorError, match="no position 9"):
        Patch.from_run(hook, other, [0], [9])


def test_that_channels_and_positions_that_are_not_there_are_told() -> None:
    model = network("llama")
    with pytest.raises(AuditorError, match="Channel 40"):
        model.run(inputs_of(model), edits=[Ablate("embed", columns=[40])])
    with pytest.raises(AuditorError, match="Position 40"):
        model.run(inputs_of(model), edits=[Ablate("embed", positions=[40])])
