"""What “Add to case” takes of a project: a result, a circuit, a recording, a dictionary, a search of its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor.audit.evidence import Choice, Metric, Recipe, Table
from auditor.audit.text import number
from auditor.base.errors import AuditorError
from auditor.project import Artefact, Project
from auditor.tasks.result import Result, index_inputs, result_of

if TYPE_CHECKING:
    from auditor.features.index import Index

_ROWS = 50


def evidence_of(project: Project, artefact: Artefact) -> Result:
    """An artefact as evidence; AuditorError for a kind that shows nothing by itself."""
    if artefact.kind == "result":
        return result_of(project, artefact)
    if artefact.kind == "dictionary":
        return _dictionary(project, artefact)
    if artefact.kind == "store":
        return _store(project, artefact)
    raise AuditorError(
        f"“{artefact.name}” ({artefact.kind}) shows nothing by itself.",
        "Add a result, a circuit, a store or a dictionary, or a feature from its card.",
    )


def _dictionary(project: Project, artefact: Artefact) -> Result:
    """How much of the activations a dictionary explains, beside simple baselines."""
    facts, metric = artefact.meta, None
    text = f"{number(facts['features'])} features." if "features" in facts else ""
    if "fvu" in facts:
        names = {"fvu_pca": "PCA of equal L0", "fvu_random": "random dictionary"}
        rows = {row["figure"]: row for row in facts.get("figures") or ()}
        low, high = (rows.get("fvu", {}).get(bound) for bound in ("low", "high"))
        metric = Metric(
            name="fraction of variance unexplained", estimate=facts["fvu"], n=int(facts["rows"]), higher_is_more=False,
            interval=None if low is None or high is None else (low, high),
            baseline={name: facts[key] for key, name in names.items() if key in facts},
        )  # fmt: skip
        text += f" L0 {number(facts['l0'])}, dead {number(100 * facts['dead'])} %."
    return Result(
        kind="reconstruction", title=f"The dictionary {artefact.name}", note=text.strip(), metric=metric,
        recipe=_recipe(project, artefact, "train"), inputs={artefact.name: artefact.digest},
    )  # fmt: skip


def _store(project: Project, artefact: Artefact) -> Result:
    """What was recorded: how many positions of which kind."""
    counts = artefact.meta.get("counts") or {}
    rows = tuple((f"{kind} positions", int(count)) for kind, count in counts.items())
    return Result(
        kind="other", title=f"The recording {artefact.name}",
        note=f"{int(artefact.meta.get('rows', 0))} positions.", recipe=_recipe(project, artefact, "record"),
        inputs={artefact.name: artefact.digest}, table=Table(columns=("kind", "rows"), rows=rows) if rows else None,
    )  # fmt: skip


def search_result(index: Index, query: str, found: Sequence[int]) -> Result:
    """A search of an index as evidence: the query, how many features it found of how many, and the first of them."""
    table = index.table
    rows = tuple(
        (int(i), index.labels[i][:200], float(table["density"][i]), float(table["max_act"][i])) for i in found[:_ROWS]
    )
    return Result(
        kind="search", title=f"Features found by “{query.strip()}”" if query.strip() else "All features",
        note=f"{len(found)} of {index.n_features} features; the first {len(rows)} are listed.",
        recipe=Recipe(verb="search", config={"query": query.strip()}), inputs=index_inputs(index),
        choice=Choice(rule="in the order of the search", seen=len(found), shown=len(rows)),
        table=Table(columns=("feature", "label", "density", "largest activation"), rows=rows),
    )  # fmt: skip


def _recipe(project: Project, artefact: Artefact, verb: str) -> Recipe:
    run = next((r for r in project.runs() if r.id == artefact.run), None)
    return Recipe(verb=run.verb if run else verb, config=dict(run.config) if run else {})
