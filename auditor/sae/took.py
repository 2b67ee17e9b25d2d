"""What a training took, to be held against what was planned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Took:
    """`seconds` of `steps` steps with their checkpoints and reports, and `looking` those of the looks into the network
    between them, over all parts of an interrupted run; `after` those of all that came after the last step: evaluation,
    the model with the dictionary in it, the same on a model with random weights, saving. None of them counts pauses.
    `bytes` of memory more than before at most (0: the system does not tell), `shared` where other work of this program
    is in them; `kept_bytes` of the dictionaries on disk."""

    seconds: float = 0.0
    steps: int = 0
    looking: float = 0.0
    after: float = 0.0
    bytes: int = 0
    shared: bool = False
    kept_bytes: int = 0

    def facts(self) -> dict[str, float]:
        """In the units of `Plan.facts`; `memory_shared` where memory is not of the training alone."""
        found = {
            "minutes": (self.seconds + self.looking + self.after) / 60,
            "after_minutes": self.after / 60, "step_ms": 1e3 * self.seconds / max(1, self.steps),
            "memory_mb": self.bytes / 1e6, "disk_mb": self.kept_bytes / 1e6,
        }
        return found | ({"memory_shared": 1.0} if self.shared else {})
