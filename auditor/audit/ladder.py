"""The ladder of claims: how well a finding is supported, derived by rule from its evidence and never by hand.

Rungs are climbed in order; a rung counts only when all below it hold. "Planned" evidence is evidence that is not
exploratory, that is: it belongs to a question whose plan was sealed before (by their claimed times). α, n and the
smallest effect come from that plan; without a plan α is 0.05 and n is at least 30.

1. *observed*: at least one piece of supporting evidence that is not contrary; examples say how many were seen, shown.
2. *held out*: planned "held_out" evidence with precision and recall, or an AUROC; each with an interval that lies
   wholly above what means nothing (`no_effect`), on at least the planned n.
3. *intervened*: planned "intervention" evidence whose interval excludes `no_effect`, whose null has at least 100 draws,
   whose corrected p is at most α, and whose effect reaches the plan's threshold where the plan names this metric.
4. *controlled*: the same intervention's interval lies wholly beyond every simple baseline, of which there is at least
   one; and "stability" evidence over at least 3 seeds in which the feature reappears in at least two thirds.
5. *replicated*: a review by a person other than the author confirms the finding and re-ran its intervention with an
   estimate that agrees, and no review of the finding has failed to confirm it.

An *absent* finding needs power: a search, and "planted" evidence made with the same settings whose detection rate has
an interval wholly at or above 0.8 (rung 2). Planting is its intervention: rungs 3 to 5 ask of the planted cases what
they ask of an intervention. Contrary evidence caps a *present* finding at observed unless each contrary piece is among
the counter-evidence that the finding owns up to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from auditor.audit.case import Case, Finding, Review, settings
from auditor.audit.evidence import Evidence, Metric

POWER = 0.8
NULL_DRAWS = 100
SEEDS = 3
REAPPEARANCE = 2 / 3
SMALLEST_N = 30


class Rung(IntEnum):
    """How far up the ladder a claim stands."""

    CLAIMED = 0
    OBSERVED = 1
    HELD_OUT = 2
    INTERVENED = 3
    CONTROLLED = 4
    REPLICATED = 5

    @property
    def title(self) -> str:
        """The rung in words."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Standing:
    """A finding's rung, and what is missing for the next one, each in one plain sentence."""

    rung: Rung
    missing: tuple[str, ...]

    @property
    def next(self) -> Rung | None:
        """The rung above, or None at the top."""
        return None if self.rung == Rung.REPLICATED else Rung(self.rung + 1)


def ladder(case: Case, finding: Finding) -> Standing:
    """Where `finding` stands by the rules above."""
    rung = Rung.CLAIMED
    for above, missing in _RULES:
        lacks = missing(case, finding)
        if lacks:
            return Standing(rung, tuple(lacks))
        rung = above
    return Standing(rung, ())


def objections(case: Case, finding: Finding | None = None) -> list[str]:
    """Why the finding (or any of the case) cannot be signed as it is; empty when it can.

    High and critical need counter-evidence that was looked for, limits and a recipe, and more than a bare claim;
    "absent" needs power.
    """
    if finding is None:
        return [told for each in case.findings for told in objections(case, each)]
    told = []
    if finding.severity in ("high", "critical"):
        if not finding.counter_evidence:
            told.append("no counter-evidence was looked for")
        if not finding.limits:
            told.append("its limits are not stated")
        if not finding.recipe:
            told.append("it has no recipe to make it again")
        if ladder(case, finding).rung == Rung.CLAIMED:
            told.append("it rests on no evidence")
    if finding.status == "absent":
        told += _power(case, finding)
    return [f"{finding.id} ({finding.severity}, {finding.status}): {reason}." for reason in told]


def _supporting(case: Case, finding: Finding, *kinds: str) -> list[Evidence]:
    pieces = [case.find_evidence(id) for id in finding.evidence]
    return [p for p in pieces if not p.contrary and (not kinds or p.kind in kinds)]


