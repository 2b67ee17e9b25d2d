"""The two exceptions that are not our bugs: a sentence for the person, and the person's own stop."""

from __future__ import annotations

from typing import Any


class AuditorError(Exception):
    """Bad input or a missing means, told in one sentence.

    `message` says what happened and where; `hint` says what the person can do. The window shows both, the command
    line prints both and exits with 2. Everything else that is raised is our bug and keeps its trace. `kept` is what
    was reached before it, where work kept that: plain values, as its result would have been.
    """

    kept: dict[str, Any] | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Stop(Exception):
    """The person cancelled; raised inside long work by `Reporter.step` and `Reporter.check`. `kept` as of an
    `AuditorError`."""

    kept: dict[str, Any] | None = None
