"""Long collections happen once for what stays: the next ones do not walk it again."""

from __future__ import annotations

import gc
import time

import pytest

from auditor.ui import collector
from auditor.ui.collector import ShortCollections


def test_that_what_survived_a_long_collection_is_not_walked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ShortCollections()
    held = [[number] for number in range(300_000)]
    before = gc.get_freeze_count()
    watch.install()
    try:
        monkeypatch.setattr(collector, "_LONG_S", 1e9)
        gc.collect()
        assert gc.get_freeze_count() == before
        monkeypatch.setattr(collector, "_LONG_S", 0.0)
        gc.collect()
        assert gc.get_freeze_count() >= before + len(held)
        begun = time.perf_counter()
        gc.collect()
        again = time.perf_counter() - begun
    finally:
        watch.remove()
        gc.unfreeze()
    begun = time.perf_counter()
    gc.collect()
    assert again < time.perf_counter() - begun
    assert watch._watch not in gc.callbacks
