"""Activations that other tools recorded, taken into the project as a store; latents that they cached, as an index."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from auditor.base.errors import AuditorError
from auditor.intake.arrays import array_names
from auditor.tasks.opening import model_at
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.store.formats.source import Source, Vocabulary
    from auditor.tasks.import_ import ImportConfig

_OF_A_DICTIONARY = re.compile(r"(?i)(.*\.)?(w_(enc|dec|e|d)(_\d+)?|(en|de)coder\.weight|encoder|pre_bias|latent_bias)")


def holds_activations(path: Path) -> bool:
    """Whether `path` is to be read as activations: a folder of their formats, or a file of arrays that is no
    dictionary."""
    from auditor.store import formats
    from auditor.store.formats import arrays

    if path.is_dir():
        return formats.recognise(path) is not None
    if path.suffix in (".pt", ".pth", ".bin"):  # a zip as .npz is, but of a pickle
        return False
    kind = arrays.recognise(path)
    if path.suffix in (".h5", ".hdf5", ".npy") or kind in ("hdf5", "npy"):
        return True
    return bool(kind) and not any(map(_OF_A_DICTIONARY.fullmatch, array_names(path)))


def import_activations(run: Run, path: Path, name: str, config: ImportConfig) -> dict[str, Any]:
    """Copy the activations at `path` into a store of the project: all of them, or none."""
    from auditor.store.formats.source import import_source

    source = _opened(path, config)
    try:
        hooks = _hooks(source, config.hook)
        vocabulary = _vocabulary(run, config.model) if config.model else None
        out = run.project.new_path("store", name)
        try:
            store = import_source(
                source, out, run.reporter, dtype="" if config.numbers == "own" else config.numbers, hooks=hooks,
                leading=config.leading, vocabulary=vocabulary,
            )  # fmt: skip
        except BaseException:
            # Each import has a place of its own, so what one left half-made would never be gone on with.
            shutil.rmtree(out, ignore_errors=True)
            raise
    finally:
        source.close()
    facts = {"rows": store.n_rows, "hook_points": dict(store.hook_points), "counts": store.counts()}
    run.output("store", name, out, digest=store.digest, imported=path.name, **facts)
    told = {"format": source.title, "rows": store.n_rows, "samples": store.n_samples, "numbers": store.dtype}
    told |= {"counts": store.counts(), "hooks": list(store.hook_points)}
    if padding := source.n_positions - store.n_rows:
        told["padding_left_out"] = padding
    mapping = getattr(source, "mapping", None)
    told |= {"note": source.note} if source.note else {}
    told |= {name: source.told[name] for name in ("exported",) if name in source.told}
    return told if mapping is None else {**told, "mapping": mapping.told()}


def latents_in(path: Path) -> dict[str, Path]:
    """Hook point → what holds the latents that delphi cached at `path`; empty where there are none."""
    from auditor.features import latents

    return latents.latents_in(path)


def import_latents(run: Run, found: dict[str, Path], name: str, config: ImportConfig) -> dict[str, Any]:
    """Make an index of the latents of each hook point: of all, or none."""
    from auditor.features.latents import index_latents

    if unknown := [hook for hook in config.pick if hook not in found]:
        raise AuditorError(f"There are no latents of “{unknown[0]}”.", f"There are those of {', '.join(found)}.")
    chosen = {hook: found[hook] for hook in config.pick} or found
    vocabulary = _vocabulary(run, config.model) if config.model else None
    made: list[tuple[str, Path, str, dict[str, Any]]] = []
    try:
        for hook, folder in chosen.items():
            called = f"{name}-{hook}" if len(chosen) > 1 else name
            out = run.project.new_path("index", called)
            with index_latents(folder, out, vocabulary, run.reporter) as index:
                facts = {"features": index.n_features, "live": len(index.live), "hook": hook}
                facts |= {"dictionary": index.meta["dictionary"], "rows": index.meta["rows"]["text"]}
                made.append((called, out, index.digest, facts))
    except BaseException:
        for _, out, _, _ in made:
            shutil.rmtree(out, ignore_errors=True)
        raise
    for called, out, digest, facts in made:
        run.output("index", called, out, digest=digest, imported=str(facts["hook"]), **facts)
    told = ("hook", "features", "live", "rows")
    return {"format": "delphi latents", "indices": [{name: facts[name] for name in told} for *_, facts in made]}


def _opened(path: Path, config: ImportConfig) -> Source:
    if path.is_dir():
        from auditor.store import formats

        held = formats.recognise(path)
        assert held is not None
        return held.open(path)
    from auditor.store.formats.arrays import OF_ROWS, ArrayRows, Mapping, suggest_mapping

    mapping = suggest_mapping(path)
    asked: dict[str, Any] = {"kind": config.kind} if config.kind != "text" else {}
    if config.dataset:
        mapping = suggest_mapping(path, config.dataset)
    if config.hook:
        asked["hook"] = config.hook
    if config.axes:
        asked |= {"axes": tuple(part.strip() for part in config.axes.split(",")), **dict.fromkeys(OF_ROWS)}
    try:
        return ArrayRows(path, Mapping.model_validate(mapping.model_dump() | asked))
    except ValidationError as error:
        raise AuditorError(f"The mapping does not fit: {error.errors()[0]['msg']}.", "Name each axis.") from None


def _hooks(source: Source, asked: str) -> dict[str, str]:
    """This program's names of the hook points, where it has one that is surely the same; or the one that was asked."""
    from auditor.sae.formats.hooks import canonical

    if asked and len(source.hook_points) > 1:
        listed = ", ".join(source.hook_points)
        raise AuditorError("Several hook points cannot have one name.", f"Leave it empty; there are {listed}.")
    return {name: asked or canonical(name) or name for name in source.hook_points}


def _vocabulary(run: Run, model: str) -> Vocabulary:
    from auditor.models.tokens import load_tokenizer, special_ids, token_strings
    from auditor.store.formats.source import Vocabulary

    path = run.input(model, "model").path
    tokenizer = load_tokenizer(path) if path.is_dir() else model_at(path).tokenizer
    if tokenizer is None:
        raise AuditorError(f"The model “{path.name}” has no tokenizer.", "Name the model that was recorded, or none.")
    known: dict[int, str] = {}

    def strings(ids: Sequence[int]) -> list[str]:
        new = sorted(set(ids) - known.keys())
        known.update(zip(new, token_strings(tokenizer, new), strict=True))
        return [known[number] for number in ids]

    return Vocabulary(strings, special_ids(tokenizer))
