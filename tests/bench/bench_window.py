"""Times the window: start, the sample audit, and how fast it answers while a dictionary is being trained.

`auditor bench window [--seconds 300] [--json]`. Start: from the interpreter's start to the first painted window, in
fresh processes. Answers: while a training runs in the background, an event is posted every 20 ms to the window's loop,
and features are chosen; latency is from posting to handling, a stall is a turn of the loop that takes over 100 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

START = """
import sys, time
from PySide6.QtCore import QTimer
from auditor.ui.app import main
def shown(window):
    QTimer.singleShot(0, lambda: (print(time.time() - float(sys.argv[1]), flush=True), window.close()))
main(None, shown=shown)
"""


def start_seconds(runs: int) -> list[float]:
    """Seconds from the start of a fresh interpreter to a window that has been shown and handles events."""
    found = []
    for _ in range(runs):
        told = subprocess.run(
            [sys.executable, "-c", START, str(time.time())], cwd=ROOT, capture_output=True, text=True, check=True
        )
        found.append(float(told.stdout.split()[0]))
    return found


def answers(project: Path, seconds: float) -> dict[str, object]:
    """Latencies in ms while a dictionary is trained in the window's own background thread."""
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from auditor.sae.train_config import TrainConfig
    from auditor.ui import theme
    from auditor.ui.collector import ShortCollections
    from auditor.ui.session import Session
    from auditor.ui.window import Window

    app = QApplication([])
    theme.apply("light", 100)
    session = Session()
    collections = ShortCollections()
    collections.install()
    window = Window(session)
    window.resize(1280, 720)
    window.show()
    opened = time.perf_counter()
    window.session.open_project(project)
    pane = window.session.open_pane("features")
    while pane.state != "ready":
        app.processEvents()
    browsable = time.perf_counter() - opened
    hook = str(window.session.artefacts("dictionary")[-1].meta["hook"])
    config = TrainConfig(hook=hook, d_sae=4096, steps=10**6, seed=int(time.time()) % 10**6)
    live = window.session.run_task("train", config)
    while "loss" not in live.metrics:
        if not live.live:
            raise SystemExit(f"The training did not start: {window.strip.text}")
        app.processEvents()
        time.sleep(0.001)
    delays: list[float] = []
    gaps: list[tuple[float, float]] = []
    dictionary = window.session.artefacts("dictionary")[-1].id
    begin = time.perf_counter()
    last, end, number = begin, begin + seconds, 0
    begun = len(live.metrics["loss"][0])
    while time.perf_counter() < end:
        posted = time.perf_counter()
        QTimer.singleShot(0, lambda at=posted: delays.append(time.perf_counter() - at))
        number += 1
        if number % 25 == 0:
            window.session.select_feature(dictionary, number % 4096)
        app.processEvents()
        now = time.perf_counter()
        gaps.append((now - last, now - begin))
        last = now
        time.sleep(0.02)
        last = time.perf_counter()
    trained = len(live.metrics["loss"][0]) - begun
    live.stop()
    while live.live:
        app.processEvents()
    window.close()
    session.close()
    collections.remove()
    delays.sort()
    return {
        "browsable_s": browsable,
        "p50_ms": 1000 * statistics.median(delays),
        "p95_ms": 1000 * delays[int(0.95 * len(delays))],
        "longest_ms": 1000 * max(gaps)[0],
        "stalls_over_100_ms": sum(gap > 0.1 for gap, _ in gaps),
        "stalls": [{"ms": round(1000 * gap), "at_s": round(at, 1)} for gap, at in gaps if gap > 0.1],
        "n": len(delays),
        "seconds": seconds,
        "training_reports": trained,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=ROOT / "build" / "sample-audit" / "project")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    starts = start_seconds(options.starts)
    found: dict[str, object] = {"start_s_median": statistics.median(starts), "starts": options.starts}
    found["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
    if (options.project / "catalogue.sqlite").exists():
        found |= answers(options.project, options.seconds)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
