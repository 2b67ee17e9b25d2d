"""Whether a sweep of edits that was begun earlier can be gone on with: by these settings, and by this program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.analysis.editing.measured import Measured, measured_by
from auditor.base.config import Config
from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.project.project import environment
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.analysis.editing.sweep import Sweep

# What names a sweep held the program's version at first: so those that were begun then are found by any later one.
_FIRST = "0.1.0"
# Beyond what other sums of the same numbers give: a part of the largest effect, and nats of float32 probabilities.
_ALIKE, _ROUNDED = 1e-3, 1e-5
_ANEW = "Start it anew: `auditor unfinished --anew NAME`, or “Start anew” in the project. Until then it stays."


def facts_of(settings: Mapping[str, Any], inputs: Mapping[str, str], samples: Sequence[str]) -> dict[str, Any]:
    """What a sweep is measured by: its settings, the digests of what it reads, its samples and the program."""
    return {
        "settings": dict(settings), "inputs": dict(inputs), "samples": list(samples), "program": environment(),
    }  # fmt: skip


def place_of(run: Run, by: Mapping[str, Any], config: type[Config]) -> Path:
    """Where a sweep keeps what it measured, the same whatever the program. AuditorError where the run is to go on
    elsewhere, and what is kept there was measured by other settings; it says which."""
    key = digest_json([by["settings"], by["inputs"], by["samples"], _FIRST])
    place = run.keyed_path("result", "edits", key).with_suffix(".unfinished")
    if not run.onto or place in run.onto:
        return place
    for begun in run.onto:
        # A catalogue from elsewhere may name any file: only what lies where tests of edits do is looked into.
        ours = begun.parent == place.parent and begun.suffix == place.suffix and not begun.is_symlink()
        if ours and (then := measured_by(begun)):
            if not (differing := _differing(then, by, config)):
                return begun
            raise AuditorError(f"“{begun.stem}” was begun with other settings: {'; '.join(differing)}.", _ANEW)
    return place


def must_be_alike(run: Run, sweep: Sweep, measured: Measured) -> None:
    """AuditorError where another program measured what is kept, and this one measures its first runs otherwise. Where
    they are alike, the record of the run says who measured."""
    from auditor.analysis.measures import UNITS

    if not len(measured) or measured.by.get("program") == environment():
        return
    changed = _changed(measured.by.get("program"), environment())
    n, largest, apart = sweep.again(measured)
    unit = UNITS[sweep.measure]
    if apart > _ALIKE * largest + _ROUNDED:
        raise AuditorError(
            f"Its first {n:,} runs, measured again, differ by up to {apart:.3g} {unit} from what was kept (of "
            f"{largest:.3g}); {changed}.",
            _ANEW,
        )
    run.warn(
        f"{len(measured):,} of {sweep.runs:,} runs were measured before; {changed}. The first {n:,}, measured again, "
        f"differ by {apart:.1g} {unit} at most."
    )


def _changed(then: object, now: Mapping[str, str]) -> str:
    if not isinstance(then, dict):
        return "which program measured them is not known"
    names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
    return "since then " + ", ".join(f"{name} {_shown(then.get(name))} → {_shown(now.get(name))}" for name in names)


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], config: type[Config]) -> list[str]:
    """What differs, in words; settings that a later version brought count only where they are not as usual."""
    told = []
    before, after = _plain(then.get("settings")), now["settings"]
    for name in {**after, **before}:
        known = config.model_fields.get(name)
        usual = known.get_default(call_default_factory=True) if known else None
        if before.get(name, usual) != after.get(name, usual):
            told.append(f"{name} was {_shown(before.get(name, usual))} and is {_shown(after.get(name, usual))}")
    read, reads = _plain(then.get("inputs")), now["inputs"]
    for name in {**reads, **read}:
        if read.get(name) != reads.get(name):
            told.append(f"“{name}” was {_digest(read.get(name))} and is {_digest(reads.get(name))}")
    if then.get("samples") != now["samples"]:
        told.append("other samples are drawn")
    return told


def _plain(found: object) -> dict[str, Any]:
    """What a file of a project from elsewhere says; nothing where it is of another shape."""
    return found if isinstance(found, dict) else {}


def _digest(found: object) -> str:
    return f"sha256 {str(found)[:8]}…" if found else "not read"


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = "nothing" if value in (None, "", [], ()) else text
    return text if len(text) <= 60 else f"{text[:59]}…"
