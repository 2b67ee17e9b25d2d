"""Batches that another process gathers are those of the store, in order, whatever is slow and however it ends."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.sae.pump import SLOTS, Pump
from auditor.store import StoredSample, StoreWriter

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system shares no memory without a file")
HOW = {"seed": 3, "hook": ["b", "a"], "start": 2}


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s.store", {"a": 24, "b": 8}, {}) as writer:
        for _ in range(5):
            rows = {"a": rng.standard_normal((400, 24)), "b": rng.standard_normal((400, 8))}
            ones = np.ones(400)
            writer.append([StoredSample("s")], rows, np.zeros(400, int), ones, ones, ones)
        return writer.finish()


def pump(store, batch_size=64):
    return Pump(store.path, batch_size, 32, store.numbers("b", "a"), HOW, pinned=False)


def test_that_batches_come_in_order_and_stay_until_they_are_given_back(store):
    wanted = store.batches(64, dtype="float16", **HOW)
    pumped = pump(store)
    coming = iter(pumped)
    held = [next(coming) for _ in range(SLOTS)]
    for _ in range(3 * SLOTS):
        time.sleep(0.02)  # the child would have time to write over what it must not
        np.testing.assert_array_equal(held.pop(0).numpy(), next(wanted))
        pumped.give_back()
        held.append(next(coming))
    pumped.close()
    assert pumped._child.poll() is not None


def test_that_the_child_runs_nothing_of_the_folder_one_stands_in(store, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("open('canary', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    pumped = pump(store)
    assert next(iter(pumped)).shape == (64, 32)
    pumped.close()
    assert not (tmp_path / "canary").exists()


def test_that_what_the_child_finds_wrong_is_told_here(store):
    shutil.rmtree(store.path)
    pumped = pump(store)
    with pytest.raises(AuditorError, match="no manifest"):
        next(iter(pumped))
    pumped.close()


def test_that_a_child_that_is_killed_is_told_and_leaves_nothing(store):
    pumped = pump(store)
    coming = iter(pumped)
    next(coming)
    pumped._child.kill()
    with pytest.raises(AuditorError, match="ended"):
        for _ in coming:
            pass
    pumped.close()
    assert pumped._child.poll() is not None
