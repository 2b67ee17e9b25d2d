"""Words of a model's own vocabulary, run in lists that spell their first letters: what absorption is looked for in."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.evaluation.texts import must_read_text
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.models.tokens import following

WHY = "absorption is looked for in words"
_WORD = re.compile(r" [A-Za-z]{3,}")
_LINE = "{word}: {letter}\n"
_EXAMPLES, _ASKED = 3, 9
"""Words of each list that only show what is asked, and that are read."""
_BATCH = 16
_FEWEST = 200


def vocabulary(model: Model) -> list[str]:
    """Words that are one token with a space before it. AuditorError for a model without such words."""
    must_read_text(model, WHY)
    ids = sorted(set(model.tokenizer.get_vocab().values()))
    words = sorted({text[1:] for text in model.token_strings(ids) if _WORD.fullmatch(text)})
    if len(words) < _FEWEST:
        raise AuditorError(
            f"The vocabulary of “{model.name}” holds {len(words)} whole words, and absorption needs {_FEWEST}.",
            "Choose a model whose tokens are words, or leave absorption out.",
        )
    return words


def word_rows(
    model: Model, hook: str, n: int, *, seed: int = 0, reporter: Reporter | None = None
) -> tuple[list[str], NDArray[np.float32]]:
    """Some n words and the row [n, d] of each at its own token.

    A text is a list of words, each followed by its first letter; rows are read from the fourth word on, where the list
    has shown what comes after a word. (SAEBench reads one word a text, behind ten examples: the same at ten times the
    cost.) Words that the tokenizer cuts in this place are left out.
    """
    reporter = reporter or Reporter()
    must_read_text(model, WHY, hook)
    words = vocabulary(model)
    order = np.random.default_rng([seed, 41]).permutation(len(words))[:n]
    chosen = [words[at] for at in order]
    reporter.started("Running words", len(chosen), "words")
    kept: list[str] = []
    rows: list[NDArray[np.float32]] = []
    for texts in _batches([chosen[at : at + _ASKED] for at in range(0, len(chosen), _ASKED)]):
        shown = [words[int(at)] for at in order[-_EXAMPLES:]]
        lists = [[*shown, *asked] for asked in texts]
        inputs = model.encode([Sample(id=str(at), text=written(listed)) for at, listed in enumerate(lists)])
        run = model.run(inputs, record=[hook], logits=False)
        held = run.rows(hook).float().cpu().numpy()
        for at, listed in enumerate(lists):
            for word, place in _places(model, inputs.ids[at].tolist(), listed)[_EXAMPLES:]:
                if place >= 0:
                    kept.append(word)
                    rows.append(held[at, place].copy())  # a view would keep the whole batch
        reporter.step(len(kept), len(chosen), unit="words")
    if not rows:
        raise AuditorError(f"The tokenizer of “{model.name}” cuts every word in a list.", "Leave absorption out.")
    return kept, np.array(rows)


def written(words: list[str]) -> str:
    """A list of words with their first letters."""
    return "".join(_LINE.format(word=f" {word}", letter=word[0].upper()) for word in words)


def _places(model: Model, ids: list[int], words: list[str]) -> list[tuple[str, int]]:
    """Where each word's token stands, -1 where the tokenizer has cut it."""
    found, at = [], 0
    for word in words:
        own = following(model.tokenizer, f" {word}")
        place = next((p for p in range(at, len(ids)) if ids[p] == own[0]), -1) if len(own) == 1 else -1
        at = place + 1 if place >= 0 else at
        found.append((word, place))
    return found


def _batches(lists: list[list[str]]) -> Iterator[list[list[str]]]:
    for start in range(0, len(lists), _BATCH):
        yield lists[start : start + _BATCH]
