"""A sample's labels as text."""

from __future__ import annotations

from auditor.data.sample import Sample
from auditor.data.samples import Samples


def test_that_a_label_without_a_value_is_none() -> None:
    labels = {"kind": "None", "size": None, "weight": float("nan"), "count": 0, "said": "", "whole": True}
    assert Sample("a", text="b", labels=labels).told == {"kind": "None", "count": "0", "said": "", "whole": "True"}


def test_that_two_who_remember_at_a_time_each_get_their_own() -> None:
    samples = Samples("texts", [Sample("a", text="b")])

    def first(_: object) -> str:
        assert samples.remembered("second", lambda _: "of the second") == "of the second"  # meanwhile, by another
        return "of the first"

    assert samples.remembered("first", first) == "of the first"
    entered = []

    class Key(str):
        """While it is compared another thread is faster."""

        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            if not entered:
                entered.append(samples.remembered("second", lambda _: "of the second"))
            return str.__ne__(self, str(other))

    assert samples.remembered(Key("first"), lambda _: "another") == "of the first" and entered == ["of the second"]
