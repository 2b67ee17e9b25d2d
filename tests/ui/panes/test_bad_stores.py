"""Stores that do not fit, in the window: one sentence, and nothing half-made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pytestqt.qtbot import QtBot

from auditor.ui.session import Session
from auditor.ui.window import Window


def failed(session: Session, qtbot: QtBot, verb: str, config: Any) -> None:
    with qtbot.waitSignal(session.job_ended, timeout=120_000) as told:
        session.run_task(verb, config)
    assert told.args[0].outcome == "failed"


def test_that_a_store_of_another_width_or_of_a_newer_version_is_told(
    indexed: Session, qtbot: QtBot, tmp_path: Path
) -> None:
    from auditor.features.build import BuildConfig
    from auditor.tasks.import_ import ImportConfig
    from auditor.tasks.open import OpenConfig

    window = Window(indexed)
    qtbot.addWidget(window)
    window.show()
    with h5py.File(tmp_path / "narrow.h5", "w") as file:
        file["acts"] = np.random.default_rng().normal(size=(300, 64)).astype(np.float32)
    with qtbot.waitSignal(indexed.job_ended, timeout=120_000):
        indexed.run_task("import", ImportConfig(path=str(tmp_path / "narrow.h5"), hook="blocks.1.resid_post"))
    before = len(indexed.artefacts())
    failed(indexed, qtbot, "index", BuildConfig(store=indexed.artefacts("store")[-1].id))
    assert "64" in window.strip.text and "576" in window.strip.text

    newer = tmp_path / "newer.store"
    shutil.copytree(indexed.artefacts("store")[0].path, newer)
    manifest = json.loads((newer / "manifest.json").read_text(encoding="utf-8"))
    (newer / "manifest.json").write_text(json.dumps(manifest | {"version": 99}), encoding="utf-8")
    failed(indexed, qtbot, "open", OpenConfig(path=str(newer)))
    assert "format version 99" in window.strip.text
    assert len(indexed.artefacts()) == before and not list(indexed.project.folder.glob("*/*.partial"))  # type: ignore[union-attr]
    indexed.jobs.clear()
