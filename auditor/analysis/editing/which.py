"""Which head, neuron or feature: all together, one, or several that are tested one by one."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from auditor.base.errors import AuditorError

ALL, NONE, EACH = "all", "none", "*"
WHICH_HELP = "all: together; a number; or several to test one by one: * (each), 0:4, 1,7."
_MOST = 1 << 24


def _read(usual: str, value: Any) -> str:
    """−1 is what older lists say for the usual."""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if text in (usual, "-1", "−1") or value == "":
        return usual
    if text in (EACH, "each"):
        return EACH
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,8}(:[0-9]{1,8})?", part) for part in parts):
        raise ValueError(f"write {usual}, a number, or several to test one by one: *, 0:4 or 1,7")
    for part in parts:
        first, _, last = part.partition(":")
        if int(last or first) > _MOST or (last and int(last) <= int(first)):
            raise ValueError(f"{part} names nothing")
    return ",".join(":".join(str(int(end)) for end in part.split(":")) for part in parts)


Which = Annotated[str, BeforeValidator(lambda value: _read(ALL, value))]
"""“all” or some of those that there are."""
Some = Annotated[str, BeforeValidator(lambda value: _read(NONE, value))]
"""“none” or some of those that there are."""


def is_several(which: str) -> bool:
    """Whether it names several, each to be tested by itself."""
    return which not in (ALL, NONE) and not which.isdecimal()


def one(which: str) -> int:
    """The number; −1 for all or none. AuditorError where it names several."""
    if is_several(which):
        raise AuditorError(
            f"“{which}” names several, which are tested one by one.", "Run it as an experiment, or name one number."
        )
    return int(which) if which.isdecimal() else -1


def numbers_of(which: str, count: int, what: str) -> list[str]:
    """Each number that it names of `count`, as text, in ascending order; itself where it is one, all or none.
    AuditorError for one that there is not."""
    if not is_several(which):
        return [which]
    if which == EACH:
        return [str(number) for number in range(count)]
    found: set[int] = set()
    for part in which.split(","):
        first, _, last = part.partition(":")
        stop = int(last) if last else int(first) + 1
        if stop > count:
            raise AuditorError(f"There is no {what} {stop - 1}: there are {count}.", "Choose some that there are.")
        found.update(range(int(first), stop))
    return [str(number) for number in sorted(found)]
