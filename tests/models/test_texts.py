"""Texts as batches: the numbers that the library itself gives, and what stands at each position."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from auditor.data import text_sample
from auditor.models import Model
from auditor.models.inputs import padded, text_row
from auditor.models.texts import texts_padded
from auditor.models.tokens import encode_texts, following, special_ids

TEXTS = ["The quick brown fox", "", "Wörter, 漢字 and 🦊\n\n", "a <|im_start|> in a text", "one " * 300]


def test_that_a_batch_of_texts_is_that_of_its_rows_one_by_one() -> None:
    rng = np.random.default_rng(3)
    special = frozenset({0, 7, 40})
    texts = [rng.integers(0, 50, int(length)).tolist() for length in rng.integers(0, 30, 40)] + [[7, 7], []]
    samples = [text_sample(str(ids)) for ids in texts]
    ours, theirs = (
        texts_padded(texts, special, samples),
        padded([text_row(t, special) for t in texts], samples, None, None),
    )
    for field in fields(ours):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        same = torch.equal(one, other) and one.dtype == other.dtype if isinstance(one, torch.Tensor) else one == other
        assert same, field.name
    assert texts_padded([[]], special, samples[:1]).ids.shape == (1, 0)


@pytest.mark.parametrize("left_set", [False, True])
def test_that_token_numbers_are_those_of_the_librarys_own_call(tiny_llama: Model, left_set: bool) -> None:
    tokenizer = tiny_llama.tokenizer
    wanted = tokenizer(TEXTS, add_special_tokens=True)["input_ids"]
    assert len({len(ids) for ids in wanted}) == len(TEXTS)
    if left_set:  # by somebody who cut and padded before
        tokenizer(TEXTS, truncation=True, max_length=4, padding="max_length")
        assert tokenizer.backend_tokenizer.truncation and tokenizer.backend_tokenizer.padding
    assert encode_texts(tokenizer, TEXTS, begin=False, max_tokens=None) == wanted


def test_that_special_tokens_are_looked_up_once(tiny_llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_llama.tokenizer
    found = special_ids(tokenizer)
    assert set(tokenizer.all_special_ids) <= found
    monkeypatch.setattr(type(tokenizer), "added_tokens_decoder", property(lambda _: pytest.fail("looked up again")))
    assert special_ids(tokenizer) is found


def test_that_every_token_has_the_string_that_it_has_alone(tiny_llama: Model) -> None:
    ids = tiny_llama.encode([text_sample(text) for text in TEXTS]).ids
    together = tiny_llama.token_strings(ids.flatten())
    assert together == [tiny_llama.token_strings([number])[0] for number in ids.flatten().tolist()]
    assert together[-1] != "" and tiny_llama.token_strings([-1]) == [""]


def test_that_a_text_that_goes_on_has_the_tokens_that_it_has_behind_a_word(tiny_llama: Model) -> None:
    own = tiny_llama.tokenizer
    for text in (" France", " is a city", "France", ""):
        assert following(own, text) == own(text, add_special_tokens=False)["input_ids"]
    spaced = _spaced_first("France", "is", "a")
    assert spaced.tokenize(" France") == ["▁", "▁France"]  # as Llama 2's and Mistral 7B's do
    for text, wanted in ((" France", "▁France"), (" is a", "▁is ▁a"), ("France", "▁France")):
        assert spaced.convert_ids_to_tokens(following(spaced, text)) == wanted.split()


def _spaced_first(*words: str) -> Any:
    """A tokenizer that puts a space before any text, and holds these words with theirs."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(set("".join(words)))
    merges = {(f"▁{word[:at]}", word[at]): None for word in words for at in range(len(word))}
    names = ["<unk>", "▁", *letters, *dict.fromkeys("".join(pair) for pair in merges)]
    made = Tokenizer(models.BPE({name: at for at, name in enumerate(names)}, list(merges), unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
