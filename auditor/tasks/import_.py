"""The verb “import”: take what other tools wrote into the project."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.tasks.task import Run, task


class ImportConfig(Config):
    """What to import. The mapping settings are for HDF5 files; left empty, they are guessed and shown."""

    arguments: ClassVar[tuple[str, ...]] = ("path",)
    path: str = field(title="File", help="HDF5 activations, a SAELens folder, or a Neuronpedia graph (.json).")
    name: str = field("", title="Name")
    dataset: str = field("", title="Dataset", help="HDF5: the path of the activations inside the file.")
    axes: str = field("", title="Axes", help="HDF5: such as “position,feature” or “sample,position,feature”.")
    hook: str = field("", title="Hook point", help="HDF5: what was recorded.")
    kind: Literal["text", "image"] = field("text", title="Positions are", choices=("text", "image"))


@task("import", title="Import", config="auditor.tasks.import_:ImportConfig")
def run(run: Run, config: ImportConfig) -> dict[str, Any]:
    """Take other tools' files into the project: HDF5 activations become a store, SAELens folders a dictionary,
    Neuronpedia graphs a result. Nothing in them is run."""
    path = Path(config.path).expanduser().resolve()
    if not path.exists():
        raise AuditorError(f"“{path}” does not exist.", "Check the path.")
    name = config.name or path.name.split(".")[0]
    if path.is_dir():
        return _dictionary(run, path, name)
    if not path.is_file():
        raise AuditorError(f"“{path.name}” is neither a file nor a folder.", "Copy what it gives into a file.")
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


def _dictionary(run: Run, path: Path, name: str) -> dict[str, Any]:
    from auditor.sae import load

    sae = load(path)
    out = run.project.new_path("dictionary", name)
    sae.save(out)
    facts = {"hook": sae.hook, "features": sae.d_sae, "arch": sae.arch}
    run.output("dictionary", name, out, digest=sae.digest, imported=path.name, **facts)
    return facts | {"width": sae.d_in}


def _graph(run: Run, path: Path, name: str) -> dict[str, Any]:
    from auditor.analysis.circuits.formats import read_neuronpedia

    graph = read_neuronpedia(path)
    out = run.project.new_path("result", name, ".graph.json.gz")
    graph.save(out)
    run.output("result", name, out, graph=True, prompt=graph.prompt, nodes=len(graph.nodes), imported=path.name)
    scores = graph.scores()
    return {"nodes": len(graph.nodes), "replacement": scores.replacement, "completeness": scores.completeness}
