"""`auditor unfinished`: what is listed, that removing asks, and that one can be gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auditor.base.errors import Stop
from auditor.base.reporter import Reporter
from auditor.project import Project
from tests.journeys.running import auditor as command_line


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A project with the tests of edits that a run left."""
    with Project.create(tmp_path / "project") as project:
        run = project.catalogue.begin_run("experiment", {}, {})
        place = project.keyed_path("result", "edits", "ab12cd34").with_suffix(".unfinished")
        project.catalogue.begin_at(run, place, {"edit": ["freeze"], "n": 7})
        project.catalogue.end_run(run, "cancelled", {}, [])
        place.write_bytes(b'{"values": 4}\n[0.5, 1.5]\n')
    yield tmp_path / "project"


def listed(folder: Path) -> list[dict[str, Any]]:
    told = command_line("unfinished", "-p", folder, "--json")
    assert told.code == 0
    found: list[dict[str, Any]] = told.json["unfinished"]
    return found


def test_that_it_lists_what_is_left_with_how_far_it_came_and_what_it_takes(folder: Path) -> None:
    (row,) = listed(folder)
    assert row.keys() == {"name", "work", "reached", "changed", "bytes", "goes_on"}
    assert (row["name"], row["work"], row["reached"]) == ("edits-ab12cd34", "tests of edits", "2 of 4 runs")
    assert row["goes_on"] is True and row["bytes"] > 0
    text = command_line("unfinished", "-p", folder).out
    assert "edits-ab12cd34" in text and "2 of 4 runs" in text and " MB" in text and "UTC" in text
    with Project.open(folder) as held:  # while another program holds the project, it can be listed all the same
        assert held.writable and command_line("unfinished", "-p", folder, "--json").json["unfinished"] == [row]


def test_that_removing_asks_first_and_needs_a_word_where_nobody_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("unfinished", "-p", folder, "--remove", "edits-ab12cd34")
    told = command_line(*asked)
    assert told.code == 2 and "Add --yes" in told.err and listed(folder)
    monkeypatch.setattr("auditor.cli.unfinished._can_answer", lambda: True)
    for answer, said in ((False, "Nothing was removed."), (True, "Removed: edits-ab12cd34")):
        questions: list[str] = []
        monkeypatch.setattr(
            "click.confirm", lambda text, answer=answer, heard=questions, **_: (heard.append(text), answer)[1]
        )
        told = command_line(*asked)
        assert told.code == 0 and said in told.out and "2 of 4 runs" in questions[0]
        assert len(listed(folder)) == (not answer)
    assert "Nothing is unfinished." in command_line("unfinished", "-p", folder).out
    assert command_line(*asked, "--yes").code == 2


def test_that_json_removes_at_once_with_yes(folder: Path) -> None:
    told = command_line("unfinished", "-p", folder, "--remove", "edits-ab12cd34", "--yes", "--json")
    assert told.code == 0 and told.json["removed"] == "edits-ab12cd34" and not listed(folder)


def test_that_going_on_runs_the_same_settings_onto_what_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    def run_task(verb: str, project: Project, config: Any, reporter: Reporter, *, onto: Any) -> dict[str, Any]:
        ran.append((verb, config.edit, config.n, [place.name for place in onto]))
        return {"tested": 4, "artefacts": []}

    monkeypatch.setattr("auditor.tasks.unfinished.run_task", run_task)
    told = command_line("unfinished", "-p", folder, "--go-on", "edits-ab12cd34")
    assert told.code == 0 and "tested: 4" in told.out
    assert ran == [("experiment", ("freeze",), 7, ["edits-ab12cd34.unfinished"])]


@pytest.mark.parametrize("asked", [("--go-on", "edits-ab12cd34"), ("--go-on=edits-ab12cd34",)])
def test_that_going_on_that_is_stopped_says_what_was_kept_and_how_it_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...]
) -> None:
    def run_task(verb: str, project: Project, *_: Any, **__: Any) -> dict[str, Any]:
        (project.folder / "notes.txt").write_text("one")
        made, stop = project.add("samples", "n", project.folder / "notes.txt"), Stop()
        stop.kept = {"kept": "2 of 4 runs.", "artefacts": [made.id]}
        raise stop

    monkeypatch.setattr("auditor.tasks.unfinished.run_task", run_task)
    told = command_line("unfinished", "-p", folder, *asked, "--json")
    assert told.code == 130 and told.json["hint"].startswith("The same command goes on")
    (artefact,) = told.json["unfinished"]["artefacts"]
    assert (artefact["kind"], artefact["name"]) == ("samples", "n")


@pytest.mark.parametrize("asked", [("--go-on", "x"), ("--remove", "x", "--yes"), ("--go-on", "x", "--remove", "x")])
def test_that_what_cannot_be_done_is_told_in_a_sentence(folder: Path, asked: tuple[str, ...]) -> None:
    told = command_line("unfinished", "-p", folder, *asked)
    assert told.code == 2 and told.err.strip() and "Traceback" not in told.err and listed(folder)


def test_that_starting_anew_asks_then_removes_what_is_left_and_runs_the_same_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def run_task(verb: str, project: Project, config: Any, reporter: Reporter) -> dict[str, Any]:
        ran.append((verb, config.edit, config.n, [path.name for path in project.folder_of("result").iterdir()]))
        return {"tested": 4, "artefacts": []}

    monkeypatch.setattr("auditor.tasks.unfinished.run_task", run_task)
    asked = ("unfinished", "-p", folder, "--anew", "edits-ab12cd34")
    told = command_line(*asked)
    assert told.code == 2 and "Add --yes" in told.err and listed(folder) and not ran
    told = command_line(*asked, "--yes")
    assert told.code == 0 and "tested: 4" in told.out and not listed(folder)
    assert ran == [("experiment", ("freeze",), 7, [])]
    both = command_line(*asked, "--go-on", "edits-ab12cd34")
    assert both.code == 2 and "one of --go-on, --anew and --remove" in both.err
