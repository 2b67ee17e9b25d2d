"""Running a recorded batch again and comparing bytes: the proof that a store is what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auditor.base.config import read_config
from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.models.model import Model
from auditor.store.capture import capture, encode
from auditor.store.reader import Store
from auditor.store.recipe import RecordConfig, chosen_hooks, drawn_of, facts_of, pieces_of, schedule


@dataclass(frozen=True)
class Replay:
    """One batch, run again: whether every byte is the same, else the largest difference; which facts differ."""

    batch: int
    rows: int
    equal: bool
    largest_difference: float
    differing: list[str]


def replay(store: Store, model: Model, samples: Sequence[Sample], batch: int = 0) -> Replay:
    """Record batch number `batch` of `store` again, in memory, and compare.

    `differing` names facts that are not as they were (thread count, a library's version); equal bytes are promised
    only where it is empty. AuditorError when the model or the samples are others, or the store was imported.
    """
    if "replay" not in store.meta:
        raise AuditorError(f"The store “{store.name}” was imported, not recorded.", "Only a recording can be replayed.")
    config = read_config(RecordConfig, {"model": "", "samples": "", **store.meta["config"]})
    model = model.switched(config.adapter)
    hooks = chosen_hooks(config, model)
    facts = facts_of(config, model, samples, hooks)
    for what in ("model", "samples"):
        if facts[what]["digest"] != store.meta[what]["digest"]:
            raise AuditorError(
                f"The store “{store.name}” was recorded from another {what[:5]} than “{facts[what]['name']}”.",
                f"Open “{store.meta[what]['name']}” with digest {store.meta[what]['digest'][:12]}….",
            )
    samples = pieces_of(samples, model, config, drawn=drawn_of(store.meta))
    numbers = schedule(samples, config)
    if not 0 <= batch < len(numbers):
        raise AuditorError(f"There is no batch {batch}.", f"The recording has batches 0 to {len(numbers) - 1}.")
    captured = capture(model, encode(model, [samples[i] for i in numbers[batch]], config), hooks, config)
    before = store.meta.get("appended_to", {}).get("samples", 0)
    first = before + sum(len(chosen) for chosen in numbers[:batch])
    if first >= store.n_samples:
        raise AuditorError(f"Batch {batch} was not recorded.", f"The store has {store.n_samples} samples.")
    difference = 0.0
    for hook in hooks:
        home = store.at(hook)
        start = home.sample(first).first_row
        index = slice(start, start + len(captured.rows[hook]))
        kept = store.numbers(hook)
        again = kept.widened(kept.narrowed(captured.rows[hook], lambda row: f"row {row}"))
        difference = max(difference, float(np.abs(home.rows(index, hook) - again).max(initial=0.0)))
    return Replay(batch, captured.n_rows, difference == 0.0, difference, _differing(store.meta, facts))


def _differing(stored: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> list[str]:
    names = [name for name, value in now["replay"].items() if value != stored["replay"].get(name)]
    return sorted(names)
