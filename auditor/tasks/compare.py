"""The verb “compare”: which features two dictionaries share, beside what random directions would share; or what the
features of one or several are good for, beside baselines."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from auditor.audit.drawings import against_null
from auditor.audit.evidence import Metric, Null, Recipe
from auditor.base.config import Config, field
from auditor.base.errors import AuditorError
from auditor.tasks.evaluation_result import MEASURES
from auditor.tasks.result import Result, write_result
from auditor.tasks.task import Run, task


class CompareConfig(Config):
    """Which dictionaries to compare, and by what."""

    arguments: ClassVar[tuple[str, ...]] = ("dictionaries",)
    dictionaries: tuple[str, ...] = field(
        title="Dictionaries", help="Two whose features are matched; to evaluate, one or several.", artefact="dictionary"
    )
    evaluate: tuple[str, ...] = field(
        (), title="Evaluate", help="Instead of matching: probing, tpp (targeted probe perturbation), scr (spurious "
        "correlation removal), which need labelled samples; absorption, ravel, which need a language model.",
    )  # fmt: skip
    threshold: float = field(0.7, title="Same feature from", help="Decoder cosine that counts as the same.", ge=0, le=1)
    store: str = field("", title="Store", help="Of labelled samples. Empty: the newest that fits.", artefact="store")
    samples: str = field(
        "", title="Samples", help="Labelled ones to run through the model, instead of a store.", artefact="samples"
    )
    label: str = field(
        "", title="Label", help="Of the samples; their group counts as one, “group”. Empty: the first with enough "
        "values.",
    )  # fmt: skip
    classes: tuple[str, ...] = field((), title="Classes", help="Values of the label. Empty: the six commonest.")
    spurious: str = field("", title="Label that misleads", help="For scr: another label of the same samples.")
    pairs_of_values: tuple[str, ...] = field(
        (), title="Values for scr", help="Two of the label, then two of the one that misleads. Empty: the commonest.",
        advanced=True,
    )  # fmt: skip
    k: tuple[int, ...] = field(
        (1, 2, 5, 20), title="Features used", help="How many are probed or ablated, one after another."
    )
    exchange: int = field(
        100, title="Features exchanged", help="For RAVEL, at most: of those that carry the attribute.", ge=1,
        le=100_000, advanced=True,
    )  # fmt: skip
    entities: Literal["cities", "people"] = field(
        "cities", title="RAVEL asks about", help="cities: country, continent, language. people: country, profession.",
        choices=("cities", "people"),
    )  # fmt: skip
    ranking: Literal["both", "variance", "probe"] = field(
        "both", title="RAVEL ranks by", help="variance: what they write varies with the attribute. probe: a "
        "probe trained to tell its values weighs them.", choices=("both", "variance", "probe"), advanced=True,
    )  # fmt: skip
    n: int = field(200, title="Samples a class", help="Of each class, at most.", unit="samples", ge=20, le=100_000)
    words: int = field(4000, title="Words for absorption", unit="words", ge=500, le=50_000, advanced=True)
    pairs: int = field(
        40, title="Pairs for RAVEL", help="Of entities, for each attribute.", unit="pairs", ge=10, le=10_000,
        advanced=True,
    )  # fmt: skip
    splits: int = field(
        5, title="Splits", help="How often the halves to learn from and to test on are drawn anew.", ge=2, le=100
    )
    model: str = field("", title="Model", help="Empty: the one that the dictionary was trained on.", artefact="model")
    context: int = field(64, title="Context", help="Samples are cut there.", unit="tokens", ge=4, advanced=True)
    seed: int = field(0, title="Seed", ge=0, advanced=True)

    @field_validator("evaluate", "classes", "pairs_of_values", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """“a,b” is two items, as in a form."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            return value
        return [item.strip() for part in parts for item in str(part).split(",") if item.strip()]

    @field_validator("evaluate")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in MEASURES:
                raise ValueError(f"there is no measure “{name}”; there are {', '.join(MEASURES)}")
        return value

    @field_validator("k")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("numbers of features are 1 or more")
        return tuple(sorted(set(value)))


@task("compare", title="Compare dictionaries", config="auditor.tasks.compare:CompareConfig")
def run(run: Run, config: CompareConfig) -> dict[str, Any]:
    """Match the features of two dictionaries by decoder direction, beside random directions of the same spread; or,
    with --evaluate, measure what the features of one or several are good for: sparse probing, targeted probe
    perturbation, spurious correlation removal, absorption and RAVEL, beside raw neurons, principal components and
    random directions, with intervals over samples and the spread over reseeded splits."""
    if config.evaluate:
        from auditor.tasks.evaluation import evaluated

        return evaluated(run, config)
    from auditor.analysis.compare import match
    from auditor.analysis.nulls import null_p
    from auditor.sae import load

    if len(config.dictionaries) != 2:
        raise AuditorError(
            f"Features are matched between two dictionaries, and {len(config.dictionaries)} are named.",
            "Name two, or say by what to evaluate (--evaluate).",
        )
    a, b = (load(run.input(ref, "dictionary").path) for ref in config.dictionaries)
    run.reporter.started("Comparing dictionaries", 1, "pairs")
    found = match(a, b, threshold=config.threshold, seed=config.seed)
    median = float(np.median(found.cosine))
    quantiles = {str(q): float(np.quantile(found.null, q)) for q in (0.05, 0.5, 0.95, 0.99)}
    null = Null(
        n=len(found.null), mean=float(found.null.mean()), quantiles=quantiles,
        p=null_p(median, found.null, two_sided=False),
        description="cosines of the same matching with random directions",
    )  # fmt: skip
    metric = Metric(
        name=f"features with a match of cosine {config.threshold:g} or more", estimate=found.matched.estimate,
        interval=found.matched.interval, n=found.matched.n, unit="share",
        baseline={"random directions": found.null_matched.estimate},
    )  # fmt: skip
    cosine = Metric(
        name="median cosine of a feature with its match",
        estimate=median,
        n=len(found.cosine),
        null=null,
    )
    result = Result(
        kind="comparison", title="Features that two dictionaries share",
        recipe=Recipe(verb="compare", config=config.model_dump(mode="json")), metric=metric, further=(cosine,),
        figure=against_null(cosine, found.null.tolist()), figure_alt="Cosines of matches against random directions",
        data={"pairs": found.pairs[:2000].tolist(), "cosine": [float(c) for c in found.cosine[:2000]]},
    )  # fmt: skip
    run.reporter.step(1, 1)
    artefact = write_result(run, "comparison", result)
    return {
        "result": artefact.name,
        "matched": found.matched.estimate,
        "low": found.matched.interval[0],
        "high": found.matched.interval[1],
        "n": found.matched.n,
        "random_directions": found.null_matched.estimate,
        "median_cosine": cosine.estimate,
    }
