"""The experiment of many edits tested one by one: a row for each with its interval and controls, and a map of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.analysis.editing import written
from auditor.analysis.editing.measured import Measured
from auditor.audit.evidence import Choice, Metric, Null, Recipe, Table
from auditor.audit.heat_map import heat_map
from auditor.base.errors import AuditorError
from auditor.tasks.editing import CONTROLS, bounds, named
from auditor.tasks.opening import parted
from auditor.tasks.result import Result
from auditor.tasks.same_sweep import facts_of, must_be_alike, place_of
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.analysis.editing.spec import EditSpec
    from auditor.analysis.editing.sweep import Planned, Sweep, Swept
    from auditor.data.sample import Sample
    from auditor.tasks.experiment import ExperimentConfig

COLUMNS = ("edit", "effect", "low", "high", "control mean", "control low", "control high", "p", "q")
_TABLE = 200
_SHOWN = 25
_WRAP, _WIDE = 32, 48
_DRAWN_CELLS = 10_000
_MOST_KEPT = 100_000


def planned(sweep: Sweep, run: Run) -> dict[str, Any]:
    """What the sweep would take, for the command line and the window."""
    return _facts(sweep.plan(run.reporter), len(sweep.samples))


def _facts(plan: Planned, n: int) -> dict[str, Any]:
    return {"edits": plan.edits, "samples": n, "runs": plan.runs, "minutes": plan.minutes}


def swept(
    run: Run, config: ExperimentConfig, sweep: Sweep, lines: list[EditSpec], choice: Choice,
    keep: Callable[[Result], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Say what it will take, run it, `keep` what each edit did, and what of it is shown. Where it is stopped or fails,
    what was measured is kept as a result that says so, and the same settings go on from there."""
    before = _facts(sweep.plan(run.reporter), len(sweep.samples))
    named = {"model": "", "dictionary": "", "samples": config.samples.partition("?")[2]}  # the rest by their digests
    by = facts_of(_written_out(config, lines) | named, run.inputs, [sample.id for sample in sweep.samples])
    place = place_of(run, by, type(config))
    run.begins([place], _again(run, config))
    measured = Measured(place, sweep.runs, by)
    must_be_alike(run, sweep, measured)
    left = 1 - len(measured) / sweep.runs
    run.reporter.partial("planned", **before | {"minutes": left * before["minutes"]})
    title = f"Testing {before['edits']} edits one by one, {_about(left * before['minutes'])}"
    try:
        sweep.run(run.reporter, title, measured)
    except Exception as error:
        if sweep.reached(measured)[1]:
            stopped = _result(config, sweep, measured, lines, choice, before)
            with contextlib.suppress(AuditorError):  # what ended the sweep is the one to tell; its file is there
                told = {**keep(stopped), **shown(stopped)}
                run.kept(told, _kept(sweep, measured, str(told["result"])), error)
        raise
    result = _result(config, sweep, measured, lines, choice, before)
    told = {**keep(result), **shown(result)}
    measured.forget()
    return told


def _again(run: Run, config: ExperimentConfig) -> ExperimentConfig:
    """The settings that go on with this sweep, whatever the project holds by then."""

    def held(kind: str) -> str:
        """The newest of a kind that this run reads."""
        found = [one.id for one in run.project.artefacts(kind) if run.inputs.get(one.name) == run.digest_of(one)]
        return found[-1] if found else ""

    named = dict[str, str]()
    if config.samples or not config.prompt:
        ref, options = parted(run.project, config.samples)
        named["samples"] = f"{run.input(ref, 'samples').id}{options}"
    if not config.dictionary:  # whose model it is otherwise
        named |= {"model": config.model or held("model"), "dictionary": held("dictionary")}
    return config.model_copy(update=named)


def _about(minutes: float) -> str:
    return f"about {minutes:.0f} min" if minutes >= 2 else f"about {max(1, round(60 * minutes))} s"


def _reached(sweep: Sweep, measured: Measured) -> str:
    """How far it came, where that is not the end."""
    n, edits = sweep.reached(measured)
    whole, samples = len(sweep.specs), len(sweep.samples)
    if edits < whole:
        return f"{edits:,} of {whole:,} edits{f', on the first of {samples} samples' if samples > 1 else ''}"
    return f"{n} of {samples} samples"


def _kept(sweep: Sweep, measured: Measured, name: str) -> str:
    return f"Kept as “{name}”: {_reached(sweep, measured)}. The same settings go on from there."


def _result(
    config: ExperimentConfig, sweep: Sweep, measured: Measured, lines: list[EditSpec], choice: Choice,
    before: dict[str, Any],
) -> Result:  # fmt: skip
    found, n = sweep.told(measured), sweep.reached(measured)[0]
    reached = {"stopped": _reached(sweep, measured)} if len(measured) < sweep.runs else {}
    sign = -1.0 if config.measure == "target" else 1.0
    names = labels([one.spec for one in found])
    rows = [_row(name, one, sign) for name, one in zip(names, found, strict=True)]
    ranked = np.argsort([-abs(one.effect.estimate) for one in found], kind="stable").tolist()
    measured_by = named(config.measure, sweep.scene.model)
    metric = _strongest(config, measured_by, names[ranked[0]], found[ranked[0]], len(found), sign)
    grid = _grid(found, sign)
    others = [line.describe() for line in lines if not line.sweeps and (line.holds or not config.each)]
    told = "".join(f"\nIn every run, the unedited one too: {text}" for text in others)
    if reached:
        told += f"\nIt was stopped before its end, at {reached['stopped']}: the rest is in no figure here."
    shown = f"the {_TABLE} largest" if len(found) > _TABLE else "all"
    return Result(
        kind="search",
        title=f"{'Unfinished: ' if reached else ''}{len(found)} edits one by one: {measured_by}",
        note=f"Each of {len(found)} edits was tested alone, on {n} sample{'s' if n != 1 else ''}; the table holds "
        f"{shown}, by size. The first was chosen because its effect is the largest, so its own interval says too much; "
        f"q is p after Benjamini and Hochberg over all {len(found)}.{told}",
        recipe=Recipe(verb="experiment", config=_written_out(config, lines)),
        metric=metric,
        choice=choice.model_copy(update={"shown": n}),
        table=Table(columns=COLUMNS, rows=tuple(rows[at] for at in ranked[:_TABLE])),
        figure=_drawn(grid, measured_by, found[0].effect.unit),
        figure_alt=f"Effects of {len(found)} edits, a row for each place and a column for each number",
        data={
            "sweep": [list(row) for row in rows], "lines": [written(one.spec) for one in found], "grid": grid,
            "columns": list(COLUMNS), "planned": before, "n": n, **reached,
            **_matrix(found, sweep.samples[:n], sign),
        },
    )  # fmt: skip