def is_planned(case: Case, piece: Evidence) -> bool:
    """Whether the piece is confirmation and not exploration: its question's plan was sealed, and before."""
    question = case.find_question(piece.question)
    if piece.exploratory or question is None or question.sealed is None:
        return False
    made, sealed = piece.claimed_time, question.sealed_claimed_time
    # Both are ISO 8601 in UTC ("…Z"), which sort as text; a time in another form decides nothing here.
    return not (made.endswith("Z") and sealed.endswith("Z") and made < sealed)


def _alpha(case: Case, piece: Evidence) -> float:
    question = case.find_question(piece.question)
    return question.plan.alpha if question else 0.05


def _smallest_n(case: Case, piece: Evidence) -> int:
    question = case.find_question(piece.question)
    return question.plan.n if question else SMALLEST_N


def _best(pieces: list[Evidence], lacks: Callable[[Evidence], list[str]], none: str) -> list[str]:
    """What the piece that lacks least still lacks; `none` where there is no piece."""
    return min((lacks(piece) for piece in pieces), key=len, default=[none])


def _observed(case: Case, finding: Finding) -> list[str]:
    pieces = _supporting(case, finding)
    if not pieces:
        return ["Evidence that supports the claim."]
    if all(p.kind == "examples" and p.choice is None for p in pieces):
        return ["How the examples were chosen: how many were seen and how many are shown."]
    return []


def _held_out(case: Case, finding: Finding) -> list[str]:
    contrary = _unanswered(case, finding)
    if contrary:
        return contrary
    if finding.status == "absent":
        return _power(case, finding)
    return _best(
        _supporting(case, finding, "held_out"),
        lambda piece: _held_out_lacks(case, piece),
        "Precision and recall, or an AUROC, on fresh data.",
    )


def _held_out_lacks(case: Case, piece: Evidence) -> list[str]:
    lacks = _unplanned(case, piece)
    metrics = {name: m for m in piece.metrics for name in ("precision", "recall", "auroc") if name in m.name.casefold()}
    if "auroc" not in metrics and not {"precision", "recall"} <= metrics.keys():
        lacks.append(f"{piece.id}: both precision and recall, or an AUROC.")
    for metric in metrics.values():
        if not metric.exceeds(metric.no_effect):
            lacks.append(f"{piece.id}: an interval of {metric.name} that lies wholly above {metric.no_effect:g}.")
        if metric.n < _smallest_n(case, piece):
            lacks.append(
                f"{piece.id}: at least {_smallest_n(case, piece)} cases for {metric.name} ({metric.n} so far)."
            )
    return lacks


def _intervened(case: Case, finding: Finding) -> list[str]:
    return _best(
        _causal(case, finding),
        lambda piece: _effect_lacks(case, piece),
        "Planted cases with a null." if finding.status == "absent" else "An intervention with a null.",
    )


def _causal(case: Case, finding: Finding) -> list[Evidence]:
    return _supporting(case, finding, "planted" if finding.status == "absent" else "intervention")


def _effect_lacks(case: Case, piece: Evidence) -> list[str]:
    lacks = _unplanned(case, piece)
    metric = piece.metric
    if metric is None:
        return [*lacks, f"{piece.id}: a metric."]
    if not metric.exceeds(metric.no_effect):
        lacks.append(f"{piece.id}: an interval of {metric.name} that excludes {metric.no_effect:g}.")
    if metric.n < _smallest_n(case, piece):
        lacks.append(f"{piece.id}: at least {_smallest_n(case, piece)} cases ({metric.n} so far).")
    if metric.null is None:
        lacks.append(f"{piece.id}: a null distribution to compare with.")
    else:
        if metric.null.n < NULL_DRAWS:
            lacks.append(f"{piece.id}: at least {NULL_DRAWS} null draws ({metric.null.n} so far).")
        if metric.null.corrected > _alpha(case, piece):
            lacks.append(
                f"{piece.id}: a corrected p of at most {_alpha(case, piece):g} (it is {metric.null.corrected:.2g})."
            )
    question = case.find_question(piece.question)
    if question and question.plan.metric.casefold() == metric.name.casefold():
        threshold = question.plan.threshold
        reached = metric.estimate >= threshold if metric.higher_is_more else metric.estimate <= threshold
        if not reached:
            lacks.append(f"{piece.id}: an effect that reaches the planned {threshold:g} (it is {metric.estimate:.3g}).")
    return lacks


