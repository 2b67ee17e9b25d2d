"""What takes a dictionary for an autoencoder of raw activations says so to transcoders, crosscoders and row norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from auditor.analysis.circuits import attribute
from auditor.analysis.compare import match
from auditor.analysis.feature_edit import EditFeature
from auditor.analysis.interventions import dose_response, feature_effect
from auditor.base.errors import AuditorError
from auditor.data.sample import text_sample
from auditor.features.build import BuildConfig, build
from auditor.sae.sae import Sae
from auditor.store.record import RecordConfig, record

READ, WRITTEN = "blocks.1.resid_mid", "blocks.1.mlp_out"
TEXTS = ["The river runs through the old town.", "A lock of brass on the door.", "Light fell on the copper roof."]


def plain(seed: int = 0, hook: str = "blocks.1.resid_post") -> Sae:
    g = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=g) * 0.05 for shape in ((576, 64), (64, 576), (64,), (576,))]
    return Sae("topk", *tensors, k=8, hook=hook)


OTHERS = {
    "a transcoder": replace(plain(), hook=READ, hook_out=WRITTEN),
    "a crosscoder": replace(plain(), hook="a, b", sources=(("a", 300), ("b", 276))),
    "one that normalises each row first": replace(plain(), normalise="layer_norm"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_that_edits_interventions_and_circuits_refuse_other_kinds(tiny_llama, kind):
    sae, samples = OTHERS[kind], [text_sample(text) for text in TEXTS]
    at = "blocks.1.resid_post"
    works = [
        lambda: EditFeature(sae, 3, "ablate"),
        lambda: feature_effect(tiny_llama, sae, 3, samples, hook=at),
        lambda: dose_response(tiny_llama, sae, 3, samples, amounts=[1.0], hook=at),
        lambda: attribute(tiny_llama, {at: sae}, TEXTS[0]),
    ]
    for work in works:
        with pytest.raises(AuditorError, match=f"and this is {kind}"):
            work()


def test_that_pursuit_cannot_be_traced(tiny_llama):
    pursuing = replace(plain(), arch="matching_pursuit")
    with pytest.raises(AuditorError, match="one after another"):
        attribute(tiny_llama, [pursuing], TEXTS[0])


def test_that_directions_are_compared_only_where_they_are_of_one_space():
    assert match(plain(), plain(seed=1)).matched.n == 64
    assert match(OTHERS["a transcoder"], OTHERS["a transcoder"]).matched.estimate == 1
    for kind in ("a transcoder", "a crosscoder"):
        with pytest.raises(AuditorError, match="write to different places"):
            match(plain(), OTHERS[kind])


def test_that_a_transcoders_index_tells_what_it_reads_and_what_it_writes(tiny_llama, tmp_path):
    samples = [text_sample(text) for text in TEXTS]
    config = RecordConfig(model="", samples="", hooks=(READ, WRITTEN), batch_size=4)
    store = record(config, tiny_llama, samples, tmp_path / "s.store")
    sae = OTHERS["a transcoder"]
    with build(BuildConfig(top=2, per_band=1), store, sae, tiny_llama, tmp_path / "t.index") as index:
        assert (index.meta["hook"], index.meta["dictionary"]["hook_out"]) == (READ, WRITTEN)
        rows = torch.from_numpy(store.rows(slice(None), READ))
        usual = torch.from_numpy(store.positions(slice(None)).kind == 1)
        fires = (sae.encode(rows[usual]) > 0).sum(0).numpy()
        assert (index.table["fires_text"] == fires).all() and fires.sum() == 8 * int(usual.sum())
        assert index.feature(int(fires.argmax())).top_logits  # what it writes to mlp_out reaches the logits
    with pytest.raises(AuditorError, match="This crosscoder reads 2 hook points"):
        build(BuildConfig(), store, OTHERS["a crosscoder"], tiny_llama, tmp_path / "c.index")
    assert not (tmp_path / "c.index").exists()
