"""What is kept of samples: means of rows and of features, beside plain numpy; baselines' coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.analysis.evaluation.pooled import components, neurons, pool
from auditor.base.errors import AuditorError
from auditor.sae import Sae
from tests.sae.temporal import temporal


def dictionary(d: int = 12, m: int = 40, k: int = 4) -> Sae:
    torch.manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(m, d), dim=1)
    return Sae("topk", decoder.T.contiguous(), decoder, torch.zeros(m), torch.randn(d), k=k, hook="h")


def test_that_features_are_the_means_of_what_the_dictionary_gives() -> None:
    sae, rng = dictionary(), np.random.default_rng(0)
    samples = [rng.standard_normal((rng.integers(1, 900), 12)).astype(np.float32) for _ in range(11)]
    found = pool(sae, iter(samples), len(samples))
    for at, rows in enumerate(samples):
        codes = sae.encode(torch.from_numpy(rows)).mean(0).numpy()
        assert found.features.codes[at] == pytest.approx(codes[found.features.ids], abs=1e-5)
        assert found.mean[at] == pytest.approx(rows.mean(0), abs=1e-5)
        drawn = (rows - found.control.base) @ found.control.directions.T
        assert (found.control.codes[at] > 0).any() and found.control.codes[at].max() <= drawn.max() + 1e-4
    assert found.features.directions == pytest.approx(sae.W_dec[found.features.ids].numpy())
    assert found.features.base == pytest.approx(sae.b_dec.numpy()) and not found.features.signed


def test_that_as_many_random_directions_fire_as_features() -> None:
    sae, rows = dictionary(), np.random.default_rng(1).standard_normal((64, 1, 12)).astype(np.float32)
    found = pool(sae, iter(rows), 64)
    assert ((found.control.codes > 0).sum(1) == 4).all() and ((found.features.codes > 0).sum(1) <= 4).all()


def test_that_all_coordinates_and_all_components_give_the_rows_back() -> None:
    x = np.random.default_rng(2).standard_normal((50, 8)).astype(np.float32)
    for held in (neurons(x, np.arange(30)), components(x, np.arange(30))):
        assert held.base + (held.codes - held.rest) @ held.directions == pytest.approx(x, abs=1e-4)
        assert held.signed
    turned = components(x, np.arange(30)).codes[:30]
    assert np.abs(np.corrcoef(turned.T) - np.eye(8)).max() < 1e-3


def test_that_a_sample_without_rows_is_refused() -> None:
    with pytest.raises(AuditorError, match="no position to encode"):
        pool(dictionary(), iter([np.zeros((0, 12), np.float32)]), 1)


def test_that_a_temporal_dictionary_foresees_within_a_sample_alone() -> None:
    sae, rng = temporal(12), np.random.default_rng(3)
    samples = [rng.standard_normal((length, 12)).astype(np.float32) for length in (5, 9, 3)]
    together, alone = pool(sae, iter(samples), 3).features, [pool(sae, iter([rows]), 1).features for rows in samples]
    for at, one in enumerate(alone):
        codes = np.zeros(32)
        codes[one.ids] = one.codes[0]
        assert together.codes[at] == pytest.approx(codes[together.ids], abs=1e-5)


def test_that_a_transcoder_is_encoded_where_it_reads_and_beside_it_stands_where_it_writes() -> None:
    torch.manual_seed(1)
    sae = Sae("topk", torch.randn(12, 40), torch.randn(40, 7), torch.zeros(40), torch.randn(7), k=4, hook="h",
              hook_out="out")  # fmt: skip
    rng = np.random.default_rng(4)
    samples = [rng.standard_normal((6, 12 + 7)).astype(np.float32) for _ in range(8)]
    found = pool(sae, iter(samples), 8)
    assert found.mean == pytest.approx(np.array([rows[:, 12:].mean(0) for rows in samples]), abs=1e-5)
    for at, rows in enumerate(samples):
        codes = sae.encode(torch.from_numpy(rows[:, :12])).mean(0).numpy()
        assert found.features.codes[at] == pytest.approx(codes[found.features.ids], abs=1e-5)
    assert found.features.directions.shape[1] == found.control.directions.shape[1] == found.mean.shape[1] == 7
