"""Starting points of a training: settings that go together, to be edited from there; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """`values` of some settings of a training; `help` says what for. All presets set the same ones."""

    title: str
    help: str
    values: Mapping[str, Any] = field(default_factory=dict)


# The learning rate falls with the root of the number of features (Gao et al. 2024, section 2.2).
PRESETS: dict[str, Preset] = {
    "quick-look": Preset(
        "Quick look", "Minutes on a laptop, to see whether there is anything to learn.",
        {"d_sae": 1024, "steps": 500, "batch_size": 2048, "lr": 3e-3, "sweep": "", "evaluate_rows": 4096,
         "splice_every": 0},
    ),
    "balanced": Preset(
        "Balanced", "A dictionary to work with.",
        {"d_sae": 4096, "steps": 3000, "batch_size": 4096, "lr": 3e-3, "sweep": "", "evaluate_rows": 8192,
         "splice_every": 0},
    ),
    "publication": Preset(
        "Publication", "Three seeds of a large dictionary, long trained, with cross-entropy and KL on the way.",
        {"d_sae": 16384, "steps": 30_000, "batch_size": 4096, "lr": 1.5e-3, "sweep": "seed=0,1,2",
         "evaluate_rows": 65_536, "splice_every": 3000},
    ),
}  # fmt: skip


def preset_of(values: Mapping[str, Any]) -> str:
    """The preset that `values` agree with wherever it says something; empty where none."""
    return next((name for name in PRESETS if not changed_from(name, values)), "")


def changed_from(preset: str, values: Mapping[str, Any]) -> list[str]:
    """The settings in which `values` differ from the preset."""
    return [name for name, held in PRESETS[preset].values.items() if name in values and not _same(values[name], held)]


def _same(given: Any, held: Any) -> bool:
    if isinstance(held, str):
        return str(given) == held
    try:
        return float(given) == float(held)
    except (TypeError, ValueError):
        return False
