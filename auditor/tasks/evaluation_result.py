"""What an evaluation of dictionaries gives: a result with every figure beside its baselines, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.audit.evidence import Metric, Recipe, Table
from auditor.audit.text import number
from auditor.tasks.result import Result, write_result
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.analysis.evaluation.figures import Figure
    from auditor.project import Artefact
    from auditor.sae.sae import Sae
    from auditor.tasks.compare import CompareConfig

MEASURES = {
    "probing": "k-sparse probing",
    "tpp": "targeted probe perturbation",
    "scr": "spurious correlation removal",
    "absorption": "feature absorption",
    "ravel": "RAVEL",
}
# What a figure is where a dictionary does nothing.
_NOTHING = {"probing": 0.5, "tpp": 0.0, "scr": 0.0, "absorption": 0.0, "ravel": 0.0}


@dataclass
class Held:
    """A dictionary, its name in the tables, and its figures as they come."""

    name: str
    artefact: Artefact
    sae: Sae
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Missing:
    """A measure that was not taken of a dictionary, and why."""

    measure: str
    dictionary: str
    why: str


def written_down(
    run: Run, config: CompareConfig, held: list[Held], notes: Sequence[str], missing: Sequence[Missing]
) -> dict[str, Any]:
    """Save the result, whose title and note say so where it lacks something; what the command line and the window show
    of it, not “ok” then."""
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
    lacking = [asdict(one) for one in missing]
    notes = list(dict.fromkeys([*(f"Not measured: {MEASURES[one.measure]} of {one.dictionary}. {one.why}"
                                  for one in missing), *notes]))  # fmt: skip
    named = " and ".join(one.name for one in held) if len(held) < 3 else f"{len(held)} dictionaries"
    unfinished = "Unfinished: " if missing else ""
    result = Result(
        kind="comparison", title=f"{unfinished}What the features of {named} are good for", note="\n".join(notes),
        recipe=Recipe(verb="compare", config=config.model_dump(mode="json")), metric=next(iter(metrics), None),
        further=tuple(metrics[1:]), table=_table(held),
        data={"figures": rows, "notes": list(notes), **({"not_measured": lacking} if missing else {})},
    )  # fmt: skip
    taken = {figure.measure for one in held for figure in one.figures}
    what = ", ".join(name for name in MEASURES if name in taken)
    of = held[0].name if len(held) == 1 else f"{len(held)} dictionaries"
    artefact = write_result(run, f"{what} of {of}{', unfinished' if missing else ''}", result)
    shown = ("measure", "name", "of", "estimate", "low", "high", "n", "unit", "seeds", "spread", "dictionary")
    figures = [{name: row[name] for name in shown} for row in rows]
    found = {"result": artefact.name, "figures": figures, "notes": [{"note": note} for note in notes]}
    return {**found, "not_measured": lacking, "ok": False} if missing else found


def _metric(held: Held, figure: Figure, config: CompareConfig, several: bool) -> Metric:
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
    return {"disentanglement": 0.5, "isolation": 1.0}.get(figure.name.partition(" (")[0], _NOTHING[figure.measure])


def _table(held: list[Held]) -> Table:
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
