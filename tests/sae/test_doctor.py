"""The import doctor on SmolLM2's real activations: dictionaries saved in a wrong convention are told which is right."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.base.paths import sample_data
from auditor.data.sample import PositionKind, text_sample
from auditor.models import open_model
from auditor.sae import conventions, load
from auditor.sae.doctor import examine, plausible
from auditor.sae.readings import read_as, title
from auditor.sae.sae import Sae
from auditor.sae.trainer import TrainConfig, train
from auditor.tasks.examination import Recorded
from tests.models_fixtures import cut_llama
from tests.sae.memory_store import MemoryStore, known

HOOK, NEXT = "blocks.7.resid_post", "blocks.7.mlp_out"
KEPT = "blocks.7.resid_post-topk-2048-74d201f0.sae"


@pytest.fixture(scope="module")
def store(smollm2_folder, tmp_path_factory):
    """Rows of 96 texts at two hook points of SmolLM2's eighth block."""
    folder = tmp_path_factory.mktemp("cut") / "smollm2-8"
    cut_llama(smollm2_folder, folder, 8)
    model = open_model(folder)
    with gzip.open(sample_data() / "texts" / "texts.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file][::70][:96]
    found = Recorded({HOOK: 0, NEXT: 0})
    for begin in range(0, len(texts), 8):
        run = model.run(model.encode([text_sample(text) for text in texts[begin : begin + 8]], 48), record=[HOOK, NEXT])
        kind = run.positions(HOOK).kind.numpy()
        rows = {hook: run.rows(hook).float().numpy().reshape(kind.size, -1) for hook in (HOOK, NEXT)}
        found.add(rows, kind.reshape(-1), (begin + np.arange(len(kind))).repeat(kind.shape[1]))
    return found


@pytest.fixture(scope="module")
def right():
    """The sample audit's own TopK dictionary of that hook point: 2048 features, 32 active."""
    sae = load(sample_data() / "audit" / "dictionaries" / KEPT)
    sae.meta["origin"] = {}
    return sae


def by_reading(found):
    return {row.reading: row for row in found.table}


def weights(sae):
    return {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}


FACTOR = 0.1746  # its training's norm factor
WRONG = {
    "TopK saved as ReLU": ("topk=32", lambda s: replace(s, arch="relu", k=None)),
    "formula without b_dec on the input, read as with": (
        "no-b_dec-on-input", lambda s: replace(s, **conventions.input_centred(weights(s))),
    ),
    "formula with b_dec on the input, read as without": (
        "b_dec-on-input", lambda s: replace(s, **conventions.input_not_centred(weights(s))),
    ),
    "norm factor missing": ("scale=", lambda s: replace(s, **conventions.input_scaled(weights(s), 1 / FACTOR))),
    "norm factor missing in b_dec": ("b_dec-scale=", lambda s: replace(s, b_dec=s.b_dec * FACTOR)),
    "norm factor missing, and TopK saved as ReLU": (
        "scale=", lambda s: replace(s, arch="relu", k=None, **conventions.input_scaled(weights(s), 1 / FACTOR)),
    ),
}  # fmt: skip


def test_that_what_is_read_rightly_is_told_so(store, right):
    found = examine(right, store, n=1024, name="smollm2")
    assert found.verdict == "as read" and "reconstructs best: FVU" in found.sentence
    assert (found.store, found.hook, found.reading) == ("smollm2", HOOK, "as read")
    first = found.table[0]
    assert first.reading == "as read" and first.l0 == pytest.approx(32, abs=0.1) and first.fvu < 0.12
    assert first.interval[0] < first.fvu < first.interval[1]
    assert [row.fvu for row in found.table] == sorted(row.fvu for row in found.table) and len(found.table) > 4
    x = store.rows(slice(None), HOOK)[store.positions(slice(None)).kind == 1].astype(np.float64)
    x = x[np.linalg.norm(x, axis=1) < 8 * np.median(np.linalg.norm(x, axis=1))]
    off = x - right.reconstruct(torch.from_numpy(x).float()).numpy()
    assert first.fvu == pytest.approx((off**2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=0.15)  # other rows, 1024


@pytest.mark.parametrize("name", WRONG)
def test_that_a_wrong_convention_is_named_and_its_reading_restores_the_dictionary(store, right, name):
    expected, change = WRONG[name]
    wrong = change(right)
    found = examine(wrong, store, n=1024)
    assert found.verdict == "another" and found.reading.startswith(expected), found.sentence
    assert f"--convention {found.reading}" in found.sentence
    by = by_reading(found)
    assert by[found.reading].interval[1] < by["as read"].interval[0] or by[found.reading].fvu < 0.8 * by["as read"].fvu
    x = torch.from_numpy(store.rows(slice(200, 700), HOOK))
    off = (read_as(wrong, found.reading).reconstruct(x) - right.reconstruct(x)).pow(2).sum()
    assert float(off) < 0.1 * float((x - x.mean(0)).pow(2).sum())
    if "TopK" in name:
        assert "ask its maker" in found.sentence and "topk=32" in found.reading


def test_that_a_transposed_decoder_and_a_row_norm_are_named(store, tmp_path):
    kinds = store.positions(slice(None)).kind
    data = MemoryStore(store.rows(slice(None), HOOK), hook=HOOK, kind=kinds, sample=store.positions(slice(None)).sample)
    settings = {"k": 24, "steps": 150, "batch_size": 256, "device": "cpu", "checkpoint_every": 500, "lr": 2e-3}
    square = train(TrainConfig(d_sae=576, **settings), data, tmp_path / "square")
    wrong = replace(square, W_dec=square.W_dec.T.contiguous())
    found = examine(wrong, store, n=768)
    assert (found.verdict, found.reading) == ("another", "transposed-decoder"), found.sentence
    normed = train(TrainConfig(d_sae=640, normalise="layer_norm", **settings), data, tmp_path / "normed")
    assert normed.normalise == "layer_norm"
    # Centring by the mean of a row changes little here, so the two norms of a row are close: it names both.
    found = examine(replace(normed, normalise="none"), store, n=768)
    assert (found.table[0].reading, found.table[0].fvu < 0.2 * by_reading(found)["as read"].fvu) == ("layer_norm", True)
    assert found.verdict == "another" or "too close to choose between" in found.sentence
    assert "each row layer-normalised" in found.sentence
    found = examine(normed, store, n=768)
    assert (found.table[0].reading, found.reading) == ("as read", "as read")


def test_that_two_readings_that_are_close_are_not_chosen_between(store, right):
    """The encoder's bias is moved until subtracting b_dec and not subtracting it err alike."""
    kinds = store.positions(slice(None)).kind
    x = torch.from_numpy(store.rows(slice(None), HOOK)[kinds == 1])
    x = x[x.norm(dim=1) < 8 * x.norm(dim=1).median()]

    def moved(share):
        return replace(right, b_enc=right.b_enc - share * right.b_dec @ right.W_enc)

    low, high = 0.0, 1.0
    for _ in range(12):
        share = (low + high) / 2
        worse = [float((dictionary.reconstruct(x) - x).pow(2).sum()) for dictionary in (moved(share), moved(share - 1))]
        low, high = (share, high) if worse[0] < worse[1] else (low, share)
    found = examine(moved((low + high) / 2), store, n=store.n_rows)  # the very rows of the search
    by = by_reading(found)
    assert by["as read"].fvu == pytest.approx(by["no-b_dec-on-input"].fvu, rel=0.01)
    assert (found.verdict, found.reading) == ("undecided", "as read"), found.sentence
    assert "cannot be told from “b_dec not subtracted from the input”" in found.sentence


def test_that_the_wrong_activations_are_told(store, right):
    other = Recorded({HOOK: 576})
    other.add(
        {HOOK: store.rows(slice(None), NEXT)}, store.positions(slice(None)).kind, store.positions(slice(None)).sample
    )
    found = examine(right, other, n=512)
    assert found.verdict == "none fits" and "No reading reconstructs" in found.sentence
    with pytest.raises(AuditorError, match=r"does not hold “blocks\.9\.resid_post” in the width 576"):
        examine(replace(right, hook="blocks.9.resid_post"), store)


def test_that_a_transcoder_is_examined_on_what_it_predicts(store):
    """A linear map by least squares from one hook point to the next, cut into ReLU features of both signs."""
    ordinary = store.positions(slice(None)).kind == 1
    x, y = (torch.from_numpy(store.rows(slice(None), hook)[ordinary]).double() for hook in (HOOK, NEXT))
    usual = x.norm(dim=1) < 8 * x.norm(dim=1).median()
    x, y = x[usual], y[usual]
    one = torch.cat([x, torch.ones(len(x), 1)], 1)
    fitted = torch.linalg.solve(one.T @ one + 1e-3 * len(x) * torch.eye(577), one.T @ y).float()
    eye = torch.eye(576)
    both = Sae("relu", torch.cat([eye, -eye], 1), torch.cat([fitted[:-1], -fitted[:-1]]), torch.zeros(1152), fitted[-1],
               hook=HOOK, hook_out=NEXT)  # fmt: skip
    readings = plausible(both, x.float())
    assert "no-b_dec-on-input" not in readings and "b_dec-on-input" in readings and "layer_norm" not in readings
    found = examine(both, store, n=1024)
    by = by_reading(found)
    assert found.verdict == "as read" and by["as read"].fvu < 0.5
    assert by["b_dec-on-input"].fvu > 1.02 * by["as read"].fvu


@pytest.mark.parametrize(
    ("reading", "told"), [("upside-down", "not a convention"), ("scale=x", "not a positive number"),
                          ("topk=many", "not a whole number"), ("scale", "not a convention"),
                          ("transposed-decoder", "not square"), ("topk=0", "needs k between")],
)  # fmt: skip
def test_that_a_reading_that_is_none_gets_one_sentence(right, reading, told):
    with pytest.raises(AuditorError, match=told):
        read_as(right, reading)


def test_that_readings_are_told_in_words():
    assert title("as read") == "as read"
    assert title("scale=0.05+topk=32") == "made for inputs times 0.05, TopK of 32"


def test_that_more_active_features_alone_do_not_make_a_better_reading():
    # Thresholds that silence half of what is there: without them more features fire, and less is left unexplained.
    rows, directions = known(2000, n_true=16)
    decoder = torch.from_numpy(directions)
    strict = Sae("jumprelu", torch.linalg.pinv(decoder), decoder, torch.zeros(16), decoder[0], threshold=torch.ones(16))
    found = examine(replace(strict, hook="blocks.1.resid_post"), MemoryStore(rows))
    readings = by_reading(found)
    assert readings["relu"].fvu < 0.1 * readings["as read"].fvu and readings["relu"].l0 > 1.5 * readings["as read"].l0
    assert found.verdict == "undecided" and "explains more" in found.sentence


def test_that_a_single_sample_leaves_as_much_doubt_as_its_rows():
    rows, directions = known(2000, n_true=16)
    sae = Sae("relu", torch.from_numpy(directions.T), torch.from_numpy(directions), torch.zeros(16), torch.zeros(32),
              hook="blocks.1.resid_post")  # fmt: skip
    one, many = (examine(sae, MemoryStore(rows, sample=of)) for of in (np.zeros(2000, np.int32), None))
    assert one.n_samples == 1 and one.n == many.n
    wide, usual = (found.table[0].interval[1] - found.table[0].interval[0] for found in (one, many))
    assert 0.3 * usual < wide < 3 * usual


def test_that_rows_of_sound_are_examined_as_others_are():
    sae = Sae("relu", torch.eye(32), torch.eye(32), torch.zeros(32), torch.zeros(32), hook="blocks.1.resid_post")
    found = examine(sae, MemoryStore(known(600)[0], kind=np.full(600, PositionKind.AUDIO, np.uint8)))
    assert found.n + found.outlying == 600 and found.n > 500
