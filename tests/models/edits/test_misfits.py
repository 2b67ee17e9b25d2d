"""Edits that do not fit the network or the run: a sentence each, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from auditor.analysis.editing import parse_edit
from auditor.analysis.editing.effect import edits_effect
from auditor.analysis.editing.scene import Scene
from auditor.analysis.feature_edit import EditFeature
from auditor.base.errors import AuditorError
from auditor.data.sample import text_sample
from auditor.models import Ablate, AddDirection, Edit, Model, Patch
from auditor.models.edits import EditWeight
from tests.analysis.dictionaries import activation_dictionary
from tests.models.edits.networks import inputs_of, left, logits_of, network

HOOK = "blocks.0.resid_post"
PATTERN = "blocks.1.pattern"


def other(hook: str, *texts: str) -> Callable[[Model], Patch]:
    return lambda model: Patch.from_run(hook, model.run(inputs_of(model, *texts), record=[hook]))


MISFITS: dict[str, tuple[Callable[[Model], Edit], str]] = {
    "a mean of another width": (lambda _: Ablate(HOOK, "mean", torch.zeros(31)), r"mean .* is \[31\]"),
    "a mean of one channel": (lambda _: Ablate(HOOK, "mean", torch.zeros(1)), r"mean .* is \[1\]"),
    "rows of another width": (lambda _: Ablate(HOOK, "resample", rows=torch.zeros(3, 31)), "has 32 channels"),
    "no rows": (lambda _: Ablate(HOOK, "resample", rows=torch.zeros(0, 32)), r"are \[0, 32\]"),
    "a row that is none": (lambda _: Ablate(HOOK, "resample", rows=torch.zeros(32)), r"are \[32\]"),
    "rows of a pattern": (lambda _: Ablate(PATTERN, "resample"), "no rows to resample"),
    "a direction of another width": (lambda _: AddDirection(HOOK, torch.zeros(5)), r"direction .* is \[5\]"),
    "a direction for other positions": (lambda _: AddDirection(HOOK, torch.zeros(9, 32)), r"direction .* is \[9, 32\]"),
    "three samples for two": (other(HOOK, "one two", "red cat", "sat one"), "of 3 samples and this one of 2"),
    "a longer text": (other(HOOK, "one two red cat sat three one two"), "positions at"),
    "a pattern of a longer text": (
        lambda model: Patch(PATTERN, model.run(inputs_of(model, "one two red cat"), record=[PATTERN]).records[PATTERN]
                            [:, :, :4], [0, 1, 2, 3]),
        "value",
    ),
    "factors that do not meet": (
        lambda _: EditWeight("lm_head.weight", left=torch.zeros(4, 2), right=torch.zeros(3, 4)),
        r"\[4, 2\] and \[3, 4\]",
    ),
    "factors without axes": (
        lambda _: EditWeight("lm_head.weight", left=torch.tensor(1.0), right=torch.tensor(1.0)), "factors"
    ),
    "an amount of another shape": (lambda _: EditWeight("lm_head.weight", "add", torch.zeros(7)), r"amount is \[7\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_that_what_does_not_fit_is_told_and_leaves_nothing(name: str) -> None:
    model = network("llama")
    made, said = MISFITS[name]
    inputs = inputs_of(model, "one two red", "cat sat three")
    before, state = logits_of(model, inputs), left(model.network)
    with pytest.raises(AuditorError, match=said):
        model.run(inputs, edits=[made(model)])
    assert left(model.network) == state
    assert torch.equal(logits_of(model, inputs), before)


def test_that_a_run_that_did_not_record_is_told() -> None:
    model = network("llama")
    with pytest.raises(AuditorError, match="did not record"):
        Patch.from_run(HOOK, model.run(inputs_of(model)))


def test_that_a_dictionary_of_another_network_is_told(tiny_llama: Model) -> None:
    foreign = activation_dictionary(tiny_llama, HOOK, d_sae=40, k=4, seed=1)
    model = network("llama")
    samples = [text_sample("one two red cat")]
    scene = Scene(model, samples, lambda _: foreign)
    for line in ("feature 3 clamp", "feature 3 ablate", f"add {HOOK} direction=feature:3", f"cut {HOOK} final_norm "
                 "feature=3"):  # fmt: skip
        with pytest.raises(AuditorError, match="576"):
            edits_effect(scene, [parse_edit(line)], samples, n_controls=1)
    with pytest.raises(AuditorError, match="576"):
        model.run(inputs_of(model), edits=[EditFeature(foreign, 3)])


@pytest.mark.parametrize("line", ["scale blocks.0.z factor=nan", "add blocks.0.z amount=inf"])
def test_that_amounts_are_numbers(line: str) -> None:
    with pytest.raises(AuditorError, match="finite"):
        parse_edit(line)


def test_that_an_output_that_is_no_number_any_more_is_told() -> None:
    model = network("llama")
    samples = [text_sample("one two red cat")]
    scene = Scene(model, samples, lambda _: pytest.fail("no dictionary is needed"))
    with pytest.raises(AuditorError, match="no number"):
        edits_effect(scene, [parse_edit("scale blocks.1.mlp_out factor=1e38")], samples, n_controls=1)


@pytest.mark.parametrize("family", ["t5", "bart", "bert", "mamba", "albert", "clip", "vit", "resnet"])
@pytest.mark.parametrize(
    "line",
    ["ablate FIRST at=-1", "ablate FIRST mean at=0", "scale FIRST at=99", "ablate LAST at=last", "patch FIRST at=0",
     "ablate FIRST neuron=0:2"],
)  # fmt: skip
def test_that_every_kind_of_network_runs_an_edit_or_says_why_not(family: str, line: str) -> None:
    from tests.models.tiny import ALL, opened

    entry = ALL[family]
    model = opened(entry).model
    samples = entry.samples()[:1]
    names = [name for name, point in model.hook_points.items() if name != PATTERN and "pattern" not in name]
    scene = Scene(model, samples, lambda _: pytest.fail("no dictionary is needed"))
    spec = parse_edit(line.replace("FIRST", names[0]).replace("LAST", names[-1]))
    state = left(model.network)
    try:
        if spec.sweeps:
            from auditor.analysis.editing.sweep import Sweep

            found = [one.effect.estimate for one in Sweep(scene, [spec], samples, n_controls=1).run()]
        else:
            found = [edits_effect(scene, [spec], samples, n_controls=1).estimate]
        assert all(value >= 0 for value in found)
    except AuditorError as error:
        assert error.message.endswith(".") and error.hint
    assert left(model.network) == state
