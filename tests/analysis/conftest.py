"""SmolLM2 and dictionaries made from its own activations, opened once."""

from __future__ import annotations

import pytest

from auditor.base.paths import sample_models
from tests.analysis.dictionaries import activation_dictionary

HOOKS = ("blocks.7.resid_post", "blocks.14.resid_post", "blocks.22.resid_post")


@pytest.fixture(scope="session")
def smol():
    """SmolLM2-135M with real weights."""
    pytest.importorskip("torch")
    from auditor.models import open_model

    folder = sample_models() / "smollm2-135m"
    if not folder.is_dir():
        pytest.skip("the sample models are not made yet (sample_data/models.py)")
    return open_model(folder)


@pytest.fixture(scope="session")
def saes(smol):
    """One TopK dictionary at each of three hook points, decoder rows taken from activations."""
    return {hook: activation_dictionary(smol, hook, seed=i) for i, hook in enumerate(HOOKS)}
