"""A sample's labels as text."""

from __future__ import annotations

from auditor.data.sample import Sample


def test_that_a_label_without_a_value_is_none() -> None:
    labels = {"kind": "None", "size": None, "weight": float("nan"), "count": 0, "said": "", "whole": True}
    assert Sample("a", text="b", labels=labels).told == {"kind": "None", "count": "0", "said": "", "whole": "True"}
