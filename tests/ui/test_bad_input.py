"""Bad input in the window: the strip says what the command line says, and the project holds nothing new."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from auditor.ui.panes.recording import Recording
from auditor.ui.session import Session
from auditor.ui.window import Window
from tests.journeys.running import auditor
from tests.journeys.test_full_disk import Disk, disk

__all__ = ["disk"]


@pytest.fixture
def window(session: Session, qtbot: QtBot, tmp_path: Path) -> Iterator[Window]:
    made = Window(session)
    qtbot.addWidget(made)
    made.show()
    made.load_commands()
    session.create_project(tmp_path / "project", "Bad input")
    yield made
    session.jobs.clear()


def said(window: Window, qtbot: QtBot, verb: str, path: Path) -> str:
    """What the strip shows after the job that takes `path` in."""
    session = window.session
    with qtbot.waitSignal(session.job_ended, timeout=120_000) as told:
        if verb == "open":
            pane = session.open_pane("recording")
            assert isinstance(pane, Recording)
            pane.open_path(path)
        else:
            from auditor.tasks.import_ import ImportConfig

            session.run_task("import", ImportConfig(path=str(path)))
    assert told.args[0].outcome == "failed"
    assert window.strip.isVisible() and session.project is not None
    assert not session.project.artefacts() and not list(session.project.folder.glob("*/*"))
    return window.strip.text


def test_that_the_window_says_what_the_command_line_says(
    window: Window, qtbot: QtBot, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(tiny_llama_folder, cut)
    os.truncate(cut / "model.safetensors", (cut / "model.safetensors").stat().st_size - 1000)
    rows = np.random.default_rng().normal(size=(200, 8)).astype(np.float32)
    rows[150, 2] = np.nan
    with h5py.File(tmp_path / "holes.h5", "w") as file:
        file["acts"] = rows
    cases = (("open", tmp_path / "nowhere.txt", "does not exist"), ("open", cut, "model.safetensors"),
             ("import", tmp_path / "holes.h5", "row 150"))  # fmt: skip
    for verb, path, part in cases:
        told = auditor(verb, path, "--project", tmp_path / "other")
        assert told.code == 2 and part in told.err
        assert said(window, qtbot, verb, path) == told.err.strip().splitlines()[-1]
    assert not (tmp_path / "other").exists()


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_that_what_is_no_model_no_picture_or_a_pickle_is_told_and_not_taken_in(
    window: Window, qtbot: QtBot, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    holiday = tmp_path / "holiday"
    holiday.mkdir()
    (holiday / "notes.dat").write_text("Sand.\n", encoding="utf-8")
    assert "holiday" in said(window, qtbot, "open", holiday)

    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_llama_folder, pickled)
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": _Payload(tmp_path / "owned")}))
    assert "pytorch_model.bin" in said(window, qtbot, "open", pickled)
    assert not (tmp_path / "owned").exists()

    (tmp_path / "empty.png").touch()
    assert "“empty.png” is empty" in said(window, qtbot, "open", tmp_path / "empty.png")


def failed(session: Session, qtbot: QtBot, verb: str, config: Any) -> None:
    with qtbot.waitSignal(session.job_ended, timeout=120_000) as told:
        session.run_task(verb, config)
    assert told.args[0].outcome == "failed"


def test_that_a_full_disk_is_told_and_leaves_nothing(
    session: Session, qtbot: QtBot, disk: Disk, tmp_path: Path
) -> None:
    from auditor.tasks.open import OpenConfig

    window = Window(session)
    qtbot.addWidget(window)
    window.show()
    session.create_project(disk.place / "project", "Full")
    (tmp_path / "notes.txt").write_text("A padlock keeps a door shut.\n", encoding="utf-8")
    disk.leave(4)
    failed(session, qtbot, "open", OpenConfig(path=str(tmp_path / "notes.txt")))
    assert "disk is full" in window.strip.text
    assert session.artefacts() == []
    disk.free()
    assert session.project is not None and not session.project.artefacts()
    session.jobs.clear()
    session.close_project()


def test_that_a_project_that_another_program_holds_is_read_and_says_so(
    session: Session, qtbot: QtBot, tmp_path: Path
) -> None:
    window = Window(session)
    qtbot.addWidget(window)
    window.show()
    session.create_project(tmp_path / "project", "Held")
    session.close_project()
    hold = (
        "import sys; from auditor.project import Project; held = Project.open(sys.argv[1]); print('held', flush=True)"
    )
    command = [sys.executable, "-c", f"{hold}; input()", str(tmp_path / "project")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        session.open_project(tmp_path / "project")
        assert "open in another program: it can be read here, not changed" in window.strip.text
        other.communicate("\n", timeout=30)
