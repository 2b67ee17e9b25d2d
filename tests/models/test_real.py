"""The checks of families on networks with trained weights, where the sample models are prepared."""

from __future__ import annotations

import pytest

from tests.models.checks import CHECKS
from tests.models.family_table import _real_rows
from tests.models.real import RealCase, real
from tests.models_fixtures import sample_folder

# What takes long at 30 blocks is checked by the command that makes docs/families.md.
EACH = {
    "minilm-l6": tuple(CHECKS), "efficientnet-lite0": tuple(CHECKS), "rxnmapper-albert": tuple(CHECKS),
    "smollm2-135m": ("states", "sums", "pattern", "mlp", "unembedding"), "paired": ("sums", "mlp", "unembedding"),
}  # fmt: skip


def opened(name: str) -> RealCase:
    return real(sample_folder(name))


@pytest.mark.parametrize(("name", "check"), [(name, check) for name, checks in EACH.items() for check in checks])
def test_that_a_network_with_trained_weights_passes(name: str, check: str) -> None:
    case = opened(name)
    if check in case.tiny.lacks:
        pytest.skip(case.tiny.lacks[check])
    assert CHECKS[check](case), "there was nothing to check"


def test_that_the_document_has_the_sample_models_without_a_failure() -> None:
    lines = _real_rows()
    assert set(lines) == set(EACH)
    assert not any("✗" in line for line in lines.values())
