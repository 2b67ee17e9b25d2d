"""Processes started by the command line and by torchrun: one result, a killed one ends all, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.jobs import launch as launching
from auditor.sae import load
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import train
from auditor.store import open_store
from tests.torchrun.runs import HOOK, stored

ROOT = Path(__file__).resolve().parents[2]
# A learning rate that keeps float noise of another order of sums from changing which features are chosen.
TRAIN = [
    "train", "--store=s.store", "--d-sae=64", "--k=4", "--batch-size=96", "--lr=0.001", "--product=float32",
    "--device=cpu", "--evaluate-rows=64", "--splice-samples=0", "--project=p",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("stored") / "s.store")


@pytest.fixture
def folder(store, tmp_path):
    """A folder with the store s.store of 4096 rows."""
    (tmp_path / "s.store").symlink_to(store)
    return tmp_path


def start(folder, *arguments, prefix=("-m", "auditor")):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *prefix, *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def ended(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def children_of(process):
    """Process ids of the processes that `process` started, by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                settings = (entry / "environ").read_text().split("\0") if parent == process.pid else []
            except OSError:
                continue
            ranks = [int(item.removeprefix("RANK=")) for item in settings if item.startswith("RANK=")]
            found |= {rank: int(entry.name) for rank in ranks}
    return found


