"""Edits named as plain values, built and measured on real networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.analysis.editing import parse_edit
from auditor.analysis.editing.effect import edits_effect
from auditor.analysis.editing.scene import Scene
from auditor.analysis.editing.sweep import Sweep
from auditor.base.errors import AuditorError
from auditor.data.sample import Sample, text_sample
from auditor.models import Edit, Model, open_model
from auditor.sae import Sae
from tests.analysis.dictionaries import TEXTS, activation_dictionary
from tests.models.tiny import ALL
from tests.models.tiny.entry import two_images

SAMPLES = [text_sample(text) for text in TEXTS[:4]]
HOOK = "blocks.0.resid_post"


@pytest.fixture(scope="module")
def sae(tiny_llama: Model) -> Sae:
    return activation_dictionary(tiny_llama, HOOK, d_sae=200, k=8, seed=2)


@pytest.fixture
def scene(tiny_llama: Model, sae: Sae) -> Scene:
    return Scene(tiny_llama, SAMPLES, lambda _: sae)


def last(model: Model, text: str, edits: list | None = None) -> torch.Tensor:
    with torch.no_grad():
        logits = model.run(text, edits=edits or []).logits
    assert logits is not None
    return logits[0].log_softmax(-1)


def test_that_the_effect_is_that_of_running_by_hand(tiny_llama: Model, scene: Scene) -> None:
    specs = [parse_edit("ablate blocks.1.z head=4 mean"), parse_edit("scale blocks.0.mlp_out factor=0.5 at=ordinary")]
    found = edits_effect(scene, specs, SAMPLES, measure="loss", n_controls=3, seed=1)
    own, shares = [], []
    for sample in SAMPLES:
        inputs = tiny_llama.encode([sample])
        edits = [spec.build(scene, inputs) for spec in specs]
        clean, edited = last(tiny_llama, sample.text or ""), last(tiny_llama, sample.text or "", edits)
        follows = inputs.ids[0, 1:, None]
        own.append(float((clean[:-1].gather(1, follows) - edited[:-1].gather(1, follows)).mean()))
        shares.append((clean[-1].exp().numpy(), edited[-1].exp().numpy()))
    np.testing.assert_allclose(found.per_sample, own, atol=2e-5)
    assert found.estimate == pytest.approx(np.mean(own), abs=2e-5) and found.n == 4 and len(found.null) == 3
    assert found.interval[0] <= found.estimate <= found.interval[1]
    before, after = (np.mean([pair[side] for pair in shares], axis=0) for side in (0, 1))
    assert abs(found.tokens[0].change) == pytest.approx(np.abs(after - before).max(), abs=1e-5)
    for token in found.tokens:
        assert token.interval[0] - 1e-6 <= token.change <= token.interval[1] + 1e-6 and token.control is not None


def test_that_a_network_of_pictures_alone_is_asked_for_its_classes(tmp_path: Path) -> None:
    ALL["vit"].save(tmp_path)
    model, samples = open_model(tmp_path), [Sample(f"p{n}", image=image) for n, image in enumerate(two_images())]
    scene = Scene(model, samples, lambda _: pytest.fail("no dictionary"))
    specs = [parse_edit("ablate vision.blocks.1.z head=2 zero"), parse_edit("scale vision.blocks.0.mlp_out factor=3")]
    found = edits_effect(scene, specs, samples, n_controls=3, seed=1)
    own = []
    for sample in samples:
        inputs = model.encode([sample])
        clean, edited = (
            model.run(inputs, edits=edits).logits[0].log_softmax(-1)  # type: ignore[index]
            for edits in ([], [spec.build(scene, inputs) for spec in specs])
        )
        own.append(float((clean.exp() * (clean - edited)).sum()))
    np.testing.assert_allclose(found.per_sample, own, atol=1e-6)
    assert min(own) > 1e-6 and len(found.null) == 3 and found.unit == "nats (KL)"
    assert sorted(token.token for token in found.tokens) == [f"LABEL_{number}" for number in range(4)]
    swept = Sweep(scene, specs, samples, each=True, n_controls=3, seed=1).run()
    for one, spec in zip(swept, specs, strict=True):
        alone = edits_effect(scene, [spec], samples, n_controls=3, seed=1)
        assert one.effect.estimate == pytest.approx(alone.estimate, abs=1e-6)
    for measure in ("loss", "target"):
        with pytest.raises(AuditorError, match="predicts no text"):
            edits_effect(scene, specs, samples, measure=measure, target="one")
    point, inputs = model.hook_points["vision.blocks.1.resid_post"], model.encode(samples[:1])
    patches = model.run(inputs, record=[point.name]).rows(point.name).shape[1] - 1
    assert scene.positions("ordinary", inputs, point) == list(range(1, 1 + patches))  # all but the first, [CLS]
    with pytest.raises(AuditorError, match="“last” is said of text"):
        scene.positions("last", inputs, point)


def test_that_a_mean_is_over_the_ordinary_positions_of_the_samples(tiny_llama: Model, scene: Scene) -> None:
    edit = parse_edit("ablate blocks.1.z mean head=2").build(scene, tiny_llama.encode([SAMPLES[0]]))
    rows = []
    for sample in SAMPLES:
        run = tiny_llama.run([sample], record=["blocks.1.z"])
        rows.append(run.rows("blocks.1.z")[0, 1:])  # all but the begin token
    torch.testing.assert_close(edit.mean, torch.cat(rows).mean(0))  # type: ignore[attr-defined]
    assert edit.columns == list(range(128, 192))


def test_that_a_clamp_is_to_what_the_feature_of_its_own_dictionary_reaches(tiny_llama: Model, sae: Sae) -> None:
    twice = Sae(**{**vars(sae), "W_enc": 2 * sae.W_enc, "b_enc": 2 * sae.b_enc})
    scene = Scene(tiny_llama, SAMPLES, lambda name: twice if name else sae)
    largest = sae.encode(scene.rows(HOOK).float()).amax(0)
    feature = int(largest.argmax())
    for name, times in (("", 1), ("twice", 2)):
        found = scene.largest(scene.dictionary(name), feature)
        assert found == pytest.approx(times * float(largest[feature]), rel=1e-4)


def test_that_controls_are_another_head_or_a_random_direction_of_equal_size(tiny_llama: Model, scene: Scene) -> None:
    inputs = tiny_llama.encode([SAMPLES[0]])
    x = tiny_llama.run(inputs, record=["blocks.1.z"]).rows("blocks.1.z").expand(3, -1, -1)
    head = parse_edit("ablate blocks.1.z head=2").build(scene, inputs)
    control = head.control([1, 2, 3])
    assert control is not None
    change, own = control.on_rows(x) - x, head.on_rows(x) - x
    torch.testing.assert_close(change.norm(dim=-1), own.norm(dim=-1), rtol=1e-4, atol=1e-4)
    for row in change:
        touched = set((row.abs().sum(0).nonzero()[:, 0] // 64).tolist())
        assert len(touched) == 1 and touched != {2}
        other = touched.pop() * 64
        cosine = torch.nn.functional.cosine_similarity(row[:, other : other + 64], -x[0, :, other : other + 64], dim=-1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
    whole = parse_edit("scale blocks.0.resid_post factor=2 at=2,3").build(scene, inputs)
    rows = tiny_llama.run(inputs, record=[HOOK]).rows(HOOK).expand(2, -1, -1)
    drawn = whole.control([4, 5])
    assert drawn is not None
    change = drawn.on_rows(rows) - rows
    torch.testing.assert_close(change.norm(dim=-1), (whole.on_rows(rows) - rows).norm(dim=-1), rtol=1e-4, atol=1e-3)
    assert not change[:, [0, 1, 4]].any()
    assert abs(float(torch.nn.functional.cosine_similarity(change[0, 2], change[1, 2], dim=0))) < 0.3


@pytest.mark.parametrize(
    "line",
    [
        "add blocks.0.resid_post direction=random:3 amount=20", "feature FIRES clamp amount=3",
        "add blocks.0.resid_post direction='token: Paris' amount=9", "feature FIRES ablate",
        "add blocks.0.resid_post direction=feature:5 amount=30",
        "add blocks.0.resid_post direction='difference:I love it|I hate it'", "ablate blocks.1.z resample head=1",
        "patch blocks.0.resid_post text='Water and ice' at=last", "ablate blocks.1.pattern head=3",
        "weight model.layers.1.mlp.down_proj.weight scale amount=0", "cut blocks.0.z blocks.1.mlp head=3",
        f"cut {HOOK} blocks.1.q feature=FIRES to_head=1", "cut blocks.0.mlp_hidden final_norm neuron=9",
    ],
)  # fmt: skip
def test_that_every_kind_runs_beside_its_controls(scene: Scene, sae: Sae, line: str) -> None:
    fires = (sae.encode(scene.rows(HOOK)) > 0).float().mean(0)
    spec = parse_edit(line.replace("FIRES", str(int((fires - 0.2).abs().argmin()))))
    found = edits_effect(scene, [spec], SAMPLES[:2], n_controls=2)
    assert found.estimate > 0 and len(found.null) == 2 and found.p is not None


def test_that_freezing_has_no_control_and_holds_still_for_others(scene: Scene) -> None:
    frozen = [parse_edit("freeze attention"), parse_edit("freeze norms")]
    alone = edits_effect(scene, frozen, SAMPLES[:2], n_controls=2)
    assert alone.estimate < 1e-6 and alone.null == [] and alone.p is None
    scale = parse_edit("scale blocks.0.attn_out factor=0")
    both, free = (edits_effect(scene, [*more, scale], SAMPLES[:2], n_controls=2) for more in (frozen, []))
    assert len(both.null) == 2 and both.estimate > 0 and alone.free is free.free is None
    assert abs(both.estimate - free.estimate) > 1e-4
    assert both.free is not None and both.free.estimate == pytest.approx(free.estimate)


def test_that_rank_one_changes_and_directions_come_from_files(tiny_llama: Model, scene: Scene, tmp_path: Path) -> None:
    u, v = np.random.default_rng(0).standard_normal((2, 576)).astype(np.float32)
    np.save(tmp_path / "u.npy", u)
    np.save(tmp_path / "v.npy", v)
    inputs = tiny_llama.encode([SAMPLES[0]])
    path = "model.layers.0.self_attn.o_proj.weight"
    edit = parse_edit(f"weight {path} amount=0.1 left={tmp_path}/u.npy right={tmp_path}/v.npy").build(scene, inputs)
    weight = tiny_llama.network.get_submodule("model.layers.0.self_attn.o_proj").weight
    torch.testing.assert_close(edit.changed(weight), weight + 0.1 * torch.from_numpy(np.outer(u, v)))  # type: ignore[attr-defined]
    added = parse_edit(f"add {HOOK} direction={tmp_path}/u.npy").build(scene, inputs)
    torch.testing.assert_close(added.direction, torch.from_numpy(u))  # type: ignore[attr-defined]
    np.save(tmp_path / "short.npy", u[:5])
    with pytest.raises(AuditorError, match=r"\[5\] and .* has 576 channels"):
        parse_edit(f"add {HOOK} direction={tmp_path}/short.npy").build(scene, inputs)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(AuditorError, match="not a sound array"):
        parse_edit(f"add {HOOK} direction={tmp_path}/bad.npy").build(scene, inputs)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ablate blocks.1.zz", "no hook point"),
        ("ablate blocks.1.z head=9", "no head 9: it has 9"),
        ("ablate blocks.1.mlp_out head=1", "not split into heads"),
        ("ablate blocks.1.z neuron=999", "no channel 999"),
        ("ablate blocks.1.pattern mean", "no rows"),
        ("scale blocks.1.z at=77", "no position 77"),
        ("scale blocks.1.z at=x", "names no positions"),
        ("add embed direction=up", "is no direction"),
        ("add embed direction=feature:999", "no feature 999"),
        ("freeze attention blocks=7", "no block 7"),
        ("cut blocks.1.z blocks.1.mlp feature=3", "The dictionary is of"),
        ("ablate blocks.1.z mean store=x", "not at hand"),
    ],
)
def test_that_what_the_network_lacks_is_told(tiny_llama: Model, scene: Scene, line: str, said: str) -> None:
    with pytest.raises(AuditorError, match=said):
        parse_edit(line).build(scene, tiny_llama.encode([SAMPLES[0]]))


def test_that_on_smollm2_edges_add_up(smollm2: Model) -> None:
    """All heads of block 10 cut from the queries of block 14, one by one and together; then everything."""
    scene = Scene(smollm2, SAMPLES, lambda _: pytest.fail("no dictionary is needed"))
    inputs = smollm2.encode([SAMPLES[0]])
    clean = smollm2.run(inputs, record=["blocks.14.q"]).rows("blocks.14.q")

    def read(*lines: str) -> torch.Tensor:
        see = Seen("blocks.14.q")
        smollm2.run(inputs, edits=[*(parse_edit(line).build(scene, inputs) for line in lines), see], logits=False)
        return see.x

    each = [f"cut blocks.10.z blocks.14.q head={head}" for head in range(9)]
    apart = sum((read(line) - clean for line in each), torch.zeros_like(clean))
    together, whole = read(*each) - clean, read("cut blocks.10.attn_out blocks.14.q") - clean
    for change in (apart, together):
        torch.testing.assert_close(change, whole, rtol=0, atol=1e-4 * float(clean.abs().max()))
    written = [f"blocks.{block}.{part}" for block in range(14) for part in ("attn_out", "mlp_out")]
    nothing = read(*(f"cut {source} blocks.14.q" for source in ("embed", *written)))
    assert float(nothing.abs().max()) < 1e-4 * float(clean.abs().max())


class Seen(Edit):
    x: torch.Tensor

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        self.x = x.clone()
        return x


def test_that_on_smollm2_a_patched_residual_stream_answers_for_the_other_prompt(smollm2: Model) -> None:
    scene = Scene(smollm2, [text_sample("The capital of France is")], lambda _: pytest.fail("no dictionary is needed"))
    specs = [parse_edit("patch blocks.24.resid_post at=last text='The capital of Italy is'")]
    found = edits_effect(scene, specs, scene.reference, measure="target", target=" Rome", n_controls=5)
    assert found.n == 1 and not np.isfinite(found.interval).any()
    changed = {token.token: token for token in found.tokens}
    assert changed[" Paris"].before > 0.5 > 0.2 > changed[" Paris"].after
    assert changed[" Rome"].after > 0.3 and found.estimate > max(found.null)
