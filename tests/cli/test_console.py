"""What a person at the command line hears while work goes on."""

from __future__ import annotations

import json

import pytest

from auditor.cli import console

FULL = {"message": "The disk is full: “d” needs 3.0 MB and 0.1 MB are free in /x.", "missing": 2_900_000}


@pytest.mark.parametrize("as_json", [False, True])
def test_that_plans_mishaps_and_a_full_disk_are_told_while_it_works(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.reporting(as_json) as reporter:
        reporter.partial("planned", minutes=2.04, memory_mb=51.3, disk_mb=1.2)
        reporter.partial("warning", run="k=4", step=3, message="The loss leapt at step 3.")
        reporter.partial("disk_full", **FULL)
        reporter.partial("density", step=3)
    told = capsys.readouterr()
    assert not told.out
    planned, mishap = "Planned: minutes 2.04, memory mb 51.3, disk mb 1.2", "k=4: The loss leapt at step 3."
    # With --json nothing but that it waits, which may last for hours.
    assert told.err.splitlines() == [*([] if as_json else [planned, mishap]), FULL["message"]]


def test_that_a_model_that_is_opened_is_told_with_where_it_lies(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        with console.reporting(as_json) as reporter:
            reporter.partial("opens", model="clip", place="/m/clip", message="Opening the model “clip” from /m/clip…")
    told = capsys.readouterr()
    assert told.err.splitlines() == ["Opening the model “clip” from /m/clip…"] and not told.out


def test_that_what_is_done_before_the_work_begins_is_told_without_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    with console.reporting(False) as reporter:
        reporter.step(0, note="opening clip")
        reporter.started("Record clip", 5, "samples")
    assert capsys.readouterr().err.splitlines() == ["Opening clip…", "Record clip…"]


def test_that_half_a_character_is_written_as_json_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"path": "caf\udce9 ✓", "loss": float("nan")})
    told = capsys.readouterr().out
    assert json.loads(told) == {"path": "caf\udce9 ✓", "loss": None} and "✓" in told
