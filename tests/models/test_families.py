"""Every family on a tiny network of its own: the checks of `tests.models.checks`, and the document made from them."""

from __future__ import annotations

import pytest

from auditor.intake.weights import FAMILIES, SPEAKERS
from auditor.models.adapters import ADAPTERS
from tests.models.checks import CHECKS
from tests.models.family_table import ELSEWHERE, held, rows
from tests.models.tiny import ALL, Case, opened


def documented(case: Case) -> bool:
    """docs/families.md names the hook points that there are."""
    assert rows()[case.tiny.name] == held(case), "run python -m tests.models.family_table"
    return True


EACH = CHECKS | {"documented": documented}


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name in ALL for check in EACH if check not in ALL[name].lacks]
)
def test_that_a_family_passes(name: str, check: str) -> None:
    assert EACH[check](opened(ALL[name])), "there was nothing to check: say so in the entry's `lacks`"


def test_that_every_family_that_opens_has_a_tiny_network_and_a_line_in_the_document() -> None:
    assert set(rows()) == set(ALL)
    assert {kind for kind, _ in rows().values()} | set(ELSEWHERE) == set(FAMILIES)
    spoken = {family for speakers in SPEAKERS.values() for family in speakers.values()}
    assert set(FAMILIES.values()) | spoken == set(ADAPTERS)
