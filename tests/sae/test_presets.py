"""Presets, and which settings concern which architecture."""

from __future__ import annotations

import ast
import inspect

import pytest

from auditor.base.config import read_config
from auditor.base.errors import AuditorError
from auditor.sae.arch_settings import ABOUT, USES, settings_of
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
def test_that_the_settings_that_an_architecture_reads_are_shown_with_it(arch: str) -> None:
    from auditor.sae.archs import ARCHITECTURES

    read = set()
    for kind in ARCHITECTURES.get(arch).__mro__[:-2]:
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(kind)))):  # type: ignore[arg-type]
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("config", "self.config"):
                read.add(node.attr)
    assert read & set(TrainConfig.model_fields) <= settings_of(arch), arch
