"""Presets of a training on the command line."""

from __future__ import annotations

from auditor.cli.options import given, parameters
from auditor.sae.presets import PRESETS
from auditor.sae.train_config import TrainConfig
from auditor.tasks import get_task


def test_that_a_preset_is_an_option_and_what_is_given_beside_it_stands() -> None:
    (option,) = [made for made in parameters(TrainConfig) if made.name == "preset"]
    assert tuple(option.type.choices) == tuple(PRESETS)  # type: ignore[attr-defined]
    values = given(dict.fromkeys(TrainConfig.model_fields) | {"preset": "quick-look", "steps": 7})
    assert get_task("train").read(values) == TrainConfig(**{**PRESETS["quick-look"].values, "steps": 7})
