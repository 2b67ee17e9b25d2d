"""Sounds are tested as text and pictures are: a feature that fires on what is heard acts, detects, and is traced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from auditor.analysis.circuits import AttributeConfig, attribute
from auditor.analysis.detection import pool
from auditor.analysis.interventions import feature_effect
from auditor.data.sample import PositionKind
from auditor.models import open_model
from auditor.sae import Sae
from tests.models.tiny import ALL, opened

SOUND = int(PositionKind.AUDIO)


def of_rows(rows: torch.Tensor, hook: str) -> Sae:
    """A dictionary whose features are these rows, less their mean, which fire on what is like them."""
    unit = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    return Sae(
        W_enc=unit.T.contiguous(), W_dec=unit, b_enc=torch.zeros(len(unit)), b_dec=rows.mean(0), hook=hook,
        arch="topk", k=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def among_text(tmp_path_factory):
    """A network that hears among text, a sound and a text, and a dictionary of what the network makes of the sound."""
    tiny, folder = ALL["gemma4 with sounds"], tmp_path_factory.mktemp("sounds")
    tiny.save(folder)
    model, sample = open_model(folder), replace(tiny.samples()[0], image=None, text="one two")
    inputs = model.encode([sample])
    rows = model.run(inputs, record=["blocks.0.resid_post"], logits=False).rows("blocks.0.resid_post")[0]
    return model, sample, of_rows(rows[inputs.kind[0] == SOUND].detach(), "blocks.0.resid_post")


def test_that_a_feature_of_a_sound_has_an_effect(among_text) -> None:
    model, sample, sae = among_text
    found = feature_effect(model, sae, 3, [sample], n_null=4, n_random=4)
    assert found.fired == 1 and found.estimate > 0


def test_that_a_sound_alone_is_a_prompt_whose_features_become_nodes(among_text) -> None:
    model, sample, sae = among_text
    for prompt in (sample, replace(sample, text=None)):
        graph = attribute(model, [sae], prompt, AttributeConfig(max_logits=2))
        heard = set(torch.nonzero(model.encode([prompt]).kind[0] == SOUND)[:, 0].tolist())
        assert heard & {node.position for node in graph.nodes if node.kind == "feature"}
        rows = graph.mask("feature", "logit")
        scale = np.abs(graph.adjacency).sum(1)[rows] + np.abs(graph.value[rows])
        assert np.abs(graph.missing()[rows] / scale).max() < 2e-5


def test_that_sounds_are_scored_by_their_frames() -> None:
    case, hook = opened(ALL["wav2vec2"]), "blocks.0.resid_post"
    one, two = case.samples[:2]
    run = case.model.run(case.model.encode([one, two]), record=[hook], logits=False)
    heard = [rows[kind == SOUND] for rows, kind in zip(run.rows(hook), run.positions(hook).kind, strict=True)]
    sae = of_rows(torch.cat(heard).detach(), hook)
    pooled = pool(case.model, sae, [one], [two])
    assert pooled.length.tolist() == [len(rows) for rows in heard]
    for largest, rows in zip(pooled.features, heard, strict=True):
        np.testing.assert_allclose(largest, sae.encode(rows).amax(0), rtol=1e-4, atol=1e-5)
