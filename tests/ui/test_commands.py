"""The registry of commands and the search behind Ctrl+K."""

from __future__ import annotations

import pytest

from auditor.base.errors import AuditorError
from auditor.ui.commands import Command, Commands, Hit, score


def registry(has: str = "") -> tuple[Commands, list[str], list[Exception]]:
    done: list[str] = []
    failures: list[Exception] = []
    made = Commands(lambda need: need in ("", has), failures.append, lack=lambda need: AuditorError(f"No {need}."))
    for name, title, keys, need in (
        ("feature.label", "Label this feature…", "L", "feature"),
        ("run.train", "Train a dictionary…", "", ""),
        ("view.larger", "Larger text", "Ctrl++", ""),
    ):
        made.add(Command(id=name, title=title, keys=keys, needs=need, run=lambda name=name: done.append(name)))
    return made, done, failures


def test_that_two_commands_cannot_claim_one_id_or_one_key() -> None:
    made, _, _ = registry()
    with pytest.raises(ValueError, match="claim the id"):
        made.add(Command(id="run.train", title="Again", run=list))
    with pytest.raises(ValueError, match="both claim L"):
        made.add(Command(id="other", title="Other", keys="L", run=list))


def test_that_a_command_runs_only_when_what_it_needs_is_there_and_else_says_what_is_not() -> None:
    made, done, failures = registry()
    made.run("feature.label")
    assert done == [] and str(failures[0]) == "No feature."
    made, done, _ = registry("feature")
    made.run("feature.label")
    assert done == ["feature.label"]


def test_that_a_failure_is_handed_over_and_not_thrown() -> None:
    made, _, failures = registry()

    def fail() -> None:
        raise AuditorError("No room.", "Free some.")

    made.add(Command(id="bad", title="Bad", run=fail))
    made.run("bad")
    made.run("nothing of that name")
    assert str(failures[0]) == "No room. Free some."
    assert "nothing of that name" in str(failures[1])


def test_that_search_finds_by_letters_in_order_and_starts_of_words_first() -> None:
    made, _, _ = registry("feature")
    assert made.search("lab")[0][1][0].title == "Label this feature…"
    assert [hit.title for _, hits in made.search("tad") for hit in hits] == ["Train a dictionary…"]
    assert made.search("zzz") == []
    assert score("tt", "larger text") > 0 == score("tx", "train")


def test_that_panes_can_offer_more_to_find() -> None:
    made, _, _ = registry()
    made.add_provider("Features", lambda query: [Hit(f"padlock {query}", list)])
    assert made.search("lock")[-1][0] == "Features"
    assert made.search("lock")[-1][1][0].title == "padlock lock"
