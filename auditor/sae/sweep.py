"""Several dictionaries trained on one pass over the data: the settings that differ, written as “k=16,32; seed=0,1”."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from auditor.base.config import read_config
from auditor.base.errors import AuditorError
from auditor.sae.train_config import TrainConfig

# Settings that leave the batches as they are, so that one pass serves all.
SWEPT = ("k", "d_sae", "l1", "lr", "target_l0", "arch", "seed")
_MOST = 64


def expand(config: TrainConfig) -> list[TrainConfig]:
    """One config for each combination that `config.sweep` names, or `config` alone; all read the same batches.

    AuditorError names what cannot be read or swept.
    """
    axes: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in config.sweep.split(";"))):
        name, mark, values = part.partition("=")
        name, found = name.strip(), [value.strip() for value in values.split(",") if value.strip()]
        if not mark or name not in SWEPT or not found or name in axes:
            raise AuditorError(
                f"The sweep “{part}” cannot be read.",
                f"Write such as “k=16,32; seed=0,1”, each once, of: {', '.join(SWEPT)}.",
            )
        axes[name] = found
    shared = {"sweep": "", "data_seed": config.order_seed()} if axes else {"sweep": ""}
    fixed = config.model_dump() | shared
    made = [
        read_config(TrainConfig, fixed | {name: _typed(name, value) for name, value in zip(axes, values, strict=True)})
        for values in product(*axes.values())
    ]
    if len(made) > _MOST:
        raise AuditorError(f"The sweep asks for {len(made)} dictionaries at once.", f"Ask for up to {_MOST}.")
    return made


def label(config: TrainConfig, among: Sequence[TrainConfig]) -> str:
    """What tells `config` from the others of its sweep, such as “k=16, seed=1”; empty if it is the only one."""
    differing = [name for name in SWEPT if len({str(getattr(other, name)) for other in among}) > 1]
    return ", ".join(f"{name}={getattr(config, name)}" for name in differing)


def _typed(name: str, text: str) -> str | int | float:
    if name == "arch":
        return text
    try:
        return float(text) if name in ("l1", "lr", "target_l0") else int(text)
    except ValueError:
        raise AuditorError(f"“{text}” is no number to sweep {name} over.", "Write such as “k=16,32”.") from None
