"""The verb “open”: say what a file or folder is, and take it into the project."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from auditor.base.config import Config, field
from auditor.base.digest import sha256_bytes
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic
from auditor.base.paths import at_home, resolved
from auditor.project import Artefact, Project
from auditor.sae import formats
from auditor.tasks.task import Run, task

# Files of the folders that other programs write: saev's and SAELens' activations, Llamascopium's, delphi's latents (the
# last two in a folder for each hook point); and files of arrays.
_OF_ACTIVATIONS = re.compile(r"acts000000\.bin|dataset_info\.json")
_OF_A_HOOK = re.compile(r"(shard-\d+-)?chunk-\d+\.(safetensors|pt)|\d+_\d+\.safetensors")
_LARGEST_MANIFEST = 64 << 20
_ARRAYS = {".h5": "an HDF5 file", ".hdf5": "an HDF5 file", ".npy": "a NumPy array"}


class OpenConfig(Config):
    """What to open."""

    arguments: ClassVar[tuple[str, ...]] = ("path",)
    path: str = field(
        title="Path", help="A model folder, samples, a store, a dictionary, an index or a bundle; or what the project "
        "calls one of them.",
    )  # fmt: skip
    name: str = field("", title="Name", help="What to call it in the project.")
    base: str = field(
        "",
        title="Base model",
        help="Of the folder of an adapter (LoRA, IA³): the folder, or the model of this project, that it lies over.",
    )
    dtype: str = field(
        "float32",
        title="Model's numbers",
        choices=["float32", "bfloat16", "float16", "int8", "int4"],
        help="In which a model is tried now; each recording says its own.",
        advanced=True,
    )
    device: str = field(
        "cpu",
        title="Device",
        choices=["auto", "cpu", "cuda"],
        help="Where a model is tried now; tells how many of its blocks fit there.",
        advanced=True,
    )
    compare: bool = field(
        False,
        title="Compare with float32",
        help="Runs a few inputs in both formats and tells how far the outputs and the residual stream differ.",
        advanced=True,
    )
    check: bool = field(
        False, title="Check every byte", help="Of a store: compares it with what was recorded.", advanced=True
    )
    strict: bool = field(
        False,
        title="Refuse what cannot be read",
        help="Of samples: an item that cannot be read is an error. Otherwise it is left out, counted and told.",
        advanced=True,
    )
    hook: str = field(
        "",
        title="Hook point",
        help="Of a store whose hook points have other positions, such as tokens and patches: whose rows are shown.",
        advanced=True,
    )
    row: int = field(
        -1, title="Row", help="Of a store: shows this row, its sample and its largest numbers.", ge=-1, advanced=True
    )


@task("open", title="Open", config="auditor.tasks.open:OpenConfig")
def run(run: Run, config: OpenConfig) -> dict[str, Any]:
    """Say what a file or folder is (a model with its hook points, samples, a store, a dictionary, an index, a bundle)
    and take it into the project."""
    path = _place(run.project, config.path)
    kind = recognise(path)
    if kind != "model":
        facts, digest = _samples(path, config.strict) if kind == "samples" else _READERS[kind](path)
        shown = _figures(run, path, config) if kind == "store" else {}
        _register(run, kind, config.name, path, digest, facts)
        return {"kind": kind, **facts, **shown}
    with _laid_over(run, path, config.base) as place:
        facts, digest = _model(place, config)
        _register(run, kind, config.name, place, digest, facts)
    return {"kind": kind, **facts}


def _register(run: Run, kind: str, name: str, path: Path, digest: str, facts: dict[str, Any]) -> None:
    """Take it into the project. What the project holds already, with the same bytes, keeps its id, the run that made it
    and all else that is known of it: others refer to it."""
    held = next((a for a in run.project.artefacts(kind) if a.path == path and a.digest == digest), None)
    if held is None:
        run.output(kind, name or _name(path), path, digest=digest, **facts)
        return
    if name and name != held.name:
        run.project.catalogue.rename(held.id, name)
    run.outputs.append(run.project.note(held, **facts))


def _place(project: Project, named: str) -> Path:
    """What is at this path, or what the project calls so (by name or id). AuditorError where there is neither."""
    if not named.strip():
        raise AuditorError("Nothing was named to open.", "Give a path, or the name of what the project holds.")
    path = resolved(named)
    if not path.exists():
        path = next((held.path for held in reversed(project.artefacts()) if named in (held.name, held.id)), path)
    if not path.exists():
        whole, mark, options = named.rpartition("?")
        if mark and at_home(whole).exists():
            raise AuditorError(
                f"“?{options}” is an option of samples, which are opened without any.",
                f"Open “{whole}”, and give the option where the samples are used: in the Record pane, or as "
                f"--samples '{named}'.",
            )
        raise AuditorError(f"“{path}” does not exist.", "Check the path.")
    return path


def _figures(run: Run, path: Path, config: OpenConfig) -> dict[str, Any]:
    """Of a store: what its rows are, whether its bytes are sound, and one row, as far as asked for."""
    from auditor.store import open_store
    from auditor.store.facts import summary
    from auditor.store.row import row_of

    store = open_store(path)
    if config.hook:
        store = store.at(store.hook(config.hook))
    told = summary(store)
    if config.check:
        store.check(run.reporter)
        told["checked"] = "every byte is as it was recorded"
    if config.row >= 0:
        told["row"] = [row_of(store, hook, config.row).told() for hook in store.manifest.by_group[store.group]]
    return told


@contextlib.contextmanager
def _laid_over(run: Run, path: Path, base: str) -> Iterator[Path]:
    """Of an adapter: a file in the project that names it and its base, gone again where it cannot be opened; of
    anything else the path itself."""
    from auditor.intake.overlay import is_overlay, overlaid_text

    if not base:
        yield path
        return
    if not is_overlay(path):
        raise AuditorError(f"“{path.name}” is no adapter, so it has no base.", "Leave the base out.")
    held = [artefact for artefact in run.project.artefacts("model") if base in (artefact.name, artefact.id)]
    below = held[-1].path if held else resolved(base)
    if not below.exists():
        raise AuditorError(f"“{base}” is neither a model of this project nor a folder.", "Check the base's path.")
    text = overlaid_text(path, below)
    place = run.keyed_path("model", f"{path.name}-on-{below.name}", sha256_bytes(text.encode()))
    place = place.with_name(f"{place.name}.model.json")
    there = place.exists()
    write_atomic(place, text.encode())
    try:
        yield place
    except BaseException:
        if not there:
            place.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of others it holds more
                place.parent.rmdir()
        raise


def take_in(project: Project, kind: str, path: Path) -> Artefact:
    """Register what lies at `path` as an artefact of `kind`; AuditorError where it is none, and nothing is registered
    then."""
    read = _READERS.get(kind)
    if read is None:
        return project.add(kind, _name(path), path)
    facts, digest = read(path)
    return project.add(kind, _name(path), path, digest=digest, meta=facts)


def _name(path: Path) -> str:
    """What to call it: a folder of a hub's cache as the model in it, ours without their endings."""
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.rpartition("--")[2]
    if not path.is_dir() and not path.name.endswith(".model.json"):
        return before_dot(path)
    name = path.name
    for ending in (".model.json", ".store", ".sae", ".index"):
        name = name.removesuffix(ending)
    return name or before_dot(path)