def shown(result: Result) -> dict[str, Any]:
    """What the command line and the window show: the rows, largest first, and the map."""
    assert result.table is not None
    table = [dict(zip(COLUMNS, row, strict=True)) for row in result.table.rows[:_SHOWN]]
    return {"largest": table, "tested": len(result.data["sweep"]), "planned": result.data["planned"]}  # type: ignore[arg-type]


def _matrix(found: list[Swept], samples: Sequence[Sample], sign: float) -> dict[str, Any]:
    """Effects by edit and sample, where they are not too many to keep."""
    if len(found) * len(samples) > _MOST_KEPT:
        return {}
    values = [[sign * value for value in one.per_sample] for one in found]
    return {"per_sample": values, "samples": [sample.id for sample in samples]}


def _written_out(config: ExperimentConfig, lines: list[EditSpec]) -> dict[str, Any]:
    return config.model_copy(update={"edit": tuple(written(line) for line in lines)}).model_dump(mode="json")


def _row(name: str, one: Swept, sign: float) -> tuple[str | float | None, ...]:
    low, high = bounds(one.effect.interval, sign) or (None, None)
    null = [sign * value for value in one.null]
    ends = (float(np.mean(null)), min(null), max(null)) if null else (None, None, None)
    return name, sign * one.effect.estimate, low, high, *ends, one.p, one.q


def labels(specs: Sequence[EditSpec]) -> list[str]:
    """A short name of each edit of a sweep: where it acts, or its line where several act there."""
    names = [_place(spec) for spec in specs]
    count = Counter(names)
    return [name if count[name] == 1 else written(spec) for name, spec in zip(names, specs, strict=True)]


def _place(spec: EditSpec) -> str:
    row, column = spec.cell
    if spec.kind in ("ablate", "scale", "add", "patch"):
        what = "head" if getattr(spec, "head", "all") != "all" else "neuron"
        return f"{what} {column} of {row}" if column else row
    if spec.kind == "cut":
        return f"{row} → {column}"
    return f"{row} {column}".strip()


def _strongest(config: ExperimentConfig, measured_by: str, name: str, one: Swept, family: int, sign: float) -> Metric:
    null = None
    if one.p is not None:
        drawn = sign * np.array(one.null)
        null = Null(
            n=len(drawn), mean=float(drawn.mean()), p=one.p, family=family, p_adjusted=one.q,
            correction="benjamini-hochberg", description=CONTROLS,
            quantiles={str(q): float(np.quantile(drawn, q)) for q in (0.05, 0.5, 0.95)},
        )  # fmt: skip
    return Metric(
        name=f"{measured_by}, largest of {family}: {name}", estimate=sign * one.effect.estimate,
        interval=bounds(one.effect.interval, sign), n=one.effect.n, unit=one.effect.unit, seeds=(config.seed,),
        null=null,
    )  # fmt: skip


def _grid(found: list[Swept], sign: float) -> dict[str, Any]:
    """Rows, columns, values and, for each cell, the number of its edit; one long row is broken into several."""
    cells = [one.spec.cell for one in found]
    rows, columns = (list(dict.fromkeys(cell[axis] for cell in cells)) for axis in (0, 1))
    if len(rows) == 1 and len(columns) > _WIDE and all(name.isdecimal() for name in columns):
        cells = [(f"{row} {_tens(int(column))}", str(int(column) % _WRAP)) for row, column in cells]
        rows, columns = list(dict.fromkeys(cell[0] for cell in cells)), [str(at) for at in range(_WRAP)]
    elif all(name.isdecimal() for name in columns):
        columns.sort(key=int)
    places = {name: at for at, name in enumerate(rows)}, {name: at for at, name in enumerate(columns)}
    values: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    edits: list[list[int | None]] = [[None] * len(columns) for _ in rows]
    for number, ((row, column), one) in enumerate(zip(cells, found, strict=True)):
        at = places[0][row], places[1][column]
        if edits[at[0]][at[1]] is None:  # two edits of one place, of which the first is drawn
            values[at[0]][at[1]], edits[at[0]][at[1]] = sign * one.effect.estimate, number
    return {"rows": rows, "columns": columns, "values": values, "edits": edits}


def _tens(number: int) -> str:
    first = number // _WRAP * _WRAP
    return f"{first}–{first + _WRAP - 1}"


def _drawn(grid: dict[str, Any], name: str, unit: str) -> str | None:
    if len(grid["rows"]) * len(grid["columns"]) > _DRAWN_CELLS:
        return None
    return heat_map(f"{name} ({unit})", unit, grid["rows"], grid["columns"], grid["values"])
