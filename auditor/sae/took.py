"""What a training took, to be held against what was planned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Took:
    """`seconds` of `steps` steps with their checkpoints and reports, over all parts of an interrupted run; `bytes` of
    memory more than before at most (0: the system does not tell); `kept_bytes` of the dictionaries on disk."""

    seconds: float = 0.0
    steps: int = 0
    bytes: int = 0
    kept_bytes: int = 0

    def facts(self) -> dict[str, float]:
        """In the units of `Plan.facts`."""
        return {
            "minutes": self.seconds / 60, "step_ms": 1e3 * self.seconds / max(1, self.steps),
            "memory_mb": self.bytes / 1e6, "disk_mb": self.kept_bytes / 1e6,
        }
