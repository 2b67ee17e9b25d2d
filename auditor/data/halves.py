"""Two halves that share no group: one to choose on, one to test on."""

from __future__ import annotations

from auditor.base.digest import sha256_bytes


def half_of(group: str) -> str:
    """``first`` or ``second``, by the hash of the name of what must stay on one side."""
    return "second" if int(sha256_bytes(group.encode("utf-8"))[0], 16) % 2 else "first"
