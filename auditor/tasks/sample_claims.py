"""The sample audit's case: three questions, sealed before their tests, and the findings that the data then give.

Which feature each question is about is chosen from the index and from one half of the samples; the tests use the other
half. No figure and no verdict is written here: findings are worded from the results, by the rules of `_against`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from auditor.audit import signing
from auditor.audit.case import Finding, Plan, Question
from auditor.audit.text import number
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Artefact, Project
from auditor.tasks.casework import OpenCase, create_case
from auditor.tasks.experiment import ExperimentConfig
from auditor.tasks.opening import index_of
from auditor.tasks.report import ReportConfig
from auditor.tasks.result import Result, feature_result, read_result, result_of
from auditor.tasks.sample_audit import MIDDLE, SIDES
from auditor.tasks.task import run_task

if TYPE_CHECKING:
    from auditor.features.index import Index

ALPHA = 0.05
LATE = SIDES[1]
CAPITALS = (
    "The capital of France is",
    "France's capital city is called",
    "The capital city of France is",
    "The largest city in France is",
    "The Eiffel Tower stands in the city of",
    "The Louvre is a museum in the city of",
    "The government of France sits in",
    "The president of France lives in",
    "The French capital is the city of",
    "Notre-Dame is a cathedral in the city of",
    "The river Seine flows through the city of",
    "The Bastille was a fortress in the city of",
)
INSECURE = "eval, exec, pickle, md5, password"
_STOP = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "and",
        "or",
        "in",
        "on",
        "with",
        "to",
        "for",
        "is",
        "it",
        "by",
        "as",
        "at",
        "from",
        "that",
        "this",
        "be",
        "are",
        "not",
    ]
)


@dataclass(frozen=True)
class _Claim:
    """A question's results, and the words around them."""

    question: Question
    title: str
    subject: str
    limits: str
    feature: int
    tests: tuple[Result, ...]
    others: tuple[str, ...] = ()
    beats_baselines: bool = False
    hook: str = MIDDLE


def write_case(project: Project, reporter: Reporter) -> OpenCase:
    """Ask, seal, test, write the findings, report and sign with a sample key."""
    opened = create_case(
        project, "What the features of a paired text-and-image model show", "Sample auditor",
        organisation="Auditor sample audit", access="white box",
        summary="A worked example on real networks: SmolLM2-135M, and the same network with EfficientNet-Lite0 in "
        "front of it through a small trained projector.",
        not_tested=("Behaviour in dialogue, languages other than English, photographs.",),
        environment=_walls() | create_environment(),
    )  # fmt: skip
    reconstruction = _reconstruction(project, opened)
    claims = [
        _both_kinds(project, opened, reporter),
        _capital(project, opened, reporter),
        _insecure(project, opened, reporter),
    ]
    for claim in claims:
        _write(opened, claim, reconstruction)
    run_task("report", project, ReportConfig(case=opened.artefact.id), reporter)
    _sign(project)
    return opened


def create_environment() -> dict[str, str]:
    """Versions that the figures depend on."""
    from auditor.project.project import environment

    return environment()


def _walls() -> dict[str, str]:
    from auditor.base.offline import levels

    return {f"air gap {level.number}": f"{level.name}: {level.detail}" for level in levels() if level.holds}


def _reconstruction(project: Project, opened: OpenCase) -> str:
    """How much of the activations the dictionary explains, as evidence for the limits of every finding."""
    from auditor.audit.evidence import Metric, Recipe

    dictionary = _dictionary(project)
    facts = dictionary.meta
    run = next(r for r in project.runs() if r.id == dictionary.run)
    fvu = Metric(
        name="fraction of variance unexplained", estimate=facts["fvu"], n=int(facts["rows"]), higher_is_more=False,
        baseline={"PCA of equal L0": facts["fvu_pca"], "random dictionary": facts["fvu_random"]},
    )  # fmt: skip
    text = f"{facts['features']} features, L0 {number(facts['l0'])}, dead {number(100 * facts['dead'])} %."
    result = Result(
        kind="reconstruction", title=f"The dictionary at {MIDDLE}", note=text, metric=fvu,
        recipe=Recipe(verb="train", config=dict(run.config)), inputs={dictionary.name: dictionary.digest},
    )  # fmt: skip
    return opened.pin(result).id


def _dictionary(project: Project, hook: str = MIDDLE) -> Artefact:
    return next(a for a in reversed(project.artefacts("dictionary")) if a.meta.get("hook") == hook)


def _index(project: Project) -> Index:
    dictionary = _dictionary(project)
    artefact = next(a for a in reversed(project.artefacts("index")) if a.meta.get("dictionary") == dictionary.id)
    return index_of(project, artefact.id)


def _ask(opened: OpenCase, title: str, hypothesis: str, null: str, plan: Plan) -> Question:
    question = Question(
        id=opened.case.next_id("questions"), title=title, hypothesis=hypothesis, null_hypothesis=null, plan=plan
    ).seal()
    opened.change(f"Ask {question.id}", opened.case.put(question))
    return question


