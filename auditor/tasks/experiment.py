"""The verb “experiment”: test what a feature or a list of edits does, or what a feature detects, beside controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from auditor.audit.drawings import against_null
from auditor.audit.evidence import Choice, Metric, Null, Recipe, Table
from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.intake.overlay import ASKED, Asked
from auditor.tasks.pairing import of_others, with_adapter
from auditor.tasks.result import Result, write_result
from auditor.tasks.task import Run, task

if TYPE_CHECKING:
    from auditor.analysis.detection import Detection, Detector
    from auditor.analysis.interventions import Effect
    from auditor.data.sample import Sample
    from auditor.models.model import Model
    from auditor.sae.sae import Sae

MEASURES = {
    "loss": "rise of the next-token loss",
    "kl": "KL of the next-token distribution",
    "target": "drop in log probability of the target",
}


class ExperimentConfig(Config):
    """What to test. The samples may end in options, as in “emoji.jsonl?category=food”."""

    arguments: ClassVar[tuple[str, ...]] = ("feature",)
    feature: int = field(-1, title="Feature", help="Its number in the dictionary; not needed for a contrast.", ge=-1)
    kind: Literal["effect", "detect", "contrast"] = field(
        "effect", title="Test", help="effect: change the feature and see the output change; detect: tell samples with "
        "a concept from samples without; contrast: find the features that do.",
        choices=("effect", "detect", "contrast"),
    )  # fmt: skip
    concept: str = field(
        "", title="Concept", help="For detect and contrast: samples whose text, caption or tags hold one of these "
        "words (separated by commas) have the concept, the others do not.",
    )  # fmt: skip
    edit: tuple[str, ...] = field(
        (), title="Edits", help="Instead of a feature: edits that act together, in order, each on a line such as "
        "“ablate blocks.5.z mean head=2”, or a .toml or .json file of them; kinds: ablate, scale, add, patch, feature, "
        "weight, cut, freeze. Several in one line are tested one by one: “ablate blocks.*.z head=*”.", between=";",
    )  # fmt: skip
    each: bool = field(False, title="One by one", help="Test every edit by itself instead of all together.")
    plan: bool = field(
        False, title="Only plan", help="Of edits that are tested one by one: tell how many runs and how long, measured "
        "on a few, and end.", advanced=True,
    )  # fmt: skip
    dictionary: str = field("", title="Dictionary", help="Empty: the newest.", artefact="dictionary")
    model: str = field("", title="Model", help="Empty: the one that the dictionary was trained on.", artefact="model")
    adapter: Asked = field("auto", **ASKED)
    samples: str = field(
        "", title="Samples", help="To test on; for detect: those with the concept.", artefact="samples"
    )
    negatives: str = field(
        "", title="Samples without", help="Without a concept word: those that lack it.", artefact="samples"
    )
    choose: Literal["fires", "all"] = field(
        "fires", title="Which samples", help="fires: drawn at random from those on which the feature fires; all: drawn "
        "at random.", choices=("fires", "all"),
    )  # fmt: skip
    n: int = field(48, title="Samples at most", unit="samples", ge=2, le=100_000)
    mode: Literal["ablate", "scale", "clamp"] = field("ablate", title="Change", choices=("ablate", "scale", "clamp"))
    amount: float = field(
        1.0, title="Amount", help="Factor of a scale; level of a clamp in units of the largest activation."
    )
    measure: Literal["loss", "kl", "target"] = field(
        "kl", title="Measure", help="loss: of the text or caption; kl: of the whole next-token distribution, or of the "
        "classes of a network of pictures alone; target: log probability of the target token.",
        choices=("loss", "kl", "target"),
    )  # fmt: skip
    target: str = field("", title="Target token", help="For the measure “target”, with its leading space.")
    prompt: str = field(
        "", title="Prompt", help="For the measure “target”: the text after each image, as in “A picture of”. With "
        "edits and no samples: the one text to run.",
    )  # fmt: skip
    n_null: int = field(100, title="Matched null features", unit="features", ge=20, le=2000)
    n_random: int = field(
        20, title="Random directions", help="Or other controls of edits.", unit="directions", ge=5, le=500,
        advanced=True,
    )  # fmt: skip
    context: int = field(64, title="Context", help="Texts are cut there.", unit="tokens", ge=4, advanced=True)
    seed: int = field(0, title="Seed", ge=0, advanced=True)


@task("experiment", title="Test a feature", config="auditor.tasks.experiment:ExperimentConfig")
def run(run: Run, config: ExperimentConfig) -> dict[str, Any]:
    """Test a feature: what changes in the output when it is ablated, scaled or clamped, or how well it detects a
    concept, always beside features that fire as often, and simple baselines. With --edit, test any edits instead: of
    heads, neurons, features, directions, weights, edges, attention and norms."""
    if config.edit:
        from auditor.tasks.editing import edits_told

        return edits_told(run, config, lambda tested: _told(run, "edits", tested))
    from auditor.sae import load
    from auditor.tasks.opening import model_at, model_of_dictionary

    dictionary = run.input(config.dictionary, "dictionary")
    sae = load(dictionary.path)
    chosen = run.input(config.model, "model") if config.model else model_of_dictionary(run.project, sae)
    run.opens(chosen)
    model = with_adapter(model_at(chosen.path), config.adapter, [sae.meta.get("model_digest")])
    config = config.model_copy(update={"adapter": "on" if model.adapter_on else "off"})
    run.warn(of_others(chosen, model, [(dictionary.name, sae)]))
    if config.kind != "contrast" and not 0 <= config.feature < sae.d_sae:
        raise AuditorError(f"There is no feature {config.feature}.", f"Choose one of 0 to {sae.d_sae - 1}.")
    result = {"effect": _effect, "detect": _detect, "contrast": _contrast}[config.kind](run, config, model, sae)
    name = f"contrast {config.concept}" if config.kind == "contrast" else f"{config.kind}-{config.feature}"
    return _told(run, name, result)


def _told(run: Run, name: str, result: Result) -> dict[str, Any]:
    """Save a result; what the command line and the window show of it."""
    artefact = write_result(run, name, result)
    assert result.metric is not None
    metric = result.metric
    null = {"p": metric.null.p, "null_n": metric.null.n, "null_mean": metric.null.mean} if metric.null else {}
    low, high = metric.interval or (None, None)
    facts = {"estimate": metric.estimate, "low": low, "high": high, "n": metric.n, "unit": metric.unit}
    baseline = {"baseline": metric.baseline} if metric.baseline else {}
    return {"result": artefact.name, "metric": metric.name, **facts, **null, **baseline}


def _effect(run: Run, config: ExperimentConfig, model: Model, sae: Sae) -> Result:
    from auditor.analysis.interventions import feature_effect
    from auditor.analysis.next_token import with_caption

    drawn, seen = _draw(run, config.samples, config, model, sae)
    samples = [with_caption(s) if s.image is not None and config.measure == "loss" else s for s in drawn]
    if config.measure == "target":
        samples = prompted(samples, config.prompt)
    if config.measure == "target" and not config.target:
        raise AuditorError("The measure “target” needs a target token.", "Name one, with its leading space.")
    targets = [config.target] * len(samples) if config.measure == "target" else None
    effect = feature_effect(
        model, sae, config.feature, samples, measure=config.measure, targets=targets, mode=config.mode,
        amount=config.amount, n_null=config.n_null, n_random=config.n_random, seed=config.seed, reporter=run.reporter,
    )  # fmt: skip
    metric = _effect_metric(effect, config)
    sign = -1.0 if config.measure == "target" else 1.0
    verb = {"ablate": "Ablating", "scale": "Scaling", "clamp": "Clamping"}[config.mode]
    rule = "drawn at random from those on which the feature fires" if config.choose == "fires" else "drawn at random"
    return Result(
        kind="intervention",
        title=f"{verb} feature {config.feature}: {metric.name}",
        note=f"It fires in {effect.fired} of the {effect.n} samples. The dictionary's error term is kept.",
        recipe=_recipe(config),
        metric=metric,
        choice=Choice(rule=f"samples {rule}, seed {config.seed}", seen=seen, shown=len(samples)),
        figure=against_null(metric, [sign * value for value in effect.null]),
        figure_alt=f"{metric.name}: {metric.estimate:.3g} against {len(effect.null)} matched features",
        data={"per_sample": [sign * value for value in effect.per_sample], "null": [sign * v for v in effect.null]},
    )


def prompted(samples: Sequence[Sample], prompt: str) -> list[Sample]:
    """The samples with `prompt` as the text of the images that have none; the rest as they are."""
    return [replace(s, text=prompt) if prompt and s.image is not None and not s.text else s for s in samples]


def _effect_metric(effect: Effect, config: ExperimentConfig) -> Metric:
    sign = -1.0 if config.measure == "target" else 1.0
    ends = sorted(sign * end for end in effect.interval)
    null = np.array(effect.null) * sign
    name = MEASURES[config.measure]
    if config.mode == "ablate":
        name += " when ablated"
    baseline = {
        "random directions of equal size, mean": sign * float(np.mean(effect.random)) if effect.random else 0.0,
        "random directions of equal size, largest": float(np.max(sign * np.array(effect.random)))
        if effect.random
        else 0.0,
    }
    return Metric(
        name=name, estimate=sign * effect.estimate, interval=(ends[0], ends[1]), n=effect.n, unit=effect.unit,
        baseline=baseline, null=_null(null, effect.p, "features that fire on as many of these samples"),
        seeds=(config.seed,),
    )  # fmt: skip


def _detect(run: Run, config: ExperimentConfig, model: Model, sae: Sae) -> Result:
    from auditor.analysis.detection import detect

    positives, negatives, seen = _two_sets(run, config)
    found = detect(
        model, sae, config.feature, positives, negatives, n_null=config.n_null, seed=config.seed, reporter=run.reporter
    )
    metric, further = _detection_metrics(found, config)
    rows = [_row(found.detector), *(_row(baseline) for baseline in found.baselines)]
    return Result(
        kind="held_out",
        title=f"Feature {config.feature} as a detector of {_named(config)}",
        note=f"Thresholds and baselines were fitted on {sum(found.n_train)} samples; all figures are from the rest.",
        recipe=_recipe(config),
        metric=metric,
        further=further,
        choice=Choice(rule=f"drawn at random, seed {config.seed}", seen=seen, shown=len(positives) + len(negatives)),
        table=Table(columns=("detector", "AUROC", "low", "high", "precision", "recall"), rows=tuple(rows)),
        figure=against_null(metric, found.null),
        figure_alt=f"AUROC {metric.estimate:.3g} against {len(found.null)} matched features",
    )


def _detection_metrics(found: Detection, config: ExperimentConfig) -> tuple[Metric, tuple[Metric, ...]]:
    own, n = found.detector, sum(found.n_test)
    share = found.n_test[0] / n
    null = _null(np.array(found.null), found.p, "features that fire on as many of these samples")
    auroc = Metric(
        name="AUROC", estimate=own.auroc.estimate, interval=own.auroc.interval, n=n, no_effect=0.5, null=null,
        baseline={b.name: b.auroc.estimate for b in found.baselines}, seeds=(config.seed,),
    )  # fmt: skip
    precision = Metric(
        name="precision",
        estimate=own.precision.estimate,
        interval=own.precision.interval,
        n=own.precision.n,
        no_effect=share,
    )
    recall = Metric(name="recall", estimate=own.recall.estimate, interval=own.recall.interval, n=own.recall.n)
    return auroc, (precision, recall)


def _row(detector: Detector) -> tuple[Any, ...]:
    low, high = detector.auroc.interval
    return detector.name, detector.auroc.estimate, low, high, detector.precision.estimate, detector.recall.estimate


def _null(values: np.ndarray, p: float, description: str) -> Null | None:
    if not len(values):
        return None
    quantiles = {str(q): float(np.quantile(values, q)) for q in (0.05, 0.5, 0.95, 0.99)}
    return Null(n=len(values), mean=float(values.mean()), quantiles=quantiles, p=p, description=description)


def _recipe(config: ExperimentConfig) -> Recipe:
    return Recipe(verb="experiment", config=config.model_dump(mode="json"))


def _named(config: ExperimentConfig) -> str:
    where = config.samples.partition("?")[0] or "samples"
    return f"“{config.concept}” in {where}" if config.concept else config.samples


def _two_sets(run: Run, config: ExperimentConfig) -> tuple[list[Sample], list[Sample], int]:
    """Samples with and without the concept, in the seed's order, at most n of each, and how many there were."""
    from auditor.data.words import holds
    from auditor.tasks.opening import open_samples_of

    generator = np.random.default_rng(config.seed)
    samples = open_samples_of(run, config.samples)
    if config.concept:
        has = [holds(sample, config.concept) for sample in samples]
        sides = [[s for s, yes in zip(samples, has, strict=True) if yes is wanted] for wanted in (True, False)]
        if not sides[0]:
            raise AuditorError(f"No sample holds “{config.concept}”.", "Choose another word or other samples.")
    else:
        sides = [list(samples), list(open_samples_of(run, config.negatives))]
    drawn = [[_own_group(side[at]) for at in generator.permutation(len(side))[: config.n].tolist()] for side in sides]
    return drawn[0], drawn[1], sum(map(len, sides))


