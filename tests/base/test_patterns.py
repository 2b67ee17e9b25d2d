"""Names that stand for several."""

from __future__ import annotations

import pytest

from auditor.base.patterns import is_pattern, matches


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("blocks.*.z", ["blocks.0.z", "blocks.11.z"], ["blocks.0.q", "vision.blocks.0.z", "blocks.0.attn.z"]),
        ("blocks.2:5.z", ["blocks.2.z", "blocks.4.z"], ["blocks.5.z", "blocks.1.z", "blocks.x.z"]),
        ("blocks.*.resid_*", ["blocks.3.resid_pre", "blocks.3.resid_post"], ["blocks.3.mlp_out"]),
        ("*.blocks.0.z", ["vision.blocks.0.z"], ["blocks.0.z"]),
        ("blocks.(1).z", [], ["blocks.1.z"]),
    ],
)
def test_that_a_pattern_stands_for_the_names_of_its_form(pattern: str, taken: list[str], left: list[str]) -> None:
    assert all(matches(pattern, name) for name in taken) and not any(matches(pattern, name) for name in left)
    assert is_pattern(pattern) == bool(taken)
