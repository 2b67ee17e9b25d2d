"""Words and cities in the real SmolLM2: rows stand at the right tokens, and facts are asked and changed as told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from auditor.analysis.evaluation.cities import COUNTRIES, table
from auditor.analysis.evaluation.entities import KINDS, Asked, Kind
from auditor.analysis.evaluation.first_letters import vocabulary, word_rows, written
from auditor.base.errors import AuditorError
from tests.models.tiny import ALL, opened

HOOK = "blocks.14.resid_post"
CITIES = KINDS["cities"]


def some(kind: Kind, names: list[str]) -> Kind:
    """Only these entities."""
    return replace(kind, facts=[(name, values) for name, values in kind.facts if name in names])


@pytest.mark.parametrize(("kind", "shown", "least"), [("cities", "Vienna", 120), ("people", "Michelangelo", 80)])
def test_that_every_entity_stands_once_and_every_prompt_ends_in_what_is_asked(kind, shown, least) -> None:
    held = KINDS[kind]
    names = [name for name, _ in held.facts]
    assert len(set(names)) == len(names) > least and len(COUNTRIES) == 30
    assert shown not in names  # the prompts' own example
    assert {len(values) for _, values in held.facts} == {len(held.attributes)}
    assert tuple(held.prompts) == held.attributes
    assert all(prompt.count("{entity}") == 1 and shown in prompt for prompt in held.prompts.values())
    assert all(len({values[at] for _, values in held.facts}) > 1 for at in range(len(held.attributes)))


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
    held = Asked(smollm2, HOOK, some(CITIES, names))
    assert held.entities.known[:, 0].mean() > 0.7 and held.rows.shape == (3 * len(facts), 576)
    france, japan = held.names.index("Paris"), held.names.index("Tokyo")
    own = held.rows[held.entities.row(0, np.array([france, japan]))]
    both = held(0, np.array([france, france]), own)
    values = sorted({values[0] for _, values in facts})
    assert values[both[0]] == "France" and held.entities.known[france, 0]
    # Rows at earlier layers carry the country to the answer; half-way up the row of Tokyo makes Paris Japanese.
    early = Asked(smollm2, "blocks.4.resid_post", some(CITIES, names))
    changed = early(0, np.array([france]), early.rows[early.entities.row(0, np.array([japan]))])
    assert values[changed[0]] == "Japan"


def test_that_smollm2_knows_people_and_what_another_one_was_with_his_row(smollm2) -> None:
    names = ["Jane Austen", "Charles Dickens", "Leo Tolstoy", "Plato", "Pablo Picasso", "Johannes Brahms"]
    held = Asked(smollm2, "blocks.4.resid_post", some(KINDS["people"], names))
    assert held.entities.attributes == ("country", "profession") and held.entities.known.mean() > 0.7
    writer, other = held.names.index("Charles Dickens"), held.names.index("Plato")
    for ask, said in ((0, ["England", "Greece"]), (1, ["novelist", "philosopher"])):
        values = sorted({values[ask] for name, values in KINDS["people"].facts if name in names})
        own = held.rows[held.entities.row(ask, np.array([writer, other]))]
        assert [values[at] for at in held(ask, np.array([writer, writer]), own)] == said


def test_that_positions_of_a_picture_hold_no_words(tiny_paired) -> None:
    hook = next(name for name, point in tiny_paired.hook_points.items() if point.stream == "vision")
    for make in (lambda: word_rows(tiny_paired, hook, 20), lambda: Asked(tiny_paired, hook, CITIES)):
        with pytest.raises(AuditorError, match="has no positions of the text"):
            make()


def test_that_a_model_that_answers_in_another_text_is_not_asked_about_cities() -> None:
    with pytest.raises(AuditorError, match="writes its answers in another text"):
        Asked(opened(ALL["t5"]).model, "encoder.blocks.2.resid_post", CITIES)


def test_that_models_that_read_no_text_are_refused(tiny_paired, monkeypatch) -> None:
    monkeypatch.setattr(tiny_paired, "modalities", frozenset({"image"}))
    for make in (vocabulary, lambda model: Asked(model, "blocks.1.resid_post", CITIES)):
        with pytest.raises(AuditorError, match="reads no text"):
            make(tiny_paired)