def _own_group(sample: Sample) -> Sample:
    """Both drawings of one thing stay in one half of the samples; texts of one source are still texts of their own."""
    return sample if sample.image is not None else replace(sample, group=sample.id)


def _contrast(run: Run, config: ExperimentConfig, model: Model, sae: Sae) -> Result:
    from auditor.analysis.detection import contrast, halves, pool

    positives, negatives, seen = _two_sets(run, config)
    pooled = pool(model, sae, positives, negatives, reporter=run.reporter)
    found = contrast(halves(pooled, config.seed)[0])
    best = np.argsort(-found.auroc, kind="stable")
    rows = tuple(
        (int(found.ids[at]), float(found.auroc[at]), float(found.p[at]), float(found.q[at])) for at in best[:20]
    )
    first = best[0]
    null = Null(
        n=found.family, mean=float(found.auroc.mean()), p=float(found.p[first]), family=found.family,
        p_adjusted=float(found.q[first]), correction="benjamini-hochberg", description="all features that fire here",
    )  # fmt: skip
    metric = Metric(
        name="AUROC of the best feature on the half that chose it", estimate=float(found.auroc[first]), n=sum(found.n),
        no_effect=0.5, null=null, seeds=(config.seed,),
    )  # fmt: skip
    return Result(
        kind="search", title=f"Features that tell {_named(config)} from the rest",
        note="Chosen on one half of the samples; the other half is kept for “detect” with the same settings.",
        recipe=_recipe(config), metric=metric,
        choice=Choice(rule=f"drawn at random, seed {config.seed}", seen=seen, shown=len(positives) + len(negatives)),
        table=Table(columns=("feature", "AUROC", "p", "q"), rows=rows),
        figure=against_null(metric, found.auroc.tolist()), figure_alt="AUROC of every feature that fires",
        data={"features": [row[0] for row in rows]},
    )  # fmt: skip


