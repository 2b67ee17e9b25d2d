"""What is told while the same training goes on with random weights."""

from __future__ import annotations

from auditor.base.reporter import EventReporter
from auditor.sae.random_model import _Redrawn


def test_that_a_full_disk_and_warnings_of_a_redrawn_model_are_told_and_its_figures_are_not():
    told = []
    reporter = _Redrawn(EventReporter(told.append))
    reporter.partial("disk_full", needed=9, missing=5, step=3, message="The disk is full.", folder="/")
    reporter.partial("warning", step=4, run="", message="The loss leapt.")
    for kind in ("curve", "density", "spliced"):
        reporter.partial(kind, step=4, run="")
    reporter.metric(4, loss=1.0)
    assert [(event.kind, event.data["message"]) for event in told] == [
        ("disk_full", "The disk is full."), ("warning", "Redrawn model: The loss leapt."),
    ]  # fmt: skip