def _test(project: Project, reporter: Reporter, hook: str = MIDDLE, **settings: Any) -> Result:
    config = ExperimentConfig(dictionary=_dictionary(project, hook).id, **settings)
    told = run_task("experiment", project, config, reporter)
    return read_result(project.find(told["artefacts"][-1]).path)


# the three questions


def _both_kinds(project: Project, opened: OpenCase, reporter: Reporter) -> _Claim:
    """Does one feature stand for the same concept in texts and in images?"""
    with _index(project) as index:
        feature, word = choose_shared_feature(index)
        shown, picture = feature_result(index, feature)
    question = _ask(
        opened, f"Is feature {feature} “{word}” in texts and in images?",
        f"Feature {feature} fires on images of “{word}” and on texts that hold the word, and the model uses it.",
        "It tells them apart no better than features that fire as often, and removing it changes no more than they do.",
        Plan(metric="AUROC", threshold=0.6, n=30, alpha=ALPHA, note=f"Images and texts apart; word “{word}”."),
    )  # fmt: skip
    examples = opened.pin(shown, question=question.id, figure=picture).id
    common: dict[str, Any] = {"feature": feature, "model": "paired", "n": 200}
    tests = (
        _test(project, reporter, kind="detect", samples="images", concept=word, **common),
        _test(project, reporter, kind="detect", samples="texts", concept=word, **common),
        _test(
            project, reporter, kind="effect", samples="images", measure="loss", feature=feature, model="paired", n=20
        ),
    )  # fmt: skip
    limits = (
        "Drawings, not photographs; one dictionary, one seed. Texts are told apart by the word itself, so a feature of "
        "the word's spelling would pass on texts."
    )
    title = f"A feature for “{word}” in texts and images"
    return _Claim(question, title, f"feature {feature}", limits, feature, tests, (examples,))


def choose_shared_feature(index: Index) -> tuple[int, str]:
    """The feature whose texts and images agree most in their words, and the word they share most.

    Only features that fire on both kinds (`modality:both`), on at least 200 image tokens, in at most 3 % of positions,
    whose agreement beats that of shuffled features (p below 0.05) and which share a word in three of their strongest
    images and texts; AuditorError where there is none.
    """
    table = index.table
    both = index.search("modality:both")
    enough = (table["density"][both] < 0.03) & (table["fires_image"][both] >= 200)
    fit = both[enough & (table["agreement_p"][both] < ALPHA)]
    ranked = fit[np.argsort(-table["agreement_low"][fit], kind="stable")]
    for feature in ranked[:200].tolist():
        found = index.feature(feature)
        texts = Counter(_words(" ".join("".join(e.tokens) for e in found.examples_of("text", "top"))))
        images = Counter(_words(" ".join(e.caption or "" for e in found.examples_of("image", "top"))))
        shared = {w: min(texts[w], images[w]) for w in texts.keys() & images.keys()}
        best = max(shared, key=lambda w: (shared[w], images[w]), default="")
        if best and shared[best] >= 3:
            return int(feature), best
    raise AuditorError(
        "No feature of this index fires on texts and images with the same words.", "Record more of both."
    )


def _words(text: str) -> list[str]:
    return [w for w in re.findall(r"[a-z]{3,}", text.lower()) if w not in _STOP]


def _capital(project: Project, opened: OpenCase, reporter: Reporter) -> _Claim:
    """Does the model's answer “Paris” pass through the feature that its circuit ranks first?"""
    from auditor.analysis.circuits import Graph

    if not any(artefact.name == "capitals" for artefact in project.artefacts("samples")):
        project.add("samples", "capitals", project.folder / "samples" / "capitals.txt")
    graphs = [a for a in project.artefacts("result") if a.meta.get("graph") and a.meta.get("prompt") == CAPITALS[0]]
    graph = Graph.load(graphs[-1].path)
    influence = graph.influence()
    rows = [at for at, node in enumerate(graph.nodes) if node.kind == "feature" and node.hook == LATE]
    best = graph.nodes[max(rows, key=lambda at: influence[at])]
    assert best.feature is not None
    feature = best.feature
    question = _ask(
        opened, f"Does “Paris” pass through feature {feature}?",
        f"Removing feature {feature} at {LATE} lowers the log probability of “ Paris” after prompts that ask for it.",
        "It lowers it no more than features that fire as often on these prompts.",
        Plan(metric="drop in log probability of the target when ablated", threshold=0.1, n=len(CAPITALS), alpha=ALPHA,
             note="The feature was chosen on the first prompt; the prompts are fixed."),
    )  # fmt: skip
    circuit = opened.pin(result_of(project, graphs[-1]), question=question.id).id
    effect = _test(
        project, reporter, LATE, kind="effect", feature=feature, model="smollm2-135m", samples="capitals?by=line",
        choose="all", n=len(CAPITALS), measure="target", target=" Paris",
    )  # fmt: skip
    limits = "Twelve English prompts about one city; the feature was chosen on one of them; one dictionary, one seed."
    title = "“Paris” and the feature that its circuit ranks first"
    return _Claim(question, title, f"feature {feature}", limits, feature, (effect,), (circuit,), hook=LATE)


