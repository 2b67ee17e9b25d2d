"""Each kernel of the fused TopK step by itself, interpreted on the CPU, against a few lines of torch or numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.sae.archs.auxk import auxiliary
from auditor.sae.kernels.cuda import bias, plain
from auditor.sae.kernels.cuda.adam import settle
from auditor.sae.kernels.cuda.auxiliary import Revival, _keep_largest, find_dead
from auditor.sae.kernels.cuda.decode import centre, decode
from auditor.sae.kernels.cuda.pairs import sort_pairs
from auditor.sae.kernels.cuda.state import Settings, State
from auditor.sae.kernels.cuda.update import Update
from tests.reference import fused as reference
from tests.sae.test_cuda_step import CPU, NAMES, interpreted, off, rounding, weights

__all__ = ["rounding"]
pytestmark = [interpreted, pytest.mark.usefixtures("rounding")]
LR, STEP = 0.01, 3
CONSTANTS = Settings(k=1).constants


def begun(rng, d, d_sae):
    """A state amid training, and (weight, moments) of each parameter in float64."""
    state = State.of(dict(zip(NAMES, weights(rng, d, d_sae), strict=True)))
    for name in NAMES:
        state.first[name].normal_()
        state.second[name].uniform_(0.5, 1)
    held = {name: (getattr(state, name), state.first[name], state.second[name]) for name in NAMES}
    return state, {name: [t.double().numpy().copy() for t in tensors] for name, tensors in held.items()}


def rates():
    """What Adam's step 3 is scaled by, as `settle` gives it."""
    return torch.tensor([LR / (1 - 0.9**STEP), (1 - 0.999**STEP) ** -0.5])


def is_adams(state, name, before, gradient):
    """Whether weight and moments are those after a step of Adam, and of unit rows in the decoder."""
    weight, first, second = before[name]
    weight, first, second = reference.adam(weight, gradient, first, second, STEP, LR)
    if name == "decoder":
        weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    assert off(getattr(state, name), weight) < 1e-4, name
    assert off(state.first[name].float(), first) < (2**-8 if state.first[name].dim() == 2 else 1e-5), name
    assert off(state.second[name], second) < 1e-5, name
    if name != "b_dec":
        assert torch.equal(getattr(state, f"{name}_half"), getattr(state, name).bfloat16())


def pairs(rng, rows, d_sae, k, kind=torch.int32):
    """ids [rows, k], rising, feature 1 in each row but the last, which has none; and values bfloat16."""
    ids = np.stack([np.append(rng.permutation(np.arange(2, d_sae))[: k - 1], 1) for _ in range(rows)])
    ids[-1] = d_sae
    values = rng.random((rows, k)) + 0.1
    values[-1] = 0
    return torch.from_numpy(np.sort(ids)).to(kind), torch.from_numpy(values).bfloat16()


def dense(ids, values, d_sae):
    """The same as z [rows, d_sae] in float64."""
    return torch.zeros(len(ids), d_sae + 1).double().scatter_(1, ids.long(), values.double())[:, :d_sae]


def in_order(ids, values, d_sae):
    """(keys, rows, values, starts) of `sort_pairs`."""
    n = ids.numel()
    keys, order, rows = torch.empty(n, dtype=ids.dtype), torch.empty(n, dtype=torch.int64), torch.empty(n).int()
    sorted_values, starts = torch.empty(n).bfloat16(), torch.empty(d_sae + 1).int()
    sort_pairs(ids, values, keys, order, rows, sorted_values, starts)
    return keys, rows, sorted_values, starts


def test_that_rows_are_reconstructed_from_what_is_active():
    rng, d, d_sae, rows, scale = np.random.default_rng(), 12, 30, 5, 1.5
    state, _ = begun(rng, d, d_sae)
    x = torch.from_numpy(rng.standard_normal((rows, d)).astype(np.float16))
    ids, values = pairs(rng, rows, d_sae, 5)
    centred, gradient = torch.empty(rows, d).bfloat16(), torch.empty(rows, d).bfloat16()
    missing, squared, active = torch.empty(3, d), torch.empty(rows), torch.empty(rows).int()
    centre(x, state.b_dec, scale, centred, 1)
    decode(x, scale, values, ids, state.decoder_half, state.b_dec, gradient, missing, squared, active, 2, 1)
    residual = dense(ids, values, d_sae) @ state.decoder_half.double() + state.b_dec - scale * x.double()
    assert torch.equal(centred, (scale * x.float() - state.b_dec).bfloat16())
    assert off(gradient.float(), 2 / rows * residual) < 2**-8
    assert off(missing, -residual[:3]) < 1e-5 and off(squared, residual.square().sum(1)) < 1e-5
    assert active.tolist() == [5] * (rows - 1) + [0]


