"""Starting: quick, without an engine, and without losing a reference on every virtual call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor
from pytestqt.qtbot import QtBot

from auditor.project.project import Project
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.token_view import TokenView

_START = """
import sys, time
begin = time.perf_counter()
from auditor.ui.app import main
def shown(window):
    print("ready", round(time.perf_counter() - begin, 2))
    window.load_commands()
    heavy = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "h5py", "scipy", "sklearn"})
    print("heavy", heavy, window.strip.text)
    window.close()
main(sys.argv[1], shown=shown)
"""


def test_that_the_window_starts_without_an_engine(tmp_path: Path) -> None:
    Project.create(tmp_path / "p").close()
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "AUDITOR_CONFIG": str(tmp_path / "c")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _START, str(tmp_path / "p")],
        capture_output=True, text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ready, heavy = done.stdout.strip().splitlines()
    assert heavy.strip() == "heavy []"
    assert float(ready.split()[1]) < 10  # two seconds on an idle machine; a shared one is given room


def test_that_a_thousand_virtual_calls_keep_every_reference_to_none(qtbot: QtBot) -> None:
    table = BigTable([Column("id", "id")])
    table.set_rows(np.zeros(10, dtype=[("id", np.int64)]))
    view = TokenView()
    for widget in (table, view):
        qtbot.addWidget(widget)
    model, index = table.model(), table.model().index(0, 0)
    before = sys.getrefcount(None)
    for _ in range(1000):
        model.data(index, Qt.ItemDataRole.DecorationRole)
        index.data(Qt.ItemDataRole.FontRole)
        view.property("nothing")
        QColor().name()
    assert abs(sys.getrefcount(None) - before) < 200
