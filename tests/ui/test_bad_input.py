"""Bad input in the window: the strip says what the command line says, and the project holds nothing new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from auditor.ui.panes.recording import Recording
from auditor.ui.session import Session
from auditor.ui.window import Window
from tests.journeys.running import auditor


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
