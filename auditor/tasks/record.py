"""The verb “record”: run samples through a model and keep what its hook points say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.config import read_config
from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.tasks.task import Run, task

if TYPE_CHECKING:
    from auditor.sae.distributed import Ranks
    from auditor.store import Store
    from auditor.store.plan import Plan
    from auditor.store.recipe import RecordConfig
    from auditor.store.record import Recording


@task("record", title="Record activations", config="auditor.store.recipe:RecordConfig")
def run(run: Run, config: RecordConfig) -> dict[str, Any]:
    """Run texts, images or captioned images through a model and keep the activations at its hook points in a store. A
    recording that was stopped or killed goes on when it is started again with the same settings."""
    from auditor.data import open_samples
    from auditor.data.skipped import left_out
    from auditor.store import open_store
    from auditor.store.layout import MANIFEST
    from auditor.store.plan import plan, surely_fits
    from auditor.store.record import Recording, record
    from auditor.tasks.opening import model_at, place_of_samples

    model_artefact = run.input(config.model, "model")
    place = place_of_samples(run, config.samples)
    samples = open_samples(place, strict=config.strict)
    model = model_at(model_artefact.path, config.dtype, config.device)
    hooks = tuple(model.hook_points[name].name if name in model.hook_points else name for name in config.hooks)
    settled = config.model_copy(update={"model": model_artefact.id, "hooks": hooks})
    settings = settled.model_dump(mode="json") | {"inputs": [model_artefact.digest, samples.digest]}
    out = run.keyed_path("store", f"{model.name}-{samples.name.split('.')[0]}", digest_json(settings))
    if (out / MANIFEST).exists():
        run.must_be_forgotten("store", out)
        if run.ranks is not None:
            run.ranks.tell(None)
        store = open_store(out)
    else:
        # A recording that goes on needs only what is left of it, and stops where the disk is full.
        if not out.exists() and not surely_fits(settled, model, samples, out.parent):
            _must_fit(plan(settled, model, samples, out.parent, run.reporter))
        if run.ranks is None:
            store = record(settled, model, samples, out, run.reporter)
        else:
            told = {"config": settled.model_dump(mode="json"), "model": str(model_artefact.path), "samples": place}
            store = _gather(Recording.of(settled, model, samples, run.reporter), out, told, run.reporter, run.ranks)
    counts = store.counts()
    run.output("store", out.stem, out, digest=store.digest, rows=store.n_rows, counts=counts, model=model_artefact.id)
    rows = {"rows": store.n_rows, **{f"{kind}_rows": n for kind, n in counts.items()}}
    return {**rows, "hooks": list(store.hook_points), **left_out(store.meta.get("left_out") or {})}


def follow(reporter: Reporter, ranks: Ranks) -> None:
    """What the other processes of a shared run do: record the pieces that no one has claimed, and register nothing."""
    from auditor.data import open_samples
    from auditor.store.recipe import RecordConfig
    from auditor.store.record import Recording, as_many_threads
    from auditor.store.together import Queue, record_pieces
    from auditor.tasks.opening import model_at

    told = ranks.tell()
    if told is None:
        return
    config = read_config(RecordConfig, told["config"])
    model = model_at(Path(told["model"]), config.dtype, config.device)
    with as_many_threads(told["threads"]):
        recording = Recording.of(config, model, open_samples(told["samples"], strict=config.strict))
        record_pieces(recording, Queue(Path(told["out"]), len(recording.batches)), told["first"], reporter)
    ranks.wait()


def _gather(recording: Recording, out: Path, told: dict[str, Any], reporter: Reporter, ranks: Ranks) -> Store:
    import torch

    from auditor.store.record import as_many_threads, begun_with
    from auditor.store.together import Gathering

    with as_many_threads(begun_with(out)):
        gathering = Gathering(recording, out, reporter)
        ranks.tell({**told, "out": str(out), "first": gathering.first, "threads": torch.get_num_threads()})
        return gathering.run(ranks.wait)


def _must_fit(estimate: Plan) -> None:
    if not estimate.fits:
        raise AuditorError(
            f"This recording needs {_size(estimate.bytes)} and {_size(estimate.free_bytes)} are free.",
            "Record fewer positions or hook points, or choose another disk.",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
