"""The verb “import”: take what other tools wrote into the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.base.paths import resolved
from auditor.sae.formats import NAMES
from auditor.tasks.activations import holds_activations, import_activations, import_latents, latents_in
from auditor.tasks.dictionaries import import_dictionaries
from auditor.tasks.open import before_dot
from auditor.tasks.task import Run, task


class ImportConfig(Config):
    """What to import. Settings of activations that are left empty are guessed and shown."""

    arguments: ClassVar[tuple[str, ...]] = ("path",)
    path: str = field(title="File or folder", help="Activations (HDF5, .npy, .npz, safetensors, SAELens' cache, saev's "
                      "shards, Llamascopium's chunks), delphi's latents, dictionaries of any format that is read, or a "
                      "Neuronpedia graph (.json).")  # fmt: skip
    name: str = field("", title="Name")
    format: str = field("auto", title="Format", help="Dictionaries: the tool whose files they are.",
                        choices=("auto", *NAMES))  # fmt: skip
    pick: tuple[str, ...] = field((), title="Only these", help="Of a folder with several dictionaries, or latents of "
                                  "several hook points: those to take; else all.")  # fmt: skip
    convention: str = field("", title="Convention", help="Dictionaries: how to read them otherwise, as the import "
                            "doctor names it.")  # fmt: skip
    store: str = field("", title="Examined on", help="Dictionaries: activations for the import doctor; empty chooses.",
                       artefact="store")  # fmt: skip
    hook: str = field("", title="Hook point", help="What was recorded, or what the dictionaries are of.")
    dataset: str = field("", title="Array", help="Files of arrays: the path of the activations inside the file.")
    axes: str = field("", title="Axes", help="Files of arrays, such as “sample,position,feature”.")
    kind: Literal["text", "image"] = field("text", title="Positions are", choices=("text", "image"))
    numbers: str = field("own", title="Numbers", help="Activations: how they are kept; own: as they are.",
                         choices=("own", "float32", "float16", "bfloat16"))  # fmt: skip
    leading: int = field(0, title="Special positions", help="Activations: so many at the start of each sample (such as "
                         "BOS) are left out of training.", ge=0, le=1000)  # fmt: skip
    model: str = field("", title="Tokens of", help="Activations with token ids: the model whose tokenizer says what "
                       "they are; empty: they stay numbers.", artefact="model")  # fmt: skip


@task("import", title="Import", config="auditor.tasks.import_:ImportConfig")
def run(run: Run, config: ImportConfig) -> dict[str, Any]:
    """Take other tools' files into the project: activations become a store, dictionaries of SAELens, sparsify,
    dictionary_learning and others are examined on real activations, delphi's latents become an index, Neuronpedia
    graphs a result. Nothing in them is run."""
    path = resolved(config.path)
    if not path.exists():
        raise AuditorError(f"“{path}” does not exist.", "Check the path.")
    name = config.name or before_dot(path)
    if not path.is_dir() and not path.is_file():
        raise AuditorError(f"“{path.name}” is neither a file nor a folder.", "Copy what it gives into a file.")
    if config.format == "auto":
        if path.name.endswith((".json", ".json.gz")):
            return _graph(run, path, name)
        if found := latents_in(path):
            return import_latents(run, found, name, config)
        if holds_activations(path):
            return import_activations(run, path, name, config)
    return import_dictionaries(run, path, config)


def _graph(run: Run, path: Path, name: str) -> dict[str, Any]:
    from auditor.analysis.circuits.formats import read_neuronpedia

    graph = read_neuronpedia(path)
    out = run.project.new_path("result", name, ".graph.json.gz")
    graph.save(out)
    run.output("result", name, out, graph=True, prompt=graph.prompt, nodes=len(graph.nodes), imported=path.name)
    scores = graph.scores()
    return {"nodes": len(graph.nodes), "replacement": scores.replacement, "completeness": scores.completeness}
