"""The command line itself: help without engines, errors as a sentence or as one JSON object, and exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import auditor
from auditor.base.errors import Stop
from auditor.cli import console
from auditor.cli.main import OWN
from auditor.tasks import tasks
from auditor.tasks.task import MODULES
from tests.journeys.running import auditor as command_line

# The settings of these two lie beside the engines that they configure, which need torch or the network's adapters.
HEAVY = ("record", "index")
LIGHT = [name.rstrip("_") for name in MODULES if name not in HEAVY] + [name for name in OWN if name != "bench"]
RECORD = ("record", "--model", "m", "--samples", "s")
ENGINES = ("torch", "transformers", "h5py", "sklearn", "PySide6")


def test_that_help_lists_every_verb_with_what_it_does() -> None:
    told = command_line("--help")
    assert told.code == 0 and not told.err
    lines = [line.split(None, 1) for line in told.out.splitlines() if line.strip()]
    listed = {parts[0]: parts[1] for parts in lines if len(parts) == 2}
    for name in (*(task.name for task in tasks()), *OWN):
        assert len(listed[name]) > 3


def test_that_no_verb_shows_the_help_and_is_wrong_use() -> None:
    told = command_line()
    assert told.code == 2 and "Verbs" in told.out


def test_that_help_and_listing_load_no_engine() -> None:
    """One fresh Python for all, since each takes a while to start."""
    code = (
        "import contextlib, io, json, sys\n"
        "from auditor.cli.main import main\n"
        "found = {}\n"
        f"for name in {[*LIGHT, '']!r}:\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out):\n"
        "        code = main([name, '--help'] if name else ['--help'])\n"
        f"    loaded = [name for name in {ENGINES!r} if name in sys.modules]\n"
        "    found[name] = [code, out.getvalue(), loaded]\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, (ended, text, loaded) in json.loads(done.stdout).items():
        assert ended == 0 and "Usage: auditor" in text and "--help" in text, name
        assert not loaded, f"{name or 'auditor'} --help loads {loaded}"


@pytest.mark.parametrize("name", HEAVY)
def test_that_heavy_verbs_have_help_too(name: str) -> None:
    told = command_line(name, "--help")
    assert told.code == 0 and f"Usage: auditor {name}" in told.out and "--json" in told.out


def test_that_options_are_the_fields_of_the_settings() -> None:
    for task in tasks():
        text = command_line(task.name, "--help").out
        kind = task.config_class()
        for name, info in kind.model_fields.items():
            shown = name.upper() if name in kind.arguments else f"--{name.replace('_', '-')}"
            assert shown in text, f"{task.name} does not offer {name}"
            if name not in kind.arguments:
                words = (info.description or info.title or "").split()
                assert words[0] in text, f"{task.name} does not explain {name}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("paint",),
        ("train", "--colour", "red"),
        ("train", "--steps", "many"),
        ("train", "--steps", "0", "-p", "/nowhere/at/all"),
        ("experiment", "--n", "1"),
        ("verify",),
        ("sign", "nothing.audit.zip", "--key", "nothing.pem"),
        ("search", "density>0", "-p", "/nowhere/at/all"),
        ("case", "show", "-p", "/nowhere/at/all", "--case"),
        ("bench", "speed"),
    ],
)
def test_that_a_fault_is_one_sentence_or_one_object(
    arguments: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("empty")
    monkeypatch.chdir(place)
    monkeypatch.setenv("AUDITOR_PROJECT", str(place / "project"))
    told = command_line(*arguments)
    assert told.code == 2 and not told.out
    assert told.err.strip().count("\n") == 0 and "Traceback" not in told.err
    as_json = command_line(*arguments, "--json")
    assert as_json.code == 2 and not as_json.err
    assert as_json.json.keys() == {"error", "hint"} and as_json.json["error"]
    assert not list(place.iterdir())


@pytest.mark.parametrize("verb", [RECORD, ("train", "--processes", "2"), ("open", "x")])
def test_that_a_gpu_that_is_not_there_is_told_before_a_project_is_made(
    verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    project = tmp_path / "project"
    told = command_line(*verb, "--device", "cuda", "--project", str(project))
    assert told.code == 2 and not told.out and not project.exists()
    assert told.err == "This machine has no usable NVIDIA GPU. Choose the device auto or cpu.\n"
    if verb[0] != "open":
        script = tmp_path / "job.sh"
        of_others = ("--device", "cuda", "--slurm", str(script), "--project", str(project))
        assert command_line(*verb, *of_others).code == 0 and script.exists()


def test_that_the_version_is_told() -> None:
    told = command_line("--version")
    assert (told.code, told.out.strip()) == (0, auditor.__version__)


def test_that_a_result_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.table([{"token": "\x1b[2J\u202egone", "n": 1}, {"token": "\n", "n": 2}])
    console.say("label: \x1b]0;title\x07")
    told = capsys.readouterr().out
    assert len(told.splitlines()) == 4
    assert all(character.isprintable() or character == "\n" for character in told)
    assert "⟨U+001B⟩[2J⟨U+202E⟩gone" in told and "⟨U+000A⟩" in told


@pytest.fixture
def interrupts() -> Iterator[None]:
    """As in a terminal: a shell starts what it runs in the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("as_json", [False, True])
def test_that_the_first_interrupt_asks_to_stop_and_the_second_breaks_off(
    as_json: bool, capsys: pytest.CaptureFixture[str], interrupts: None
) -> None:
    with pytest.raises(KeyboardInterrupt), console.reporting(as_json) as reporter:
        reporter.step(1, 3)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stop):
            reporter.step(2, 3)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    told = capsys.readouterr()
    assert not told.out and ("Ctrl-C once more" in told.err) is not as_json


def test_that_an_option_says_what_it_sets_before_how(monkeypatch: pytest.MonkeyPatch) -> None:
    told = " ".join(command_line("record", "--help").out.split())
    assert "Split longer samples. They are recorded in pieces" in told
    assert "made where it is missing" in told
    assert "made where it is missing" not in " ".join(command_line("search", "--help").out.split())
    assert " ".join(command_line("experiment", "--help").out.split()).count("Test a feature") == 1


def test_that_counts_and_times_stay_legible_on_a_narrow_terminal() -> None:
    shown = io.StringIO()
    narrow = Console(file=shown, force_terminal=True, width=80, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "_errors", narrow)
        with console.reporting(False) as reporter:
            reporter.started("Training a dictionary with a long name blocks.14.resid_post-topk-4096", 1000, "steps")
            reporter.metric(250, loss=12.25, fvu=0.0625)
            reporter.step(250, 1000, unit="steps")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()).replace("\r", "\n").rstrip().splitlines()[-1]
    assert "250/1000 steps" in last and re.search(r"\d:\d\d:\d\d", last), last
    assert last.startswith("Training") and "loss 12.2" in last and len(last) <= 80
