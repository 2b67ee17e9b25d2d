"""Adapter folders of the peft library (LoRA, IA³): what is in one, and why it may not be laid over a model.

`adapter_config.json` is read as JSON and checked here; the base model that it names is told and never followed: a
person gives the folder. Tensors are safetensors, or a .bin that the jailed child turns into them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from auditor.base.errors import AuditorError
from auditor.intake.safetensors_header import SafetensorsFacts, check_safetensors
from auditor.intake.weights import leads_out, read_config_json

CONFIG = "adapter_config.json"
OVERLAID = ".model.json"
"""How a file ends that names an adapter and its base."""
FORMAT = "auditor overlaid model 1"
MAX_RANK = 1 << 14
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_OTHERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
Kind = Literal["lora", "ia3"]
Switch = Literal["on", "off"]
SWITCH: dict[str, Any] = {
    "title": "Adapter", "choices": ("on", "off"), "advanced": True,
    "help": "Of a model that an adapter (LoRA, IA³) lies over: off runs its base, and the record says so.",
}  # fmt: skip
"""How a verb that runs a model declares whether an adapter acts."""
Asked = Literal["auto", "on", "off"]
ASKED: dict[str, Any] = SWITCH | {
    "choices": ("auto", "on", "off"),
    "help": "Of a model that an adapter (LoRA, IA³) lies over: off runs its base; auto: as the dictionary was trained.",
}
"""The same of a verb that puts dictionaries into the model."""
_KINDS: dict[str, Kind] = {"LORA": "lora", "IA3": "ia3"}
_NOT_LAID = {
    "layer_replication": "repeats layers",
    "use_qalora": "uses QA-LoRA",
    "alora_invocation_tokens": "acts only after certain tokens (aLoRA)",
    "arrow_config": "chooses among adapters as it runs (Arrow)",
    "target_parameters": "changes parameters that are no layer's weight",
    "trainable_token_indices": "replaces single rows of an embedding",
    "megatron_config": "is for Megatron",
    "lora_bias": "has biases of its own in its two factors",
}
_NAME = re.compile(r"^[\w.^$|\\()*+?\[\]-]{1,200}$")


@dataclass(frozen=True)
class OverlayFacts:
    """An adapter folder that was checked.

    `file` holds the tensors; `kind`; `rank` and `alpha` with patterns of module names that have others; `rs`: alpha is
    divided by the root of the rank (Kalajdzievski 2023); `dora`: each column keeps a length of its own (Liu et al.
    2024). `said_base` is what the file says of its base.
    """

    folder: Path
    file: Path
    kind: Kind
    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    rs: bool
    dora: bool
    said_base: str

    @property
    def pickled(self) -> bool:
        return self.file.suffix == ".bin"

    def header(self) -> SafetensorsFacts:
        return check_safetensors(self.file)

    def rank_of(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What B·A is multiplied by (Hu et al. 2021, section 4.1): alpha / rank."""
        rank = self.rank_of(module)
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        return float(alpha / rank**0.5 if self.rs else alpha / rank)


def is_overlay(path: Path) -> bool:
    """Whether `path` is an adapter folder without a model of its own; its base's config.json may lie there too."""
    if not path.is_dir() or not (path / CONFIG).is_file():
        return False
    held = [file.name for ending in _WEIGHTS for file in path.glob(f"*{ending}")]
    return all(name.startswith("adapter_model") or name in _OTHERS for name in held)


def is_overlaid(path: Path) -> bool:
    """Whether `path` is a file that names an adapter and its base."""
    return path.is_file() and path.name.endswith(OVERLAID)


