"""Names that stand for several of the same form: blocks.*.z is each block's, blocks.2:5.z that of blocks 2, 3 and 4."""

from __future__ import annotations

import re


def is_pattern(name: str) -> bool:
    """Whether a name stands for several: a part of it between dots is *, or numbers as in 2:5."""
    return any("*" in part or ":" in part for part in name.split("."))


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is one of those that `pattern` stands for: blocks.*.z, blocks.2:5.z."""
    wanted, held = pattern.split("."), name.split(".")
    return len(wanted) == len(held) and all(map(_matches, wanted, held))


def _matches(wanted: str, held: str) -> bool:
    ends = wanted.split(":")
    if len(ends) == 2 and all(end.isdecimal() for end in ends):
        return held.isdecimal() and int(ends[0]) <= int(held) < int(ends[1])
    return re.fullmatch(".*".join(map(re.escape, wanted.split("*"))), held) is not None
