"""Configs: one declaration that gives forms, options and messages."""

from __future__ import annotations

import pytest

from auditor.base.config import Config, describe, field, read_config
from auditor.base.errors import AuditorError


class Example(Config):
    steps: int = field(10, title="Steps", help="How many.", unit="steps", ge=1, le=100)
    mode: str = field("a", title="Mode", choices=("a", "b"), advanced=True)


def test_that_a_field_tells_all_that_a_form_needs() -> None:
    facts = describe(Example.model_fields["steps"])
    assert (facts["title"], facts["help"], facts["unit"], facts["ge"], facts["le"]) == (
        "Steps",
        "How many.",
        "steps",
        1,
        100,
    )
    assert describe(Example.model_fields["mode"])["choices"] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "told"),
    [({"steps": 0}, "“Steps” .steps. is not usable"), ({"stops": 1}, "stops"), ({"steps": "many"}, "Steps")],
)
def test_that_the_first_wrong_setting_is_named(values: dict[str, object], told: str) -> None:
    with pytest.raises(AuditorError, match=told):
        read_config(Example, values)


def test_that_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example().steps = 3  # type: ignore[misc]
