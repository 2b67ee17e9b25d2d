"""Two halves of any samples: one to choose on, one to test on."""

from __future__ import annotations

from auditor.base.digest import sha256_bytes


def half_of(id: str, group: str = "") -> str:
    """``first`` or ``second``, by the hash of the sample's name.

    Images of one `group` (drawings of one thing) stay on one side; texts of one source are texts of their own, and
    their group is not given.
    """
    return "second" if int(sha256_bytes((group or id).encode("utf-8"))[0], 16) % 2 else "first"