def _draw(run: Run, ref: str, config: ExperimentConfig, model: Model, sae: Sae) -> tuple[list[Sample], int]:
    """Samples in the seed's order, and how many were looked at for them."""
    from auditor.tasks.opening import open_samples_of

    samples = [cut(model, sample, config.context) for sample in open_samples_of(run, ref)]
    order = np.random.default_rng(config.seed).permutation(len(samples)).tolist()
    if len(samples) < 2:
        raise AuditorError(
            f"“{ref}” holds one sample, and the spread of an effect shows only over several.",
            "Choose samples that have more, or cut the text by line: add ?by=line to the name.",
        )
    if config.choose == "all":
        return [samples[at] for at in order[: config.n]], len(samples)
    found: list[Sample] = []
    seen = 0
    run.reporter.started("Looking for samples on which it fires", min(len(order), 40 * config.n), "samples")
    for start in range(0, min(len(order), 40 * config.n), 16):
        part = [samples[at] for at in order[start : start + 16]]
        seen += len(part)
        found += [s for s, fires in zip(part, _fires(model, sae, config, part), strict=True) if fires]
        run.reporter.step(seen, min(len(order), 40 * config.n), f"{len(found)} found", "samples")
        if len(found) >= config.n:
            break
    if len(found) < 2:
        raise AuditorError(
            f"Feature {config.feature} fires on {'one' if found else 'none'} of {seen} samples (each cut after "
            f"{config.context} tokens), and a test needs two.",
            "Choose samples that resemble its examples, a feature that fires more often, or a longer context.",
        )
    return found[: config.n], seen