@pytest.mark.parametrize("kind", [torch.int16, torch.int32])
def test_that_pairs_come_in_the_order_of_their_features_and_rows(kind):
    ids, values = pairs(np.random.default_rng(), 120, 400, 3, kind)
    keys, rows, sorted_values, starts = in_order(ids, values, 400)
    true = np.argsort(ids.flatten().numpy(), kind="stable")
    assert np.array_equal(keys, ids.flatten()[true]) and np.array_equal(rows, true // 3)
    assert torch.equal(sorted_values, values.flatten()[true])
    assert np.array_equal(starts, np.searchsorted(keys.numpy(), np.arange(401)))


def test_that_features_are_updated_from_their_own_pairs_and_those_of_auxk():
    rng, d, d_sae, rows, k = np.random.default_rng(), 12, 14, 12, 3
    state, before = begun(rng, d, d_sae)
    ids, values = pairs(rng, rows, d_sae, k)
    gradient, centred = (torch.from_numpy(rng.standard_normal((rows, d))).bfloat16() for _ in range(2))
    slots = torch.full((d_sae,), -1, dtype=torch.int32)
    slots[0], slots[5] = 1, 0
    extra = {name: torch.from_numpy(rng.standard_normal((2, d))).bfloat16() for name in ("decoder", "encoder")}
    extra_bias = torch.from_numpy(rng.standard_normal(2)).float()
    z, g = dense(ids, values, d_sae), gradient.double()
    to_z = (g @ state.decoder_half.double().T) * (z > 0)
    true = {"decoder": z.T @ g, "encoder": to_z.T @ centred.double(), "b_enc": to_z.sum(0)}
    for name, part in (*extra.items(), ("b_enc", extra_bias)):
        true[name][[5, 0]] += part.double()
    decoder = state.decoder.double()
    true["decoder"] -= decoder * (true["decoder"] * decoder).sum(1, keepdim=True)

    keys, of_rows, sorted_values, starts = in_order(ids, values, d_sae)
    update = Update(state, rows * k, 4, 2, 1, 2, 1)  # pieces of 4 pairs, of which feature 1 fills two
    kept = [t.clone() for t in (state.encoder, state.decoder, state.decoder_half, *state.first.values())]
    for finite in (0, 1):
        given = rates(), torch.tensor([finite], dtype=torch.int8), CONSTANTS
        update.pieces("decoder", keys, of_rows, sorted_values, gradient)
        update.pieces("encoder", keys, of_rows, update.to_values, centred)
        auxk = {name: (slots, part, extra_bias) for name, part in extra.items()}
        update.step("decoder", starts, of_rows, sorted_values, gradient, auxk["decoder"], *given)
        update.step("encoder", starts, of_rows, update.to_values, centred, auxk["encoder"], *given)
        if not finite:
            now = state.encoder, state.decoder, state.decoder_half, *state.first.values()
            assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    assert off(update.to_bias, true["b_enc"]) < 1e-5
    for name in ("encoder", "decoder"):
        is_adams(state, name, before, true[name].numpy())


def test_that_biases_take_their_steps_and_silence_is_counted():
    rng, d, d_sae = np.random.default_rng(), 40, 300
    state, before = begun(rng, d, d_sae)
    matrix, factor = torch.from_numpy(rng.standard_normal((70, d))).bfloat16(), torch.randn(70)
    plus, minus = torch.empty(3, d), torch.empty(2, d)
    bias.partial_sums(matrix, plus)
    bias.partial_sums(matrix, minus, factor)
    for found, rows, part in ((plus, matrix.double(), 24), (minus, matrix.double() * factor[:, None], 35)):
        assert off(found, torch.stack([some.sum(0) for some in rows.split(part)])) < 1e-5
    finite = torch.ones(1, dtype=torch.int8)
    bias.step_b_dec(state, plus, minus, rates(), finite, CONSTANTS)
    is_adams(state, "b_dec", before, (plus.double().sum(0) - minus.double().sum(0)).numpy())
    fired, gradient = torch.from_numpy(rng.integers(0, 3, d_sae)), torch.randn(d_sae)
    starts = torch.cat([torch.zeros(1), fired.cumsum(0)]).int()
    silent, counts = torch.arange(d_sae), torch.empty(d_sae).int()
    bias.step_b_enc(state, gradient, starts, silent, counts, 64, rates(), finite, CONSTANTS)
    is_adams(state, "b_enc", before, gradient.double().numpy())
    assert torch.equal(counts.long(), fired)
    assert torch.equal(silent, torch.where(fired > 0, 0, torch.arange(d_sae) + 64))


@pytest.mark.parametrize("dead", [None, 0, 3])
@pytest.mark.parametrize("spoiled", [None, float("nan"), float("inf")])
def test_that_loss_rates_and_clock_are_settled_and_the_clock_only_by_a_finite_loss(dead, spoiled):
    squared, active, aux_squared = torch.rand(1500), torch.randint(0, 9, (1500,)).int(), torch.rand(1100)
    squared[1400] = spoiled or 1
    clock = torch.tensor([2, 0.9**2, 0.999**2], dtype=torch.float64)
    before, out = clock.clone(), tuple(torch.empty(()) for _ in range(3))
    found, finite = torch.empty(2), torch.empty(1, dtype=torch.int8)
    settle(
        squared, active, aux_squared, torch.tensor([dead or 0]).int(), torch.tensor([LR]),
        torch.tensor([0.9, 0.999]).double(), clock, found, finite, out, 0.5, dead is not None,
    )
    loss, error, l0 = out
    assert torch.allclose(found, rates()) and float(l0) == pytest.approx(float(active.double().mean()))
    assert bool(finite) == (spoiled is None)
    if spoiled is not None:
        assert not torch.isfinite(loss) and torch.equal(clock, before)
        return
    assert float(error) == pytest.approx(float(squared.double().sum()), rel=1e-5)
    extra = 0.5 * float(aux_squared.double().mean()) if dead else 0
    assert float(loss) == pytest.approx(float(squared.double().mean()) + extra, rel=1e-5)
    assert torch.allclose(clock, torch.tensor([3, 0.9**3, 0.999**3]).double(), rtol=1e-12)


@pytest.mark.parametrize("room", [None, 16, 64])
def test_that_the_dead_are_found_in_order_as_far_as_there_is_room(room):
    silent = torch.zeros(5000, dtype=torch.int64)  # more than are looked at in one go
    true = torch.from_numpy(np.sort(np.random.default_rng().permutation(5000)[:40]))
    silent[true] = 101
    silent[::3] += 100  # not yet dead, unless it was
    who = None if room is None else torch.empty(room).int()
    slots, count = torch.empty(5000).int(), torch.empty(1).int()
    find_dead(silent, 100, who, slots, count)
    held = true[: room or 0]
    wanted = torch.full((5000,), -1)
    wanted[held] = torch.arange(len(held))
    assert int(count) == 40 and torch.equal(slots.long(), wanted)
    if who is not None:
        assert who.tolist() == held.tolist() + [-1] * (room - len(held))


def test_that_auxk_keeps_the_largest_of_each_row_with_ties_to_the_left():
    scores = torch.randn(5, 70).bfloat16()
    scores[0] = torch.randint(-3, 3, (70,)).bfloat16()
    scores[1, 4:] = -1
    scores[2, ::7] = float("nan")
    values, ids = plain.largest(scores, 9)
    wanted = torch.zeros(5, 71).scatter_(1, ids, values.float())[:, :70]
    _keep_largest[(5,)](scores.view(torch.int16), 70, 9, BLOCK=16, num_warps=1)
    assert torch.equal(scores.float(), wanted)


def test_that_the_dead_are_revived_by_the_gradients_of_auxk():
    rng, d, d_sae, rows, alpha = np.random.default_rng(), 24, 30, 9, 0.5
    state, _ = begun(rng, d, d_sae)
    centred, missing = torch.randn(rows, d).bfloat16(), torch.randn(rows, d)
    revival, squared, dead = Revival(8, rows, d, CPU), torch.empty(rows), torch.tensor([3, 4, 17, 20, 29])
    revival.who.copy_(torch.cat([dead, torch.full((3,), -1)]))
    revival.run(state, centred, missing, squared, alpha)
    halves = (state.encoder_half, state.decoder_half, state.b_enc_half)
    encoder, decoder, b_enc = (half[dead].float().requires_grad_() for half in halves)
    loss = auxiliary(alpha, centred.float(), missing, encoder, decoder, b_enc)
    loss.backward()
    assert alpha * float(squared.sum()) / rows == pytest.approx(float(loss.detach()), rel=0.01)
    found = revival.to_encoder, revival.to_decoder, revival.to_bias
    for gradient, tensor in zip(found, (encoder, decoder, b_enc), strict=True):
        assert off(gradient[:5].float(), tensor.grad) < 0.02
        assert not gradient[5:].any()
