"""Patterns beside a fused attention kernel, against ten lines of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as kernel

from auditor.base.errors import AuditorError
from auditor.models.attention import among_stacked, look, placed, stacked
from auditor.models.hook_points import PATTERN, HookPoint, from_axes, to_axes

BATCH, HEADS, GROUPS, QUERIES, SIZE = 2, 4, 2, 5, 8


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(pattern, output) with keys and values shared by heads; `mask` is True where a key is seen, or added."""
    share = HEADS // k.shape[1]
    keys, values = (np.repeat(x.double().numpy(), share, axis=1) for x in (k, v))
    scores = q.double().numpy() @ keys.swapaxes(-1, -2) * scale
    scores = np.where(mask.numpy(), scores, -np.inf) if mask.dtype == torch.bool else scores + mask.double().numpy()
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    pattern = weights / weights.sum(-1, keepdims=True)
    return pattern, pattern @ values


def drawn(groups: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(groups)
    shapes = [(BATCH, n, QUERIES, SIZE) for n in (HEADS, groups, groups)]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q, k, v


CAUSAL = torch.ones(QUERIES, QUERIES, dtype=torch.bool).tril()
ADDED = torch.randn(1, HEADS, QUERIES, QUERIES, generator=torch.Generator().manual_seed(1))
CASES: dict[str, tuple[int, dict[str, Any], Tensor, float]] = {
    "causal": (HEADS, {"is_causal": True}, CAUSAL, SIZE**-0.5),
    "grouped": (GROUPS, {"is_causal": True, "enable_gqa": True, "scale": 0.3}, CAUSAL, 0.3),
    "masked": (HEADS, {"attn_mask": CAUSAL}, CAUSAL, SIZE**-0.5),
    "biased": (HEADS, {"attn_mask": ADDED, "scale": 1.0}, ADDED, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_that_the_pattern_is_the_softmax_and_looking_at_it_changes_no_bit(name: str) -> None:
    groups, settings, mask, scale = CASES[name]
    q, k, v = drawn(groups)
    seen = look(kernel, (q, k, v), settings)
    given = placed(seen, None, through=False)
    pattern, output = reference(q, k, v, mask, scale)
    np.testing.assert_allclose(seen.pattern.numpy(), pattern, atol=1e-6)
    np.testing.assert_allclose(given.numpy(), output, atol=1e-5)
    assert torch.equal(given, kernel(q, k, v, **settings))


def test_that_only_rows_that_are_changed_are_computed_anew() -> None:
    q, k, v = drawn(HEADS)

    def cut(pattern: Tensor) -> Tensor:
        changed = pattern.clone()
        changed[:, 2, 4, 1] = 0
        return changed

    fast = kernel(q, k, v, is_causal=True)
    seen = look(kernel, (q, k, v), {"is_causal": True})
    given = placed(seen, cut(seen.pattern), through=False)
    pattern, _ = reference(q, k, v, CAUSAL, SIZE**-0.5)
    pattern[:, 2, 4, 1] = 0
    np.testing.assert_allclose(given[:, 2, 4].numpy(), (pattern @ v.double().numpy())[:, 2, 4], atol=1e-5)
    other = torch.ones(HEADS, QUERIES, dtype=torch.bool)
    other[2, 4] = False
    assert torch.equal(given[:, other], fast[:, other]) and not torch.equal(given[:, 2, 4], fast[:, 2, 4])


def test_that_a_pattern_that_no_memory_would_hold_is_refused() -> None:
    point = HookPoint("vision.blocks.0.pattern", 0, PATTERN, "attn", 0, "inside", "vision", heads=2)
    rows = torch.zeros(1, 30_000, dtype=torch.int64)
    with pytest.raises(AuditorError, match="30,000 patches by as many takes 6 GB"):
        to_axes(point, torch.zeros(1, 2, 4, 4), 1, rows)


def test_that_patterns_of_several_sizes_are_laid_side_by_side() -> None:
    parts = [torch.rand(1, 2, n, n) for n in (3, 2)]
    whole, sizes = stacked(parts)
    rows = among_stacked(torch.tensor([[4, 0, 1, 2, 3, -1]]), sizes)
    point = HookPoint("vision.blocks.0.pattern", 0, PATTERN, "attn", 0, "inside", "vision", heads=2)
    order = [4, 0, 1, 2, 3]
    told = np.zeros((2, 5, 5), np.float32)
    for head in range(2):
        told[head, :3, :3], told[head, 3:, 3:] = parts[0][0, head], parts[1][0, head]
    seen = to_axes(point, whole, 1, rows)
    np.testing.assert_array_equal(seen[0, :, :5, :5].numpy(), told[:, order][:, :, order])
    assert not seen[:, :, 5].any() and not seen[:, :, :, 5].any()
    assert torch.equal(from_axes(point, seen, torch.zeros_like(whole), rows), whole)


def test_that_gradients_run_through_the_pattern_where_they_are_to() -> None:
    q, k, v = drawn(GROUPS)
    seen = look(kernel, (q, k, v), {"is_causal": True, "enable_gqa": True})
    seen.pattern.requires_grad_()
    given = placed(seen, None, through=True)
    towards = torch.randn(given.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((given * towards).sum(), seen.pattern)
    values = np.repeat(v.numpy(), HEADS // GROUPS, axis=1)
    np.testing.assert_allclose(gradient.numpy(), towards.numpy() @ values.swapaxes(-1, -2), atol=1e-5)