def cut(model: Model, sample: Sample, context: int) -> Sample:
    """The sample with its text, or the text of its conversation, cut after `context` tokens, or after what the network
    reads where that is less."""
    if model.longest_text is not None:  # a begin and an end token come to it
        context = max(1, min(context, model.longest_text - 2))
    if sample.messages is not None:
        from auditor.models.chat import written

        (sample,) = written([sample], model.tokenizer, model.name)
    if sample.text is None or len(sample.text) <= context or model.tokenizer is None:
        return sample
    ids = model.tokenizer(sample.text, add_special_tokens=False)["input_ids"]
    return sample if len(ids) <= context else replace(sample, text=model.tokenizer.decode(ids[:context]))


def _fires(model: Model, sae: Sae, config: ExperimentConfig, samples: Sequence[Sample]) -> list[bool]:
    import torch

    from auditor.analysis.measures import ordinary

    sae, inputs = sae.to(model.device), model.encode(samples, config.context)
    with torch.no_grad():
        run = model.run(inputs, record=[sae.hook], logits=False)
    used = ordinary(run.positions(sae.hook).kind)
    values, ids = sae.encode_sparse(run.rows(sae.hook).reshape(-1, sae.d_in).float())
    own = (values * (ids == config.feature)).sum(-1).reshape(used.shape) * used
    return [bool(value) for value in (own > 0).any(1)]
