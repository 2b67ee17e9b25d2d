"""What the command line prints: progress on a terminal, results as text or JSON, errors in one sentence."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from auditor.base import events
from auditor.base.reporter import Control, EventReporter, Reporter

_PLAIN_SECONDS = 10.0
_LINE_SECONDS = 0.2
_errors = Console(stderr=True, highlight=False, soft_wrap=True)
_out = Console(highlight=False, soft_wrap=True)


def say(text: str = "") -> None:
    """One line of result. What a terminal would obey or hide in it is written out: tokens and names come from files."""
    _out.print(_visible(text), markup=False)


def warn(text: str) -> None:
    """One line beside the result, on standard error."""
    _errors.print(_visible(text), markup=False)


def table(rows: list[dict[str, Any]]) -> None:
    """Rows as aligned columns; figures to three significant figures."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([figure(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def figure(value: Any) -> str:
    """A value as a cell."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else _visible(str(value), newlines=False)


def _visible(text: str, newlines: bool = True) -> str:
    if all(part.isascii() and part.isprintable() for part in text.splitlines()) and newlines:
        return text
    from auditor.audit.text import visible  # pydantic comes with it, which plain lines do without

    return visible(text, newlines=newlines)


def print_json(value: Any) -> None:
    """One JSON value on standard output; NaN becomes null, and what is half a character JSON's own word for it."""
    text = json.dumps(_plain(value), ensure_ascii=False, indent=1, allow_nan=False)
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


def print_error(message: str, hint: str, as_json: bool, kept: dict[str, Any] | None = None) -> None:
    """A failure: a sentence and what to do on standard error, or one JSON object on standard output, which also says
    what was `kept` before it."""
    if as_json:
        print_json({"error": message, "hint": hint, **({"unfinished": kept} if kept else {})})
    else:
        warn(f"{message} {hint}".strip())


@contextmanager
def reporting(as_json: bool) -> Iterator[Reporter]:
    """A reporter that paints a progress bar on a terminal, plain lines elsewhere, and nothing with `as_json` but that
    the work waits for room on the disk."""
    control = Control()
    with _interruptible(control, silent=as_json):
        if as_json:
            yield EventReporter(_told_full, control)
        elif _errors.is_terminal:
            with _bar() as bar:
                yield EventReporter(_Painter(bar).take, control)
        else:
            yield EventReporter(_Lines().take, control)


def put_line(event: events.Event) -> None:
    """One event as one JSON line on standard output, for the program that started this one."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


class Lines:
    """Takes events and puts them as lines; progress a few times a second, since a step may take less than its line."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Progress):
            now = time.monotonic()
            if event.done != event.total and now - self._last < _LINE_SECONDS:
                return
            self._last = now
        put_line(event)


@contextmanager
def asked_to_stop() -> Iterator[Control]:
    """A control that the first interrupt or request to end cancels, where another program may send either."""
    control = Control()

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        control.cancel()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield control
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _interruptible(control: Control, silent: bool) -> Iterator[None]:
    """The first Ctrl-C asks the work to stop where it can keep what it reached; the second breaks it off."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # not the main thread's own, or someone else listens already
        yield
        return

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        control.cancel()
        if not silent:
            warn("Stopping where what was reached is kept; Ctrl-C once more breaks off at once.")

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _bar() -> Progress:
    # Where a line is too long the title gives way first, then the note: the counts and times must stay legible.
    def whole() -> Column:
        return Column(no_wrap=True)

    title = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2))
    note = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    counts = (MofNCompleteColumn(table_column=whole()), TextColumn("{task.fields[unit]}", table_column=whole()))
    times = (TimeElapsedColumn(table_column=whole()), TimeRemainingColumn(table_column=whole()))
    return Progress(title, BarColumn(10), *counts, *times, note, console=_errors, transient=False, expand=True)


class _Painter:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._row: Any = None
        self._figures = ""

    def take(self, event: events.Event) -> None:
        _told(event)
        match event:
            case events.Started():
                self._row = self._bar.add_task(event.title, total=event.total or None, unit=event.unit, note="")
                self._figures = ""
            case events.Progress() if self._row is not None:
                self._bar.update(self._row, completed=event.done, note=event.note or self._figures)
                if event.total:
                    self._bar.update(self._row, total=event.total)
            case events.Metric():
                self._figures = _figures(event)


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    def __init__(self) -> None:
        self._last = 0.0
        self._title = ""
        self._figures = ""

    def take(self, event: events.Event) -> None:
        _told(event)
        match event:
            case events.Started():
                self._title, self._figures = event.title, ""
                self._print(f"{event.title}…")
            case events.Progress() if time.monotonic() - self._last > _PLAIN_SECONDS:
                of = f" of {event.total}" if event.total else ""
                said = f"{self._title}: {event.done}{of} {event.unit} {event.note or self._figures}".rstrip()
                # What comes before the work has no title, and no count.
                self._print(said if self._title else f"{event.note[:1].upper()}{event.note[1:]}…")
            case events.Metric():
                self._figures = _figures(event)

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        warn(line)


def _told(event: events.Event) -> None:
    """Say on standard error what the work will take, and what goes wrong while it goes on."""
    if isinstance(event, events.Partial) and event.kind == "planned":
        warn("Planned: " + ", ".join(f"{name.replace('_', ' ')} {figure(value)}" for name, value in event.data.items()))
    elif isinstance(event, events.Partial) and event.kind == "opens":
        warn(str(event.data.get("message", "")))
    elif isinstance(event, events.Partial) and event.kind == "warning":
        warn(": ".join(str(event.data[name]) for name in ("run", "message") if event.data.get(name)))
    else:
        _told_full(event)


def _told_full(event: events.Event) -> None:
    if isinstance(event, events.Partial) and event.kind == "disk_full":
        warn(str(event.data.get("message", "The disk is full.")))


def _figures(event: events.Metric) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in event.values.items())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)
