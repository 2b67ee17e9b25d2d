"""The verb “record”: run samples through a model and keep what its hook points say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.tasks.task import Run, task

if TYPE_CHECKING:
    from auditor.store.plan import Plan
    from auditor.store.recipe import RecordConfig


@task("record", title="Record activations", config="auditor.store.recipe:RecordConfig")
def run(run: Run, config: RecordConfig) -> dict[str, Any]:
    """Run texts, images or captioned images through a model and keep the activations at its hook points in a store. A
    recording that was stopped or killed goes on when it is started again with the same settings."""
    from auditor.store import open_store
    from auditor.store.layout import MANIFEST
    from auditor.store.plan import plan, surely_fits
    from auditor.store.record import record
    from auditor.tasks.opening import model_at, open_samples_of

    model_artefact = run.input(config.model, "model")
    samples = open_samples_of(run, config.samples)
    model = model_at(model_artefact.path, config.dtype, config.device)
    settled = config.model_copy(update={"model": model_artefact.id})
    settings = settled.model_dump(mode="json") | {"inputs": [model_artefact.digest, samples.digest]}
    out = run.keyed_path("store", f"{model.name}-{samples.name.split('.')[0]}", digest_json(settings))
    if (out / MANIFEST).exists():
        run.must_be_forgotten("store", out)
        store = open_store(out)
    else:
        # A recording that goes on needs only what is left of it, and stops where the disk is full.
        if not out.exists() and not surely_fits(settled, model, samples, out.parent):
            _must_fit(plan(settled, model, samples, out.parent, run.reporter))
        store = record(settled, model, samples, out, run.reporter)
    counts = store.counts()
    run.output("store", out.stem, out, digest=store.digest, rows=store.n_rows, counts=counts, model=model_artefact.id)
    return {"rows": store.n_rows, **{f"{kind}_rows": n for kind, n in counts.items()}, "hooks": list(store.hook_points)}


def _must_fit(estimate: Plan) -> None:
    if not estimate.fits:
        raise AuditorError(
            f"This recording needs {_size(estimate.bytes)} and {_size(estimate.free_bytes)} are free.",
            "Record fewer positions or hook points, or choose another disk.",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
