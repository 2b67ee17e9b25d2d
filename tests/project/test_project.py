"""A project folder: one writer, artefacts that are found again, runs and log entries that last."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.project import Project
from auditor.project.log import first_break, read_entries
from auditor.project.migrations import VERSION


@pytest.fixture
def project(tmp_path: Path):
    with Project.create(tmp_path / "audit", "An audit") as made:
        yield made


def test_that_an_artefact_is_found_by_id_name_and_path(project: Project) -> None:
    path = project.new_path("result", "a graph")
    path.write_text("{}")
    artefact = project.add("result", "a graph", path, meta={"nodes": 3})
    for ref in (artefact.id, artefact.id[:5], "a graph", path):
        assert project.find(ref) == artefact
    assert project.find("a graph", kind="result").meta == {"nodes": 3}


def test_that_an_unknown_name_is_told_with_those_that_exist(project: Project) -> None:
    path = project.new_path("result", "kept")
    path.write_text("{}")
    project.add("result", "kept", path)
    with pytest.raises(AuditorError, match="kept"):
        project.find("lost")
    for number in range(9):
        (place := project.new_path("result", f"r{number}")).write_text("{}")
        project.add("result", f"r{number}", place)
    with pytest.raises(AuditorError) as caught:
        project.find("lost")
    assert caught.value.hint == f"There are: {', '.join(f'r{number}' for number in range(1, 9))} and 2 older ones."


@pytest.mark.parametrize("ref", ["~nobody-of-this-name", "x" * 300, "a\0b"], ids=["no person", "too long", "null"])
def test_that_what_can_be_no_path_is_an_unknown_name(project: Project, ref: str) -> None:
    with pytest.raises(AuditorError, match="has no artefact called"):
        project.find(ref)


def test_that_an_entry_that_cannot_be_replaced_stays(project: Project) -> None:
    (path := project.new_path("result", "kept")).write_text("{}")
    kept = project.add("result", "kept", path)
    with sqlite3.connect(project.catalogue.path) as db:
        db.execute("CREATE TRIGGER t BEFORE INSERT ON artefacts BEGIN SELECT RAISE(ABORT, 'no room'); END")
    with pytest.raises(AuditorError, match="no room"):
        project.add("result", "newer", path)
    assert project.artefacts() == [kept]


@pytest.mark.parametrize("damage", ["{", "[]", "5", "[" * 100_000], ids=["cut", "a list", "a number", "deep"])
@pytest.mark.parametrize("table, column", [("artefacts", "meta"), ("runs", "config")])
def test_that_a_damaged_entry_of_the_catalogue_is_told(project: Project, table: str, column: str, damage: str) -> None:
    (path := project.new_path("result", "kept")).write_text("{}")
    project.add("result", "kept", path, run=project.catalogue.begin_run("record", {}, {}))
    with sqlite3.connect(project.catalogue.path) as db:
        db.execute(f"UPDATE {table} SET {column} = ?", (damage,))
    with pytest.raises(AuditorError, match=r"is damaged: the entry “[0-9a-f]{12}” cannot be read"):
        project.artefacts() if table == "artefacts" else project.runs()


def test_that_a_project_that_cannot_be_opened_is_not_held(project: Project) -> None:
    project.close()
    with sqlite3.connect(project.catalogue.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(AuditorError, match="newer version") as refused:
        Project.open(project.folder)
    with sqlite3.connect(project.catalogue.path) as db:
        db.execute(f"PRAGMA user_version = {VERSION}")
    with Project.open(project.folder) as opened:  # while what was raised is still at hand
        assert opened.writable and refused


def test_that_new_paths_never_meet_an_existing_one(project: Project) -> None:
    first = project.new_path("store", "train: 300k / mid")
    first.mkdir()
    assert project.new_path("store", "train: 300k / mid") != first
    assert first.parent.name == "stores" and first.suffix == ".store"


def test_that_a_second_program_may_read_but_not_write(project: Project) -> None:
    path = project.new_path("result", "seen")
    path.write_text("{}")
    project.add("result", "seen", path)
    code = (
        "import sys; from auditor.project import Project\n"
        "p = Project.open(sys.argv[1]); print(p.writable, p.find('seen').name)\n"
        "try: p.new_path('result', 'x')\n"
        "except Exception as e: print(type(e).__name__)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, project.folder], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "seen", "AuditorError"]


def test_that_a_project_from_a_newer_version_is_refused(project: Project) -> None:
    folder = project.folder
    project.close()
    with sqlite3.connect(folder / "catalogue.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(AuditorError, match="newer version"):
        Project.open(folder)


def test_that_a_folder_that_is_not_a_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditorError, match="not an Auditor project"):
        Project.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(AuditorError, match="not an empty folder"):
        Project.create(tmp_path)


def test_that_every_change_of_the_log_is_found(project: Project) -> None:
    for number in range(20):
        project.log.append("note", number=number)
    assert project.log.check() is None
    entries = project.log.entries()
    assert [e["index"] for e in entries] == list(range(21))
    for position in range(len(entries)):
        changed = json.loads(json.dumps(entries))
        changed[position]["payload"]["number"] = "other"
        assert first_break(changed) == position
        removed = entries[:position] + entries[position + 1 :]
        assert first_break(removed) == (position if position < len(entries) - 1 else None)
    swapped = [*entries[:4], entries[5], entries[4], *entries[6:]]
    assert first_break(swapped) == 4
    assert first_break([{**entries[0], "payload": {"loss": float("nan")}}]) == 0
    with pytest.raises(AuditorError, match="Line 1 of the audit log"):
        read_entries(b"[" * 100_000 + b"\n")


def test_that_a_torn_last_line_is_dropped_and_the_log_goes_on(project: Project) -> None:
    project.log.append("note", text="whole")
    folder = project.folder
    project.close()
    with open(folder / "log.jsonl", "ab") as file:
        file.write(b'{"index": 2, "time"')
    with Project.open(folder) as again:
        again.log.append("note", text="after the cut")
        assert again.log.check() is None
        assert len(read_entries((folder / "log.jsonl").read_bytes())) == 3


def test_that_a_killed_writer_keeps_every_acknowledged_entry(tmp_path: Path) -> None:
    code = (
        "import sys; from auditor.project import Project\n"
        "p = Project.create(sys.argv[1])\n"
        "for n in range(10**6): p.log.append('note', n=n); print(n, flush=True)\n"
    )
    folder = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(25)]
    child.kill()
    told += [int(line) for line in child.stdout if line.endswith("\n")]
    child.stdout.close()
    child.wait()
    with Project.open(folder) as project:
        assert project.log.check() is None
        kept = [e["payload"]["n"] for e in project.log.entries() if e["kind"] == "note"]
    assert kept[: len(told)] == told


def test_that_a_project_that_is_closed_at_work_is_let_go_of_when_that_ends(project: Project) -> None:
    ended = threading.Event()
    begun = threading.Event()

    def work() -> None:
        with project.at_work():
            begun.set()
            assert ended.wait(10)
            project.log.append("kept")  # what it reached

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    project.close()
    assert project.writable
    with pytest.raises(AuditorError, match="still being closed"):
        Project.open(project.folder)
    with Project.open(project.folder, write=False) as reading:
        assert not reading.writable
    ended.set()
    thread.join(10)
    assert not project.writable
    with Project.open(project.folder) as again:
        assert again.writable and again.log.entries()[-1]["kind"] == "kept"


def test_that_damaged_entries_of_what_was_begun_tell_of_nothing(project: Project) -> None:
    run = project.catalogue.begin_run("train", {}, {})
    place = project.keyed_path("dictionary", "k2", "ab12cd34")
    project.catalogue.begin_at(run, place, {"k": 2})
    with sqlite3.connect(project.folder / "catalogue.sqlite") as db:
        damaged = [(b"\xff", run, "{}"), ("cut", run, "{"), ("list", run, "[1]"), ("deep", run, "[" * 10**5)]
        db.executemany("INSERT INTO begun (place, run, config) VALUES (?, ?, ?)", [*damaged, ("gone", "no run", "{}")])
    db.close()
    assert project.catalogue.begun().keys() == {place}


def test_that_a_project_of_the_first_schema_is_read_and_brought_forward(project: Project) -> None:
    folder = project.folder
    place = project.keyed_path("store", "half", "ab12cd34")
    project.close()
    with sqlite3.connect(folder / "catalogue.sqlite") as db:
        db.executescript("DROP TABLE begun; PRAGMA user_version = 1;")
    db.close()
    with Project.open(folder, write=False) as reading:
        assert reading.catalogue.begun() == {}
    with Project.open(folder) as again:
        run = again.catalogue.begin_run("record", {"hooks": []}, {})
        again.catalogue.begin_at(run, place, {"hooks": ["blocks.0.z"]})
        (held,) = again.catalogue.begun().items()
        assert held[0] == place and (held[1].id, held[1].config) == (run, {"hooks": ["blocks.0.z"]})
        again.catalogue.end_run(run, "done", {}, [])
        assert again.catalogue.begun() == {} and again.runs()[0].config == {"hooks": []}


def test_that_a_name_that_is_no_text_is_refused_and_a_message_with_one_is_kept(project: Project) -> None:
    strange = project.folder / os.fsdecode(b"caf\xe9.json")
    strange.write_text("{}")
    with pytest.raises(AuditorError, match=r"caf\?\.json” cannot be kept: its name is no UTF-8"):
        project.add("result", "fine", strange)
    run = project.catalogue.begin_run("open", {"path": str(strange)}, {})
    project.catalogue.end_run(run, "failed", {}, [], f"“{strange}” is no model.")
    (ended,) = project.runs()
    assert ended.message.endswith("caf?.json” is no model.") and ended.config == {"path": str(strange)}