def before_dot(path: Path) -> str:
    """A file's name without its endings, and without the dots that hide it: it is never empty."""
    shown = path.name.lstrip(".")
    return shown.split(".")[0] or path.name or str(path)


class ToImport(AuditorError):
    """What is no artefact yet: the verb “import” makes one of it."""


def recognise(path: Path) -> str:
    """What kind of artefact lies at `path`, by looking at it and never by running it. ToImport where it is none yet,
    AuditorError where it can be none."""
    if path.is_dir():
        held = {item.name for item in path.iterdir()}
        if {"W_enc_0.safetensors", "auditor.json"} <= held:
            return "dictionary"
        if "sae_weights.safetensors" in held:
            if "cfg.json" in held and not _is_ours(path / "cfg.json"):
                raise _foreign(path, "SAELens folder")
            return "dictionary"
        if {"meta.json", "index.sqlite"} <= held:
            return "index"
        if "manifest.json" in held and _says(path / "manifest.json", "store"):
            return "store"
        if (format := formats.recognise(path)) is not None:
            raise _foreign(path, format.title)
        if held & {"config.json", "adapter_config.json"} or any(name.endswith(".gguf") for name in held):
            return "model"
        if "snapshots" in held and path.name.startswith("models--"):
            raise AuditorError(
                f"“{path.name}” is a model in a hub's cache, of which it holds the versions.",
                f"Open one of them: a folder in {path / 'snapshots'}.",
            )
        if "dataset_info.json" in held and _of_samples(_read(path / "dataset_info.json")):
            raise AuditorError(
                f"“{path.name}” is a data set as Hugging Face's library saves it, in Arrow.",
                'Write it as Parquet, which is read: dataset.to_parquet("samples.parquet").',
            )
        if any(map(_OF_ACTIVATIONS.fullmatch, held)) or _of_hooks(path):
            raise ToImport(
                f"“{path.name}” holds another program's activations or latents.",
                f"Take them in with: {_by_import(path)}",
            )
        return "samples"
    if not path.is_file():
        raise AuditorError(f"“{path.name}” is neither a file nor a folder.", "Copy what it gives into a file.")
    if (title := _ARRAYS.get(path.suffix)) is not None:
        raise ToImport(f"“{path.name}” is {title}.", f"Take its activations in with: {_by_import(path)}")
    if (format := formats.recognise(path)) is not None:
        raise _foreign(path, format.title)
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        raise ToImport(
            f"“{path.name}” is one file of weights or arrays.",
            f"Open the folder that holds it; a dictionary or activations are taken in with: {_by_import(path)}",
        )
    if path.suffix == ".gguf" or path.name.endswith(".model.json"):
        return "model"
    if path.name.endswith(".audit.zip"):
        return "bundle"
    return "samples"


