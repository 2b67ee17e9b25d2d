"""Where next tokens are asked for, and what is said where there are none."""

from __future__ import annotations

import pytest

from auditor.analysis.measures import asked, first_token
from auditor.base.errors import AuditorError
from auditor.data import text_sample
from tests.models.tiny import ALL
from tests.models.tiny.entry import opened


def test_that_a_word_without_a_token_is_not_measured_as_the_unknown_one() -> None:
    model = opened(ALL["llama"]).model
    assert first_token(model, " cat") == 8
    assert first_token(model, "<pad>") == 0, "asked for by its name"
    with pytest.raises(AuditorError, match="no token for “ zebra”"):
        first_token(model, " zebra")


def test_that_what_predicts_no_text_is_told_what_would() -> None:
    model, sample = opened(ALL["t5"]).model, text_sample("one two")
    for measure, advice in (("loss", "choose “kl”"), ("kl", "choose a model that predicts text")):
        with pytest.raises(AuditorError, match="no text to predict") as caught:
            asked(model, sample, model.encode([sample]), measure, "")
        assert advice in caught.value.hint and "“target”" in caught.value.hint
