"""Opens a project's artefacts and what belongs to them: the model of a dictionary, the dictionary of an index."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.base.errors import AuditorError
from auditor.project import Artefact, Project
from auditor.tasks.pairing import model_with, with_adapter
from auditor.tasks.present import written_since
from auditor.tasks.task import Run, resolve

if TYPE_CHECKING:
    from auditor.data.sample import Sample
    from auditor.data.samples import Samples
    from auditor.features.fires import Fires, Order
    from auditor.features.index import Index
    from auditor.models.model import Model
    from auditor.sae.sae import Sae

_KEPT = 2
_models: OrderedDict[tuple[Path, str, str, tuple[str, ...] | None], Model] = OrderedDict()
_models_lock = threading.Lock()


def model_at(path: Path, dtype: str = "float32", device: str = "auto", until: tuple[str, ...] | None = None) -> Model:
    """The model in `path`; the last two stay open, since opening takes seconds and every pane asks for the same, until
    something is written there. With `until`, as far as these hook points at least (`auditor.models.open_model`)."""
    from auditor.models import open_model
    from auditor.sae import memory

    whole = (path.resolve(), dtype, device, None)
    key: tuple[Path, str, str, tuple[str, ...] | None] = whole
    with _models_lock:
        for held in [one for one in _models if one[:3] == whole[:3]]:
            if _rewritten(path, _models[held]):
                del _models[held]
        if until is not None and whole not in _models:
            key = (*whole[:3], until)
        if key not in _models:
            memory.other_work()  # a training whose memory is measured meanwhile
            if until is None:  # which is the whole that parts need not be kept beside
                for part in [held for held in _models if held[:3] == whole[:3]]:
                    del _models[part]
            _models[key] = open_model(path, dtype=dtype, device=device, until=key[3])
            while len(_models) > _KEPT:
                _models.popitem(last=False)
        _models.move_to_end(key)
        return _models[key]


def _rewritten(path: Path, model: Model) -> bool:
    """Whether another model may lie there now; one that is gone, as with a stick, is of use as long as it is open."""
    from auditor.models.loading import places

    try:
        return written_since(places(path), model.read_since)
    except (AuditorError, OSError):
        return False


def is_open(path: Path, dtype: str = "float32", device: str = "auto") -> bool:
    """Whether the whole of the model in `path` is open, so that `model_at` takes no memory for it."""
    return (path.resolve(), dtype, device, None) in _models


def index_of(project: Project, ref: str = "") -> Index:
    """The index that `ref` names (the newest where it is empty), with the labels that people gave in this project."""
    from auditor.features import open_index

    artefact = resolve(project, ref, "index")
    labels = project.folder / "labels.sqlite"
    return open_index(artefact.path, labels if project.writable or labels.exists() else None)


def dictionary_of_index(project: Project, index: Index) -> Artefact:
    """The dictionary that an index was built from; AuditorError where the project does not hold it."""
    facts = index.meta["dictionary"]
    for artefact in reversed(project.artefacts("dictionary")):
        if artefact.digest == facts["digest"]:
            return artefact
    raise AuditorError(
        f"The project does not hold the dictionary of this index (sha256 {facts['digest'][:8]}…).",
        "Open the dictionary's folder first.",
    )


def model_of_index(project: Project, index: Index) -> Artefact:
    """The model whose activations an index describes, if need be with the adapter over it off; AuditorError where the
    project does not hold it."""
    facts = index.meta.get("model") or {}
    held = project.artefacts("model")
    if (found := model_with(project, facts.get("digest"))) is not None:
        return found
    if not facts and held:
        return held[-1]
    name = facts.get("name", "of this index")
    raise AuditorError(f"The project does not hold the model “{name}”.", "Open the model's folder first.")


def open_model_of_index(project: Project, index: Index) -> Model:
    """That model, with the adapter over it as it was."""
    facts = index.meta.get("model") or {}
    return with_adapter(model_at(model_of_index(project, index).path), "auto", [facts.get("digest")])


def model_of_dictionary(project: Project, sae: Sae) -> Artefact:
    """The model that a dictionary was trained on, if need be with the adapter over it off, else the newest one that has
    its hook point."""
    if (found := model_with(project, sae.meta.get("model_digest"))) is not None:
        return found
    for artefact in reversed(project.artefacts("model")):
        points = {point["hook"]: point["width"] for point in artefact.meta.get("hook_points", [])}
        if points.get(sae.hook) == sae.d_in:
            return artefact
    raise AuditorError(f"No model of this project has the hook point “{sae.hook}”.", "Open the model's folder first.")


def open_samples_of(run: Run, ref: str) -> Samples:
    """The samples that `ref` names, which may end in options (“emoji?split=held-out”); notes their digest."""
    from auditor.data import open_samples

    return open_samples(place_of_samples(run, ref))


def place_of_samples(run: Run, ref: str) -> str:
    """The path of the samples that `ref` names, with its options; notes their digest."""
    name, options = parted(run.project, ref)
    return f"{run.input(name, 'samples').path}{options}"


def parted(project: Project, ref: str) -> tuple[str, str]:
    """The name of samples and the options behind it, with their mark; what is held by a name keeps the marks in it."""
    held = {known for artefact in project.artefacts("samples") for known in (artefact.name, artefact.id)}
    for at in (len(ref), *(at for at in reversed(range(1, len(ref))) if ref[at] == "?")):
        if ref[:at] in held:
            return ref[:at], ref[at:]
    name, mark, options = ref.partition("?")
    return name, mark + options


def samples_settled(run: Run, ref: str) -> str:
    """`ref` as it stays whatever samples are opened next: with the id of the newest where it names none."""
    return ref if ref.partition("?")[0] else f"{run.input('', 'samples').id}{ref}"


def samples_unnamed(ref: str) -> str:
    """`ref` where it names none: so earlier versions left it, by which the work that they began is found."""
    return "".join(ref.partition("?")[1:])


def dictionaries_of(
    project: Project, model: Model, refs: tuple[str, ...] = (), digest: str = ""
) -> dict[str, tuple[Artefact, Sae]]:
    """Hook point → dictionary: the named ones, else the newest of each residual hook point that fits the model, those
    first that were trained on the model with this `digest`."""
    from auditor.sae import load

    chosen = [resolve(project, ref, "dictionary") for ref in refs] or project.artefacts("dictionary")
    found: dict[str, tuple[Artefact, Sae]] = {}
    for artefact in chosen:
        hook = str(artefact.meta.get("hook", ""))
        if not refs and hook and hook not in model.hook_points:
            continue
        sae = load(artefact.path)
        point = model.hook_points.get(sae.hook)
        fits = point is not None and point.width == sae.d_in and sae.hook.endswith("resid_post")
        own = bool(digest) and sae.meta.get("model_digest") == digest
        better = own or sae.hook not in found or found[sae.hook][1].meta.get("model_digest") != digest
        if refs or (fits and sae.plain and better):
            found[sae.hook] = (artefact, sae)
    if not found:
        raise AuditorError(
            f"The project has no dictionary for the residual stream of “{model.name}”.", "Record and train one first."
        )
    return found


def sample_of(text: str | None, image: Path | str | None) -> Sample:
    """A typed text, an image, or both, as one sample; or the sound of a WAV file that is given as the image."""
    from auditor.data import AudioRef, ImageRef, Sample
    from auditor.intake.wav import is_wav

    if not text and image is None:
        raise AuditorError("There is nothing to run.", "Type a text or choose an image.")
    if image is not None and is_wav(image):
        if text:
            raise AuditorError("No network reads a text and hears a sound at once.", "Give one of the two.")
        return Sample(id="typed", audio=AudioRef(Path(image)))
    picture = ImageRef.at(image) if image is not None else None
    if picture is not None:
        picture.load()
    return Sample(id="typed", text=text or None, image=picture)


def fires(
    project: Project, ref: str, text: str | None, image: Path | str | None, order: Order = "rare"
) -> tuple[Index, Fires]:
    """Which features fire on a typed text, an image or a sound; in an order in which those that fire everywhere do not
    lead."""
    from auditor.features.fires import fires_on
    from auditor.sae import load

    sample = sample_of(text, image)
    index = index_of(project, ref)
    try:
        sae = load(dictionary_of_index(project, index).path)
        model = open_model_of_index(project, index)
        return index, fires_on(index, model, sae, sample, order=order)
    except BaseException:
        index.close()
        raise