def inspect_overlay(folder: Path) -> OverlayFacts:
    """The facts of an adapter folder. AuditorError for one that cannot be laid over a model, or not safely."""
    name = f"“{folder.name}”"
    for path in folder.rglob("*"):
        if leads_out(path, _root(folder)):  # before a byte is read through it
            raise AuditorError(f"“{path.name}” in {name} is a link to a file outside the folder.", "Copy the file.")
    config = read_config_json(folder / CONFIG)

    def refused(what: str, hint: str = "Nothing of it was used.") -> AuditorError:
        return AuditorError(f"{CONFIG} in {name} {what}.", hint)

    if config.get("auto_map") or config.get("custom_modules"):
        raise refused("asks to run code that the folder brings")
    kind = _KINDS.get(str(config.get("peft_type", "")).upper())
    if kind is None:
        raise refused(
            f"is of the kind “{config.get('peft_type')}”; LoRA and IA³ can be laid over a model",
            "Merge it into its base with the program that made it, and open the whole model.",
        )
    for key, what in _NOT_LAID.items():
        if config.get(key):
            raise refused(f"{what} ({key}), which Auditor does not do")
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if kind == "lora" and not _is_count(rank):
        raise refused(f"gives an impossible rank: {_short(rank)}")
    if kind == "lora" and not _is_number(alpha):
        raise refused(f"gives an alpha that is no number: {_short(alpha)}")
    ranks, alphas = _pattern(config, "rank_pattern"), _pattern(config, "alpha_pattern")
    if ranks is None or alphas is None or not all(_is_count(one) for one in ranks.values()):
        raise refused("has a rank_pattern or an alpha_pattern that cannot be used")
    if not all(_is_number(one) for one in alphas.values()):
        raise refused("has an alpha_pattern that cannot be used")
    found = [folder / f"adapter_model{ending}" for ending in (".safetensors", ".bin")]
    file = next((path for path in found if path.is_file()), None)
    if file is None:
        raise AuditorError(f"{name} has no adapter_model.safetensors.", "Copy the whole folder again.")
    facts = OverlayFacts(
        folder, file, kind, int(rank) if kind == "lora" else 1, float(alpha) if kind == "lora" else 1.0,
        {key: int(value) for key, value in ranks.items()}, {key: float(value) for key, value in alphas.items()},
        bool(config.get("use_rslora")), bool(config.get("use_dora")),
        _short(config.get("base_model_name_or_path") or ""),
    )  # fmt: skip
    if not facts.pickled:
        facts.header()
    return facts


def read_overlaid(path: Path) -> tuple[Path, Path]:
    """(adapter folder, base) that a file of `OVERLAID` names. AuditorError if it names none, or none that
    are there."""
    said = read_config_json(path)
    places = [said.get("adapter"), said.get("base")]
    if said.get("format") != FORMAT or not all(isinstance(place, str) and place for place in places):
        raise AuditorError(f"“{path.name}” does not name an adapter and its base.", "Open the adapter again.")
    adapter, base = ((path.parent / str(place)).resolve() for place in places)
    for what, place in (("adapter", adapter), ("base", base)):
        if not place.exists():
            raise AuditorError(
                f"The {what} of “{path.name}” is not at “{place}” any more.", "Put it back, or open it anew."
            )
    if not is_overlay(adapter) or is_overlay(base) or is_overlaid(base):
        raise AuditorError(f"“{path.name}” does not name an adapter and a whole model.", "Open the adapter again.")
    return adapter, base


def overlaid_text(adapter: Path, base: Path) -> str:
    """What `read_overlaid` reads."""
    return json.dumps({"format": FORMAT, "adapter": str(adapter.resolve()), "base": str(base.resolve())}, indent=1)


def _pattern(config: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = config.get(key) or {}
    if not isinstance(value, dict) or len(value) > 10_000 or not all(_safe(one) for one in value):
        return None
    return value


def _safe(pattern: str) -> bool:
    """Whether matching a module's name against this cannot take long: few repetitions, none of a group."""
    if not _NAME.match(pattern) or len(re.findall(r"[*+?]", pattern)) > 3 or re.search(r"\)[*+?{]", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _by_pattern(patterns: dict[str, Any], module: str, usual: Any) -> Any:
    """As peft does it: the first pattern that is the end of the module's path."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return usual


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _short(value: Any) -> str:
    return str(value)[:120]


def _root(folder: Path) -> Path:
    """What links may lead into: the folder, or a hub cache's blobs beside it."""
    root = folder.resolve()
    return root.parent.parent if root.parent.name == "snapshots" else root
