"""Dictionaries made from SmolLM2's own activations, once for all tests of this room."""

from __future__ import annotations

import pytest

from tests.analysis.dictionaries import activation_dictionary

HOOKS = ("blocks.7.resid_post", "blocks.14.resid_post", "blocks.22.resid_post")


@pytest.fixture(scope="session")
def saes(smollm2):
    """One TopK dictionary at each of three hook points, decoder rows taken from activations."""
    return {hook: activation_dictionary(smollm2, hook, seed=i) for i, hook in enumerate(HOOKS)}
