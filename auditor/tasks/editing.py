"""The experiment of a list of edits: the edited network against the unedited one, beside controls of equal size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.analysis.editing import is_list, read_edits, written
from auditor.audit.drawings import against_null
from auditor.audit.evidence import Choice, Metric, Null, Recipe, Table
from auditor.base.digest import sha256_file
from auditor.base.errors import AuditorError
from auditor.base.paths import at_home
from auditor.intake.beside import file_within
from auditor.project import Artefact
from auditor.tasks.pairing import of_others, with_adapter
from auditor.tasks.result import Result
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.analysis.editing.effect import EditsEffect, TokenChange
    from auditor.analysis.editing.spec import EditSpec
    from auditor.analysis.nulls import Estimate, Interval
    from auditor.data.sample import Sample
    from auditor.models.model import Model
    from auditor.sae.sae import Sae
    from auditor.store import Store
    from auditor.tasks.experiment import ExperimentConfig

CONTROLS = "controls: another head or neuron of the same layer, or a random direction, of equal size at each position"
FREE = "nothing frozen"
COLUMNS = ("token", "before", "after", "change", "low", "high", "control low", "control high")
NAMES = {
    "loss": "rise of the next-token loss when edited",
    "kl": "KL of the next-token distribution when edited",
    "target": "drop in log probability of the target when edited",
}


def edits_told(run: Run, config: ExperimentConfig, keep: Callable[[Result], dict[str, Any]]) -> dict[str, Any]:
    """Test the edits of `config.edit` and `keep` what they did, unless only a plan was asked for; what the command line
    and the window show of it."""
    from auditor.analysis.editing.effect import edits_effect
    from auditor.analysis.editing.scene import Scene
    from auditor.sae import load
    from auditor.store import open_store
    from auditor.tasks.opening import model_at

    specs = read_edits(config.edit)
    read = [spec.reads or config.dictionary for spec in specs if spec.reads is not None]
    named = dict.fromkeys([*([config.dictionary] if config.dictionary else []), *read])
    if config.measure == "target" and not config.target:
        raise AuditorError("The measure “target” needs a target token.", "Name one, with its leading space.")

    @functools.cache
    def dictionary(name: str) -> Sae:
        return load(run.input(name or config.dictionary, "dictionary").path)

    def store(name: str) -> Store:
        return open_store(run.input(name, "store").path)

    lists = [Path(line.strip()) for line in config.edit if is_list(line)]

    def file(name: str) -> Path:
        folders = [run.project.folder, *(at_home(path).resolve().parent for path in lists)]
        found = file_within(name, folders, f"the project{' and the folder of the list' if lists else ''}")
        run.inputs[found.name] = sha256_file(found)
        return found

    saes = [(run.input(name, "dictionary").name, dictionary(name)) for name in named]
    chosen = _model(run, config, [sae for _, sae in saes])
    run.opens(chosen)
    model = with_adapter(model_at(chosen.path), config.adapter, [sae.meta.get("model_digest") for _, sae in saes])
    config = config.model_copy(update={"adapter": "on" if model.adapter_on else "off"})
    run.warn(of_others(chosen, model, saes))
    samples, seen, rule = _samples(run, config, model)
    scene, choice = Scene(model, samples, dictionary, store, file), Choice(rule=rule, seen=seen, shown=len(samples))
    if config.each or any(spec.sweeps for spec in specs):
        from auditor.analysis.editing.sweep import Sweep
        from auditor.tasks import sweeping

        sweep = Sweep(
            scene, specs, samples, each=config.each, measure=config.measure, target=config.target,
            n_controls=config.n_random, seed=config.seed,
        )  # fmt: skip
        if config.plan:
            return sweeping.planned(sweep, run)
        return sweeping.swept(run, config, sweep, specs, choice, keep)
    if config.plan:
        raise AuditorError(
            "Only edits that are tested one by one are planned.", "Name several, as in head=*, or add --each."
        )
    effect = edits_effect(
        scene, specs, samples, measure=config.measure, target=config.target, n_controls=config.n_random,
        seed=config.seed, reporter=run.reporter,
    )  # fmt: skip
    tested = _result(config, specs, effect, choice, model)
    return {**keep(tested), **_shown(tested)}


def _model(run: Run, config: ExperimentConfig, saes: Sequence[Sae]) -> Artefact:
    """The model that was named, else that of the first of the dictionaries, else the newest."""
    from auditor.tasks.opening import model_of_dictionary

    if config.model or not saes:
        return run.input(config.model, "model")
    chosen = model_of_dictionary(run.project, saes[0])
    run.reads(chosen)
    return chosen


def _samples(run: Run, config: ExperimentConfig, model: Model) -> tuple[list[Sample], int, str]:
    """The typed prompt alone, or samples in the seed's order; how many there were, and how these were chosen."""
    from auditor.data.sample import text_sample
    from auditor.tasks.experiment import cut, prompted
    from auditor.tasks.opening import open_samples_of

    if config.prompt and not config.samples:
        return [text_sample(config.prompt)], 1, "the prompt that was typed"
    samples = open_samples_of(run, config.samples)
    order = np.random.default_rng(config.seed).permutation(len(samples)).tolist()[: config.n]
    drawn = [cut(model, samples[at], config.context) for at in order]
    if config.measure == "target":
        drawn = prompted(drawn, config.prompt)
    return drawn, len(samples), f"samples drawn at random, seed {config.seed}"


