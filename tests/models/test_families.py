"""Every family on a tiny network of its own: the checks of `tests.models.checks`, and the document made from them."""

from __future__ import annotations

import pytest

from auditor.intake.weights import FAMILIES
from tests.models.checks import CHECKS
from tests.models.family_table import ELSEWHERE, held, rows
from tests.models.tiny import ALL, opened


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name in ALL for check in CHECKS if check not in ALL[name].lacks]
)
def test_that_a_family_passes(name: str, check: str) -> None:
    assert CHECKS[check](opened(ALL[name])), "there was nothing to check: say so in the entry's `lacks`"


@pytest.mark.parametrize("name", ALL)
def test_that_the_document_names_the_hook_points_there_are(name: str) -> None:
    assert rows()[name] == held(opened(ALL[name])), "run python -m tests.models.family_table"


def test_that_every_family_that_opens_has_a_tiny_network() -> None:
    told = {opened(tiny).source.config.model_type for tiny in ALL.values()}
    assert told | set(ELSEWHERE) == set(FAMILIES)
    assert set(rows()) == set(ALL)
