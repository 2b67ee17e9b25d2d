"""The verb “open”: say what a file or folder is, and take it into the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from auditor.base.config import Config, field
from auditor.base.digest import digest_files
from auditor.base.errors import AuditorError
from auditor.project import Artefact, Project
from auditor.sae import formats
from auditor.tasks.task import Run, task


class OpenConfig(Config):
    """What to open."""

    arguments: ClassVar[tuple[str, ...]] = ("path",)
    path: str = field(title="Path", help="A model folder, samples, a store, a dictionary, an index or a bundle.")
    name: str = field("", title="Name", help="What to call it in the project.")


@task("open", title="Open", config="auditor.tasks.open:OpenConfig")
def run(run: Run, config: OpenConfig) -> dict[str, Any]:
    """Say what a file or folder is (a model with its hook points, samples, a store, a dictionary, an index, a bundle)
    and take it into the project."""
    path = Path(config.path).expanduser().resolve()
    if not path.exists():
        raise AuditorError(f"“{path}” does not exist.", "Check the path.")
    kind = recognise(path)
    facts, digest = _READERS[kind](path)
    run.output(kind, config.name or _name(path), path, digest=digest, **facts)
    return {"kind": kind, **facts}


def take_in(project: Project, kind: str, path: Path) -> Artefact:
    """Register what lies at `path` as an artefact of `kind`; AuditorError where it is none, and nothing is registered
    then."""
    read = _READERS.get(kind)
    if read is None:
        return project.add(kind, _name(path), path)
    facts, digest = read(path)
    return project.add(kind, _name(path), path, digest=digest, meta=facts)


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.name.split(".")[0]


def recognise(path: Path) -> str:
    """What kind of artefact lies at `path`, by looking at it and never by running it."""
    if path.is_dir():
        held = {item.name for item in path.iterdir()}
        if "sae_weights.safetensors" in held or {"W_enc_0.safetensors", "auditor.json"} <= held:
            return "dictionary"
        if {"meta.json", "index.sqlite"} <= held:
            return "index"
        if "manifest.json" in held and _says(path / "manifest.json", "store"):
            return "store"
        if (format := formats.recognise(path)) is not None:
            raise _foreign(path, format.title)
        if "config.json" in held or any(name.endswith(".gguf") for name in held):
            return "model"
        return "samples"
    if not path.is_file():
        raise AuditorError(f"“{path.name}” is neither a file nor a folder.", "Copy what it gives into a file.")
    if path.suffix in (".h5", ".hdf5"):
        raise AuditorError(f"“{path.name}” is an HDF5 file.", f"Take its activations in with: auditor import {path}")
    if (format := formats.recognise(path)) is not None:
        raise _foreign(path, format.title)
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        raise AuditorError(f"“{path.name}” is one file of weights.", "Open the folder that holds it.")
    if path.suffix == ".gguf":
        return "model"
    if path.name.endswith(".audit.zip"):
        return "bundle"
    return "samples"


def _foreign(path: Path, title: str) -> AuditorError:
    """Of a dictionary that the import doctor should see first."""
    return AuditorError(f"“{path.name}” is a dictionary ({title}).", f"Take it in with: auditor import {path}")


def _says(path: Path, word: str) -> bool:
    try:
        return word in str(json.loads(path.read_text("utf-8")).get("format", ""))
    except (OSError, ValueError, AttributeError):
        return False


def _model(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.models import open_model

    model = open_model(path)
    points = [{"hook": p.name, "width": p.width, "axes": " × ".join(p.axes)} for p in model.hook_points.values()]
    facts = {"family": model.family, "modalities": sorted(model.modalities), "layers": model.n_layers}
    return {**facts, "width": model.d_model, "hook_points": points, "files": digest_files(path)}, model.digest


def _samples(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.data import open_samples

    samples = open_samples(path)
    images = sum(sample.image is not None for sample in samples)
    for picture in (sample.image for sample in samples):
        if picture is not None and picture.path is not None and picture.path.stat().st_size == 0:
            picture.load()  # tells that it is empty now, not after an hour of recording
    if (first := samples[0].image) is not None:
        first.load()
    sounds = {"with_sound": heard} if (heard := sum(sample.audio is not None for sample in samples)) else {}
    return {"samples": len(samples), "with_image": images, **sounds}, samples.digest


def _store(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.store import open_store

    store = open_store(path)
    return {"rows": store.n_rows, "hook_points": dict(store.hook_points), "counts": store.counts()}, store.digest


def _dictionary(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.sae import load_any

    sae = load_any(path)
    return {
        "architecture": sae.arch,
        "features": sae.d_sae,
        "width": sae.d_in,
        "hook": sae.hook,
        "k": getattr(sae, "k", None),
    }, sae.digest


def _index(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.features import open_index

    index = open_index(path)
    try:
        facts = {"features": index.n_features, "live": len(index.live), "dictionary": index.meta["dictionary"]}
        return facts, index.digest
    finally:
        index.close()


def _bundle(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.audit import verify
    from auditor.base.digest import sha256_file

    verdict = verify(path)
    if unread := next((c for c in verdict.checks if c.name == "contents" and not c.ok), None):
        told = unread.detail.partition(" (")[0]
        raise AuditorError(f"“{path.name}” is no bundle: {told}.", "Ask for it again; or verify its unpacked folder.")
    return {"ok": verdict.ok, "checks": [{"check": c.name, "ok": c.ok, "detail": c.detail} for c in verdict.checks]}, (
        sha256_file(path)
    )


_READERS = {
    "model": _model,
    "samples": _samples,
    "store": _store,
    "dictionary": _dictionary,
    "index": _index,
    "bundle": _bundle,
}