def named(measure: str, model: Model) -> str:
    """What a measure is called, of a network of texts or one that tells classes."""
    from auditor.analysis.next_token import of_classes

    return NAMES[measure].replace("next-token", "class") if of_classes(model) else NAMES[measure]


def _result(
    config: ExperimentConfig, specs: list[EditSpec], effect: EditsEffect, choice: Choice, model: Model
) -> Result:
    sign = -1.0 if config.measure == "target" else 1.0
    null = [sign * value for value in effect.null]
    metric = Metric(
        name=named(config.measure, model),
        estimate=sign * effect.estimate,
        interval=bounds(effect.interval, sign),
        n=effect.n,
        unit=effect.unit,
        seeds=(config.seed,),
        baseline={} if effect.free is None else {FREE: sign * effect.free.estimate},
        null=_null(np.array(null), effect.p),
    )
    told = "\n".join(f"{number}. {spec.describe()}" for number, spec in enumerate(specs, 1))
    rows = tuple(_row(change) for change in effect.tokens)
    lines = [written(spec) for spec in specs]
    n = effect.tokens[0].n if effect.tokens else 0
    of, where = ("class", "of") if "class distribution" in metric.name else ("token", "at the last position of")
    which = "classes" if of == "class" else "next tokens"
    return Result(
        kind="intervention",
        title=f"{len(specs)} edit{'s' if len(specs) > 1 else ''}: {metric.name}",
        note=f"The edits act together, in this order:\n{told}\nThe table holds the {which} whose probability "
        f"changed most, {where} {n} sample{'s' if n != 1 else ''}; that is how they were chosen.",
        recipe=Recipe(verb="experiment", config=_written_out(config, lines)),
        metric=metric,
        further=() if effect.free is None else (_free(metric, effect.free, sign),),
        choice=choice,
        table=Table(columns=(of, *COLUMNS[1:]), rows=rows),
        figure=against_null(metric, null),
        figure_alt=f"{metric.name}: {metric.estimate:.3g} against {len(null)} controls",
        data={
            "edits": lines,
            "describe": [spec.describe() for spec in specs],
            "per_sample": [sign * value for value in effect.per_sample],
            "null": null,
            "tokens": [list(row) for row in rows],
            "tokens_n": n,
        },
    )


def _free(metric: Metric, free: Estimate, sign: float) -> Metric:
    name, ends = f"{metric.name}, {FREE}", bounds(free.interval, sign)
    return metric.model_copy(
        update={"name": name, "estimate": sign * free.estimate, "interval": ends, "null": None, "baseline": {}}
    )


def bounds(interval: Interval, sign: float) -> Interval | None:
    """None for one sample, which has no interval."""
    low, high = sorted(sign * end for end in interval)
    return (low, high) if np.isfinite(interval).all() else None


def _shown(result: Result) -> dict[str, Any]:
    """The edits and the table of tokens, beside the figures, as rows."""
    described, table = result.data["describe"], result.table
    assert isinstance(described, list) and table is not None
    edits = [{"": number, "edit": told} for number, told in enumerate(described, 1)]
    return {"edits": edits, "tokens": [dict(zip(table.columns, row, strict=True)) for row in table.rows]}


def _written_out(config: ExperimentConfig, lines: list[str]) -> dict[str, Any]:
    """The settings, with the edits of files written out."""
    return config.model_copy(update={"edit": tuple(lines)}).model_dump(mode="json")


def _row(change: TokenChange) -> tuple[str | float | None, ...]:
    low, high = bounds(change.interval, 1.0) or (None, None)
    ends = change.control or (None, None)
    token = change.token if change.token.strip(" ") else "␣" * len(change.token) or "∅"
    return token, change.before, change.after, change.change, low, high, *ends


def _null(values: np.ndarray, p: float | None) -> Null | None:
    if p is None:
        return None
    quantiles = {str(q): float(np.quantile(values, q)) for q in (0.05, 0.5, 0.95)}
    return Null(n=len(values), mean=float(values.mean()), quantiles=quantiles, p=p, description=CONTROLS)