def _controlled(case: Case, finding: Finding) -> list[str]:
    effects = [piece for piece in _causal(case, finding) if not _effect_lacks(case, piece)]
    lacks = _best(effects, _baseline_lacks, "An intervention with simple baselines.")
    return lacks + _best(
        _supporting(case, finding, "stability"),
        _stability_lacks,
        f"A stability test over at least {SEEDS} seeds.",
    )


def _baseline_lacks(piece: Evidence) -> list[str]:
    metric = piece.metric
    if metric is None or not metric.baseline:
        return [f"{piece.id}: simple baselines (neuron, mean difference, random direction) beside the effect."]
    return [
        f"{piece.id}: an interval that lies wholly beyond the baseline “{name}” ({value:.3g})."
        for name, value in sorted(metric.baseline.items())
        if not metric.exceeds(value)
    ]


def _stability_lacks(piece: Evidence) -> list[str]:
    metric = piece.metric
    if metric is None:
        return [f"{piece.id}: a reappearance rate."]
    lacks = []
    if len(set(metric.seeds)) < SEEDS:
        lacks.append(f"{piece.id}: at least {SEEDS} different seeds ({len(set(metric.seeds))} so far).")
    if metric.estimate < REAPPEARANCE:
        lacks.append(f"{piece.id}: reappearance in at least two thirds of the seeds (it is {metric.estimate:.2g}).")
    return lacks


def _replicated(case: Case, finding: Finding) -> list[str]:
    reviews = [r for r in case.reviews if finding.id in r.findings]
    against = [r for r in reviews if r.verdict == "not confirmed"]
    if against:
        return [f"{r.id}: {r.reviewer} did not confirm the finding." for r in against]
    if not any(_confirms(case, finding, review) for review in reviews):
        return ["A confirming review by another person, with the decisive test run again and agreeing."]
    return []


def _confirms(case: Case, finding: Finding, review: Review) -> bool:
    decisive = {piece.id for piece in _causal(case, finding)}
    other = review.reviewer.casefold() != case.author.casefold()
    agrees = any(rerun.agrees and rerun.evidence in decisive for rerun in review.reruns)
    return other and review.verdict == "confirmed" and agrees


def _power(case: Case, finding: Finding) -> list[str]:
    searches = {piece.id: piece for piece in _supporting(case, finding, "search")}
    if not searches:
        return ["A search that looked for it."]

    def lacks(piece: Evidence) -> list[str]:
        search = searches.get(piece.settings_of or "")
        if search is None:
            return [f"{piece.id}: the search whose settings it was made with."]
        told = []
        if search.recipe.verb != piece.recipe.verb or settings(search.recipe.config) != settings(piece.recipe.config):
            told.append(f"{piece.id}: the same settings as {search.id}.")
        if piece.metric is None or piece.metric.interval is None or not _detects(piece.metric):
            told.append(f"{piece.id}: a detection rate on planted cases whose interval lies at or above {POWER:g}.")
        return told

    return _best(
        _supporting(case, finding, "planted"), lacks, "The detection rate on planted cases at the same settings."
    )


def _detects(metric: Metric) -> bool:
    return metric.interval is not None and metric.interval[0] >= POWER and metric.higher_is_more


def _unplanned(case: Case, piece: Evidence) -> list[str]:
    return [] if is_planned(case, piece) else [f"{piece.id}: a sealed plan (it is exploratory)."]


def _unanswered(case: Case, finding: Finding) -> list[str]:
    against = [id for id in finding.evidence if case.find_evidence(id).contrary]
    return [f"{id}: it speaks against the claim; count it as counter-evidence and answer it." for id in against]


_RULES: tuple[tuple[Rung, Callable[[Case, Finding], list[str]]], ...] = (
    (Rung.OBSERVED, _observed),
    (Rung.HELD_OUT, _held_out),
    (Rung.INTERVENED, _intervened),
    (Rung.CONTROLLED, _controlled),
    (Rung.REPLICATED, _replicated),
)
