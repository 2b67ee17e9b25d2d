"""What a training would refuse or pass over, told from its settings before it starts; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from auditor.base.errors import AuditorError
from auditor.sae.arch_settings import settings_of
from auditor.sae.source import KINDS
from auditor.sae.sweep import expand, label
from auditor.sae.train_config import TrainConfig

# What each reads and predicts, as its class says; the others read one hook point. A test compares the two.
TAKES = {
    "temporal": "samples", "transcoder": "pair", "skip_transcoder": "pair", "crosscoder": "several", "clt": "layers",
}  # fmt: skip
# What each is once it is finished, and what each can be started from; a test compares the two with the classes.
_MADE = {
    "batchtopk": "jumprelu", "matryoshka": "jumprelu", "gated": "jumprelu", "abstopk": "topk", "temporal": "topk",
    "transcoder": "topk", "skip_transcoder": "topk", "crosscoder": "relu",
}  # fmt: skip
CONTINUES: dict[str, tuple[str, ...]] = {
    "topk": ("topk",), "abstopk": ("topk",), "temporal": ("topk",), "transcoder": ("topk",),
    "skip_transcoder": ("topk",), "batchtopk": ("jumprelu",), "matryoshka": ("jumprelu",),
    "jumprelu": ("jumprelu", "relu"), "gated": ("jumprelu", "relu"), "relu": ("relu",), "crosscoder": ("relu",),
    "groupmax": ("groupmax",), "matching_pursuit": ("matching_pursuit",), "clt": ("clt",),
}  # fmt: skip
# These have more features than they are asked for.
_MORE = ("abstopk", "clt")


@dataclass(frozen=True)
class Known:
    """What is known of what a training is given: the `hooks` of its store or model, how many rows of each kind the
    store has in `counts`, and `start`, what the project tells of the dictionary to go on from. Empty: not known."""

    hooks: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)


def passed_over(values: Mapping[str, Any]) -> dict[str, str]:
    """By name, the settings that do nothing beside the others, and why."""
    arch, found = str(values.get("arch") or ""), dict[str, str]()
    if arch == "temporal":
        found["model"] = "Temporal dictionaries learn from whole samples in order, which come from a store."
    if arch == "temporal" or not values.get("model"):
        found |= dict.fromkeys(("samples", "adapter", "context", "buffer_rows"), "Only where a model is streamed from.")
    else:
        found |= dict.fromkeys(("store", "others"), "What streams from a model reads no store.")
    if TAKES.get(arch) in ("several", "layers"):
        reason = "It stands for no single place of the model, so it is not put into it."
        found |= dict.fromkeys(("splice_every", "splice_samples", "look_samples"), reason)
    elif str(values.get("splice_samples")) == "0":
        found |= dict.fromkeys(("splice_every", "look_samples"), "There are no samples to splice into.")
    elif str(values.get("splice_every")) == "0":
        found["look_samples"] = "There are no looks on the way."
    if values.get("others") and not values.get("model"):
        found["random_model"] = "The rows of several stores come from no one model."
    if str(values.get("auxk_alpha")) in ("0", "0.0"):
        found["auxk_rows"] = "The dead-feature loss is off."
    return {name: reason for name, reason in found.items() if name in settings_of(arch)}


def refused(values: Mapping[str, Any], known: Known | None = None) -> dict[str, str]:
    """By name, the settings that a training would refuse, and why. Empty where they cannot be read at all: then each
    says so itself."""
    try:
        config = TrainConfig(**values)
    except ValidationError:
        return {}
    try:
        members = expand(config)
    except AuditorError as error:
        return {"sweep": f"{error.message} {error.hint}".strip()}
    told = [dict(_of_one(member, known or Known())) for member in members]
    found: dict[str, str] = {}
    for member, one in zip(members, told, strict=True):
        for name, sentence in one.items():
            if all(name in other for other in told):
                found.setdefault(name, sentence)
            else:
                found.setdefault("sweep", f"With {label(member, members)}: {sentence}")
    if len({member.model_dump_json() for member in members}) < len(members):
        found.setdefault("sweep", "It asks for the same dictionary twice: name each value once.")
    if len({member.arch == "temporal" for member in members}) > 1:
        found.setdefault("sweep", "Temporal dictionaries read whole samples, the others single rows: sweep over them "
                                  "by themselves.")  # fmt: skip
    return found


def _of_one(config: TrainConfig, known: Known) -> Iterator[tuple[str, str]]:
    own, takes = settings_of(config.arch), TAKES.get(config.arch, "one")
    if "k" in own and config.k > config.d_sae:
        yield "k", f"There are only {config.d_sae} features."
    elif config.arch == "groupmax" and config.d_sae % config.k:
        fitting = config.d_sae // config.k * config.k
        yield "d_sae", f"They do not make {config.k} equal groups; {fitting} would."
    if config.arch == "temporal" and config.d_sae % (times := config.heads * config.bottleneck):
        yield "d_sae", f"Choose a multiple of {times}, which is the bottleneck times the heads."
    if config.arch == "matryoshka" and not _are_shares(config.widths):
        yield "widths", "These are no shares of a dictionary: write such as “1/16, 1/4, 1”."
    if config.normalise == "layer_norm" and takes not in ("one", "samples"):
        yield "normalise", "Layer normalisation is for dictionaries of one hook point: choose norm or none."
    if config.model and not config.samples:
        yield "samples", "Choose what the model is run on."
    if not config.others:  # several stores have the hook points of each
        yield from _hooks(config, takes, known.hooks)
    counts = known.counts
    if counts and not config.model and not any(counts.get(kind, 0) for kind in KINDS[config.kinds]):
        yield "kinds", f"The store has no such rows: it has {', '.join(kind for kind in counts if counts[kind])}."
    if config.start_from:
        yield from _start(config, known.start)


def _hooks(config: TrainConfig, takes: str, hooks: Sequence[str]) -> Iterator[tuple[str, str]]:
    read, predicted = ([part.strip() for part in text.split(",") if part.strip()]
                       for text in (config.hook, config.target))  # fmt: skip
    for name, named in (("hook", read), ("target", predicted)):
        unknown = [hook for hook in named if hooks and hook not in hooks]
        if unknown:
            yield name, f"“{unknown[0]}” is not among its hook points: {_few(hooks)}."
    if takes in ("pair", "layers") and not predicted:
        yield "target", "Choose what it predicts."
    if takes in ("one", "samples", "pair") and (len(read) > 1 or len(predicted) > 1):
        yield "hook" if len(read) > 1 else "target", "This architecture reads one: choose a crosscoder for several."
    # A stream reads the middle of the residual stream where nothing else is said.
    if takes != "several" and not read and len(hooks) > 1 and not (config.model and takes == "one"):
        yield "hook", f"There are several: choose one of {_few(hooks)}."
    if takes == "several" and (len(read or hooks) == 1 or (config.model and not read)):
        yield "hook", "A crosscoder reads two at least, or one of several stores."
    if takes == "layers" and read and predicted and len(read) != len(predicted):
        yield "target", f"As many as it reads: {len(read)} are read, and {len(predicted)} predicted."


def _start(config: TrainConfig, start: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    made, features = str(start.get("arch") or ""), start.get("features")
    if made and _MADE.get(made, made) not in CONTINUES[config.arch]:
        yield "arch", f"The dictionary to start from is of kind “{made}”, which cannot be trained on as this."
    elif made and made not in _MORE and isinstance(features, int) and features != config.d_sae:
        yield "d_sae", f"The dictionary to start from has {features}."


def _are_shares(text: str) -> bool:
    try:
        return all(0 < Fraction(part.strip()) <= 1 for part in text.split(",") if part.strip())
    except (ValueError, ZeroDivisionError):
        return False


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
