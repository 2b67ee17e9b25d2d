"""Opening a model: check the folder, convert what must not be read in this process, build, assign the weights."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from auditor.base.digest import digest_files, digest_json
from auditor.base.errors import AuditorError
from auditor.base.offline import go_offline
from auditor.intake.overlay import CONFIG, OVERLAID, inspect_overlay, is_overlaid, is_overlay, read_overlaid
from auditor.intake.pickled import read_pickle
from auditor.intake.weights import GENERIC, ModelFacts, beside, checked_model
from auditor.models.adapters import ADAPTERS
from auditor.models.adapters.adapter import Adapter
from auditor.models.adapters.generic import GenericAdapter
from auditor.models.device import device_named
from auditor.models.hook_points import in_order
from auditor.models.model import Model
from auditor.models.overlay import Overlay, lay_over
from auditor.models.partial import behind, deepest_of, empty
from auditor.models.placement import free_bytes
from auditor.models.rounded import ROUNDED, holds_rounded, to_round, weights_rounded
from auditor.models.weights import dtype_named, tensors_in, weights_read_later


def open_model(
    path: Path | str,
    *,
    base: Path | str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    most_bytes: int | None = None,
    until: Sequence[str] | None = None,
) -> Model:
    """Open a local model: a folder, a GGUF file, or the folder of an adapter (LoRA, IA³) laid over the model `base`.

    A family without an adapter of Auditor's opens with the network's own modules as hook points, if transformers builds
    it by itself. `device` is auto, cpu or cuda; where the weights do not fit the GPU's free memory (`most_bytes`, if
    given), the last blocks stay in main memory and are brought over for each of their runs. `dtype` is float32,
    bfloat16 (half the memory, fast recording), float16, int8 (a quarter) or int4 (a sixth; both compute in float32).
    With `until`, only what runs up to the deepest of these hook points (none: the residual stream after the middle
    block) has its weights read, where the family's own names are asked for: enough for runs without logits as far as
    that, and the model's digest is that of the whole. Code from the folder never runs and no network is used.
    AuditorError tells why a folder cannot be opened.
    """
    go_offline()
    place, begun = Path(path), time.time()
    number_format, chosen = dtype_named(dtype), device_named(device)
    laid = _pair(place, None if base is None else Path(base))
    with contextlib.ExitStack() as held:
        facts, ready, told = held.enter_context(_as_safetensors(laid[1] if laid else place))
        held.enter_context(weights_rounded(dtype))
        kind: type[Adapter] = GenericAdapter if ready.family == GENERIC else ADAPTERS[ready.family]
        if until is None or laid or kind is GenericAdapter:  # the last looks at a run of its whole network
            adapter, deepest = kind(ready, number_format), None
        else:
            adapter, deepest = _as_far_as(until, kind, ready, number_format)
        # Where only what runs before the blocks is opened, they are there without their weights.
        if dtype in ROUNDED and not (holds_rounded(adapter.network) or to_round(adapter.network)):
            raise AuditorError(
                f"“{facts.name}” has no matrices in blocks that could be kept in {dtype.removeprefix('int')} bits.",
                "Choose another format.",
            )
        overlay = _laid(adapter, laid[0]) if laid else None
        bound = free_bytes(chosen) if most_bytes is None else most_bytes
        name = place.name.removesuffix(OVERLAID) if is_overlaid(place) else place.resolve().name if laid else facts.name
        model = Model(
            place.absolute(), name, adapter, chosen, dtype=dtype, most_bytes=bound, overlay=overlay, laid=laid,
            until=deepest, read_since=begun,
        )  # fmt: skip
    if ready.family == GENERIC:
        model.family = ready.model_type
    if told:
        model.notes = (*model.notes, told)
    return model


def _as_far_as(
    hooks: Sequence[str], kind: type[Adapter], facts: ModelFacts, dtype: torch.dtype
) -> tuple[Adapter, str | None]:
    """An adapter without the weights behind the deepest of `hooks`, and that hook point; or a whole one and None."""
    with weights_read_later() as fills:
        adapter = kind(facts, dtype)
    points = in_order(adapter.hook_points())
    deepest = deepest_of(points, hooks)
    left_out = [] if deepest is None else behind(adapter.network, points, deepest)
    for fill in fills:
        fill(left_out)
    empty(left_out)
    return adapter, deepest if left_out else None


def hashed(path: Path, laid: tuple[Path, Path] | None = None) -> tuple[dict[str, str], str]:
    """(SHA-256 of each file by its name, the digest that names the model): over its file or folder, over the folders
    that a paired model names, and over an adapter and its base, if it is `laid` so."""
    if laid:
        adapter = digest_files(laid[0])
        base, digest = hashed(laid[1])
        both = {f"adapter/{name}": one for name, one in adapter.items()}
        return both | {f"base/{name}": one for name, one in base.items()}, digest_json([_of(adapter), digest])
    files = digest_files(path)
    if path.is_file():
        return files, files[path.name]
    facts = checked_model(path)
    if facts.family != "paired":
        return files, _of(files)
    parts = [_of(digest_files(beside(path, facts.config[name]))) for name in ("text", "vision")]
    return files, digest_json([_of(files), *parts])


def digest_at(path: Path) -> str:
    """The digest that names the model at `path`, a folder or file; nothing is opened for it."""
    return hashed(path, read_overlaid(path) if is_overlaid(path) else None)[1]


def places(path: Path) -> list[Path]:
    """All files and folders of whose files that digest is made."""
    if is_overlaid(path):
        adapter, base = read_overlaid(path)
        return [path, adapter, *places(base)]
    facts = checked_model(path) if path.is_dir() else None
    parts = ("text", "vision") if facts is not None and facts.family == "paired" else ()
    return [path, *(beside(path, facts.config[name]) for name in parts if facts is not None)]


def digest_of(files: dict[str, str], prefix: str, place: Path) -> str:
    """Of the folder or file at `place`, from those of `files` whose names begin with `prefix`."""
    own = {name.removeprefix(prefix): digest for name, digest in files.items() if name.startswith(prefix)}
    return own[place.name] if place.is_file() else _of(own)


def _of(files: dict[str, str]) -> str:
    """As `auditor.base.digest.digest_folder` names a folder of these files."""
    return digest_json([[name, digest] for name, digest in files.items()])


def _pair(path: Path, base: Path | None) -> tuple[Path, Path] | None:
    """(folder of the adapter, base) where `path` is an adapter, else None."""
    if is_overlaid(path):
        return read_overlaid(path)
    if is_overlay(path):
        facts = inspect_overlay(path)
        if base is None:
            said = f" for “{facts.said_base}”" if facts.said_base else ""
            raise AuditorError(
                f"“{path.name}” holds an adapter{said} ({CONFIG}), not a whole model.",
                f"Give the folder of its base: auditor open {path} --base FOLDER",
            )
        if is_overlay(base) or is_overlaid(base):
            raise AuditorError(f"“{base.name}” is an adapter too.", "Give the folder of the whole model as the base.")
        return path.resolve(), base.resolve()
    if base is not None:
        raise AuditorError(f"“{path.name}” is no adapter, so it has no base.", "Leave the base out.")
    return None


@contextlib.contextmanager
def _as_safetensors(path: Path) -> Iterator[tuple[ModelFacts, ModelFacts, str]]:
    """(facts of `path`, facts of a folder with the same weights as safetensors, which lasts as long as the block, a
    sentence on what was converted)."""
    facts = checked_model(path)
    if facts.format == "safetensors":
        yield facts, facts, ""
        return
    from auditor.intake.converted import as_safetensors

    with as_safetensors(facts) as (folder, told):
        yield facts, replace(checked_model(folder), name=facts.name), told


def _laid(adapter: Adapter, folder: Path) -> Overlay:
    facts = inspect_overlay(folder)
    tensors = read_pickle(facts.file)[0] if facts.pickled else dict(tensors_in(facts.file))
    return lay_over(adapter.network, facts, tensors)
