"""What the two commands do where something is missing; the installing itself is what every run of them shows."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

from auditor.base.paths import root


@pytest.fixture
def bootstrap() -> ModuleType:
    place = importlib.util.spec_from_file_location("bootstrap", root() / "packaging" / "bootstrap.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def without(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    find = ctypes.util.find_library
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None if name in libraries else find(name) or "there")


def test_that_an_ordinary_person_is_told_the_one_line_to_type(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "EGL", "xkbcommon")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(bootstrap, "_venv_works", lambda: False)
    with pytest.raises(bootstrap.Failure) as told:
        bootstrap._system_libraries()
    line = str(told.value).splitlines()[-1].strip()
    assert line == "sudo apt-get install -y --no-install-recommends libegl1 libxkbcommon0 python3-venv"


def test_that_root_installs_what_a_window_needs_where_there_is_a_display(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "GL", "xcb-cursor")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(bootstrap, "_venv_works", lambda: True)
    ran: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "_run", lambda command, what, must=True: ran.append(list(command)) or True)
    assert bootstrap._system_libraries() == "installed libgl1, libxcb-cursor0"
    assert ran[-1][:3] == ["apt-get", "install", "-y"] and ran[-1][-2:] == ["libgl1", "libxcb-cursor0"]


def test_that_another_system_is_told_what_it_lacks(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "fontconfig")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(bootstrap.Failure, match="libfontconfig1"):
        bootstrap._system_libraries()


def test_that_a_failed_step_is_one_sentence_with_the_end_of_what_it_said(
    bootstrap: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        bootstrap._run(["sh", "-c", "echo no such wheel; exit 3"], "installing the locked libraries")

    monkeypatch.setattr(bootstrap, "install", broken)
    assert bootstrap.main(["install"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told == ["Installing the locked libraries failed (exit 3):", "    no such wheel"]


def test_that_it_needs_nothing_but_the_standard_library() -> None:
    command = [sys.executable, "-I", "-S", str(root() / "packaging" / "bootstrap.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "run [--from-scratch]" in done.stdout, done.stderr
