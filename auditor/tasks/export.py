"""The verb “export”: write an artefact in a form that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.base.paths import resolved
from auditor.project import Artefact
from auditor.sae.formats import WRITTEN
from auditor.tasks.dictionaries import export_dictionary
from auditor.tasks.task import Run, task


class ExportConfig(Config):
    """What to export, and where to."""

    arguments: ClassVar[tuple[str, ...]] = ("artefact", "out")
    artefact: str = field(title="Artefact", help="A store, dictionary, index or circuit of the project.")
    out: str = field(title="File", help="store: .npy, .safetensors or .h5, or a folder for SAELens; dictionary: a "
                     "folder; index: .csv; circuit: .json or .svg.")  # fmt: skip
    format: str = field("own", title="Format", help="Of a dictionary; own: the one it came from, else SAELens'. Of a "
                        "store: saelens writes its cached activations.", choices=("own", *WRITTEN))  # fmt: skip
    hook: str = field("", title="Hook point", help="Of a store with several.")


@task("export", title="Export", config="auditor.tasks.export:ExportConfig")
def run(run: Run, config: ExportConfig) -> dict[str, Any]:
    """Write a store as .npy, .safetensors, plain HDF5 or SAELens' cached activations, a dictionary as another tool
    keeps it, an index as CSV, or a circuit as Neuronpedia's JSON or as SVG. Several transcoders, separated by commas,
    become one set."""
    names = [name.strip() for name in config.artefact.split(",") if name.strip()] or [config.artefact]
    held = [run.project.find(name) for name in names]
    for artefact in held:
        run.reads(artefact)
    artefact = held[0]
    if any(other.kind != "dictionary" for other in held) and len(held) > 1:
        raise AuditorError("Only dictionaries are exported together.", "Export one artefact at a time.")
    out = resolved(config.out)
    if out.exists():
        raise AuditorError(f"“{out}” exists already.", "Choose another name.")
    write = _WRITERS.get("graph" if artefact.meta.get("graph") else artefact.kind)
    if write is None and artefact.kind != "dictionary":
        raise AuditorError(
            f"“{artefact.name}” ({artefact.kind}) cannot be exported.",
            "Choose a store, a dictionary, an index or a circuit.",
        )
    told: dict[str, Any] = {}
    if artefact.kind == "dictionary":
        export_dictionary(held, out, config.format)
    elif write is not None:
        told = write(run, artefact, out, config)
    return {"written": str(out), **told}


def _store(run: Run, artefact: Artefact, out: Path, config: ExportConfig) -> dict[str, Any]:
    from auditor.store import open_store
    from auditor.store.export import export_hook
    from auditor.store.formats.saelens_writer import write_cache

    store = open_store(artefact.path)
    if config.format == "saelens":
        return dict(write_cache(store, config.hook or None, out, run.reporter))
    if config.format != "own":
        raise AuditorError(
            f"A store is not written as {config.format}.",
            "Choose saelens, or own with an ending: .npy, .safetensors or .h5.",
        )
    export_hook(store, config.hook or None, out, run.reporter)
    return {}


def _index(run: Run, artefact: Artefact, out: Path, config: ExportConfig) -> dict[str, Any]:
    from auditor.features.export import write_csv
    from auditor.tasks.opening import index_of

    with index_of(run.project, artefact.id) as index:
        write_csv(index, out)
    return {}


def _graph(run: Run, artefact: Artefact, out: Path, config: ExportConfig) -> dict[str, Any]:
    from auditor.analysis.circuits import Graph
    from auditor.analysis.circuits.drawing import to_svg
    from auditor.analysis.circuits.formats import write_neuronpedia
    from auditor.base.files import write_atomic

    graph = Graph.load(artefact.path)
    if out.suffix == ".svg":
        write_atomic(out, to_svg(graph.prune()).encode())
    else:
        write_neuronpedia(graph, out, slug=artefact.name)
    return {}


_WRITERS = {"store": _store, "index": _index, "graph": _graph}
