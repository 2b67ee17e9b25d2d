"""The verb “compare”: which features two dictionaries share, beside what random directions would share."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from auditor.audit.drawings import against_null
from auditor.audit.evidence import Metric, Null, Recipe
from auditor.base.config import Config, field
from auditor.tasks.result import Result, write_result
from auditor.tasks.task import Run, task


class CompareConfig(Config):
    """Which dictionaries to compare."""

    arguments: ClassVar[tuple[str, ...]] = ("first", "second")
    first: str = field(title="Dictionary", artefact="dictionary")
    second: str = field(title="Other dictionary", artefact="dictionary")
    threshold: float = field(0.7, title="Same feature from", help="Decoder cosine that counts as the same.", ge=0, le=1)
    seed: int = field(0, title="Seed", ge=0, advanced=True)


@task("compare", title="Compare dictionaries", config="auditor.tasks.compare:CompareConfig")
def run(run: Run, config: CompareConfig) -> dict[str, Any]:
    """Match the features of two dictionaries by decoder direction, beside random directions of the same spread."""
    from auditor.analysis.compare import match
    from auditor.sae import load

    a, b = (load(run.input(ref, "dictionary").path) for ref in (config.first, config.second))
    run.reporter.started("Comparing dictionaries", 1, "pairs")
    found = match(a, b, threshold=config.threshold, seed=config.seed)
    reached = (found.null >= found.threshold).mean()
    quantiles = {str(q): float(np.quantile(found.null, q)) for q in (0.05, 0.5, 0.95, 0.99)}
    null = Null(
        n=len(found.null), mean=float(found.null.mean()), quantiles=quantiles, p=float((1 + reached * len(found.null))
        / (1 + len(found.null))), description="cosines of the same matching with random directions",
    )  # fmt: skip
    metric = Metric(
        name=f"features with a match of cosine {config.threshold:g} or more", estimate=found.matched.estimate,
        interval=found.matched.interval, n=found.matched.n, unit="share",
        baseline={"random directions": found.null_matched.estimate},
    )  # fmt: skip
    cosine = Metric(
        name="median cosine of a feature with its match",
        estimate=float(np.median(found.cosine)),
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