def _of_hooks(path: Path) -> bool:
    """Whether this folder, or one in it, is what other programs keep of a hook point."""
    folders = [path, *(item for item in path.iterdir() if item.is_dir() and not item.is_symlink())]
    with contextlib.suppress(OSError):
        return any(_OF_A_HOOK.fullmatch(item.name) for folder in folders for item in folder.iterdir())
    return False


def _of_samples(info: dict[str, Any]) -> bool:
    """Whether a data set, as its settings tell, has columns and none of them holds matrices."""
    features = info.get("features")
    kinds = (
        [held.get("_type") for held in features.values() if isinstance(held, dict)]
        if isinstance(features, dict)
        else []
    )
    return bool(kinds) and not any(str(kind).startswith("Array") for kind in kinds)


def _foreign(path: Path, title: str) -> ToImport:
    """Of a dictionary that the import doctor should see first."""
    return ToImport(f"“{path.name}” is a dictionary ({title}).", f"Take it in with: {_by_import(path)}")


def _by_import(path: Path) -> str:
    """How, on the command line and in the window, where this is said as well."""
    return f"auditor import {path}, or in the window File → Import another program's files…"


def _says(path: Path, word: str) -> bool:
    return word in str(_read(path).get("format", ""))


def _is_ours(config: Path) -> bool:
    """Whether this program wrote a dictionary in SAELens' form."""
    metadata = _read(config).get("metadata")
    return isinstance(metadata, dict) and "auditor" in metadata


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that anybody may have written; empty where it is none."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_MANIFEST:
            return {}
        found = json.loads(path.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _model(path: Path, config: OpenConfig | None = None) -> tuple[dict[str, Any], str]:
    from auditor.models import open_model
    from auditor.models.hook_points import PATTERN

    tried = config or OpenConfig(path=str(path))
    model = open_model(path, device=tried.device, dtype=tried.dtype)
    points = [
        {"hook": p.name, "width": p.width, "axes": " × ".join(p.axes), "heads": p.heads}
        for p in model.hook_points.values()
        if p.axes != PATTERN
    ]
    facts = {"family": model.family, "modalities": sorted(model.modalities), "layers": model.n_layers}
    facts |= {"width": model.d_model, "hook_points": points, "files": model.files}
    notes = [*model.notes]
    if "text" in model.modalities and model.tokenizer is None:
        notes.append("The folder holds no tokenizer, so texts cannot be given to it: add tokenizer.json.")
    if notes:
        facts["note"] = " ".join(notes)
    if model.overlay is not None:
        facts["adapter"] = {"kind": model.overlay.facts.kind, "changes": len(model.overlay.changed)}
        facts["base_digest"] = model.parts["base"]["digest"]
    if tried.device != "cpu":
        facts["placement"] = str(model.placement)
    if tried.compare:
        from auditor.models.precision import departure

        found = departure(model, open_model(path))
        told = {"relative_error": found.error, "kl_nats": found.kl, "same_likeliest": found.same}
        facts["departure"] = {
            "format": tried.dtype, **{name: value for name, value in told.items() if value is not None}, "n": found.n,
            "streams": [{"residual stream": hook, "fvu": lost} for hook, lost in found.streams.items()],
        }  # fmt: skip
    return facts, model.digest


def _samples(path: Path, strict: bool = False) -> tuple[dict[str, Any], str]:
    from auditor.data import Samples, open_samples
    from auditor.data.checked import checked, sifted
    from auditor.data.skipped import left_out

    samples = open_samples(path, strict=strict)
    images, sounds = (samples.counts.get(kind, 0) for kind in ("image", "audio"))
    if samples.modalities & {"image", "audio"} and (strict or not sifted(samples[:1])[0]):
        # Told now, not after an hour of recording.
        looked_at = (sample for sample in samples if sample.messages is None)
        checked(Samples(samples.name, looked_at, skips=samples.skips), strict=strict)
    facts = {"samples": len(samples), "with_image": images, **({"with_sound": sounds} if sounds else {})}
    columns = {"columns": samples.columns.told()} if samples.columns is not None else {}
    return {**facts, **columns, **left_out(samples.skips.facts())}, samples.digest


def _store(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.store import open_store
    from auditor.store.facts import totals

    store = open_store(path)
    rows, counts = totals(store)
    return {"rows": rows, "hook_points": dict(store.hook_points), "counts": counts}, store.digest


def _dictionary(path: Path) -> tuple[dict[str, Any], str]:
    from auditor.sae import load_any
    from auditor.sae.figures import figures, headline

    sae = load_any(path)
    return {
        "architecture": sae.arch if sae.context is None else "temporal",
        "features": sae.d_sae,
        "width": sae.d_in,
        "hook": sae.hook,
        "k": getattr(sae, "k", None),
        **headline(figures(sae.meta)),
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


_READERS: dict[str, Callable[[Path], tuple[dict[str, Any], str]]] = {
    "model": _model,
    "samples": _samples,
    "store": _store,
    "dictionary": _dictionary,
    "index": _index,
    "bundle": _bundle,
}
