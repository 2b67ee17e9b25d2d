"""Which model belongs to what was learned or recorded from it: by its digest, with the adapter over it on or off."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

from auditor.intake.overlay import Asked
from auditor.project import Artefact, Project

if TYPE_CHECKING:
    from auditor.models.model import Model
    from auditor.sae.sae import Sae


def model_with(project: Project, digest: object) -> Artefact | None:
    """The newest model of the project with this digest, as it is, else with the adapter that lies over it off; None
    where there is none."""
    held = project.artefacts("model")[::-1] if digest else []
    whole = (artefact for artefact in held if artefact.digest == digest)
    bare = (artefact for artefact in held if artefact.meta.get("base_digest") == digest)
    return next(chain(whole, bare), None)


def with_adapter(model: Model, adapter: Asked, digests: Iterable[object]) -> Model:
    """`model` with the adapter that lies over it on or off; auto: off where what it is used with names the base alone
    by its `digests`, on otherwise. AuditorError where there is none to switch off."""
    named = {digest for digest in digests if isinstance(digest, str) and digest}
    if adapter == "auto" and model.overlay is not None and model.adapter_on and named:
        # Asked of the model itself, which keeps it: each copy with its adapter off would read all files again.
        adapter = "off" if named == {model.parts["base"]["digest"]} else "on"
    return model.switched("off" if adapter == "off" else "on")


def digest_before(artefact: Artefact, adapter: Asked) -> str:
    """Of a model that is not open yet, as it will be used."""
    bare = artefact.meta.get("base_digest") if adapter == "off" else None
    return str(bare or artefact.digest)


def digest_as_used(artefact: Artefact, model: Model) -> str:
    """Of a model that was opened from its artefact; of one without an adapter no file is read for it."""
    return artefact.digest if model.overlay is None else model.digest


def of_others(artefact: Artefact, model: Model, saes: Iterable[tuple[str, Sae]]) -> str:
    """Which of these dictionaries, by their names, were trained on another model than they are used in, in a sentence;
    empty where none is known to be."""
    digest = digest_as_used(artefact, model)
    found = [
        f"“{name}” was trained on “{sae.meta.get('model') or 'another model'}” and is used in “{model.name}”."
        for name, sae in saes if sae.meta.get("model_digest") not in (None, "", digest)
    ]  # fmt: skip
    return " ".join(found)
