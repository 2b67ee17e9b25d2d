"""Atomic writing: whole or not at all, through errors, a full disk and kills."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.base.files import full_disk_behind, partial, reserve, write_atomic


def test_that_a_failure_leaves_the_old_file_and_nothing_half_made(tmp_path: Path) -> None:
    target = tmp_path / "case.json"
    write_atomic(target, b"old")
    with pytest.raises(KeyError), partial(target) as unfinished:
        unfinished.write_bytes(b"half")
        raise KeyError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["case.json"]


def test_that_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with partial(target) as unfinished:
        unfinished.mkdir()
        (unfinished / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"


def test_that_a_folder_is_on_the_disk_with_all_its_names_before_it_takes_its_own(tmp_path: Path, monkeypatch) -> None:
    reached: list[str] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        reached.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    with partial(tmp_path / "made") as unfinished:
        (unfinished / "inner").mkdir(parents=True)
        (unfinished / "inner" / "a").write_text("1")
        begun = unfinished.name
    assert sorted(reached[:-1]) == [begun, f"{begun}/inner", f"{begun}/inner/a"]
    assert reached[-1] == "."


def test_that_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, resource, signal; from pathlib import Path; from auditor.base.files import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_atomic(Path(sys.argv[1]), bytes(100_000))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, tmp_path / "big"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("AuditorError The disk is full: “big”")
    assert os.listdir(tmp_path) == []


def test_that_a_kill_at_any_time_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "value"
    code = (
        "import sys; from pathlib import Path; from auditor.base.files import write_atomic\n"
        "for n in range(10**6): write_atomic(Path(sys.argv[1]), (b'%d ' % n) * 40_000); print(n, flush=True)\n"
    )
    for trial in range(8):
        child = subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.003 * trial)
        child.send_signal(signal.SIGKILL)
        told = int((child.stdout.read().split() or [b"0"])[-1])
        child.stdout.close()
        child.wait()
        words = target.read_bytes().split()
        assert len(words) == 40_000 and len(set(words)) == 1 and int(words[0]) >= told


def test_that_a_read_only_folder_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(AuditorError, match="may not be written"):
        write_atomic(tmp_path / "x", b"1")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("I/O error: No space left on device (os error 28)"), OSError("4096 requested and 1024 written"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_that_a_full_disk_is_known_by_what_libraries_say_of_it(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(AuditorError, match="The disk is full: “weights”"), partial(tmp_path / "weights") as unfinished:
        unfinished.write_bytes(b"half")
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.timeout(20)
def test_that_a_disk_that_fails_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told at once: the error was its own cause, and the way back from cause to cause had no end."""

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write_atomic(tmp_path / "a", b"x")
    assert full_disk_behind(caught.value) is None
    assert not list(tmp_path.iterdir())


def test_that_what_a_killed_program_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f"index.{ended.pid}.partial").mkdir()
    (tmp_path / f"index.{os.getppid()}.partial").mkdir()
    (tmp_path / f"other.{ended.pid}.partial").touch()
    write_atomic(tmp_path / "index", b"whole")
    assert set(os.listdir(tmp_path)) == {"index", f"index.{os.getppid()}.partial", f"other.{ended.pid}.partial"}


def test_that_room_is_taken_before_a_file_is_mapped(tmp_path: Path) -> None:
    reserve(tmp_path / "scratch", 3 << 20)
    told = (tmp_path / "scratch").stat()
    assert told.st_size == 3 << 20 and told.st_blocks * 512 >= 3 << 20
