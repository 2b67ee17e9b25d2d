#!/usr/bin/env python3
"""From a checkout to a running program, with nothing but Python's standard library.

    python3 packaging/bootstrap.py run [--from-scratch] [--headless]   the window on the sample audit
    python3 packaging/bootstrap.py test [pytest arguments]             the whole test suite
    python3 packaging/bootstrap.py install                             the environment alone

Each step is skipped where its work is already done, so every command can be given again.
"""

from __future__ import annotations

import argparse
import ctypes.util
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "packaging" / "lock.txt"
MODELS = ROOT / "build" / "models"
STAMP = VENV / ".auditor-lock"
TORCH = "2.13.0"
# What Qt loads: the library as the loader knows it, and Debian's package that has it.
SYSTEM_LIBRARIES = {
    "EGL": "libegl1",
    "GL": "libgl1",
    "xkbcommon": "libxkbcommon0",
    "dbus-1": "libdbus-1-3",
    "glib-2.0": "libglib2.0-0",
    "fontconfig": "libfontconfig1",
}
WINDOW_LIBRARIES = {
    "xcb-cursor": "libxcb-cursor0",
    "xcb-icccm": "libxcb-icccm4",
    "xcb-keysyms": "libxcb-keysyms1",
    "xcb-shape": "libxcb-shape0",
    "xcb-xkb": "libxcb-xkb1",
    "xkbcommon-x11": "libxkbcommon-x11-0",
}


