"""The sample audit's case: three questions, sealed before their tests, and the findings that the data then give.

Which feature each question is about is chosen by `auditor.tasks.sample_choice` on one half of the samples; the tests
use the other half and texts that were never recorded. No figure and no verdict is written here: findings are worded
from the results, by the rules of `_against`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from auditor.audit import signing
from auditor.audit.case import Finding, Plan, Question
from auditor.audit.text import number
from auditor.base.reporter import Reporter
from auditor.project import Artefact, Project
from auditor.tasks import sample_choice
from auditor.tasks.casework import OpenCase, create_case
from auditor.tasks.experiment import MEASURES, ExperimentConfig
from auditor.tasks.opening import index_of, model_at
from auditor.tasks.pinning import evidence_of
from auditor.tasks.report import ReportConfig
from auditor.tasks.result import Result, feature_result, read_result, result_of
from auditor.tasks.sample_audit import IMAGE_PROMPT, MIDDLE, SIDES, TEXT_PROMPT
from auditor.tasks.sample_choice import FIRST, SECOND, Candidate
from auditor.tasks.task import run_task

if TYPE_CHECKING:
    from auditor.data.sample import Sample
    from auditor.data.samples import Samples
    from auditor.features.index import Index

ALPHA = 0.05
LATE = SIDES[1]
CITY, COUNTRY = "Paris", "France, French, Paris"
INSECURE = "eval, exec, pickle, md5, password"
_DROP = f"{MEASURES['target']} when ablated"
_RANKED = 12
_LEAST_IMAGES = 20


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
    reconstruction = opened.pin(evidence_of(project, _dictionary(project))).id
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
    """Does one feature stand for the same concept in texts and in images, and does the model use it to name it?"""
    from auditor.data.words import holds

    with _index(project) as index:
        shared = sample_choice.shared_words(index)
        images = [replace(s, text=IMAGE_PROMPT) for s in _samples(project, f"images?half={FIRST}")]
        of_word = {word: [s for s in images if holds(s, word)] for word in {c.word for c in shared}}
        enough = [c for c in shared if len(of_word[c.word]) >= _LEAST_IMAGES]
        screened = _screened(project, MIDDLE, "paired", enough, of_word, reporter)
        feature, word = screened[0].feature, screened[0].word
        shown, picture = feature_result(index, feature)
    title = f"Features whose texts and images share a word, at {MIDDLE}"
    chosen = opened.pin(sample_choice.told(title, screened, len(shared), _digest(project, MIDDLE))).id
    question = _ask(
        opened, f"Is feature {feature} “{word}” in texts and in images?",
        f"Feature {feature} fires on images of “{word}” and on texts that hold the word, and the model uses it to name "
        "what it sees.",
        "It tells them apart no better than features that fire as often, and removing it makes the word no less likely "
        "than removing them does.",
        Plan(metric=_DROP, threshold=0.1, n=20, alpha=ALPHA,
             note=f"Word “{word}”. Images of the second half, and texts that were never recorded, apart."),
    )  # fmt: skip
    examples = opened.pin(shown, question=question.id, figure=picture).id
    common: dict[str, Any] = {"feature": feature, "model": "paired"}
    tests = (
        _test(project, reporter, kind="detect", samples=f"images?half={SECOND}", concept=word, n=200, **common),
        _test(project, reporter, kind="detect", samples="fresh", concept=word, n=200, **common),
        _test(
            project, reporter, kind="effect", samples=f"images?has={word}&half={SECOND}", choose="all", n=40,
            measure="target", target=f" {word}", prompt=IMAGE_PROMPT, **common,
        ),
    )  # fmt: skip
    limits = (
        "Drawings, not photographs; one dictionary, one seed. Texts are told apart by the word itself, so a feature of "
        "the word's spelling would pass on texts. Both halves of the images were in the dictionary's training data."
    )
    title = f"A feature for “{word}” in texts and images"
    return _Claim(question, title, f"feature {feature}", limits, feature, tests, (chosen, examples))


def _capital(project: Project, opened: OpenCase, reporter: Reporter) -> _Claim:
    """Does the model's answer “Paris” pass through one of the features that its circuit ranks first?"""
    from auditor.analysis.circuits import Graph

    graphs = [a for a in project.artefacts("result") if a.meta.get("graph") and a.meta.get("prompt") == TEXT_PROMPT]
    graph = Graph.load(graphs[-1].path)
    influence = graph.influence()
    rows = [at for at, node in enumerate(graph.nodes) if node.kind == "feature" and node.hook == LATE]
    ranked = dict.fromkeys(graph.nodes[at].feature for at in sorted(rows, key=lambda at: -influence[at]))
    first = [Candidate(feature, CITY) for feature in ranked if feature is not None][:_RANKED]
    prompts = {CITY: _samples(project, f"capitals?by=line&half={FIRST}")}
    screened = _screened(project, LATE, "smollm2-135m", first, prompts, reporter)
    feature = screened[0].feature
    circuit = opened.pin(result_of(project, graphs[-1])).id
    title = f"The {len(first)} features at {LATE} with most influence in the circuit of “{TEXT_PROMPT}”"
    chosen = opened.pin(sample_choice.told(title, screened, len(first), _digest(project, LATE))).id
    question = _ask(
        opened, f"Does “{CITY}” pass through feature {feature}?",
        f"Feature {feature} at {LATE} fires on texts about France, and removing it lowers the log probability of "
        f"“ {CITY}” after prompts that ask for it.",
        "It tells such texts apart no better, and lowers it no more, than features that fire as often.",
        Plan(metric=_DROP, threshold=0.1, n=20, alpha=ALPHA,
             note="Prompts of the second half; texts that were never recorded."),
    )  # fmt: skip
    common: dict[str, Any] = {"feature": feature, "model": "smollm2-135m"}
    tests = (
        _test(project, reporter, LATE, kind="detect", samples="fresh", concept=COUNTRY, n=200, **common),
        _test(
            project, reporter, LATE, kind="effect", samples=f"capitals?by=line&half={SECOND}", choose="all", n=48,
            measure="target", target=f" {CITY}", **common,
        ),
    )  # fmt: skip
    limits = "English prompts about one city; one dictionary, one seed. The words stand for the concept."
    title = f"“{CITY}” and a feature of its circuit"
    return _Claim(question, title, f"feature {feature}", limits, feature, tests, (circuit, chosen), hook=LATE)


def _samples(project: Project, ref: str) -> Samples:
    """Samples of the project with options, as `ExperimentConfig.samples` names them; none where none fit."""
    from auditor.data import open_samples

    name, _, options = ref.partition("?")
    return open_samples(f"{project.find(name, 'samples').path}?{options}")


def _digest(project: Project, hook: str) -> dict[str, str]:
    dictionary = _dictionary(project, hook)
    return {dictionary.name: dictionary.digest}


def _screened(
    project: Project, hook: str, model: str, candidates: Sequence[Candidate], samples: Mapping[str, Sequence[Sample]],
    reporter: Reporter,
) -> list[Candidate]:  # fmt: skip
    from auditor.sae import load

    sae = load(_dictionary(project, hook).path)
    return sample_choice.screen(model_at(project.find(model, "model").path), sae, candidates, samples, reporter)


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
