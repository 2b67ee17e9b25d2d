"""The verb “index”: gather the facts on every feature of a dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.tasks.labelled_rows import of_another
from auditor.tasks.pairing import model_with, with_adapter
from auditor.tasks.task import Run, task

if TYPE_CHECKING:
    from auditor.features.build import BuildConfig


@task("index", title="Index the features", config="auditor.features.build:BuildConfig")
def run(run: Run, config: BuildConfig) -> dict[str, Any]:
    """Gather the facts on every feature of a dictionary over a store: how often it fires, its examples in text and in
    images, its effects on the output, its neighbours."""
    from auditor.features import open_index
    from auditor.features.build import build
    from auditor.sae import load
    from auditor.store import open_store
    from auditor.tasks.opening import model_at

    dictionary = run.input(config.dictionary, "dictionary")
    store_artefact = run.input(config.store, "store")
    store = open_store(store_artefact.path)
    recorded = store.meta.get("model", {}).get("digest")
    model = _model(run, config.model, recorded)
    settled = config.model_copy(
        update={"dictionary": dictionary.id, "store": store_artefact.id, "model": model.id if model else ""}
    )
    settings = settled.model_dump(mode="json") | {"inputs": [run.digest_of(dictionary), run.digest_of(store_artefact)]}
    out = run.keyed_path("index", dictionary.name, digest_json(settings))
    if out.exists():
        run.must_be_forgotten("index", out)
        made = open_index(out)
    else:
        if model:
            run.opens(model)
        network = with_adapter(model_at(model.path), "auto", [recorded]) if model else None
        sae = load(dictionary.path)
        run.warn(of_another(store, [sae]))
        made = build(settled, store, sae, network, out, run.reporter)
    with made as index:
        live, n, digest = len(index.live), index.n_features, index.digest
    run.output("index", dictionary.name, out, digest=digest, features=n, live=live, dictionary=dictionary.id)
    return {"features": n, "live": live}


def _model(run: Run, ref: str, digest: str | None) -> Any:
    """The model that is named, else the one that the store was recorded from, where the project holds it, if need be
    with the adapter over it off."""
    if ref:
        return run.input(ref, "model")
    held = model_with(run.project, digest)
    if held is None:
        return None
    try:
        return run.input(held.id, "model")
    except AuditorError:
        return None
