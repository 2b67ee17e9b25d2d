"""Parameters that begin at rows of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.sae.parameters import start
from auditor.sae.starting import principal, start_at_rows, whitened

CPU = torch.device("cpu")


def rows_of(n: int, d: int, large: int = 3) -> torch.Tensor:
    """Rows whose first `large` directions vary ten times as much as the others, around a far middle."""
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((d, d)))[0]
    spread = np.where(np.arange(d) < large, 10.0, 1.0)
    return torch.from_numpy(((rng.standard_normal((n, d)) * spread) @ turned.T + 5).astype(np.float32))


def test_that_principal_directions_are_those_of_the_covariance_and_the_rest_is_its_mean(monkeypatch):
    monkeypatch.setattr("auditor.sae.starting._PRINCIPAL", 3)
    centred = rows_of(2000, 40)
    centred = centred - centred.mean(0)
    variances, axes = principal(centred, torch.Generator().manual_seed(0))
    true, directions = np.linalg.eigh(np.cov(centred.numpy().T, bias=True))
    assert variances[:-1].numpy() == pytest.approx(true[-3:], rel=1e-3)
    assert float(variances[-1]) == pytest.approx(true[:-3].mean(), rel=1e-3)
    assert np.abs(np.linalg.det(directions[:, -3:].T @ axes.numpy())) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_that_rows_are_whitened_as_the_covariance_says(power):
    centred = rows_of(500, 12)
    centred = centred - centred.mean(0)
    made = whitened(centred, *principal(centred, torch.Generator().manual_seed(0)), power)
    true, directions = np.linalg.eigh(np.cov(centred.numpy().T, bias=True).astype(np.float64))
    weights = (true + 0.01 * true.mean()) ** -power
    assert made.numpy() == pytest.approx(centred.numpy() @ directions * weights @ directions.T, abs=1e-4)


def test_that_features_start_at_different_rows_and_those_beyond_them_at_random():
    rows = rows_of(40, 12)
    rows[1::2] = rows[::2]  # twenty different ones
    begun, random = start_at_rows(rows, rows, 32, 4, 7, CPU), start(rows, 32, 7, CPU)
    ours = begun.decoder.detach()[:20]
    cosines = ours @ ours.T - torch.eye(20)
    assert float(cosines.max()) < 0.99
    assert torch.equal(begun.decoder[20:], random.decoder[20:])
    assert not torch.equal(begun.decoder[:20], random.decoder[:20])
    assert begun.decoder.norm(dim=1).detach().numpy() == pytest.approx(np.ones(32), abs=1e-5)
    assert torch.equal(begun.b_dec, random.b_dec)


def test_that_a_row_is_what_fires_its_feature_most():
    rows = rows_of(300, 64)
    begun = start_at_rows(rows, rows, 200, 4, 0, CPU)
    fires = ((rows - begun.b_dec) @ begun.encoder.T).detach()
    # 1 of 300 by chance; where rows as they are answer for themselves, the loudest rows take nearly all.
    assert len(fires.argmax(0).unique()) > 190


def test_that_the_encoder_is_as_large_as_reconstructs_best():
    rows = rows_of(600, 24)
    begun = start_at_rows(rows, rows, 100, 6, 0, CPU)

    @torch.no_grad()
    def error(factor: float) -> float:
        pre = (rows - begun.b_dec) @ begun.encoder.T * factor
        values, ids = pre.topk(6, dim=1)
        z = torch.zeros_like(pre).scatter(1, ids, values.relu())
        return float((z @ begun.decoder + begun.b_dec - rows).square().sum())

    assert error(1.0) < min(error(0.9), error(1.1), error(0.0))


@torch.no_grad()
def unexplained(begun, rows: torch.Tensor, k: int) -> float:
    values, ids = ((rows - begun.b_dec) @ begun.encoder.T).topk(k, dim=1)
    made = (values.relu()[:, :, None] * begun.decoder[ids]).sum(1) + begun.b_dec
    return float((made - rows).square().sum() / (rows - rows.mean(0)).square().sum())


def test_that_few_rows_far_out_do_not_make_up_the_start():
    rows = rows_of(800, 24)
    with_sinks = torch.cat([rows, 300 * rows[:1] + rows[:20]])
    begun, plain = (start_at_rows(some, some, 100, 6, 0, CPU) for some in (with_sinks, rows))
    assert unexplained(begun, rows, 6) < 1.1 * unexplained(plain, rows, 6) < 0.9


def test_that_rows_that_many_others_are_like_are_not_far_out():
    rows = torch.cat([torch.zeros(600, 24), rows_of(300, 24)])
    begun, random = start_at_rows(rows, rows, 100, 6, 0, CPU), start(rows, 100, 0, CPU)
    assert not torch.equal(begun.decoder, random.decoder)


def test_that_a_row_and_what_is_to_be_made_of_it_start_one_feature():
    rows = rows_of(300, 16)
    target = rows @ torch.randn(16, 10, generator=torch.Generator().manual_seed(1))
    begun = start_at_rows(rows, target, 64, 4, 0, CPU)
    assert begun.decoder.shape == (64, 10)
    middle = start(rows, 64, 0, CPU).b_dec
    assert (begun.encoder @ middle + begun.b_enc).detach().numpy() == pytest.approx(np.zeros(64), abs=1e-3)
    values, ids = (rows @ begun.encoder.T + begun.b_enc).topk(4, dim=1)
    made = ((values.relu()[:, :, None] * begun.decoder[ids]).sum(1) + begun.b_dec).detach()
    spread = (target - target.mean(0)).square().sum()
    assert float((made - target).square().sum() / spread) < 0.7


@pytest.mark.parametrize("bad", ["constant", "nan", "one"])
def test_that_rows_that_say_nothing_leave_the_random_start(bad):
    rows = {"constant": torch.full((50, 8), 2.0), "nan": rows_of(50, 8), "one": rows_of(1, 8)}[bad]
    if bad == "nan":
        rows[3, 3] = torch.nan
    begun, random = start_at_rows(rows, rows, 12, 4, 0, CPU), start(rows, 12, 0, CPU)
    assert torch.equal(begun.encoder, random.encoder) and torch.equal(begun.decoder, random.decoder)
