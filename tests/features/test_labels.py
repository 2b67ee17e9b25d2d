"""Human labels: nothing is lost, everything can be undone, and hostile text stays text."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.features.labels import Labels


def test_that_a_label_keeps_author_time_and_history(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "labels.sqlite", "abc", clock=itertools.count(100.0).__next__)
    labels.set(7, " pad\nlock ", "Ada")
    labels.set(7, "padlock, locked", "Grace")
    labels.set(8, "river", "Ada")
    labels.set(7, "looks generic", "Ada", "note")
    assert labels.get(7) == "padlock, locked" and labels.get(7, "note") == "looks generic"
    assert labels.all() == {7: "padlock, locked", 8: "river"}
    assert [(e.text, e.author, e.time) for e in labels.history(7)][:2] == [
        ("pad lock", "Ada", 100.0), ("padlock, locked", "Grace", 101.0),
    ]  # fmt: skip
    again = Labels(tmp_path / "labels.sqlite", "abc")
    assert again.all() == labels.all()
    assert Labels(tmp_path / "labels.sqlite", "another dictionary").all() == {}


def test_that_undo_takes_back_change_after_change_and_is_itself_kept(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "labels.sqlite")
    for text in ("a", "b", ""):
        labels.set(1, text, "Ada")
    labels.set(2, "other", "Ada")
    assert labels.get(1) == ""
    labels.undo("Grace", feature=1)
    assert labels.get(1) == "b" and labels.get(2) == "other"
    labels.undo("Grace")
    assert labels.get(2) == "" and labels.get(1) == "b"
    labels.undo("Grace")
    assert labels.get(1) == "a"
    labels.undo("Grace")
    assert labels.get(1) == "" and labels.undo("Grace") is None
    assert len(labels.history()) == 8


def test_that_a_reader_sees_what_another_wrote(tmp_path: Path) -> None:
    one, two = Labels(tmp_path / "labels.sqlite"), Labels(tmp_path / "labels.sqlite")
    before = two.state()
    one.set(1, "x", "Ada")
    assert two.state() != before and two.get(1) == "x"


def test_that_an_acknowledged_label_outlives_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys; from auditor.features.labels import Labels; l = Labels(sys.argv[1])\n"
        "for i in range(10**9): l.set(i, f'label {i}', 'Ada'); sys.stdout.write(f'{i}\\n'); sys.stdout.flush()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "l.sqlite")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(20)]
    os.kill(child.pid, signal.SIGKILL)
    seen += [int(line) for line in child.stdout.read().split(b"\n")[:-1] if line]
    child.wait()
    child.stdout.close()
    kept = Labels(tmp_path / "l.sqlite").all()
    assert all(kept[i] == f"label {i}" for i in seen)


def test_that_a_damaged_or_newer_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.sqlite").write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(AuditorError, match="cannot be read"):
        Labels(tmp_path / "bad.sqlite")
    db = sqlite3.connect(tmp_path / "new.sqlite")
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(AuditorError, match="newer version"):
        Labels(tmp_path / "new.sqlite")
    with pytest.raises(AuditorError, match="characters long"):
        Labels(tmp_path / "ok.sqlite").set(1, "x" * 5000, "Ada")


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE entry",
        "INSERT INTO entry VALUES (9, '', 7, 'label', x'ff00', 'Eve', 0, NULL)",
        "INSERT INTO entry VALUES (9, '', 'seven', 'label', 'x', 'Eve', 0, NULL)",
    ],
)
def test_that_a_file_that_holds_what_labels_never_do_is_told_when_it_is_read(tmp_path: Path, change: str) -> None:
    Labels(tmp_path / "l.sqlite").set(1, "kept", "Ada")
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        db.execute(change)
    labels = Labels(tmp_path / "l.sqlite")
    for read in (labels.all, labels.history, lambda: labels.get(1)):
        with pytest.raises(AuditorError, match=r"“l.sqlite” cannot be read"):
            read()