class Failure(Exception):
    """One sentence that says what failed and what to do."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="open the program on the sample audit")
    run.add_argument("--from-scratch", action="store_true", help="record, train, index, analyse and report again")
    run.add_argument("--headless", action="store_true", help="do the job without a window, into build/sample-audit")
    verbs.add_parser("install", help="make the environment and the sample models")
    test = verbs.add_parser("test", help="run the whole suite")
    test.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments for pytest; then only that run is made")
    chosen = parser.parse_args(arguments)
    try:
        install()
        if chosen.verb == "run":
            return run_sample(chosen.from_scratch, chosen.headless)
        if chosen.verb == "test":
            return run_tests(chosen.pytest)
    except Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def install() -> None:
    """The environment, the system libraries and the sample models, each where it is missing."""
    if sys.version_info < (3, 11):
        raise Failure(f"Python {sys.version.split()[0]} is too old: run this with Python 3.11 or newer.")
    _step("System libraries", _system_libraries)
    _step("Environment", _environment)
    _step("Libraries", _libraries)
    _step("Sample models", _models)


def run_sample(from_scratch: bool, headless: bool) -> int:
    """The program on the sample audit: a window where there is a display, else files in build/sample-audit."""
    display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    command = [str(PYTHON), "-m", "auditor", "demo"]
    if from_scratch:
        command.append("--from-scratch")
    if headless or not display:
        if not headless:
            print("There is no display, so the sample audit is done without a window.")
        command += ["--headless", "--out", str(ROOT / "build" / "sample-audit")]
    return subprocess.call(command, cwd=ROOT, env=_surroundings())


def run_tests(arguments: Sequence[str]) -> int:
    """The window's tests with Qt, then everything else with Qt not importable; or one pytest run as asked.

    The whole suite runs in two processes, a core each: each holds its networks, so more of them want more memory.
    Tests of one file stay together, since some go on from the ones before.
    """
    pytest = [str(PYTHON), "-m", "pytest"]
    surroundings = _surroundings() | {"QT_QPA_PLATFORM": "offscreen"}
    runs = {"as asked": [*pytest, *arguments]}
    if not arguments:
        pytest += ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "0"]
        surroundings["OMP_NUM_THREADS"] = "1"
        runs = {
            "the window": [*pytest, "tests/ui"],
            "everything else, Qt not importable": [*pytest, "tests", "--without-qt", "-p", "no:pytest-qt"],
        }
    worst = 0
    for name, command in runs.items():
        print(f"\n== {name}: {' '.join(command[1:])}", flush=True)
        worst = max(worst, subprocess.call(command, cwd=ROOT, env=surroundings))
    return worst


def _step(title: str, work: Callable[[], str]) -> None:
    start = time.monotonic()
    print(f"{title:18}", end=" ", flush=True)
    told = work()
    print(f"\r\033[K{title:18} {told} ({time.monotonic() - start:.0f} s)" if sys.stdout.isatty() else told, flush=True)


def _system_libraries() -> str:
    wanted = dict(SYSTEM_LIBRARIES)
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        wanted |= WINDOW_LIBRARIES
    missing = [package for library, package in wanted.items() if ctypes.util.find_library(library) is None]
    if not _venv_works():
        missing.append("python3-venv")
    if not missing:
        return "present"
    line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        raise Failure(f"These libraries are missing: {', '.join(missing)}; install what your system calls them.")
    prefix: list[str] = []
    if os.geteuid() != 0:
        may = shutil.which("sudo") and subprocess.call(["sudo", "-n", "true"], stderr=subprocess.DEVNULL) == 0
        if not may:
            raise Failure(f"Some system libraries are missing; type this line, then start again:\n    sudo {line}")
        prefix = ["sudo", "-n"]
    _run([*prefix, "apt-get", "update", "-q"], "apt-get update", must=False)
    _run([*prefix, *line.split()], f"“{line}”")
    return f"installed {', '.join(missing)}"


def _venv_works() -> bool:
    return subprocess.call([sys.executable, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL) == 0


def _environment() -> str:
    if PYTHON.exists() and subprocess.call([str(PYTHON), "-c", "import pip"], stderr=subprocess.DEVNULL) == 0:
        return ".venv is there"
    _run([sys.executable, "-m", "venv", "--clear", str(VENV)], "making .venv")
    return "made .venv"


def _libraries() -> str:
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == digest:
        return "as locked"
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    _torch(pip)
    rest = VENV / "lock-rest.txt"
    rest.write_text("".join(entry for entry in _entries() if not entry.startswith("torch==")))
    try:
        _run([*pip, "--no-deps", "--require-hashes", "-r", str(rest)], "installing the locked libraries")
    finally:
        rest.unlink()
    (_site_packages() / "auditor-checkout.pth").write_text(f"{ROOT}\n")
    STAMP.write_text(digest)
    return "installed"


def _torch(pip: list[str]) -> None:
    """The CPU build where there is no NVIDIA GPU and one can be had; else the index's own build with its libraries."""
    if subprocess.call([str(PYTHON), "-c", f"import torch; assert torch.__version__.startswith('{TORCH}')"],
                       stderr=subprocess.DEVNULL) == 0:  # fmt: skip
        return
    locked = VENV / "lock-torch.txt"
    locked.write_text("".join(entry for entry in _entries() if entry.startswith("torch==")))
    try:
        command = [*pip, "--no-deps", "--require-hashes", "-r", str(locked)]
        if shutil.which("nvidia-smi") is None and _run(command, "installing torch", must=False) and _imports_torch():
            return
        _run([*pip, f"torch=={TORCH}"], "installing torch")
    finally:
        locked.unlink()


def _imports_torch() -> bool:
    return subprocess.call([str(PYTHON), "-c", "import numpy, torch"], stderr=subprocess.DEVNULL) == 0


def _entries() -> list[str]:
    """The lock's requirements, each with its hashes."""
    text = re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.MULTILINE)
    return [f"{entry.strip()}\n" for entry in re.split(r"\n(?=\S)", text) if entry.strip()]


def _site_packages() -> Path:
    found = subprocess.check_output([str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    return Path(found.decode().strip())


def _models() -> str:
    _run([str(PYTHON), str(ROOT / "sample_data" / "models.py"), str(MODELS)], "preparing the sample models")
    return f"in {MODELS.relative_to(ROOT)}"


def _surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "AUDITOR_MODELS": str(MODELS)}


def _run(command: Sequence[str], what: str, must: bool = True) -> bool:
    """Run quietly, showing the newest line on a terminal; a failure is told with the end of what it printed."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=_surroundings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    with process.stdout:
        for line in process.stdout:
            lines.append(line.rstrip())
            if sys.stdout.isatty():
                width = shutil.get_terminal_size().columns - 4
                print(f"\r\033[K  {lines[-1][:width]}", end="", flush=True)
    if process.wait() and must:
        tail = "\n".join(f"    {line}" for line in lines[-12:])
        raise Failure(f"{what[0].upper()}{what[1:]} failed (exit {process.returncode}):\n{tail}")
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