def wait_for(condition, process=None, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


def left_running(folder):
    """Processes whose current folder is `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "cwd").readlink() == folder:
                found.append(entry.name)
        except OSError:
            continue
    return found


def kept_step(folder):
    """The step of the last checkpoint; 0 where there is none."""
    places = sorted(folder.glob("p/dictionaries/*.training/0*[0-9]/facts.json"))
    try:
        return json.loads(places[-1].read_bytes())["step"] if places else 0
    except FileNotFoundError:  # replaced by the next one meanwhile
        return 0


def events_of(out):
    return [json.loads(line) for line in out.splitlines()]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "auditor"]


def test_that_a_run_goes_on_after_a_killed_process_and_a_killed_launcher(folder):
    shared = [*TRAIN, "--steps=800", "--checkpoint-every=20"]
    process = start(folder, *shared, "--processes=2", "--json")
    wait_for(lambda: kept_step(folder), process)
    os.kill(children_of(process)[1], signal.SIGKILL)
    begun = time.monotonic()
    code, out, err = ended(process)
    assert time.monotonic() - begun < 20
    told = json.loads(out)
    assert code == 2 and "Process 2 of 2 was killed (SIGKILL)" in told["error"] and "goes on" in told["hint"]
    assert "Traceback" not in err
    assert not left_running(folder) and not list((folder / "tmp").glob("auditor-*"))
    at_kill = kept_step(folder)
    assert 20 <= at_kill < 800

    process = start(folder, *shared, "--processes=2", "--json")
    wait_for(lambda: kept_step(folder) > at_kill, process)
    process.kill()
    process.communicate()
    wait_for(lambda: not left_running(folder))
    at_stop = kept_step(folder)
    assert at_kill < at_stop < 800

    code, out, err = ended(start(folder, *shared, "--distributed", prefix=TORCHRUN), 120)
    assert code == 0, err
    events = events_of(out)
    assert min(event["done"] for event in events if event["type"] == "progress") > at_stop
    path = Path(events[-1]["result"]["artefacts"][0]["path"])
    assert [place.name for place in path.parent.iterdir()] == [path.name]


def test_that_torchrun_gives_what_one_process_gives(folder):
    code, out, err = ended(start(folder, *TRAIN, "--steps=40", "--distributed", prefix=TORCHRUN), 120)
    assert code == 0, err
    events = events_of(out)
    assert [event["type"] for event in (*events[:2], events[-1])] == ["partial", "started", "done"]
    assert events[0]["kind"] == "planned" and events[0]["data"]["minutes"] > 0
    curve = {event["step"]: event["values"]["loss"] for event in events if event["type"] == "metric"}
    together = load(events[-1]["result"]["artefacts"][0]["path"])
    config = TrainConfig(
        d_sae=64, k=4, batch_size=96, lr=1e-3, product="float32", device="cpu", evaluate_rows=0, steps=40, hook=HOOK
    )
    alone = train(config, open_store(folder / "s.store"), folder / "alone")
    losses = {row[0]: row[1] for row in alone.meta["curve"]["rows"]}
    assert curve.keys() == losses.keys() and len(curve) == 4
    np.testing.assert_allclose(list(curve.values()), list(losses.values()), rtol=1e-4)
    np.testing.assert_allclose(together.W_dec.numpy(), alone.W_dec.numpy(), atol=2e-3)
    assert together.meta["processes"] == 2 and together.meta["shared"] == "rows"


def test_that_a_fault_of_the_person_is_told_once(folder):
    code, out, err = ended(start(folder, *TRAIN[:-1], "--project=p", "--k=2000", "--processes=2"))
    assert code == 2 and not out
    assert err.count("2000 active features were asked of a dictionary of 64") == 1 and "Traceback" not in err


def test_that_a_process_runs_nothing_of_the_folder_one_stands_in(tmp_path):
    (tmp_path / "json.py").write_text("open('canary', 'w').close()\n")
    told = subprocess.run([*launching.program(), "--version"], cwd=tmp_path, capture_output=True, check=True)
    assert told.stdout and not (tmp_path / "canary").exists()


def test_that_processes_share_a_machine_s_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(launching.psutil, "cpu_count", lambda: 16)
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    given = launching._environment(1, 3, tmp_path)
    assert given["OMP_NUM_THREADS"] == given["RAYON_NUM_THREADS"] == "5"
    assert given["LOCAL_WORLD_SIZE"] == "3", "by which threads that prepare are shared (auditor.base.cores)"


# Stands in for a child: what it does is the argument of its rank.
CHILD = """
import json, os, signal, sys, time
def put(**event): print(json.dumps(event), flush=True)
def wait():
    while os.read(0, 1): pass
exec(sys.argv[1 + int(os.environ["RANK"])])
"""


def launched(monkeypatch, *bodies, reporter=None):
    monkeypatch.setattr(launching, "program", lambda: [sys.executable, "-c", CHILD])
    return launching.launch(bodies, len(bodies), reporter or Reporter())


def test_that_the_first_ones_result_comes_back_and_noise_does_not(monkeypatch, capfd):
    first = "print('a library says hello'); put(type='done', result={'rows': 3, 'threads': os.environ['WORLD_SIZE']})"
    assert launched(monkeypatch, first, "pass") == {"rows": 3, "threads": "2"}
    assert "a library says hello" in capfd.readouterr().err


def test_that_the_persons_stop_reaches_all_and_is_one_stop(monkeypatch):
    class Stops(Reporter):
        def step(self, done, *_, **__):
            raise Stop

    body = "put(type='progress', done=1, total=9); wait(); sys.exit(130)"
    with pytest.raises(Stop):
        launched(monkeypatch, body, body, reporter=Stops())


def test_that_the_one_that_failed_is_told_and_not_those_that_noticed(monkeypatch):
    noticed = "put(type='failed', message='Another ended.', hint=''); sys.exit(3)"
    failed = "time.sleep(0.3); put(type='failed', message='No room.', hint='Make some.'); sys.exit(2)"
    with pytest.raises(AuditorError) as told:
        launched(monkeypatch, noticed, failed)
    assert (told.value.message, told.value.hint) == ("No room.", "Make some.")


def test_that_a_fault_of_the_program_keeps_its_trace(monkeypatch):
    with pytest.raises(RuntimeError, match="line 7"):
        launched(monkeypatch, "put(type='failed', message='x', hint='', trace='line 7'); sys.exit(1)", "wait()")


def test_that_one_that_will_not_end_is_made_to(monkeypatch):
    monkeypatch.setattr(launching, "_GRACE_S", 200.0)  # that is for those that can still say something
    monkeypatch.setattr(launching, "_KILLED_S", 0.2)
    monkeypatch.setattr(launching, "_TERM_S", 0.3)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); put(type='started', title='x')\nwhile True: time.sleep(1)"
    with pytest.raises(AuditorError, match=r"Process 2 of 2 was killed \(SIGKILL\)"):
        launched(monkeypatch, deaf, "time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)")
