"""Editing a feature of SmolLM2 (its first blocks, real weights) and measuring what changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.analysis.feature_edit import EditFeature
from auditor.analysis.interventions import dose_response, feature_effect
from auditor.base.errors import AuditorError
from auditor.data.sample import text_sample
from auditor.models import Edit
from auditor.sae import Sae
from tests.analysis.dictionaries import TEXTS, activation_dictionary, activation_rows

HOOK = "blocks.0.resid_post"
SAMPLES = [text_sample(text) for text in TEXTS]


@pytest.fixture(scope="module")
def sae(tiny_llama):
    return activation_dictionary(tiny_llama, HOOK, d_sae=200, k=8, seed=2)


@pytest.fixture(scope="module")
def feature(tiny_llama, sae):
    """One that fires neither always nor hardly ever."""
    density = (sae.encode(activation_rows(tiny_llama, HOOK)) > 0).float().mean(0)
    return int((density - 0.06).abs().argmin())


def test_that_an_edit_changes_the_feature_and_keeps_the_error_term(tiny_llama, sae, feature):
    x = activation_rows(tiny_llama, HOOK)[None]
    a = sae.encode(x)[..., feature, None]
    w = sae.W_dec[feature]
    torch.testing.assert_close(EditFeature(sae, feature).apply(x), x - a * w)
    torch.testing.assert_close(EditFeature(sae, feature, "scale", 3.0).apply(x), x + 2 * a * w)
    torch.testing.assert_close(EditFeature(sae, feature, "clamp", 5.0).apply(x), x + (5 - a) * w)
    conditional = EditFeature(sae, feature, "clamp", 5.0, only_active=True).apply(x)
    torch.testing.assert_close(conditional, x + torch.where(a > 0, 5 - a, torch.zeros(())) * w)
    with pytest.raises(AuditorError, match="no feature 999"):
        EditFeature(sae, 999)


def _nll(model, text, edits=()):
    inputs = model.encode([text_sample(text)])
    with torch.no_grad():
        logprobs = model.run(inputs, edits=edits).logits[0].log_softmax(-1)
    return -float(logprobs[:-1].gather(1, inputs.ids[0, 1:, None]).mean())


class _Ordinary(Edit):
    """An edit everywhere but at the begin token."""

    def __init__(self, edit):
        super().__init__(edit.hook)
        self.edit = edit

    def apply(self, x):
        return torch.cat([x[:, :1], self.edit.apply(x)[:, 1:]], 1)


def test_that_the_effect_on_the_loss_equals_editing_by_hand(tiny_llama, sae, feature):
    effect = feature_effect(tiny_llama, sae, feature, SAMPLES, measure="loss", n_null=9, n_random=3, seed=1)
    edit = _Ordinary(EditFeature(sae, feature))
    by_hand = [_nll(tiny_llama, text, [edit]) - _nll(tiny_llama, text) for text in TEXTS]
    np.testing.assert_allclose(effect.per_sample, by_hand, atol=1e-4)
    assert effect.estimate == pytest.approx(np.mean(by_hand), abs=1e-4) and effect.n == len(TEXTS)
    assert effect.interval[0] <= effect.estimate <= effect.interval[1]
    # A null feature goes through the same pipeline: its effect is the one that it gets as the tested feature.
    again = feature_effect(tiny_llama, sae, feature, SAMPLES, measure="loss", n_null=9, n_random=3, seed=1)
    assert again == effect
    assert len(effect.null) == 9 and len(effect.random) == 3 and "9 matched features" in str(effect)
    assert effect.p == (1 + sum(abs(v) >= abs(effect.estimate) for v in effect.null)) / 10


def test_that_null_features_get_what_they_get_when_tested_themselves(tiny_llama, sae, feature):
    from auditor.analysis.nulls import density_matched

    effect = feature_effect(tiny_llama, sae, feature, SAMPLES, n_null=4, n_random=0, seed=3)
    rows = torch.cat([activation_rows(tiny_llama, HOOK, [text]) for text in TEXTS])
    density = (sae.encode(rows) > 0).double().mean(0).numpy()
    drawn = density_matched(density, feature, 4, 3)
    alone = [feature_effect(tiny_llama, sae, int(f), SAMPLES, n_null=0, n_random=0).estimate for f in drawn]
    np.testing.assert_allclose(effect.null, alone, rtol=1e-3, atol=1e-6)
    assert effect.density[1] <= density[drawn].min() + 1e-9 and effect.density[0] == pytest.approx(density[feature])


def test_that_a_planted_cause_beats_its_null_and_a_bystander_does_not(tiny_llama, sae):
    """One feature writes the unembedding of a token; clamping it must raise that token, a bystander must not."""
    target = tiny_llama.tokenizer(" Rome", add_special_tokens=False)["input_ids"][0]
    hook = "blocks.1.resid_post"
    base = activation_dictionary(tiny_llama, hook, d_sae=200, k=8, seed=4)
    counts = (base.encode(activation_rows(tiny_llama, hook)) > 0).float().mean(0)
    planted, bystander = counts.argsort(descending=True)[20:22].tolist()
    decoder = base.W_dec.clone()
    decoder[planted] = torch.nn.functional.normalize(tiny_llama.unembed[:, target], dim=0)
    planted_sae = Sae(W_enc=base.W_enc, W_dec=decoder, b_enc=base.b_enc, b_dec=base.b_dec, k=8, arch="topk", hook=hook)
    options = {"measure": "target", "targets": [" Rome"] * len(SAMPLES), "mode": "clamp", "amount": 4.0, "n_null": 40}
    cause = feature_effect(tiny_llama, planted_sae, planted, SAMPLES, **options)
    other = feature_effect(tiny_llama, planted_sae, bystander, SAMPLES, **options)
    assert cause.estimate > 0 and cause.interval[0] > 0 and cause.p == pytest.approx(1 / 41)
    assert cause.p_random < 0.06 and other.p > 0.05
    assert cause.off_target.estimate >= 0 and "beside the targets" in cause.off_target.unit


def test_that_controls_give_the_off_target_figure(tiny_llama, sae, feature):
    controls = [text_sample("Completely other words about gardening and soil.")]
    effect = feature_effect(tiny_llama, sae, feature, SAMPLES, n_null=3, controls=controls, n_random=2)
    assert "control" in effect.off_target.unit and effect.off_target.n == 1
    assert feature_effect(tiny_llama, sae, feature, SAMPLES[:4], n_null=1, n_random=0).off_target is None


def test_that_a_dose_grows_with_the_level(tiny_llama, sae, feature):
    dose = dose_response(tiny_llama, sae, feature, SAMPLES, amounts=(0.0, 1.0, 4.0, 16.0))
    figures = [e.estimate for e in dose.effects]
    assert figures[1] < figures[2] < figures[3] and all(e.n == len(SAMPLES) for e in dose.effects)


def test_that_what_cannot_be_tested_is_refused(tiny_llama, sae, feature):
    silent = int((sae.encode(activation_rows(tiny_llama, HOOK)) > 0).float().sum(0).argmin())
    with pytest.raises(AuditorError, match="fires on none"):
        feature_effect(tiny_llama, sae, silent, SAMPLES[:1], n_null=2)
    with pytest.raises(AuditorError, match="no samples"):
        feature_effect(tiny_llama, sae, feature, [])
    with pytest.raises(AuditorError, match="target token"):
        feature_effect(tiny_llama, sae, feature, SAMPLES, measure="target")
