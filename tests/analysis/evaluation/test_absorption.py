"""Absorption in made data: a planted one is found, and none where there is none."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np
import pytest

from auditor.analysis.evaluation.absorption import EXCHANGED, FRACTION, FULL, MAIN, PROBE, absorption, f1
from auditor.analysis.evaluation.figures import DICTIONARY
from auditor.base.errors import AuditorError
from tests.analysis.evaluation.made import one, orthonormal, pooled, represented


def words_of(letters: str, each: int) -> list[str]:
    return [f"{letter}{string.ascii_lowercase[at % 26]}{string.ascii_lowercase[at // 26]}" for letter in letters
            for at in range(each)]  # fmt: skip


def spelled(absorbed: int, seed: int = 0):
    """Four letters of 60 words. Each letter has a feature; of the first letter `absorbed` words a feature of the word
    itself writes the letter's direction too, and the letter's feature is silent."""
    rng = np.random.default_rng(seed)
    words = words_of("abcd", 60)
    of = np.repeat(np.arange(4), 60)
    directions = orthonormal(4 + 60, 80, seed)
    codes = np.zeros((240, 64))
    codes[:, :4] = (of[:, None] == np.arange(4)) * (1 + 0.2 * rng.random((240, 1)))
    codes[:, 4:] = (rng.random((240, 60)) < 0.05) * rng.random((240, 60))
    hidden = rng.permutation(60)[:absorbed]
    codes[:, 4 + 50 :] = 0
    for at in hidden:
        codes[at, 0] = 0
        codes[at, 4 + 50 + at % 10] = 1.5
    directions[4 + 50 :] = directions[4 + 50 :] * 0.6 + directions[0] * 0.8
    return pooled(codes, directions, noise=0.02), words, {words[at] for at in hidden}


def test_that_planted_absorption_is_found_in_the_words_where_it_was_planted() -> None:
    held, words, hidden = spelled(30)
    found = absorption(held, words, seeds=3)
    assert found.letters == "abcd"
    # 30 of 240 words, of which the probe reads nearly all.
    full, part = one(found.figures, FULL, DICTIONARY), one(found.figures, FRACTION, DICTIONARY)
    assert full.interval[0] < 30 / 240 < full.interval[1] and full.estimate == pytest.approx(0.125, abs=0.03)
    assert part.estimate == pytest.approx(full.estimate, abs=0.02) and not full.higher_is_better
    assert {word for word, *_ in found.examples} <= hidden and len(found.examples) > 20
    assert all(letter == "a" and by >= 54 and 0 in mains for _, letter, by, mains in found.examples)
    assert one(found.figures, FULL, EXCHANGED).estimate < full.estimate / 3
    assert one(found.figures, MAIN, PROBE).estimate > one(found.figures, MAIN, DICTIONARY).estimate - 0.02


def test_that_nothing_is_absorbed_where_letters_have_their_features_to_themselves() -> None:
    held, words, _ = spelled(0)
    found = absorption(held, words, seeds=2)
    assert one(found.figures, FULL, DICTIONARY).estimate == 0 and one(found.figures, FRACTION, DICTIONARY).estimate == 0
    assert found.examples == []


def test_that_rows_without_letters_are_refused() -> None:
    held, words, _ = spelled(0)
    shuffled = np.random.default_rng(0).permutation(len(words))
    with pytest.raises(AuditorError, match=r"No first letter of a word can be read from “blocks\.9”"):
        absorption(held.part(shuffled), words, seeds=2, hook="blocks.9")
    with pytest.raises(AuditorError, match="0 first letters have 20 words"):
        absorption(held.part(np.arange(10)), words[:10], seeds=2)


def test_that_a_dictionary_of_which_nothing_fires_absorbs_nothing() -> None:
    held, words, _ = spelled(0)
    silent = represented(DICTIONARY, np.zeros((len(words), 0)), np.zeros((0, 80)))
    found = absorption(replace(held, features=silent), words, seeds=2)
    assert one(found.figures, FULL, DICTIONARY).estimate == 0 and found.examples == []


def test_that_f1_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    said, truths = rng.random((50, 2)) < 0.4, rng.random((50, 2)) < 0.4
    for task in range(2):
        s, t = said[:, task], truths[:, task]
        precision, recall = (s & t).sum() / s.sum(), (s & t).sum() / t.sum()
        assert f1(said, truths)[task] == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1(np.zeros((5, 1), bool), np.ones((5, 1), bool))[0] == 0
