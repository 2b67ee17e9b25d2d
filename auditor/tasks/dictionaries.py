"""Dictionaries that other tools wrote, taken into the project, and written for other tools again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError
from auditor.project import Artefact
from auditor.sae.formats import WRITTEN, dictionaries_in, formats
from auditor.tasks.open import before_dot
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.sae.formats.format import Dictionary, Format
    from auditor.tasks.import_ import ImportConfig


def import_dictionaries(run: Run, path: Path, config: ImportConfig) -> dict[str, Any]:
    """Take the dictionary at `path`, or those in the folder, into the project: each examined by the import doctor,
    whose verdict is kept with it. All of them, or none."""
    chosen = _chosen(path, config)
    made: list[tuple[str, Path, Dictionary, dict[str, Any]]] = []
    try:
        for name, (place, held) in chosen.items():
            made.append(_taken_in(run, place, held, _name(path, name, config, len(chosen)), config))
    except BaseException:
        for _, out, _, _ in made:
            shutil.rmtree(out, ignore_errors=True)
        raise
    told = []
    for name, out, dictionary, facts in made:
        run.output("dictionary", name, out, digest=dictionary.digest, imported=path.name, **facts)
        told.append(facts | {"width": dictionary.d_in})
    if len(told) == 1:
        return told[0]
    shown = ("hook", "arch", "features")
    rows = [
        {"name": name, **{key: facts[key] for key in shown}, "verdict": facts["doctor"]["verdict"],
         "sentence": facts["doctor"]["sentence"]} for name, _, _, facts in made
    ]  # fmt: skip
    return {"dictionaries": rows}


def export_dictionary(artefacts: list[Artefact], out: Path, format: str) -> None:
    """Write dictionaries to `out`: one in the `format` named, or in the one it came from (“own”); several, which are to
    be transcoders of different layers, as circuit-tracer's set. AuditorError for what the format has no place for."""
    from auditor.sae import load, load_any
    from auditor.sae.sae import Sae

    if len(artefacts) > 1:
        if format not in ("own", "circuit_tracer"):
            raise AuditorError("Only circuit-tracer keeps several dictionaries together.", "Export them one by one.")
        from auditor.sae.formats.circuit_tracer import write_set

        write_set([load(artefact.path) for artefact in artefacts], out)
        return
    dictionary = load_any(artefacts[0].path)
    if format == "own":
        was = dictionary.original.format if dictionary.original is not None else ""
        usual = "saelens" if isinstance(dictionary, Sae) else "circuit_tracer"
        format = was if was in WRITTEN else usual
    write = formats().get(format).write
    if write is None:
        raise AuditorError(f"The format {format} is only read.", f"Export as one of: {', '.join(WRITTEN)}.")
    write(dictionary, out)


def _chosen(path: Path, config: ImportConfig) -> dict[str, tuple[Path, Format]]:
    if config.format != "auto":
        held = formats().get(config.format)
        parts = held.parts(path) if held.parts is not None and path.is_dir() and not held.recognise(path) else []
        found = {place.name: (place, held) for place in parts} or {"": (path, held)}
    else:
        found = dictionaries_in(path)
    if not found:
        names = ", ".join(formats().names())
        raise AuditorError(
            f"“{path.name}” holds neither activations nor a dictionary of a format that is read.",
            f"Dictionaries are those of {names}, with their settings beside their weights. A model, samples or what "
            "Auditor made itself is opened, not imported.",
        )
    unknown = [name for name in config.pick if name not in found]
    if unknown:
        listed = ", ".join(list(found)[:12]) or "one without a name"
        raise AuditorError(f"“{path.name}” holds no dictionary called “{unknown[0]}”.", f"It holds: {listed}.")
    return {name: found[name] for name in config.pick} if config.pick else found


def _name(path: Path, name: str, config: ImportConfig, count: int) -> str:
    own = config.name or before_dot(path)
    inner = name.removesuffix(".safetensors").replace("/", "-")
    return (f"{config.name}-{inner}" if config.name else inner or own) if count > 1 and inner else own


def _taken_in(
    run: Run, place: Path, held: Format, name: str, config: ImportConfig
) -> tuple[str, Path, Dictionary, dict[str, Any]]:
    """Name, place in the project, dictionary and facts of one that is saved but not registered yet."""
    from auditor.sae.formats.hooks import canonical
    from auditor.sae.sae import Sae
    from auditor.tasks.examination import examined, facts_of

    dictionary = held.read(place)
    if isinstance(dictionary, Sae):
        from auditor.sae.readings import read_as

        hook = config.hook or canonical(dictionary.hook) or dictionary.hook
        hook_out = canonical(dictionary.hook_out) or dictionary.hook_out
        dictionary = read_as(replace(dictionary, hook=hook, hook_out=hook_out), config.convention)
    elif config.convention:
        raise AuditorError("A cross-layer transcoder is read in one convention only.", "Leave the convention empty.")
    doctor = facts_of(examined(run, dictionary, config.store), run)
    dictionary.meta["doctor"] = {key: doctor[key] for key in ("verdict", "sentence", "store", "rows", "reading")}
    out = run.project.new_path("dictionary", name)
    try:
        dictionary.save(out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    arch = dictionary.arch if dictionary.context is None else "temporal"
    facts = {"hook": dictionary.hook, "features": dictionary.d_sae, "arch": arch, "format": held.name}
    facts |= {"hook_out": dictionary.hook_out} if dictionary.hook_out else {}
    facts |= {"convention": config.convention} if config.convention else {}
    return name, out, dictionary, facts | {"doctor": doctor}
