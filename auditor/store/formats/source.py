"""What a format of other programs' activations gives: whole samples with their rows, copied into a store of our own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.base.digest import digest_json, sha256_file
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.store.layout import COLUMNS, KINDS, check_hook
from auditor.store.samples import StoredSample

if TYPE_CHECKING:
    from auditor.store.reader import Store

_PIECE_BYTES = 8 << 20
NUMBERS = ("float16", "float32", "bfloat16")


@dataclass(frozen=True)
class Vocabulary:
    """What token ids mean: `strings` gives a text for each, `special` are those that mark structure."""

    strings: Callable[[Sequence[int]], list[str]]
    special: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Piece:
    """Whole samples with their rows: `rows[hook]` float [n, width]; `sample` [n] counts from 0 within `samples`;
    `unit`, `kind` and `token` [n] are those of a store."""

    samples: Sequence[StoredSample]
    rows: Mapping[str, np.ndarray]
    sample: np.ndarray
    unit: np.ndarray
    kind: np.ndarray
    token: np.ndarray


class Source(ABC):
    """Activations as another program keeps them, opened and checked; read sample by sample.

    `hook_points` has the width of each, by the names of the other program; `dtype` is the store's format that keeps
    every number as it is (float64 becomes float32); `row_starts` int64 [samples + 1] are the positions at which each
    sample begins, its padding included; `told` is what else the other program says of how they were made, and `note` a
    sentence on what a person would not expect of them, if there is something.
    """

    title: str
    path: Path
    hook_points: dict[str, int]
    dtype: str
    row_starts: np.ndarray
    told: Mapping[str, Any]
    note: str = ""

    @property
    def n_samples(self) -> int:
        return len(self.row_starts) - 1

    @property
    def n_positions(self) -> int:
        return int(self.row_starts[-1])

    @abstractmethod
    def files(self) -> Mapping[str, Path]:
        """By name, the files whose bytes make up the activations."""

    @abstractmethod
    def piece(self, first: int, last: int) -> Piece:
        """Samples `first` to `last`. AuditorError where the bytes contradict what was checked."""

    def close(self) -> None:  # noqa: B027  most have nothing open
        """Let go of what is open."""

    def facts(self) -> dict[str, Any]:
        """What names the numbers and their meaning."""
        return {"files": {name: sha256_file(path) for name, path in self.files().items()}}


def import_source(
    source: Source,
    out: Path | str,
    reporter: Reporter | None = None,
    *,
    dtype: str = "",
    hooks: Mapping[str, str] | None = None,
    leading: int = 0,
    vocabulary: Vocabulary | None = None,
) -> Store:
    """Copy `source` into a store of our own at `out`; goes on where it was interrupted.

    `dtype` "" keeps the numbers as they are. `hooks` renames hook points. The first `leading` positions of each sample
    are special, as are the special tokens of `vocabulary`, which gives the texts of token ids. AuditorError where a
    number is not finite or does not fit into `dtype`, naming its place. Stop when cancelled.
    """
    from auditor.store.writer import StoreWriter  # loads torch; telling what a folder is must not

    reporter = reporter or Reporter()
    names = {name: (hooks or {}).get(name, name) for name in source.hook_points}
    widths = {names[name]: width for name, width in source.hook_points.items()}
    for name, width in widths.items():
        check_hook(name, width)
    if len(widths) < len(names):
        raise AuditorError("Two hook points would have the same name.", "Import them one by one.")
    facts = source.facts()
    settings: dict[str, Any] = {"leading": leading} if leading else {}
    meta = {
        "imported": {"format": source.title, **facts, **settings},
        "samples": {"name": source.path.name, "digest": digest_json(facts), "count": source.n_samples},
        "dtype": source.dtype,
        **source.told,
    }
    reporter.started(f"Import {source.path.name}", source.n_positions, "rows")
    places = {"imported": str(source.path)}
    with StoreWriter(out, widths, meta, dtype or source.dtype, places=places) as writer:
        first, row_bytes = writer.n_samples, 4 * sum(widths.values())
        while first < source.n_samples:
            room = source.row_starts[first] + max(1, _PIECE_BYTES // row_bytes)
            last = max(first + 1, int(np.searchsorted(source.row_starts, room, side="right")) - 1)
            piece = _finished(source.piece(first, last), leading, vocabulary)
            writer.append(
                piece.samples, {names[name]: rows for name, rows in piece.rows.items()},
                piece.sample, piece.unit, piece.kind, piece.token,
            )  # fmt: skip
            first = last
            reporter.step(int(source.row_starts[first]), source.n_positions, unit="rows")
        return writer.finish()


def widened(raw: np.ndarray, bfloat16: bool = False) -> np.ndarray:
    """`raw` as float32; bfloat16 is given as its 16 bits."""
    if bfloat16:
        return (raw.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):
        return raw.astype(np.float32)


def _finished(piece: Piece, leading: int, vocabulary: Vocabulary | None) -> Piece:
    """With padding left out, leading positions and special tokens told, and the texts of tokens."""
    kind = piece.kind.copy()
    # Padding does not count: some programs have it in front.
    before = np.concatenate([[0], np.cumsum(kind != KINDS["pad"])])
    special = before[:-1] - before[np.searchsorted(piece.sample, piece.sample)] < leading
    if vocabulary is not None:
        special |= np.isin(piece.token, list(vocabulary.special))
    kind[special & (kind != KINDS["pad"])] = KINDS["special"]
    piece = replace(piece, kind=kind)
    keep = kind != KINDS["pad"]
    if not keep.all():
        rows = {name: held[keep] for name, held in piece.rows.items()}
        piece = Piece(piece.samples, rows, *(getattr(piece, name)[keep] for name in COLUMNS))
    return piece if vocabulary is None else replace(piece, samples=_told(piece, vocabulary))


def _told(piece: Piece, vocabulary: Vocabulary) -> list[StoredSample]:
    """The samples, with their tokens' texts where they have token ids."""
    strings = vocabulary.strings(piece.token.clip(0).tolist())
    ends = np.searchsorted(piece.sample, np.arange(len(piece.samples) + 1))
    found = []
    for number, sample in enumerate(piece.samples):
        first, last = int(ends[number]), int(ends[number + 1])
        if sample.tokens is None and first < last and (piece.token[first:last] >= 0).all():
            words = [strings[at] for at in range(first, last) if piece.kind[at] != KINDS["special"]]
            text = sample.text if sample.text is not None else "".join(words)
            sample = replace(sample, tokens=strings[first:last], text=text)
        found.append(sample)
    return found
