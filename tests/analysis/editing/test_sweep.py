"""Many edits one by one: each row is what that edit alone does, whatever else ran in its batch."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from auditor.analysis.editing import parse_edit
from auditor.analysis.editing import sweep as sweeping
from auditor.analysis.editing.effect import edits_effect
from auditor.analysis.editing.measured import Measured, measured_by, reached
from auditor.analysis.editing.scene import Scene
from auditor.analysis.editing.sweep import Sweep
from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Control, EventReporter
from auditor.data.sample import text_sample
from auditor.models import Model
from auditor.sae import Sae
from tests.analysis.dictionaries import TEXTS, activation_dictionary
from tests.models.edits.networks import network

SAMPLES = [text_sample(text) for text in TEXTS[:2]]
HOOK = "blocks.0.resid_post"


@pytest.fixture(scope="module")
def sae(tiny_llama: Model) -> Sae:
    return activation_dictionary(tiny_llama, HOOK, d_sae=40, k=8, seed=2)


@pytest.fixture
def scene(tiny_llama: Model, sae: Sae) -> Scene:
    return Scene(tiny_llama, SAMPLES, lambda _: sae)


DOWN = "mlp.down_proj.weight scale amount=0"


@pytest.mark.parametrize(
    ("line", "count", "at", "alone"),
    [
        ("ablate blocks.*.z mean head=*", 18, 13, "ablate blocks.1.z head=4 mean"),
        ("ablate blocks.*.z resample head=1:3", 4, 3, "ablate blocks.1.z head=2 resample"),
        ("scale blocks.1.mlp_hidden neuron=5,700:702", 3, 1, "scale blocks.1.mlp_hidden neuron=700"),
        ("patch blocks.*.mlp_out text='Water and' at=last", 2, 1, "patch blocks.1.mlp_out text='Water and' at=last"),
        ("ablate blocks.1.pattern head=*", 9, 8, "ablate blocks.1.pattern head=8"),
        ("cut blocks.0.z blocks.1.q head=2 to_head=0:2", 2, 1, "cut blocks.0.z blocks.1.q head=2 to_head=1"),
        (f"weight model.layers.*.{DOWN}", 2, 0, f"weight model.layers.0.{DOWN}"),
    ],
)
def test_that_a_row_of_a_sweep_is_the_test_of_that_edit_alone(
    scene: Scene, line: str, count: int, at: int, alone: str
) -> None:
    sweep = Sweep(scene, [parse_edit(line)], SAMPLES, measure="loss", n_controls=1, seed=3)
    assert len(sweep.specs) == count and sweep.runs == count * 2 * 2
    found = sweep.run()[at]
    told = edits_effect(scene, [parse_edit(alone)], SAMPLES, measure="loss", n_controls=1, seed=3)
    assert found.spec == parse_edit(alone) and found.p == told.p
    assert found.effect.estimate == pytest.approx(told.estimate, rel=1e-3, abs=2e-5)
    np.testing.assert_allclose(found.effect.interval, told.interval, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(found.null, told.null, rtol=1e-3, atol=2e-5)


def test_that_the_controls_of_an_edge_run_together(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "cut blocks.0.z final_norm head=4"
    told = edits_effect(scene, [parse_edit(line)], SAMPLES[:1], n_controls=3, seed=2)
    rows: list[int] = []
    own = sweeping.edited

    def counted(*given):  # type: ignore[no-untyped-def]
        rows.append(given[-1])
        return own(*given)

    monkeypatch.setattr(sweeping, "edited", counted)
    (found,) = Sweep(scene, [parse_edit(f"{line},4")], SAMPLES[:1], n_controls=3, seed=2).run()
    assert rows == [1, 3] and found.per_sample == [found.effect.estimate]
    np.testing.assert_allclose([found.effect.estimate, *found.null], [told.estimate, *told.null], rtol=1e-3, atol=1e-6)


def test_that_features_are_tested_one_by_one(scene: Scene, sae: Sae) -> None:
    found = Sweep(
        scene, [parse_edit("feature * ablate")], SAMPLES[:1], n_controls=0, measure="target", target="a"
    ).run()
    assert [one.spec.feature for one in found] == [str(number) for number in range(40)]  # type: ignore[attr-defined]
    fires = (sae.encode(scene.rows(HOOK)) > 0).any(0).numpy()
    silent = [one.effect.estimate for one in found if not fires[int(one.spec.feature)]]  # type: ignore[attr-defined]
    assert all(abs(value) < 1e-5 for value in silent) and max(abs(one.effect.estimate) for one in found) > 1e-3


def test_that_features_that_fire_on_none_of_the_samples_are_not_clamped(scene: Scene, sae: Sae) -> None:
    fires = (sae.encode(scene.rows(HOOK)) > 0).any(0)
    assert 0 < int(fires.sum()) < 40
    specs = Sweep(scene, [parse_edit("feature * clamp")], SAMPLES, n_controls=0).specs
    assert [int(one.feature) for one in specs] == fires.nonzero()[:, 0].tolist()  # type: ignore[attr-defined]
    silent = ",".join(str(number) for number in (~fires).nonzero()[:, 0].tolist()[:2])
    with pytest.raises(AuditorError, match=r"None of the features .* fires"):
        Sweep(scene, [parse_edit(f"feature {silent},{silent.split(',')[0]} clamp")], SAMPLES)


def test_that_edits_that_are_not_swept_act_in_every_run_the_unedited_one_too(scene: Scene) -> None:
    held = parse_edit("scale blocks.0.mlp_out factor=0")
    found = Sweep(scene, [held, parse_edit("scale blocks.1.z factor=1 head=*")], SAMPLES[:1], n_controls=0).run()
    assert all(abs(one.effect.estimate) < 1e-6 and one.p is None and one.null == [] for one in found)
    alone = Sweep(scene, [parse_edit("ablate blocks.1.z head=3,5")], SAMPLES[:1], n_controls=0).run()
    beside = Sweep(scene, [held, parse_edit("ablate blocks.1.z head=3,5")], SAMPLES[:1], n_controls=0).run()
    assert abs(alone[0].effect.estimate - beside[0].effect.estimate) > 1e-5


def test_that_each_line_is_tested_alone_where_that_is_asked_for(scene: Scene) -> None:
    lines = [parse_edit(line) for line in ("freeze attention", "ablate blocks.0.z", "ablate blocks.1.mlp_out")]
    found = Sweep(scene, lines, SAMPLES[:1], each=True, n_controls=1).run()
    assert [one.spec for one in found] == lines[1:]


def test_that_experts_are_tested_one_by_one() -> None:
    model = network("mixtral")
    scene = Scene(model, SAMPLES, lambda _: pytest.fail("no dictionary is needed"))
    sample = text_sample("one two red cat")
    found = Sweep(scene, [parse_edit("ablate blocks.*.expert_weights neuron=*")], [sample], n_controls=1).run()
    points = [point for name, point in model.hook_points.items() if name.endswith("expert_weights")]
    assert len(found) == sum(point.width for point in points)
    for number in (0, len(found) - 1):
        told = edits_effect(scene, [found[number].spec], [sample], n_controls=1)
        assert found[number].effect.estimate == pytest.approx(told.estimate, rel=1e-3, abs=1e-6)


def test_that_batches_are_small_enough_and_what_is_not_edited_is_not_run_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.analysis.editing import effect

    sizes: list[int] = []
    given: list[str] = []
    own, begun = effect.next_token_logits, Model.given

    def counted(model, inputs, edits, positions, record=()):  # type: ignore[no-untyped-def]
        sizes.append(len(inputs.samples))
        return own(model, inputs, edits, positions, record)

    def noted(self, hook):  # type: ignore[no-untyped-def]
        given.append(hook)
        return begun(self, hook)

    monkeypatch.setattr(effect, "next_token_logits", counted)
    monkeypatch.setattr(Model, "given", noted)
    monkeypatch.setattr(sweeping, "MOST_TOKENS", 40)
    line = parse_edit("ablate blocks.*.z head=*")
    Sweep(scene, [line], SAMPLES[:1], n_controls=1, measure="target", target="a").run()
    length = scene.model.encode(SAMPLES[:1]).ids.shape[1]
    assert max(sizes) == 40 // length > 1 and sum(sizes) == 1 + 36
    assert set(given) == {"blocks.1.resid_pre"}


def test_that_a_sweep_is_planned_and_stops_where_it_is_asked_to(scene: Scene) -> None:
    sweep = Sweep(scene, [parse_edit("ablate blocks.*.z head=0:2")], SAMPLES, n_controls=2)
    plan = sweep.plan()
    assert (plan.edits, plan.runs) == (4, 4 * 3 * 2) and plan.minutes > 0 and 0 < plan.probed < plan.runs
    with pytest.raises(Stop):
        sweep.run(stopping(after=2))


def stopping(after: int) -> EventReporter:
    """Stops the work at its step number `after`."""
    control, told = Control(), []

    def hear(event: object) -> None:
        told.append(event)
        if len(told) > after:
            control.cancel()

    return EventReporter(hear, control)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [1, 3])
def test_that_a_sweep_that_was_stopped_goes_on_and_gives_the_same_figures(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    samples = [text_sample("one"), text_sample("two red cat")]
    sweep = Sweep(scene, [parse_edit("ablate blocks.*.z head=0:2")], samples, n_controls=1)
    whole, place = Measured(), tmp_path / "sweep"
    expected, ran = sweep.run(measured=whole), list[int]()
    with pytest.raises(Stop):
        sweep.run(stopping(after), measured=Measured(place))
    with open(place, "ab") as file:
        file.write(b"[0.125, 0.2")  # what a kill leaves
    held = Measured(place)
    assert 0 < len(held) < sweep.runs and held.values().tolist() == whole.values()[: len(held)].tolist()
    n, edits = sweep.reached(held)
    assert (n, edits) == ((1, 4) if after == 3 else (1, len(held) // 2))
    assert [one.per_sample for one in sweep.told(held)] == [one.per_sample[:1] for one in expected[:edits]]
    own = sweeping.edited
    monkeypatch.setattr(sweeping, "edited", lambda *given: (ran.append(given[-1]), own(*given))[1])
    assert sweep.run(measured=held) == expected and sum(ran) == sweep.runs - 4 * after
    held.forget()
    assert not place.exists()


def test_that_what_is_no_number_in_the_file_is_measured_again(tmp_path: Path) -> None:
    place = tmp_path / "sweep"
    place.write_bytes(b"[0.5, 1.5]\n[NaN]\n[2.5]\n")
    held = Measured(place)
    assert held.values().tolist() == [0.5, 1.5]
    held.add([3.5])
    assert place.read_bytes() == b"[0.5, 1.5]\n[3.5]\n" and len(Measured(place)) == 3


def test_that_whoever_measures_the_first_value_says_by_what(tmp_path: Path) -> None:
    place = tmp_path / "sweep"
    place.write_bytes(b'{"values": 2, "by": {"program": "killed before its first value"}}\n')
    Measured(place, 2, {"program": "the next"}).add([0.5])
    assert measured_by(place) == Measured(place).by == {"program": "the next"} and reached(place) == (1, 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ablate blocks.*.zz head=*", "no hook points"),
        ("ablate blocks.*.z head=2:11", "no head 10: there are 9"),
        ("ablate blocks.*.mlp_out head=*", "not split into heads"),
        ("feature 3,99 ablate", "no feature 99: there are 40"),
        ("weight model.layers.*.nothing scale", "no weights"),
        ("cut blocks.0.z blocks.1.mlp to_head=*", "no hook point|not split"),
    ],
)
def test_that_a_sweep_of_what_is_not_there_is_told(scene: Scene, line: str, said: str) -> None:
    with pytest.raises(AuditorError, match=said):
        Sweep(scene, [parse_edit(line)], SAMPLES)


def test_that_several_are_not_built_as_one(scene: Scene) -> None:
    with pytest.raises(AuditorError, match="one by one"):
        parse_edit("ablate blocks.1.z head=*").build(scene, scene.model.encode(SAMPLES[:1]))


def test_that_a_file_with_a_line_of_any_length_is_not_taken_into_memory(tmp_path: Path) -> None:
    place = tmp_path / "sweep"
    place.write_bytes(b'{"values": 4}\n[0.5, 1.5]\n')
    os.truncate(place, 300 << 20)
    tracemalloc.start()
    assert reached(place) == (2, 4) and len(Measured(place)) == 2
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100 << 20 and place.stat().st_size == 25
