"""Work that was stopped, killed or broken off, and what it left in a project: listed, gone on with, or removed.

What lies in the project's own folders tells that something was left; the catalogue tells who began it, with which
settings it goes on, and whether it is being written right now. Links are never followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auditor.base.config import ARTEFACT_KINDS
from auditor.base.errors import AuditorError
from auditor.base.files import running, told
from auditor.base.reporter import Reporter
from auditor.project import Project, RunRecord
from auditor.tasks.task import get_task, run_task

_EDITS = "tests of edits"
# What can go on, by the kind of what it makes: its verb, and what the work is called.
_WORK = {"store": ("record", "recording"), "dictionary": ("train", "training"), "result": ("experiment", _EDITS)}
_HALF = "half-written file"
_PARTIAL = re.compile(r"(.+)\.(\d{1,10})\.partial")
_LARGEST_FACTS = 64 << 20
# What this program goes on with, from before its run says so: until then a model is opened.
_at_work: set[Path] = set()
_turn = threading.Lock()


@dataclass(frozen=True)
class Unfinished:
    """Something that was begun: its name, what `work` it was, how far it had come, when it was last written (UTC), the
    bytes that it takes on the disk, and at which `places`; `targets` is what it would have become. `run` began it, with
    the settings that go on; None where that is not known, or there is nothing to go on from."""

    name: str
    work: str
    reached: str
    changed: str
    bytes: int
    places: tuple[Path, ...]
    targets: tuple[Path, ...]
    run: RunRecord | None

    def facts(self) -> dict[str, Any]:
        """What the command line shows."""
        named = {"name": self.name, "work": self.work, "reached": self.reached, "changed": self.changed}
        return {**named, "bytes": self.bytes, "goes_on": self.run is not None}


def unfinished(project: Project) -> list[Unfinished]:
    """All of it, the newest last, each with a name of its own; not what a program is working on. What several
    dictionaries of one training left is one."""
    begun = project.catalogue.begun()
    left: dict[Path, list[tuple[str, Path]]] = {}
    for kind in ARTEFACT_KINDS:
        for place in _plain(project.folder_of(kind)):
            if (target := _target(kind, place)) is not None:
                left.setdefault(target, []).append((kind, place))
    groups: dict[str, list[Path]] = {}
    for target in left:
        if target in _at_work:
            continue
        run = begun.get(target)
        # Of what no run has begun only who holds the project knows that nobody is at it.
        if project.writable if run is None else run.status != "running":
            kind = left[target][0][0]  # a run makes one kind, whatever a damaged catalogue says
            groups.setdefault(f"{kind} {run.id if run else target}", []).append(target)
    described = [_described(targets, left, begun.get(targets[0])) for targets in groups.values()]
    found = sorted((one for one in described if one is not None), key=lambda one: one.changed)
    named = Counter(one.name for one in found)
    return [one if named[one.name] == 1 else replace(one, name=_in_full(one.targets[0])) for one in found]


def find(project: Project, name: str) -> Unfinished:
    """The one of this name; AuditorError where there is none."""
    held = unfinished(project)
    for one in held:
        if name == one.name:
            return one
    names = ", ".join(one.name for one in held[-8:]) or "nothing"
    raise AuditorError(f"Nothing unfinished here is called “{name}”.", f"Unfinished is: {names}.")


def go_on(project: Project, name: str, reporter: Reporter) -> dict[str, Any]:
    """Run the same settings again, which goes on from what was kept. AuditorError where that is not known, or they lead
    elsewhere by now."""
    with _turn:
        one = find(project, name)
        run = _begun(one)
        _at_work.update(one.targets)
    try:
        onto = [place for place, begun in project.catalogue.begun().items() if begun.id == run.id]
        config = get_task(run.verb).read(run.config)
        return run_task(run.verb, project, config, reporter, onto=onto)
    finally:
        _at_work.difference_update(one.targets)


def start_anew(project: Project, name: str, reporter: Reporter) -> dict[str, Any]:
    """Remove what was left, for good, and run the same settings from the start. AuditorError, and all stays, where they
    are not known."""
    run = _begun(find(project, name))
    config = get_task(run.verb).read(run.config)
    remove(project, name)
    return run_task(run.verb, project, config, reporter)


def _begun(one: Unfinished) -> RunRecord:
    if one.run is None:
        raise AuditorError(
            f"It is not known how “{one.name}” was begun.", "Start it again with the same settings, or remove it."
        )
    return one.run


def remove(project: Project, name: str) -> int:
    """Remove what was left, for good; the bytes that are free again."""
    project.must_write()
    with project.at_work(), _turn:
        one = find(project, name)  # as it is now: someone may have gone on with it since it was listed
        for place in one.places:
            away = place.with_name(f"{place.name}.{os.getpid()}.partial")
            try:
                os.rename(place, away)  # at once, so that nobody takes up half of it
                if away.is_dir() and not away.is_symlink():
                    shutil.rmtree(away)
                else:
                    away.unlink()
            except OSError as error:
                raise told(error, place) from error
        project.catalogue.forget_begun(one.targets)
        project.log.append("unfinished removed", name=one.name, work=one.work, bytes=one.bytes)
    return one.bytes


def _plain(folder: Path) -> list[Path]:
    """The files and folders in a folder, without links and names that are no text; nothing where it is a link itself,
    is not there, or nobody may look."""
    if folder.is_symlink():
        return []
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if not entry.is_symlink() and _text(entry.name))
    except OSError:
        return []


def _text(name: str) -> bool:
    """Whether a file's name is UTF-8: another can neither be shown nor noted, and none of ours is."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _in_full(target: Path) -> str:
    return f"{target.parent.name}/{target.name}"


