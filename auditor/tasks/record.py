"""The verb “record”: run samples through a model and keep what its hook points say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.config import read_config
from auditor.base.digest import digest_json
from auditor.base.reporter import Reporter
from auditor.tasks.spent import Spent
from auditor.tasks.task import Run, resolve, task

if TYPE_CHECKING:
    from auditor.data.samples import Samples
    from auditor.models.model import Model
    from auditor.project import Artefact, Project
    from auditor.sae.distributed import Ranks
    from auditor.store import Store
    from auditor.store.plan import Plan
    from auditor.store.recipe import RecordConfig
    from auditor.store.record import Recording

_WORTH_A_PROBE = 50


@task("record", title="Record activations", config="auditor.store.recipe:RecordConfig")
def run(run: Run, config: RecordConfig) -> dict[str, Any]:
    """Run texts, images or captioned images through a model and keep the activations at its hook points in a store. A
    recording that was stopped or killed goes on when it is started again with the same settings."""
    from auditor.data import open_samples
    from auditor.store import open_store
    from auditor.store.batch_size import usual
    from auditor.store.facts import totals
    from auditor.store.layout import MANIFEST
    from auditor.store.recipe import going_on_from, named_hooks, settings_of
    from auditor.tasks.opening import model_at, parted, samples_settled, samples_unnamed
    from auditor.tasks.pairing import digest_as_used

    model_artefact = resolve(run.project, config.model, "model")
    named = samples_settled(run, config.samples)
    name, options = parted(run.project, named)
    samples_artefact = resolve(run.project, name, "samples")
    place = f"{samples_artefact.path}{options}"
    samples = open_samples(place, strict=config.strict)
    if options:  # some of them, or read in another way: the project's digest is of all as they lie
        run.reads(samples_artefact)
    else:
        run.found(samples_artefact, samples.digest)
    before = run.input(config.append_to, "store") if config.append_to else None
    base = base_of(before, config, model_artefact)
    asked = config.hooks or (tuple(base.hook_points) if base else ())
    run.reporter.step(0, note=f"opening {model_artefact.name}")
    opened = model_at(model_artefact.path, config.dtype, config.device, asked)
    run.found(model_artefact, opened.digest)
    model = opened.switched(config.adapter)
    config = going_on_from(base, config, model, digest_as_used(model_artefact, model))
    hooks = tuple(named_hooks(asked, model))
    settled = config.model_copy(
        update={
            "model": model_artefact.id,
            "samples": named,
            "hooks": hooks,
            "append_to": before.id if before else "",
            "batch_size": config.batch_size or usual(model.device),
        }
    )
    digests = [model_artefact.digest, samples.digest, *([before.digest] if before else [])]

    def place_of(named: str) -> Path:
        key = digest_json(settings_of(settled) | {"samples": named, "inputs": digests})
        return run.keyed_path("store", f"{model.name}-{samples.name.split('.')[0]}", key)

    unnamed = place_of(samples_unnamed(named))
    out = unnamed if unnamed.exists() else place_of(named)
    told: dict[str, Any] = {}
    if (out / MANIFEST).exists():
        run.must_be_forgotten("store", out)
        if run.ranks is not None:
            run.ranks.tell(None)
        store = open_store(out)
    else:
        run.begins([out], settled.model_copy(update={"batch_size": config.batch_size}))
        shared = {"model": str(model_artefact.path), "samples": place}
        store, told = _recorded(run, settled, model, samples, out, base, shared)
    n_rows, counts = totals(store)
    figures = {f"{what}_{name}": n for what in ("planned", "took") for name, n in told.get(what, {}).items()}
    run.output(
        "store",
        out.stem,
        out,
        digest=store.digest,
        rows=n_rows,
        hook_points=dict(store.hook_points),
        counts=counts,
        model=model_artefact.id,
        **figures,
        **{name: held for name, held in told.items() if name == "parts"},
    )
    return {"rows": n_rows, **{f"{kind}_rows": n for kind, n in counts.items()}, **_facts(store, len(samples), told)}


def _recorded(
    run: Run, config: RecordConfig, model: Model, samples: Samples, out: Path, base: Store | None,
    shared: dict[str, Any],
) -> tuple[Store, dict[str, Any]]:  # fmt: skip
    """Record, and what was planned where it was, what it took, and the parts of it where it went on. `shared` are the
    places of the model and the samples for the other processes of a run."""
    from auditor.store.batch_size import USUAL
    from auditor.store.plan import plan, surely_fits, took
    from auditor.store.record import Recording, record

    spent = Spent(run, out, base)
    # A recording that goes on needs only what is left of it, and waits where the disk is full. A small one that surely
    # fits would last as long as its probe.
    whole = not out.exists()
    long = len(samples) >= _WORTH_A_PROBE * (config.batch_size or USUAL)
    if whole and (long or not surely_fits(config, model, samples, out.parent)):
        estimate = plan(config, model, samples, out.parent, run.reporter)
        estimate.must_fit()
        config = config.model_copy(update={"batch_size": estimate.batch_size})
        spent.plan(estimate.facts())
    if spent.planned:
        run.reporter.partial("planned", **spent.planned)
    with spent.counted():
        if run.ranks is None:
            store = record(config, model, samples, out, run.reporter, base=base)
        else:
            recording = Recording.of(config, model, samples, run.reporter, base, out)
            asked = {"config": recording.config.model_dump(mode="json"), **shared}
            store = _gather(recording, out, asked, run.reporter, run.ranks)
    told: dict[str, Any] = {"planned": spent.planned} if spent.planned else {}
    told["took"] = spent.took(took(store, model.device))
    return store, told | ({"parts": spent.parts} if len(spent.parts) > 1 else {})


def _facts(store: Store, n_samples: int, told: dict[str, Any]) -> dict[str, Any]:
    """What the person is told of a store of `n_samples` samples: its hook points, what it lacks, what it took."""
    from auditor.data.skipped import left_out
    from auditor.store.recipe import drawn_of

    bare = [hook for hook in store.hook_points if not len(store.at(hook))]
    without = {"no_rows_at": bare} if bare else {}
    drawn = {"drawn": f"{of:,} of {n_samples:,} samples"} if (of := drawn_of(store.meta)) else {}
    missing = left_out(store.meta.get("left_out") or {})
    return {"hooks": list(store.hook_points), **drawn, **told, **without, **missing}


def plan_of(project: Project, config: RecordConfig, reporter: Reporter) -> Plan:
    """What such a recording would take, measured on a few of its batches; nothing is recorded. AuditorError as for the
    recording itself."""
    from auditor.data import open_samples
    from auditor.store.plan import plan
    from auditor.store.recipe import going_on_from
    from auditor.tasks.opening import model_at, parted
    from auditor.tasks.pairing import digest_as_used

    artefact = project.find(config.model, "model")
    before = project.find(config.append_to, "store") if config.append_to else None
    base = base_of(before, config, artefact)
    model = model_at(artefact.path, config.dtype, config.device).switched(config.adapter)
    settled = going_on_from(base, config, model, digest_as_used(artefact, model))
    reporter.check()
    name, options = parted(project, config.samples)
    samples = open_samples(f"{project.find(name, 'samples').path}{options}", strict=config.strict)
    return plan(settled, model, samples, project.folder, reporter)


def base_of(artefact: Artefact | None, config: RecordConfig, model: Artefact) -> Store | None:
    """The store that a recording goes on from, None where it goes on from none. AuditorError where the two are known
    not to go together before the model is opened, which may take minutes."""
    from auditor.store import open_store
    from auditor.store.behind import must_go_together
    from auditor.tasks.pairing import digest_before

    if artefact is None:
        return None
    base = open_store(artefact.path)
    must_go_together(base, config.store_dtype, digest_before(model, config.adapter))
    return base


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
    model = model_at(Path(told["model"]), config.dtype, config.device, config.hooks).switched(config.adapter)
    with as_many_threads(told["threads"]):
        samples = open_samples(told["samples"], strict=config.strict)
        recording = Recording.of(config, model, samples, drawn=told["drawn"])
        record_pieces(recording, Queue(Path(told["out"]), len(recording.batches)), told["first"], reporter)
    ranks.wait()


def _gather(recording: Recording, out: Path, told: dict[str, Any], reporter: Reporter, ranks: Ranks) -> Store:
    import torch

    from auditor.store.record import as_many_threads, begun_with
    from auditor.store.together import Gathering

    with as_many_threads(begun_with(out)):
        gathering = Gathering(recording, out, reporter)
        at = {"out": str(out), "first": gathering.first, "drawn": recording.drawn}
        ranks.tell({**told, **at, "threads": torch.get_num_threads()})
        return gathering.run(ranks.wait)
