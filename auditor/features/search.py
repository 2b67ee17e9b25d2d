"""Answers a parsed query: which features hold, in which order."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.features.query import MODALITIES, Query, Term
from auditor.features.table import modality

Ids = NDArray[np.int64]
_OPERATORS: dict[str, Callable[..., NDArray[np.bool_]]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq,
}
_BY_A_PERSON = 1_000.0
"""Added to the score of a feature whose human label holds the term, so that it stands before all others."""


class Searched(Protocol):
    """What a search needs of an index."""

    columns: Mapping[str, NDArray[Any]]

    def words(self, match: str) -> list[tuple[int, float]]:
        """(feature, relevance) of the features whose words match an FTS5 expression."""

    def human_words(self, match: str) -> list[int]:
        """Features whose human label matches an FTS5 expression."""

    def human_labels(self) -> Mapping[int, str]:
        """Feature → label given by a person."""

    def nearest(self, feature: int) -> tuple[Ids, NDArray[np.float64]]:
        """Features by falling decoder cosine with `feature`, which itself comes first, and the cosines."""


def answer(index: Searched, query: Query, limit: int | None = None) -> Ids:
    """The features for which all of `query` holds, ordered: by `sort:`, else by `like:`, else the most relevant to
    the words first, else by number. Ties go by number; unknown figures (NaN) come last."""
    mask = _figures(index, query)
    order: Ids | None = None
    if query.terms:
        scores = np.zeros(len(mask))
        for term in query.terms:
            _term(index, term, mask, scores)
        order = np.argsort(-scores, kind="stable")
    if query.like is not None:
        if query.like >= len(mask):
            raise AuditorError(f"There is no feature {query.like}.",
                               f"The features are numbered 0 to {len(mask) - 1}.")
        order, _ = index.nearest(query.like)
    if query.sort:
        if query.like is not None and order is not None:
            mask &= _among(order, len(mask))
        order = _sorted(index.columns[query.sort], query.ascending)
    found = np.flatnonzero(mask) if order is None else order[mask[order]]
    return found.astype(np.int64)[:limit]


def _figures(index: Searched, query: Query) -> NDArray[np.bool_]:
    table = index.columns
    n = len(table["id"])
    mask = np.ones(n, bool)
    for comparison in query.comparisons:
        mask &= _OPERATORS[comparison.op](table[comparison.column], comparison.number)
    if query.modality:
        mask &= modality(table) == MODALITIES.index(query.modality) + 1
    if query.live is not None:
        mask &= ((table["fires_text"] > 0) | (table["fires_image"] > 0)) == query.live
    if query.ids:
        mask &= np.logical_or.reduce([(table["id"] >= low) & (table["id"] <= high) for low, high in query.ids])
    if query.labelled is not None:
        known = [i for i in index.human_labels() if 0 <= i < n]
        mask &= _among(np.array(known, np.int64), n) == query.labelled
    return mask


def _among(ids: Ids, n: int) -> NDArray[np.bool_]:
    mask = np.zeros(n, bool)
    mask[ids] = True
    return mask


def _term(index: Searched, term: Term, mask: NDArray[np.bool_], scores: NDArray[np.float64]) -> None:
    match = fts(term)
    n = len(mask)
    found = np.zeros(n, bool)
    for feature, relevance in index.words(match):
        if 0 <= feature < n:
            found[feature] = True
            scores[feature] += relevance
    for feature in index.human_words(match):
        if 0 <= feature < n:
            found[feature] = True
            scores[feature] += _BY_A_PERSON
    mask &= ~found if term.absent else found


def fts(term: Term) -> str:
    """The term as an FTS5 string: quoted, so that nothing in it is syntax; a word matches as a beginning."""
    quoted = '"' + term.text.replace("\0", " ").replace('"', '""') + '"'
    return quoted if term.phrase else quoted + "*"


def _sorted(values: NDArray[np.float64], ascending: bool) -> Ids:
    keys = values.astype(np.float64)
    keys = keys if ascending else -keys
    return np.argsort(keys, kind="stable")


def human_table(labels: Mapping[int, str]) -> sqlite3.Connection:
    """An in-memory full-text table `words` over human labels, row number = feature."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize='unicode61 remove_diacritics 2')")
    db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", sorted(labels.items()))
    return db