def _target(kind: str, place: Path) -> Path | None:
    """What the leftover at `place` would have become; None where it is none, or is being written."""
    name, half = place.name, _PARTIAL.fullmatch(place.name)
    if half is not None:
        if running(int(half[2])):
            return None
        name = half[1]
    if kind == "dictionary" and name.endswith((".training.safetensors", ".training")):
        return place.with_name(name.removesuffix(".safetensors").removesuffix(".training"))
    if kind == "store" and name.endswith(".parts"):
        return place.with_name(name.removesuffix(".parts"))
    if half is not None:
        return place.with_name(name)
    if kind == "result" and name.endswith(".unfinished") and place.is_file():
        return place
    return place if kind == "store" and _unfinished_store(place) else None


def _unfinished_store(place: Path) -> bool:
    """Whether only the writer of a store has been here, and has not finished it."""
    if place.suffix != ".store" or not place.is_dir() or (place / "manifest.json").exists():
        return False
    from auditor.store.writer import left_by_writer  # an engine, which finished stores do without

    try:
        return all(file.is_file() and left_by_writer(file.name) for file in place.iterdir())
    except OSError:
        return False  # it went meanwhile, or nobody may look


def _described(
    targets: Sequence[Path], left: dict[Path, list[tuple[str, Path]]], run: RunRecord | None
) -> Unfinished | None:
    """What was left of `targets`; None where somebody writes there."""
    found = [(kind, place) for target in targets for kind, place in left[target]]
    taken, changed = 0, 0.0
    for _, place in found:
        for file in _files(place):
            if file.name.endswith(".lock") and _held(file):
                return None
            with contextlib.suppress(OSError):
                facts = file.lstat()
                taken, changed = taken + facts.st_blocks * 512, max(changed, facts.st_mtime)
    verb, work = _WORK.get(found[0][0], ("", _HALF))
    if run is None and all(_PARTIAL.fullmatch(place.name) for _, place in found):
        work = _HALF
    more = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
    return Unfinished(
        name=f"{targets[0].stem}{more}", work=work, reached="" if work == _HALF else _reached(work, targets),
        changed=datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds"), bytes=taken,
        places=tuple(place for _, place in found), targets=tuple(targets),
        # What a project from elsewhere says of it must not start anything else.
        run=run if run is not None and run.verb == verb else None,
    )  # fmt: skip


def _files(place: Path) -> Iterator[Path]:
    """A file or folder and all within."""
    yield place
    for folder, _, names in os.walk(place):
        yield from (Path(folder) / name for name in names)


def _held(lock: Path) -> bool:
    """Whether a program holds this lock, and so writes beside it."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would never open
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _reached(work: str, targets: Sequence[Path]) -> str:
    """How far it came, in words; of several the one that came least far."""
    try:
        if work == "training":
            return min((_steps(target) for target in targets), key=lambda steps: steps[0])[1]
        return _runs(targets[0]) if work == _EDITS else _rows(targets[0])
    except AuditorError as error:
        return error.message


def _steps(out: Path) -> tuple[int, str]:
    from auditor.intake.safetensors_header import check_safetensors

    file, kept = out.with_name(f"{out.name}.training.safetensors"), [(0, 0)]
    try:
        if file.is_file() and not file.is_symlink():
            kept.append(_step(check_safetensors(file).metadata["auditor"]))
        for place in _plain(out.with_name(f"{out.name}.training")):
            facts = place / "facts.json"
            whole = place.name.isdecimal() and facts.is_file() and not facts.is_symlink()
            if whole and facts.stat().st_size < _LARGEST_FACTS:
                kept.append(_step(facts.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise AuditorError(f"What is kept of “{out.stem}” cannot be read ({error}).") from None
    step, steps = max(kept)
    return step, f"step {step:,} of {steps:,}" if steps else "nothing was kept"


def _step(text: str) -> tuple[int, int]:
    facts = json.loads(text)
    return int(facts["step"]), int(facts["identity"]["steps"])


def _rows(out: Path) -> str:
    from auditor.store.layout import MANIFEST, UNFINISHED

    apart = sum((part / MANIFEST).is_file() for part in _plain(out.with_name(f"{out.name}.parts")))
    beside = f"{apart:,} part{'' if apart == 1 else 's'} of several processes" if apart else ""
    if not (out / UNFINISHED).exists():
        return beside or "nothing was kept"
    return ", ".join(filter(None, (_rows_of_store(out), beside)))


def _rows_of_store(out: Path) -> str:
    from auditor.store import open_store

    store = open_store(out)
    meta = store.meta
    base = meta.get("appended_to")  # what it goes on behind lies in it, and is not to record
    rows = sum(group.n_rows for group in store.each_group()) - _count(base, "rows")
    done = store.n_samples - _count(base, "samples")
    most, pieces = _count(meta.get("config"), "max_tokens"), _count(meta, "pieces")
    positions = f"{rows:,} of {most:,} positions" if most else f"{rows:,} positions"
    if not pieces:  # as an older program recorded
        return f"{positions}, {done:,} samples"
    samples = _count(meta, "drawn") or _count(meta.get("samples"), "count")
    cut = f"pieces of {samples:,} samples" if pieces > samples else "samples"
    return f"{positions}, {done:,} of {pieces:,} {cut}"


def _count(facts: Any, name: str) -> int:
    """A count that a store tells of itself; 0 where it does not, or writes something else."""
    found = facts.get(name) if isinstance(facts, dict) else None
    return found if isinstance(found, int) and found > 0 else 0


def _runs(out: Path) -> str:
    from auditor.analysis.editing.measured import reached

    done, whole = reached(out)
    return f"{done:,} of {whole:,} runs" if whole else f"{done:,} runs"
