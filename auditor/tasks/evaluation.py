"""What the features of dictionaries are good for: five measures, each beside its baselines, as one result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.audit.evidence import Metric, Recipe, Table
from auditor.audit.text import number
from auditor.base.errors import AuditorError
from auditor.tasks.result import Result, write_result
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.analysis.evaluation.entities import Cities
    from auditor.analysis.evaluation.figures import Figure
    from auditor.analysis.evaluation.labelled import Classes
    from auditor.analysis.evaluation.pooled import Pooled
    from auditor.models.model import Model
    from auditor.project import Artefact
    from auditor.sae.sae import Sae
    from auditor.tasks.compare import CompareConfig
    from auditor.tasks.labelled_rows import LabelledRows

    Floats = NDArray[np.float32]

MEASURES = {
    "probing": "k-sparse probing",
    "tpp": "targeted probe perturbation",
    "scr": "spurious correlation removal",
    "absorption": "feature absorption",
    "ravel": "RAVEL",
}
_LABELLED = ("probing", "tpp", "scr")
# What a figure is where a dictionary does nothing.
_NOTHING = {"probing": 0.5, "tpp": 0.0, "scr": 0.0, "absorption": 0.0, "ravel": 0.0}
_WARNING = (
    "Targeted probe perturbation and spurious correlation removal were found not to tell better dictionaries from "
    "worse (Chanin 2026, arXiv 2605.18229): do not choose a dictionary by them."
)
_EXAMPLES = 5


@dataclass
class _Held:
    """A dictionary, its name in the tables, and what is computed once for it."""

    name: str
    artefact: Artefact
    sae: Sae
    figures: list[Figure] = field(default_factory=list)


def evaluated(run: Run, config: CompareConfig) -> dict[str, Any]:
    """Evaluate each of the dictionaries on the same samples, words and facts; AuditorError before anything long where a
    measure lacks what it needs."""
    held = _opened(run, config)
    wanted = [name for name in MEASURES if name in config.evaluate]
    notes: list[str] = []
    _must_ask(run, config, held, wanted)
    if "tpp" in wanted or "scr" in wanted:
        notes.append(_WARNING)
    if set(wanted) & set(_LABELLED):
        _by_labels(run, config, held, wanted, notes)
    if set(wanted) - set(_LABELLED):
        _by_model(run, config, held, wanted, notes)
    return _told(run, config, held, notes)


def _opened(run: Run, config: CompareConfig) -> list[_Held]:
    from auditor.sae import load

    held = []
    for ref in config.dictionaries or ("",):
        artefact = run.input(ref, "dictionary")
        sae = load(artefact.path)
        if not sae.hook and not sae.sources:
            raise AuditorError(
                f"“{artefact.name}” does not say which hook point it reads.", "Import it again with its hook point."
            )
        if set(config.evaluate) - {"probing"}:
            sae.must_be_plain("Every measure but probing")
        held.append(_Held(artefact.name, artefact, sae))
    names = [one.name for one in held]
    for one in held:
        if names.count(one.name) > 1:
            one.name = f"{one.name} {one.artefact.digest[:6]}"
    if len({one.artefact.id for one in held}) < len(held):
        raise AuditorError("A dictionary is named twice.", "Name each once.")
    return held


# by labels that samples keep


def _by_labels(run: Run, config: CompareConfig, held: list[_Held], wanted: list[str], notes: list[str]) -> None:
    from auditor.analysis.evaluation.labelled import cells_of, classes_of
    from auditor.analysis.evaluation.tpp import FEWEST_CLASSES
    from auditor.tasks.labelled_rows import labelled_rows

    if "scr" in wanted and not (config.label and config.spurious):
        raise AuditorError(
            "Spurious correlation removal needs two labels: one to keep and one that misleads.",
            "Name them as Label (--label) and Label that misleads (--spurious); the group counts as one, “group”.",
        )
    source = labelled_rows(
        run, [one.sae for one in held], store=config.store, samples=config.samples, context=config.context,
        model=lambda: _model(run, config, held[0]),
    )  # fmt: skip
    notes += [source.said] if source.said else []
    facts = source.facts(run.reporter)
    options: dict[str, Any] = {"seeds": config.splits, "seed": config.seed}
    classes: Classes | None = None
    kept: tuple[Classes, Classes] | None = None
    if {"probing", "tpp"} & set(wanted):
        fewest = FEWEST_CLASSES if "tpp" in wanted else 2
        classes = classes_of(facts, config.label, config.classes, config.n, config.seed, fewest)
        counts = np.bincount(classes.of)
        shown = ", ".join(f"{name} ({count})" for name, count in zip(classes.names, counts, strict=True))
        notes.append(f"Classes of “{classes.label}”, with samples: {shown}.")
    if "scr" in wanted:
        kept = cells_of(facts, config.label, config.spurious, config.pairs_of_values, config.n, config.seed)
        four = " and ".join(f"“{one.label}” ({' or '.join(one.names)})" for one in kept)
        notes.append(f"Spurious correlation removal: {four}, {len(kept[0].of) // 4} samples of each of the four kinds.")
    for one in held:
        if classes is not None:
            pooled = _pooled(run, one, source, classes, config)
            if "probing" in wanted:
                from auditor.analysis.evaluation.probing import probing

                one.figures += probing(pooled, classes, config.k, reporter=run.reporter, **options)
            if "tpp" in wanted:
                from auditor.analysis.evaluation.tpp import tpp

                one.figures += tpp(pooled, classes, config.k, reporter=run.reporter, **options)
        if kept is not None:
            from auditor.analysis.evaluation.scr import scr

            pooled = _pooled(run, one, source, kept[0], config)
            found, said = scr(pooled, *kept, config.k, reporter=run.reporter, **options)
            one.figures += found
            notes += [f"{one.name}: {said}"] if said else []


def _pooled(run: Run, held: _Held, source: LabelledRows, classes: Classes, config: CompareConfig) -> Pooled:
    from auditor.analysis.evaluation.pooled import pool

    rows = source.rows(held.sae, classes.numbers.tolist())
    return pool(held.sae, rows, len(classes.numbers), seed=config.seed, reporter=run.reporter)


def _model(run: Run, config: CompareConfig, held: _Held) -> Model:
    from auditor.tasks.opening import model_at, model_of_dictionary

    chosen = run.input(config.model, "model") if config.model else model_of_dictionary(run.project, held.sae)
    run.inputs[chosen.name] = chosen.digest
    return model_at(chosen.path)


# by what the model itself knows


def _must_ask(run: Run, config: CompareConfig, held: list[_Held], wanted: list[str]) -> None:
    """AuditorError where a dictionary is of no text that its model can be asked in."""
    from auditor.analysis.evaluation import entities, first_letters
    from auditor.analysis.evaluation.texts import must_read_text

    for one in held if {"absorption", "ravel"} & set(wanted) else ():
        model = _model(run, config, one)
        if "absorption" in wanted:
            must_read_text(model, first_letters.WHY, one.sae.hook)
            first_letters.vocabulary(model)
        if "ravel" in wanted:
            entities.must_answer(model, one.sae.hook)


def _by_model(run: Run, config: CompareConfig, held: list[_Held], wanted: list[str], notes: list[str]) -> None:
    from auditor.analysis.evaluation.absorption import absorption
    from auditor.analysis.evaluation.entities import Cities
    from auditor.analysis.evaluation.first_letters import word_rows
    from auditor.analysis.evaluation.pooled import pool
    from auditor.analysis.evaluation.ravel import ravel

    options: dict[str, Any] = {"seeds": config.splits, "seed": config.seed, "reporter": run.reporter}
    words: dict[str, tuple[list[str], Floats]] = {}
    cities: dict[str, Cities] = {}
    for one in held:
        model, hook = _model(run, config, one), one.sae.hook
        place = f"{model.path} {hook}"
        if "absorption" in wanted:
            if place not in words:
                words[place] = word_rows(model, hook, config.words, seed=config.seed, reporter=run.reporter)
            names, rows = words[place]
            pooled = pool(one.sae, (row[None] for row in rows), len(rows), seed=config.seed, what="words",
                          reporter=run.reporter)  # fmt: skip
            found = absorption(pooled, names, hook=hook, **options)
            one.figures += found.figures
            notes.append(f"{one.name}: absorption was looked for in words that begin with {', '.join(found.letters)}.")
            for word, letter, by, mains in found.examples[:_EXAMPLES]:
                spoken = f"feature {by} speaks for “{letter}” in place of {', '.join(map(str, mains))}"
                notes.append(f"{one.name}: in “{word}” {spoken}.")
        if "ravel" in wanted:
            if place not in cities:
                cities[place] = Cities(model, hook, run.reporter)
            asked = cities[place]
            entities = asked.entities
            pooled = pool(one.sae, (row[None] for row in asked.rows), len(asked.rows), seed=config.seed, what="prompts",
                          reporter=run.reporter)  # fmt: skip
            one.figures += ravel(pooled, entities, asked, k=config.exchange, pairs=config.pairs, **options)
            known = entities.known.sum(0)
            shown = ", ".join(f"{name} of {count}" for name, count in zip(entities.attributes, known, strict=True))
            notes.append(f"{one.name}: RAVEL with {config.exchange} features at most; of {len(entities.known)} cities "
                         f"the model knows the {shown}.")  # fmt: skip


# what is told


def _told(run: Run, config: CompareConfig, held: list[_Held], notes: list[str]) -> dict[str, Any]:
    for one in held:  # all that stands beside a figure follows it
        by_name: dict[tuple[str, str], list[Figure]] = {}
        for figure in one.figures:
            by_name.setdefault((figure.measure, figure.name), []).append(figure)
        one.figures = [figure for figures in by_name.values() for figure in figures]
    metrics = [_metric(one, figure, config, len(held) > 1) for one in held for figure in one.figures
               if figure.of == "dictionary"]  # fmt: skip
    rows = [{"dictionary": one.name, **asdict(figure)} for one in held for figure in one.figures]
    for row in rows:
        row["low"], row["high"] = row.pop("interval")
    notes = list(dict.fromkeys(notes))
    named = " and ".join(one.name for one in held) if len(held) < 3 else f"{len(held)} dictionaries"
    result = Result(
        kind="comparison", title=f"What the features of {named} are good for", note="\n".join(notes),
        recipe=Recipe(verb="compare", config=config.model_dump(mode="json")), metric=next(iter(metrics), None),
        further=tuple(metrics[1:]), table=_table(held), data={"figures": rows, "notes": list(notes)},
    )  # fmt: skip
    what = ", ".join(name for name in MEASURES if name in config.evaluate)
    of = held[0].name if len(held) == 1 else f"{len(held)} dictionaries"
    artefact = write_result(run, f"{what} of {of}", result)
    shown = ("measure", "name", "of", "estimate", "low", "high", "n", "unit", "seeds", "spread", "dictionary")
    figures = [{name: row[name] for name in shown} for row in rows]
    return {"result": artefact.name, "figures": figures, "notes": [{"note": note} for note in notes]}


def _metric(held: _Held, figure: Figure, config: CompareConfig, several: bool) -> Metric:
    """A figure of a dictionary, with what its baselines reach."""
    beside = {
        other.of: other.estimate
        for other in held.figures
        if other is not figure and other.measure == figure.measure
        and (other.name == figure.name or figure.name.startswith(f"{other.name}, "))
    }  # fmt: skip
    name = f"{MEASURES[figure.measure]}: {figure.name}" + (f" ({held.name})" if several else "")
    return Metric(
        name=name, estimate=figure.estimate, interval=figure.interval, n=figure.n, baseline=beside,
        seeds=tuple(range(config.seed, config.seed + figure.seeds)), no_effect=_nothing(figure),
        higher_is_more=figure.higher_is_better,
    )  # fmt: skip


def _nothing(figure: Figure) -> float:
    """What the figure is of features that do nothing; what changes nothing isolates all, so that RAVEL's isolation is
    one and its disentanglement one half."""
    return {"disentanglement": 0.5, "isolation": 1.0}.get(figure.name, _NOTHING[figure.measure])


def _table(held: list[_Held]) -> Table:
    """A line a figure and contestant, the dictionaries side by side: estimate [95 % interval] ± spread over splits."""
    keys = dict.fromkeys((figure.measure, figure.name, figure.of) for one in held for figure in one.figures)
    rows: list[tuple[str | None, ...]] = []
    for key in keys:
        cells, counts = [], []
        for one in held:
            found = next((f for f in one.figures if (f.measure, f.name, f.of) == key), None)
            cells.append(None if found is None else written(found.estimate, *found.interval, found.spread))
            counts += [] if found is None else [f"{found.n} {found.unit}"]
        rows.append((MEASURES[key[0]], *key[1:], *cells, " / ".join(dict.fromkeys(counts))))
    columns = ("measure", "figure", "of", *(one.name for one in held), "n")
    return Table(columns=columns, rows=tuple(rows[:200]))


def written(estimate: float, low: float, high: float, spread: float) -> str:
    """A figure with its interval and its spread over splits: 0.83 [0.8, 0.86] ± 0.012."""
    return f"{number(estimate)} [{number(low)}, {number(high)}] ± {number(spread)}"
