"""Presets, and which settings concern which architecture."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from auditor.base.config import read_config
from auditor.base.errors import AuditorError
from auditor.sae.arch_settings import ABOUT, READS, USES, settings_of
from auditor.sae.presets import PRESETS, changed_from, preset_of
from auditor.sae.sweep import expand
from auditor.sae.train_config import ARCHS, TrainConfig


def test_that_balanced_is_what_a_training_does_by_itself_and_each_preset_sets_the_same_settings() -> None:
    plain = TrainConfig().model_dump()
    assert changed_from("balanced", plain) == [] and preset_of(plain) == "balanced"
    assert len({frozenset(preset.values) for preset in PRESETS.values()}) == 1
    for name, preset in PRESETS.items():
        made = TrainConfig(**preset.values)
        assert expand(made) and preset_of(made.model_dump()) == name


def test_that_a_preset_fills_what_was_not_given_and_leaves_no_other_trace() -> None:
    made = TrainConfig(preset="publication", d_sae=300, k=5)
    assert (made.d_sae, made.k, made.steps, made.sweep) == (300, 5, 30_000, "seed=0,1,2")
    assert made == TrainConfig(**{**PRESETS["publication"].values, "d_sae": 300, "k": 5})
    assert changed_from("publication", made.model_dump()) == ["d_sae"] and preset_of(made.model_dump()) == ""
    with pytest.raises(AuditorError, match="Preset"):
        read_config(TrainConfig, {"preset": "perfect"})


def test_that_every_architecture_says_which_settings_concern_it() -> None:
    assert set(ARCHS) <= set(USES) and set(USES) == set(ABOUT)
    for arch in USES:
        assert set(USES[arch]) <= set(TrainConfig.model_fields)
        assert {"store", "hook", "arch", "d_sae", "steps", "lr", "seed"} <= settings_of(arch)
    assert "k" not in settings_of("relu") and "l1" not in settings_of("topk")
    assert "target" in settings_of("transcoder") and "target" not in settings_of("topk")


@pytest.mark.parametrize("arch", ARCHS)
def test_that_the_settings_shown_with_an_architecture_are_those_of_its_class(arch: str) -> None:
    from auditor.sae.archs import ARCHITECTURES

    kind = ARCHITECTURES.get(arch)
    own = {each.name for each in fields(kind.config_class)}
    assert own - {"d_sae", "seed", "steps"} == set(USES[arch])
    assert set(READS.get(arch, ())) == {"pair": {"target"}, "layers": {"target"}, "several": {"others"}}.get(
        kind.takes, set()
    )
    assert kind.config_class.of(TrainConfig(arch=arch)).d_sae == TrainConfig().d_sae
    module = inspect.getsource(inspect.getmodule(kind))  # type: ignore[arg-type]
    assert module.index(f"class {kind.config_class.__name__}(") < module.index(f"class {kind.__name__}(")
    with pytest.raises(AttributeError, match="d_sae"):
        kind.config_class.of(object())


@pytest.mark.parametrize("arch", ARCHS)
def test_that_an_architecture_reads_every_setting_of_its_class(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from auditor.sae.archs import ARCHITECTURES
    from tests.sae.made import architecture, batch_of

    kind = ARCHITECTURES.get(arch)
    x, names = torch.randn(64, 12), {"layers": (("a", 6), ("b", 6))}.get(kind.takes, (("a", 12),))
    y, targets = (torch.randn(64, 12), names) if kind.takes in ("pair", "layers") else (None, None)
    settings = kind.config_class.of(TrainConfig(arch=arch, d_sae=16, k=4, target_l0=3, heads=2, bottleneck=4))
    read: set[str] = set()

    def noted(self: object, name: str) -> object:
        read.add(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(type(settings), "__getattribute__", noted)
    made = architecture(settings, x, y, names, targets)
    parameters = made.begin(batch_of(x, target=y))
    batch = batch_of(x, 5, torch.ones(len(parameters.b_enc), dtype=torch.bool), y)
    if kind.takes == "samples":
        batch.runs, batch.judged = [40, 24], torch.ones(64, dtype=torch.bool)
    made.gradients(parameters, batch)
    made.finish(parameters)
    assert {each.name for each in fields(settings)} <= read
