"""A result: what one analysis gave, on disk as JSON, in the form in which a case takes it as evidence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from auditor.audit.case import first_fault
from auditor.audit.evidence import Choice, EvidenceKind, Metric, Recipe, Table
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic
from auditor.project import Artefact, Project
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.features.index import Index

FORMAT = "auditor-result/1"


class Result(BaseModel):
    """A measured claim with all that a case needs to pin it; `figure` is SVG text, `data` what a pane draws."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str = FORMAT
    kind: EvidenceKind
    title: str
    note: str = ""
    recipe: Recipe
    inputs: dict[str, str] = {}
    metric: Metric | None = None
    further: tuple[Metric, ...] = ()
    choice: Choice | None = None
    table: Table | None = None
    contrary: bool = False
    figure: str | None = None
    figure_alt: str = ""
    data: dict[str, JsonValue] = {}

    def evidence(self) -> dict[str, Any]:
        """What `auditor.audit.collect.add_evidence` takes, figure included."""
        taken = {
            name: getattr(self, name) for name in type(self).model_fields if name not in ("format", "data", "figure")
        }
        if self.figure is not None:
            taken["figure"] = self.figure.encode()
        return taken


def write_result(run: Run, name: str, result: Result) -> Artefact:
    """Save and register a result of this run."""
    path = run.project.new_path("result", name)
    body = result.model_copy(update={"inputs": _digests(run.inputs)}).model_dump(mode="json")
    text = json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")
    return run.output("result", name, path, title=result.title, evidence=result.kind)


def read_result(path: Path | str) -> Result:
    """The result at `path`; AuditorError where it is not one."""
    try:
        return Result.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise AuditorError(f"“{path}” cannot be read: {error.strerror}.", "Choose a result of this project.") from error
    except ValidationError as error:
        raise AuditorError(f"“{Path(path).name}” is not a result: {first_fault(error)}.") from error


def _digests(inputs: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in inputs.items() if re.fullmatch(r"[0-9a-f]{64}", digest)}


def result_of(project: Project, artefact: Artefact) -> Result:
    """An artefact of kind result as evidence: what its file says, or a circuit with its scores and drawing."""
    if artefact.meta.get("graph"):
        return _circuit(project, artefact)
    return read_result(artefact.path)


def _circuit(project: Project, artefact: Artefact) -> Result:
    from auditor.analysis.circuits import Graph
    from auditor.analysis.circuits.drawing import to_svg

    graph = Graph.load(artefact.path)
    scores, pruned = graph.scores(), graph.prune()
    run = next((r for r in project.runs() if r.id == artefact.run), None)
    recipe = Recipe(verb="trace", config=dict(run.config) if run else {"prompt": graph.prompt})
    outputs = [(node.token, node.prob) for node in graph.nodes if node.kind == "logit"]
    n = sum(node.kind == "feature" for node in graph.nodes)
    score = Metric(name="replacement score", estimate=scores.replacement, n=n, unit="")
    others = (
        Metric(name="completeness score", estimate=scores.completeness, n=n, higher_is_more=True),
        Metric(name="share of influence through error nodes", estimate=scores.error_share, n=n, higher_is_more=False),
    )
    return Result(
        kind="circuit", title=f"Circuit of “{graph.prompt or artefact.name}”",
        note=f"{n} feature nodes; the drawing shows the {len(pruned.nodes)} nodes that hold 80 % of the influence.",
        recipe=recipe, inputs=_digests(dict(run.inputs)) if run else {}, metric=score, further=others,
        table=Table(columns=("output", "probability"), rows=tuple(outputs)), figure=to_svg(pruned),
        figure_alt="Attribution graph: token position across, depth up; orange adds, blue takes away.",
    )  # fmt: skip


def feature_result(index: Index, feature: int) -> tuple[Result, bytes]:
    """A feature's examples as evidence, and the PNG of its card."""
    from auditor.features.picture import card

    found = index.feature(feature)
    seen = found.fires_text + found.fires_image
    shown = min(6, len(found.examples_of("text", "top"))) + min(6, len(found.examples_of("image", "top")))
    facts = {"density": found.density, "image share": found.image_share, "largest activation": found.max_act}
    rows = tuple((name, float(value)) for name, value in facts.items())
    result = Result(
        kind="examples", title=f"Feature {feature}: {found.title}",
        recipe=Recipe(verb="index", config=dict(index.meta["config"])),
        inputs=index_inputs(index),
        choice=Choice(rule="the strongest activations in the store, texts and images apart", seen=seen, shown=shown),
        table=Table(columns=("figure", "value"), rows=rows),
        figure_alt=f"Strongest texts and images of feature {feature}, one colour scale",
    )  # fmt: skip
    return result, card(found)


def index_inputs(index: Index) -> dict[str, str]:
    """Name → digest of what the index was made from; a dictionary is known by its digest alone."""
    held = {kind: index.meta.get(kind) or {} for kind in ("store", "dictionary", "model")}
    return _digests({str(facts.get("name", kind)): str(facts.get("digest", "")) for kind, facts in held.items()})
