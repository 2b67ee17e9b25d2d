"""The verb “import”: take what other tools wrote into the project."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.sae.formats import NAMES
from auditor.tasks.dictionaries import import_dictionaries
from auditor.tasks.task import Run, task

_WEIGHTS = (".pt", ".npz", ".safetensors")


class ImportConfig(Config):
    """What to import. The mapping settings are for HDF5 files; left empty, they are guessed and shown."""

    arguments: ClassVar[tuple[str, ...]] = ("path",)
    path: str = field(title="File or folder", help="HDF5 activations, dictionaries of any format that is read, or a "
                      "Neuronpedia graph (.json).")  # fmt: skip
    name: str = field("", title="Name")
    format: str = field("auto", title="Format", help="Dictionaries: the tool whose files they are.",
                        choices=("auto", *NAMES))  # fmt: skip
    pick: tuple[str, ...] = field((), title="Dictionaries", help="Of a folder with several: those to take; else all.")
    convention: str = field("", title="Convention", help="Dictionaries: how to read them otherwise, as the import "
                            "doctor names it.")  # fmt: skip
    store: str = field("", title="Examined on", help="Dictionaries: activations for the import doctor; empty chooses.",
                       artefact="store")  # fmt: skip
    dataset: str = field("", title="Dataset", help="HDF5: the path of the activations inside the file.")
    axes: str = field("", title="Axes", help="HDF5: such as “position,feature” or “sample,position,feature”.")
    hook: str = field("", title="Hook point", help="HDF5: what was recorded. Dictionaries: what they are of.")
    kind: Literal["text", "image"] = field("text", title="Positions are", choices=("text", "image"))


@task("import", title="Import", config="auditor.tasks.import_:ImportConfig")
def run(run: Run, config: ImportConfig) -> dict[str, Any]:
    """Take other tools' files into the project: HDF5 activations become a store, dictionaries of SAELens, sparsify,
    dictionary_learning and others are examined on real activations, Neuronpedia graphs become a result. Nothing in them
    is run."""
    path = Path(config.path).expanduser().resolve()
    if not path.exists():
        raise AuditorError(f"“{path}” does not exist.", "Check the path.")
    name = config.name or path.name.split(".")[0]
    if not path.is_dir() and not path.is_file():
        raise AuditorError(f"“{path.name}” is neither a file nor a folder.", "Copy what it gives into a file.")
    if path.is_dir() or config.format != "auto" or path.suffix in _WEIGHTS:
        return import_dictionaries(run, path, config)
    if path.name.endswith((".json", ".json.gz")):
        return _graph(run, path, name)
    return _hdf5(run, path, name, config)


def _hdf5(run: Run, path: Path, name: str, config: ImportConfig) -> dict[str, Any]:
    from auditor.store.foreign import Mapping, import_hdf5, suggest_mapping

    mapping = suggest_mapping(path)
    asked: dict[str, Any] = {"kind": config.kind}
    asked |= {field: value for field, value in (("dataset", config.dataset), ("hook", config.hook)) if value}
    if config.axes:
        asked["axes"] = tuple(part.strip() for part in config.axes.split(","))
    known = {key: value for key, value in asked.items() if key in Mapping.model_fields}
    try:
        mapping = Mapping.model_validate(mapping.model_dump() | known)
    except ValidationError as error:
        raise AuditorError(f"The mapping does not fit: {error.errors()[0]['msg']}.", "Name each axis.") from None
    out = run.project.new_path("store", name)
    try:
        store = import_hdf5(path, mapping, out, run.reporter)
    except BaseException:
        # Each import has a place of its own, so what one left half-made would never be gone on with.
        shutil.rmtree(out, ignore_errors=True)
        raise
    run.output("store", name, out, digest=store.digest, rows=store.n_rows, counts=store.counts(), imported=path.name)
    return {"rows": store.n_rows, "hooks": list(store.hook_points), "mapping": mapping.model_dump(mode="json")}


def _graph(run: Run, path: Path, name: str) -> dict[str, Any]:
    from auditor.analysis.circuits.formats import read_neuronpedia

    graph = read_neuronpedia(path)
    out = run.project.new_path("result", name, ".graph.json.gz")
    graph.save(out)
    run.output("result", name, out, graph=True, prompt=graph.prompt, nodes=len(graph.nodes), imported=path.name)
    scores = graph.scores()
    return {"nodes": len(graph.nodes), "replacement": scores.replacement, "completeness": scores.completeness}
