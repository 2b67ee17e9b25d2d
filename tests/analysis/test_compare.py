"""Matching of dictionaries whose truth is known, against random directions."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from auditor.analysis.compare import compare, match, stability
from auditor.base.errors import AuditorError
from auditor.sae import Sae


def dictionary(decoder, hook="h"):
    d_sae, d_in = decoder.shape
    return Sae(arch="topk", k=4, W_enc=decoder.T.contiguous(), W_dec=decoder, b_enc=torch.zeros(d_sae),
               b_dec=torch.zeros(d_in), hook=hook)  # fmt: skip


def rows(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["hungarian", "mutual"])
def test_that_a_shuffled_and_scaled_copy_is_matched_whole(method):
    decoder, order = rows(60, 32, 0), torch.randperm(60, generator=torch.Generator().manual_seed(1))
    found = match(dictionary(decoder), dictionary(decoder[order] * 3.0), method=method)
    np.testing.assert_array_equal(order.numpy()[found.pairs[:, 1]], found.pairs[:, 0])
    np.testing.assert_allclose(found.cosine, 1, atol=1e-5)
    assert found.matched.estimate == 1.0 and found.matched.n == 60 and found.null_matched.estimate < 0.2


def test_that_half_a_copy_is_half_matched_and_beats_the_null_by_that_half():
    decoder = rows(200, 64, 2)
    other = torch.cat([decoder[:100], rows(100, 64, 3)])
    found = match(dictionary(decoder), dictionary(other))
    assert 0.5 <= found.matched.estimate <= 0.55
    assert found.matched.interval[0] < found.matched.estimate < found.matched.interval[1]
    assert 0.5 <= found.beyond_null.estimate < 0.56 and found.null_matched.estimate < 0.02


def test_that_unrelated_dictionaries_do_no_better_than_their_null():
    found = match(dictionary(rows(150, 24, 4)), dictionary(rows(150, 24, 5)))
    assert abs(found.cosine.mean() - found.null.mean()) < 0.05
    assert found.beyond_null.estimate < 0.06


def test_that_hungarian_has_the_largest_sum_of_all_assignments():
    a, b = rows(6, 4, 6), rows(6, 4, 7)
    cosine = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    best = max(sum(float(cosine[i, j]) for i, j in enumerate(p)) for p in permutations(range(6)))
    assert match(dictionary(a), dictionary(b)).cosine.sum() == pytest.approx(best, abs=1e-5)


def test_that_stability_counts_reappearance():
    decoder = rows(50, 32, 8)
    second = torch.cat([decoder[:25], rows(25, 32, 9)])
    result = stability([dictionary(decoder), dictionary(decoder), dictionary(second)])
    np.testing.assert_allclose(result.share[:25], 1.0)
    assert result.share[25:].mean() == pytest.approx(0.5, abs=0.1) and result.mean.n == 100
    with pytest.raises(AuditorError):
        stability([dictionary(decoder)])


def test_that_dead_features_and_other_widths_are_told_apart():
    decoder = rows(10, 8, 1)
    decoder[3] = 0
    assert 3 not in match(dictionary(decoder), dictionary(decoder)).pairs
    assert len(match(dictionary(decoder), dictionary(decoder), live_a=np.array([0, 1])).pairs) == 2
    with pytest.raises(AuditorError, match="widths"):
        match(dictionary(decoder), dictionary(rows(10, 9, 1)))
    assert compare(dictionary(decoder), dictionary(decoder)).facts[0]["d_sae"] == 10
