"""A disk that fills up: one sentence, exit code 2, nothing half-made, and what took long is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auditor.project import Project
from tests.journeys.conftest import Begun
from tests.journeys.running import auditor, done
from tests.small_disks import disk_of

TRAIN = ("train", "--d-sae", 1024, "--k", 8, "--batch-size", 256, "--evaluate-rows", 0, "--device", "cpu",
         "--steps", 3, "--checkpoint-every", 2)  # fmt: skip


class Disk:
    """A disk of one's own, and how much of it is free."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def leave(self, kib: int) -> None:
        self._ballast.unlink(missing_ok=True)
        rest = shutil.disk_usage(self.place).free - (kib << 10)
        with open(self._ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, rest)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with disk_of("48m", tmp_path / "disk") as place:
        yield Disk(place)


@pytest.fixture
def project(disk: Disk, begun: Begun) -> Path:
    shutil.copytree(begun.folder, disk.place / "project")
    return disk.place / "project"


def files(folder: Path) -> set[str]:
    """All but the catalogue, and the labels, which are made when an index is first opened."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(("catalogue.sqlite", "labels.sqlite"))
    }


def test_that_a_project_begun_on_a_full_disk_leaves_nothing(disk: Disk, begun: Begun) -> None:
    disk.leave(24)
    told = auditor("open", begun.samples, "--project", disk.place / "new")
    assert told.code == 2 and "The disk is full" in told.err and "damaged" not in told.err
    assert not (disk.place / "new").exists()


@pytest.mark.parametrize("left", [0, 40, 200])
def test_that_every_verb_tells_a_full_disk_and_leaves_nothing(disk: Disk, project: Path, left: int) -> None:
    verbs = [TRAIN, ("trace", "France", "--max-features", 40), ("index", "--window", 5),
             ("case", "new", "T" * 50, "--author", "A")]  # fmt: skip
    disk.leave(left)
    before = files(project)
    for verb in verbs:
        # A process of its own: writing to a mapped file on a full disk would end this one with a bus error.
        command = [sys.executable, "-m", "auditor", *map(str, verb), "--project", str(project)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode == 0:  # it found room enough
            before = files(project)
            disk.leave(left)
            continue
        assert told.returncode == 2, told
        assert "The disk is full" in told.stderr and "Traceback" not in told.stderr, told.stderr
        assert files(project) == before, verb
    disk.free()
    with Project.open(project) as held:
        assert held.log.check() is None
        held.log.append("after")
        assert held.log.check() is None


def test_that_a_training_waits_for_room_and_says_so(disk: Disk, project: Path, begun: Begun, tmp_path: Path) -> None:
    long = [str(part) for part in (*TRAIN, "--steps", 60, "--splice-samples", 0)]
    shutil.copytree(begun.folder, tmp_path / "whole")
    expected = done(*long, "--project", tmp_path / "whole")["artefacts"][0]["digest"]
    command = [sys.executable, "-m", "auditor", *long, "--project", str(project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while not list((project / "dictionaries").glob("*.training.safetensors")) and child.poll() is None:
            time.sleep(0.002)
        disk.leave(100)
        assert child.stderr is not None and child.stdout is not None
        said = []
        for line in child.stderr:
            said.append(line)
            if "The disk is full" in line:
                disk.free()
        out = child.stdout.read()
    assert child.returncode == 0, said
    assert "Planned: minutes" in said[0]
    (told,) = (line for line in said if "The disk is full" in line)
    assert f"are free in {project / 'dictionaries'}" in told and "is kept" in told and "goes on by itself" in told
    assert expected[:16] in out
    kept = {path.suffix for path in (project / "dictionaries").iterdir()}
    assert kept == {".sae"}


def test_that_a_dictionary_that_could_not_be_registered_is_registered_by_the_same_command(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.base.errors import AuditorError

    known = Project.add

    def full(self: Project, kind: str, *rest: object, **more: object) -> object:
        if kind in ("dictionary", "index", "case", "result"):
            raise AuditorError("The disk is full.", "Free some room.")
        return known(self, kind, *rest, **more)  # type: ignore[arg-type]

    for verb in (TRAIN, ("index", "--window", 5)):
        monkeypatch.setattr(Project, "add", full)
        assert auditor(*verb, "--project", project).code == 2
        monkeypatch.setattr(Project, "add", known)
        assert done(*verb, "--project", project)["artefacts"]
    monkeypatch.setattr(Project, "add", full)
    before = files(project)
    for verb in (("case", "new", "Title", "--author", "A"), ("trace", "France", "--max-features", 20)):
        assert auditor(*verb, "--project", project).code == 2
    assert files(project) - before == set()


def test_that_a_project_on_a_read_only_medium_is_read_and_says_so(disk: Disk, project: Path) -> None:
    done("case", "new", "Title", "--author", "A", "--project", project)
    found = done("search", "density>0", "--project", project)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.place)], check=True)
    assert done("search", "density>0", "--project", project) == found
    for verb in (TRAIN, ("report",), ("case", "new", "Other", "--author", "A")):
        told = auditor(*verb, "--project", project)
        assert told.code == 2 and "lies where nothing may be written" in told.err
