"""A dictionary that reads samples in order: its index, and what it fires on, are of whole samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.base.reporter import Reporter
from auditor.data import text_sample
from auditor.features.build import BuildConfig, build
from auditor.features.codes import encode_store
from auditor.features.corpus import read_corpus
from auditor.features.fires import activations_at, fires_on
from auditor.models import Model
from auditor.sae.sae import Sae
from auditor.sae.splice import spliced_loss
from tests.features.conftest import HOOK, SPECIAL, WIDTH, Planted
from tests.sae.temporal import temporal


@pytest.fixture(scope="module")
def sae() -> Sae:
    return temporal(WIDTH, d_sae=48, k=6, hook=HOOK)


@pytest.fixture(scope="module")
def codes(sae: Sae, planted: Planted) -> np.ndarray:
    """[rows, features], 0 at special positions."""
    x = torch.from_numpy(planted.store.rows(slice(None), HOOK))
    z = sae.encode(x, np.unique(planted.sample, return_counts=True)[1].tolist()).numpy()
    return np.where((planted.kind == SPECIAL)[:, None], 0, z)


def test_that_every_batch_of_a_store_holds_whole_samples(sae: Sae, planted: Planted, codes: np.ndarray, tmp_path: Path):
    corpus = read_corpus(planted.store, None, Reporter())
    assert planted.kind[0] == SPECIAL
    for size in (1, 60, 100_000):  # a sample has 41 rows, or 7
        scratch = tmp_path / str(size)
        scratch.mkdir()
        found = encode_store(planted.store, sae, HOOK, corpus.kinds, corpus.starts, scratch, batch_size=size,
                             reporter=Reporter())  # fmt: skip
        dense = np.zeros_like(codes)
        for feature in range(sae.d_sae):
            rows, values = found.column(feature)
            dense[rows, feature] = values
        np.testing.assert_allclose(dense, codes, rtol=1e-4, atol=1e-5)


def test_that_its_index_and_one_position_of_it_agree(sae: Sae, planted: Planted, codes: np.ndarray, tmp_path: Path):
    with build(BuildConfig(batch_size=64), planted.store, sae, None, tmp_path / "temporal.index") as index:
        shown = (planted.kind != SPECIAL).sum()
        np.testing.assert_allclose(index.table["density"], (codes > 0).sum(0) / shown, rtol=1e-5)
        np.testing.assert_allclose(index.table["max_act"], codes.max(0), rtol=1e-3)
        for row in (5, 40, 41 * 60 + 6):
            fires = activations_at(index, sae, planted.store, row)
            assert {fire.feature for fire in fires} == set(np.flatnonzero(codes[row]))
            for fire in fires:
                assert fire.activation == pytest.approx(codes[row, fire.feature], rel=1e-3)


def test_that_a_prompt_is_read_from_its_beginning(tiny_llama: Model):
    hook = "blocks.0.resid_post"
    sae = temporal(576, d_sae=64, k=6, hook=hook)
    fires = fires_on(None, tiny_llama, sae, "The capital of France is Paris.")
    run = tiny_llama.run(tiny_llama.encode([text_sample("The capital of France is Paris.")]), record=[hook])
    z = sae.encode(run.rows(hook).float())[0]
    z[fires.kinds == SPECIAL] = 0
    assert {fire.feature for fire in fires} == set(z.max(0).values.nonzero().flatten().tolist())
    for fire in fires:
        np.testing.assert_allclose(fire.values, z[:, fire.feature], rtol=1e-4, atol=1e-5)


def test_that_splicing_reads_each_sample_of_a_batch_by_itself(tiny_llama: Model):
    sae = temporal(576, d_sae=64, k=6, hook="blocks.0.resid_post")
    samples = [text_sample(text) for text in ("The capital of France is Paris.", "Two and two make four, or so.", "It")]
    together, alone = (spliced_loss(tiny_llama, sae, samples, batch_size=size) for size in (3, 1))
    assert together.kl == pytest.approx(alone.kl, rel=1e-3) and together.kl > 0.01
    assert together.spliced == pytest.approx(alone.spliced, rel=1e-3) and together.n == alone.n