def _insecure(project: Project, opened: OpenCase, reporter: Reporter) -> _Claim:
    """Is there one feature for code that calls dangerous functions?"""
    samples = "texts?group=python"
    search = _test(project, reporter, kind="contrast", samples=samples, concept=INSECURE, model="paired", n=150)
    feature = int(search.data["features"][0])  # type: ignore[arg-type, index]
    question = _ask(
        opened, "Is there a feature for insecure code?",
        f"Feature {feature} tells code that names {INSECURE} from other code, and better than simple baselines do.",
        "A probe on the residual stream, or one neuron of it, does as well.",
        Plan(metric="AUROC", threshold=0.9, n=100, alpha=ALPHA, note="Chosen on one half, tested on the other."),
    )  # fmt: skip
    found = opened.pin(search, question=question.id).id
    tests = (
        _test(
            project, reporter, kind="detect", feature=feature, samples=samples, concept=INSECURE, model="paired", n=150
        ),
        _test(
            project,
            reporter,
            kind="effect",
            feature=feature,
            samples=samples,
            model="paired",
            n=30,
            measure="kl",
            context=24,
        ),
    )
    limits = "Pieces of Python's own library, which is not written to be insecure; the words stand for the concept."
    return _Claim(
        question,
        "A feature for insecure code",
        f"feature {feature}",
        limits,
        feature,
        tests,
        (found,),
        beats_baselines=True,
    )


# from results to findings


def _write(opened: OpenCase, claim: _Claim, reconstruction: str) -> None:
    """Pin the results and write the finding that they give."""
    holds = [_against(result, claim.question.plan, claim.beats_baselines) for result in claim.tests]
    supporting: list[str] = [*claim.others]
    contrary: list[str] = []
    for result, reasons in zip(claim.tests, holds, strict=True):
        piece = opened.pin(result, question=claim.question.id, contrary=bool(reasons))
        (contrary if reasons else supporting).append(piece.id)
    against = [reason for reasons in holds for reason in reasons]
    status: Literal["present", "inconclusive"] = "inconclusive" if against else "present"
    told = "; ".join(_told(result) for result in claim.tests)
    text = f"{claim.question.hypothesis} Measured: {told}."
    if against:
        text += f" Against it: {'; '.join(against)}."
    finding = Finding(
        id=opened.case.next_id("findings"), title=claim.title, claim=text, status=status, severity="info",
        question=claim.question.id, evidence=tuple(supporting), counter_evidence=(*contrary, reconstruction),
        limits=claim.limits, recipe="auditor demo --from-scratch",
        location={"hook point": claim.hook, "feature": claim.subject},
    )  # fmt: skip
    opened.change(f"Write {finding.id}", opened.case.put(finding))


def _against(result: Result, plan: Plan, baselines: bool) -> list[str]:
    """What speaks against the claim in one result: by the plan's α, threshold and n, and, where the claim is that it
    beats them, by each simple baseline."""
    metric = result.metric
    assert metric is not None
    reasons = []
    if not metric.exceeds(metric.no_effect):
        reasons.append(f"the interval of {metric.name} does not exclude {number(metric.no_effect)}")
    if metric.null is not None and metric.null.p > plan.alpha:
        reasons.append(f"{metric.name} does not beat its null (p = {number(metric.null.p)})")
    if metric.name == plan.metric:
        if metric.estimate < plan.threshold:
            reasons.append(f"{metric.name} is below the planned {number(plan.threshold)}")
        if metric.n < plan.n:
            reasons.append(f"only {metric.n} cases where {plan.n} were planned")
    if baselines:
        better = [name for name, value in sorted(metric.baseline.items()) if value >= metric.estimate]
        reasons += [f"{name} does as well ({number(metric.baseline[name])})" for name in better]
    return reasons


def _told(result: Result) -> str:
    metric = result.metric
    assert metric is not None
    text = f"{metric.name} {number(metric.estimate)}"
    if metric.interval:
        text += f" [{number(metric.interval[0])}, {number(metric.interval[1])}]"
    text += f" {metric.unit}".rstrip() + f", n = {metric.n}"
    return text + (f", p = {number(metric.null.p)} against {metric.null.n} features" if metric.null else "")


def _sign(project: Project) -> None:
    """Sign the newest bundle with a key made for the sample, which vouches for nobody."""
    path = project.folder / "key.pem"
    key = signing.load_key(path) if path.exists() else signing.generate_key(path)
    bundle = project.artefacts("bundle")[-1]
    signing.sign(bundle.path, key, "author", name="Sample auditor", organisation="Auditor sample audit")
    project.renew(bundle)
