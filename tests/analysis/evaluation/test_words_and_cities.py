"""Words and cities in the real SmolLM2: rows stand at the right tokens, and facts are asked and changed as told."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.analysis.evaluation.cities import ATTRIBUTES, COUNTRIES, PROMPTS, table
from auditor.analysis.evaluation.entities import Cities
from auditor.analysis.evaluation.first_letters import vocabulary, word_rows, written
from auditor.base.errors import AuditorError
from tests.models.tiny import ALL, opened

HOOK = "blocks.14.resid_post"


def test_that_every_city_stands_once_and_every_prompt_ends_in_what_is_asked() -> None:
    held = table()
    assert len({city for city, _ in held}) == len(held) > 120 and len(COUNTRIES) == 30
    assert {len(values) for _, values in held} == {len(ATTRIBUTES)} and PROMPTS.keys() == set(ATTRIBUTES)
    assert not {"Vienna"} & {city for city, _ in held}  # the prompts' own example


def test_that_a_words_row_stands_at_its_own_token(tiny_llama) -> None:
    words, rows = word_rows(tiny_llama, "blocks.1.resid_post", 40, seed=3)
    assert len(words) == len(rows) == len(set(words)) and len(words) > 30
    assert set(words) <= set(vocabulary(tiny_llama))
    assert written(["tartan", "mirth"]) == " tartan: T\n mirth: M\n"
    # The first list again, by hand.
    held = vocabulary(tiny_llama)
    order = np.random.default_rng([3, 41]).permutation(len(held))[:40]
    listed = [held[at] for at in order[-3:]] + [held[at] for at in order[:9]]
    run = tiny_llama.run(written(listed), record=["blocks.1.resid_post"], logits=False)
    tokens = tiny_llama.token_strings(run.inputs.ids[0])
    assert rows[0] == pytest.approx(run.rows("blocks.1.resid_post")[0, tokens.index(f" {words[0]}")].numpy(), abs=1e-3)


def test_that_smollm2_knows_capitals_and_answers_for_another_city_with_its_row(smollm2) -> None:
    names = ["Paris", "Berlin", "Rome", "Madrid", "Tokyo", "Beijing", "Cairo", "Lima", "Moscow"]
    facts = [(city, values) for city, values in table() if city in names]
    held = Cities(smollm2, HOOK, facts=facts)
    assert held.entities.known[:, 0].mean() > 0.7 and held.rows.shape == (3 * len(facts), 576)
    france, japan = held.names.index("Paris"), held.names.index("Tokyo")
    own = held.rows[held.entities.row(0, np.array([france, japan]))]
    both = held(0, np.array([france, france]), own)
    values = sorted({values[0] for _, values in facts})
    assert values[both[0]] == "France" and held.entities.known[france, 0]
    # Rows at earlier layers carry the country to the answer; half-way up the row of Tokyo makes Paris Japanese.
    early = Cities(smollm2, "blocks.4.resid_post", facts=facts)
    changed = early(0, np.array([france]), early.rows[early.entities.row(0, np.array([japan]))])
    assert values[changed[0]] == "Japan"


def test_that_positions_of_a_picture_hold_no_words(tiny_paired) -> None:
    hook = next(name for name, point in tiny_paired.hook_points.items() if point.stream == "vision")
    for make in (lambda: word_rows(tiny_paired, hook, 20), lambda: Cities(tiny_paired, hook)):
        with pytest.raises(AuditorError, match="has no positions of the text"):
            make()


def test_that_a_model_that_answers_in_another_text_is_not_asked_about_cities() -> None:
    with pytest.raises(AuditorError, match="writes its answers in another text"):
        Cities(opened(ALL["t5"]).model, "encoder.blocks.2.resid_post")


def test_that_models_that_read_no_text_are_refused(tiny_paired, monkeypatch) -> None:
    monkeypatch.setattr(tiny_paired, "modalities", frozenset({"image"}))
    for make in (vocabulary, lambda model: Cities(model, "blocks.1.resid_post")):
        with pytest.raises(AuditorError, match="reads no text"):
            make(tiny_paired)
