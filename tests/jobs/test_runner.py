"""Lanes, cancelling, pausing and failing of background jobs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from auditor.base.errors import AuditorError
from auditor.base.events import Event, Failed
from auditor.base.reporter import Reporter
from auditor.jobs import Job, Runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("auditor-")]


def told(job: Job) -> list[Event]:
    return [job.events.get() for _ in range(job.events.qsize())]


def test_that_gpu_jobs_run_in_order(runner: Runner) -> None:
    seen: list[int] = []
    jobs = [runner.submit("gpu", str(n), lambda _, n=n: seen.append(n)) for n in range(20)]
    assert all(job.wait(5) for job in jobs)
    assert seen == list(range(20))


def test_that_the_newest_read_wins(runner: Runner) -> None:
    gate, entered = threading.Event(), threading.Event()

    def first(_: Reporter) -> None:
        entered.set()
        gate.wait(5)

    blocking = runner.submit("read", "first", first)
    assert entered.wait(5)
    stale = [runner.submit("read", "row", lambda _: pytest.fail("stale"), key="row") for _ in range(5)]
    newest = runner.submit("read", "row", lambda _: {"row": 7}, key="row")
    gate.set()
    assert newest.wait(5) and blocking.wait(5)
    assert newest.value == {"row": 7}
    assert [job.state for job in stale] == ["cancelled"] * 5


def test_that_no_read_waits_for_a_measurement(runner: Runner) -> None:
    gate = threading.Event()
    measured = runner.submit("measure", "plan", lambda _: gate.wait(5), key="plan")
    read = runner.submit("read", "page", lambda _: "page", key="page")
    assert read.wait(5) and read.value == "page" and not gate.is_set()
    gate.set()
    assert measured.wait(5) and measured.value is True


def test_that_cancel_ends_a_paused_job(runner: Runner) -> None:
    stepped = threading.Event()

    def work(reporter: Reporter) -> None:
        for n in range(10**9):
            reporter.step(n)
            stepped.set()

    job = runner.submit("gpu", "long", work)
    assert stepped.wait(5)
    job.control.pause()
    assert job.state == "paused"
    job.cancel()
    assert job.wait(1) and job.state == "cancelled"
    assert told(job)[-1].type == "cancelled"


@pytest.mark.parametrize(
    ("error", "trace"), [(AuditorError("No such file.", "Look again."), False), (KeyError("k"), True)]
)
def test_that_only_our_own_bugs_carry_a_trace(runner: Runner, error: Exception, trace: bool) -> None:
    def work(_: Reporter) -> None:
        raise error

    job = runner.submit("gpu", "fails", work)
    assert job.wait(5) and job.state == "failed"
    last = told(job)[-1]
    assert isinstance(last, Failed) and bool(last.trace) == trace and last.hint


def test_that_a_closed_runner_takes_no_more(runner: Runner) -> None:
    runner.close()
    with pytest.raises(RuntimeError):
        runner.submit("gpu", "late", lambda _: None)
