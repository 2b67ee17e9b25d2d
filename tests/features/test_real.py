"""The whole way on real weights: record, train, build, search, and what fires on typed text and on a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data.image import ImageRef
from auditor.data.sample import Sample, text_sample
from auditor.features.build import BuildConfig, build
from auditor.features.fires import activations_at, fires_on
from auditor.features.index import Index
from auditor.sae.sae import Sae
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import train
from auditor.store import Store
from auditor.store.record import RecordConfig, record

if TYPE_CHECKING:
    from auditor.models import Model

HOOK = "blocks.1.resid_post"
TEXTS = [
    "The door was locked with an old brass padlock.", "A river runs through the valley behind the town.",
    "def load_key(path):\n    return open(path).read()", "Horses graze on the hill while the sun goes down.",
    "The capital of France is Paris, a city on the river Seine.", "Winter light fell on the copper roof.",
]  # fmt: skip
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 210), "white": (240, 240, 240)}

Parts = tuple["Model", Store, Sae, Index]


def pictures() -> list[Sample]:
    """Plain coloured pictures with a caption each."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(8):
        name = list(COLOURS)[number % 4]
        noise = rng.integers(-25, 25, (64, 64, 3))
        pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
        labels = {"caption": f"{name} field"}
        found.append(Sample(f"{name}-{number}", text=None, image=ImageRef.of(pixels), labels=labels))
    return found


@pytest.fixture(scope="module")
def parts(tiny_paired: Model, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("real")
    samples = [*(text_sample(text) for text in TEXTS), *pictures()]
    config = RecordConfig(model="", samples="", hooks=(HOOK,), batch_size=4)
    store = record(config, tiny_paired, samples, folder / "real.store")
    sae = train(TrainConfig(d_sae=128, k=8, steps=40, batch_size=64, device="cpu"), store, folder / "real.sae")
    return tiny_paired, store, sae, build(BuildConfig(top=6), store, sae, tiny_paired, folder / "real.index")


def test_that_the_index_equals_the_dictionary_run_over_the_store(parts: Parts) -> None:
    _, store, sae, index = parts
    kind = store.positions().kind
    z = sae.encode(torch.from_numpy(store.rows(slice(None), HOOK))).detach().numpy()
    z[(kind != 1) & (kind != 2)] = 0
    assert np.array_equal(index.table["fires_text"], (z[kind == 1] > 0).sum(0))
    assert np.array_equal(index.table["fires_image"], (z[kind == 2] > 0).sum(0))
    assert np.allclose(index.table["max_act"], z.max(0), rtol=1e-4, atol=1e-4)
    assert (kind == 2).sum() == 8 * 16 and len(index.live) > 20


def test_that_examples_show_the_real_tokens_and_pictures(parts: Parts) -> None:
    _, store, _, index = parts
    kinds = set()
    for i in index.live:
        for example in index.feature(int(i)).examples:
            kinds.add(example.kind)
            sample = store.sample_of(example.row)
            assert example.sample_id == sample.id
            if example.kind == "text":
                assert sample.tokens is not None
                assert example.tokens[example.peak] == sample.tokens[example.row - sample.first_row]
            else:
                assert example.grid == (4, 4) and len(example.activations) == 16
                assert example.image is not None and example.caption is not None and example.caption.endswith("field")
    assert kinds == {"text", "image"}


def test_that_logit_effects_equal_the_folded_product(parts: Parts) -> None:
    model, _, sae, index = parts
    assert model.unembed is not None
    i = int(index.live[0])
    logits = (sae.W_dec[i] * model.final_norm.weight) @ model.unembed
    logits = (logits - logits.mean()).detach()
    best, ids = logits.topk(8)
    feature = index.feature(i)
    assert [token for token, _ in feature.top_logits] == model.token_strings(ids.tolist())
    assert np.allclose([value for _, value in feature.top_logits], best.numpy(), rtol=2e-3)
    assert feature.bottom_logits[0][1] == pytest.approx(float(logits.min()), rel=2e-3)


def test_that_what_fires_on_a_stored_text_is_what_the_store_says(parts: Parts) -> None:
    model, store, sae, index = parts
    fires = fires_on(index, model, sae, TEXTS[0])
    sample = next(store.sample(n) for n in range(store.n_samples) if store.sample(n).text == TEXTS[0])
    assert [token for token in fires.tokens if token] == [token for token in sample.tokens or () if token]
    z = sae.encode(torch.from_numpy(store.rows(slice(sample.first_row, sample.first_row + sample.n_rows), HOOK)))
    assert (fires.kinds == store.positions(slice(sample.first_row, sample.first_row + sample.n_rows)).kind).all()
    z[fires.kinds == 3] = 0
    peaks = z.max(0).values.detach().numpy()
    assert fires[0].activation == pytest.approx(peaks.max(), rel=2e-2)
    assert [fire.activation for fire in fires] == sorted((fire.activation for fire in fires), reverse=True)
    assert fires[0].values[fires[0].position] == fires[0].activation and fires[0].kind == "text"
    at = fires.at(fires[0].position)
    assert at[0][0] == fires[0].feature
    here = activations_at(index, sae, store, sample.first_row + fires[0].position)
    assert here[0].feature == fires[0].feature and here[0].token == fires[0].token
    assert here[0].activation == pytest.approx(fires[0].activation, rel=2e-2)


def test_that_other_orders_keep_loud_features_from_leading(parts: Parts) -> None:
    model, _, sae, index = parts
    by_relative = fires_on(index, model, sae, TEXTS[1], order="relative")
    shares = [fire.activation / index.table["max_act"][fire.feature] for fire in by_relative]
    assert shares == pytest.approx(sorted(shares, reverse=True))
    by_rare = fires_on(index, model, sae, TEXTS[1], order="rare", limit=3)
    assert len(by_rare) == 3
    assert {fire.feature for fire in by_relative} == {fire.feature for fire in fires_on(index, model, sae, TEXTS[1])}
    with pytest.raises(AuditorError, match="loudest"):
        fires_on(index, model, sae, TEXTS[1], order="loudest")  # type: ignore[arg-type]


def test_that_a_picture_fires_features_at_its_patches(parts: Parts) -> None:
    model, _, sae, index = parts
    fires = fires_on(index, model, sae, pictures()[0])
    assert fires.grid == (4, 4) and (fires.kinds == 2).sum() == 16
    assert any(fire.kind == "image" for fire in fires)


def test_that_the_same_store_and_dictionary_give_the_same_index(parts: Parts, tmp_path: Path) -> None:
    model, store, sae, index = parts
    assert build(BuildConfig(top=6), store, sae, model, tmp_path / "again.index").digest == index.digest
