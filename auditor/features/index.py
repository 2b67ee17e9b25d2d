"""The feature index: a folder `name.index/` with the facts on every feature of a dictionary, and its reader.

Format, version 1 (all numbers little-endian; equal inputs, config and seed give equal bytes):

`meta.json`     canonical JSON. `format` "auditor.index", `version`, `n_features`, `bins`, `window`, `hook`,
                `rows` {text, image}, `store` / `dictionary` / `model` {name, digest}, `config`, `definitions` {column:
                meaning}, `files` {name: {bytes, sha256}}. The index's digest is the SHA-256 of this file.
`arrays.npz`    one .npy a column of the table (`table.<column>`, [n]) and per feature: `hist_text`, `hist_image`
                uint32 [n, bins] (equal bins from 0 to the feature's max_act), `near_id` int32 and `near_cos` float16
                [n, k] (nearest decoder directions), `logit_top_id`, `logit_bottom_id` int32 (into the vocabulary) and
                `logit_top`, `logit_bottom` float16 [n, l].
`index.sqlite`  feature(id, auto_label); examples(block, data): those of 32 features, packed and compressed together by
                `pack` and `pack_block` of `auditor.features.examples`;
                sample(first_row, number, id, grp, caption, n_rows, codes, grid_rows, grid_cols, thumb): `codes` is
                zlib of kind uint8 [n_rows] and, after it, vocabulary number uint16 or uint32 [n_rows], and, where the
                grid holds several pictures, cell uint32 [n_rows], the picture's number in its highest byte;
                thumbnail(number, webp); blob(name, data) with `vocabulary`: zlib of a JSON list of token strings;
                words: FTS5 without content (label, tokens, captions), row number = feature.

Samples and thumbnails that no example shows are left out. The reader needs neither torch nor h5py and takes the folder
for untrusted: sizes and types are checked before a byte is inflated, the database is opened read-only with an
untrusted schema, and nothing is ever unpickled.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.base.digest import sha256_bytes, sha256_file
from auditor.base.errors import AuditorError
from auditor.features.arrays import ArrayFile
from auditor.features.examples import (
    BLOCK,
    GROUPS,
    IMAGE,
    TEXT,
    Example,
    Packed,
    inflate,
    stretch,
    unpack,
    unpack_block,
)
from auditor.features.feature import Feature, Histogram
from auditor.features.folder import checked_meta, open_database, read_meta
from auditor.features.labels import Kind, LabelEntry, Labels
from auditor.features.layout import FILES, REBUILD
from auditor.features.query import Query, parse
from auditor.features.search import answer, human_table
from auditor.features.table import DTYPE, Table, empty_table, modality

_MAX_ROWS = 1 << 24
_CELL = (1 << 24) - 1
_CELLS: dict[str, type | tuple[type, ...]] = {"i": int, "f": (int, float), "s": str, "b": bytes}
MODALITY_NAMES = ("none", "text", "image", "both")


def open_index(path: Path | str, labels: Labels | Path | str | None = None) -> Index:
    """The index in the folder `path`, with the human labels of the file `labels` joined in.

    AuditorError where the folder is not an index, is damaged or cut short, or was written by a newer version.
    """
    return Index(Path(path), labels)


class Index:
    """Facts on every feature of a dictionary. Read-only, safe from several threads.

    `table` [n_features] holds the figures (`auditor.features.table`), `live` the numbers of the features that fire,
    `meta` where all of it comes from, `digest` names it. `human` are the labels given by people, or None.
    """

    def __init__(self, path: Path, labels: Labels | Path | str | None = None) -> None:
        self.path = path
        data = read_meta(path)
        self.digest = sha256_bytes(data)
        self.meta = checked_meta(path, data)
        self.n_features = int(self.meta["n_features"])
        self._lock = threading.RLock()
        self._arrays = ArrayFile(path / "arrays.npz")
        # Columns lie closely together in memory, so that a million rows are compared in a millisecond each.
        self.columns: Mapping[str, NDArray[Any]] = {
            name: self._arrays.read(f"table.{name}", (self.n_features,)) for name in DTYPE.names or ()
        }
        self.table = self._read_table()
        self.live = np.flatnonzero((self.table["fires_text"] > 0) | (self.table["fires_image"] > 0))
        try:
            self._db = open_database(path / "index.sqlite")
        except AuditorError:
            self._arrays.close()
            raise
        self._own_labels = isinstance(labels, str | Path)
        if isinstance(labels, str | Path):
            labels = Labels(labels, str(self.meta["dictionary"]["digest"]))
        self.human = labels
        self._directions: NDArray[np.float32] | None = None
        self._seen_state: object = None
        self._human_labels: dict[int, str] = {}
        self._human_words: sqlite3.Connection | None = None
        self._labels: list[str] | None = None
        self._sample = functools.lru_cache(maxsize=4096)(self._read_sample)

    # what a person calls the features

    @property
    def labels(self) -> list[str]:
        """For each feature the label that a person gave, else the automatic one, else ""."""
        with self._lock:
            human = self.human_labels()
            if self._labels is None:
                self._labels = self.auto_labels.copy()
                for feature, text in human.items():
                    if 0 <= feature < self.n_features:
                        self._labels[feature] = text
            return self._labels

    @functools.cached_property
    def auto_labels(self) -> list[str]:
        """For each feature the automatic label, "" where it has none."""
        texts = [""] * self.n_features
        for feature, text in self._rows("SELECT id, auto_label FROM feature", "is"):
            if 0 <= feature < self.n_features:
                texts[feature] = text
        return texts

    def human_labels(self) -> Mapping[int, str]:
        """Feature → label given by a person, as the file holds it now."""
        with self._lock:
            if self.human is not None and (state := self.human.state()) != self._seen_state:
                self._seen_state, self._human_labels = state, self.human.all()
                self._human_words = self._labels = None
            return self._human_labels

    def set_label(self, feature: int, text: str, author: str, kind: Kind = "label") -> LabelEntry:
        """Give `feature` a label (or note, or star). AuditorError where the index was opened without a label file."""
        self._row(feature)
        if self.human is None:
            raise AuditorError("This index was opened without a file for labels.",
                               "Open it inside a project in which you may write.")
        return self.human.set(feature, text, author, kind)

    # search

    def search(self, query: str | Query, *, limit: int | None = None) -> NDArray[np.int64]:
        """Numbers of the features that `query` asks for, in its order. The grammar: `auditor.features.query`.

        AuditorError names the word that cannot be read and what is allowed.
        """
        return answer(self, parse(query) if isinstance(query, str) else query, limit)

    def words(self, match: str) -> list[tuple[int, float]]:
        """(feature, relevance) for an FTS5 expression over automatic labels, top tokens and captions.

        Relevance is BM25 with the columns weighted 4 : 2 : 1, larger for better.
        """
        rows = self._rows("SELECT rowid, -bm25(words, 4.0, 2.0, 1.0) FROM words WHERE words MATCH ?", "if", match)
        return [(feature, score) for feature, score in rows]

    def human_words(self, match: str) -> list[int]:
        """Features whose human label matches an FTS5 expression."""
        with self._lock:
            labels = self.human_labels()
            if not labels:
                return []
            if self._human_words is None:
                self._human_words = human_table(labels)
            rows = self._human_words.execute("SELECT rowid FROM words WHERE words MATCH ?", (match,)).fetchall()
        return [int(row[0]) for row in rows]

    def use_directions(self, W_dec: NDArray[np.float32]) -> None:
        """Let `like:` order all features: `W_dec` [n_features, d_in] of the index's dictionary.

        Without it `like:` finds the nearest features that the index keeps (`config.neighbours` of them).
        """
        if W_dec.ndim != 2 or len(W_dec) != self.n_features:
            raise AuditorError(f"The directions have {len(W_dec)} rows, the index {self.n_features} features.",
                               "Take the dictionary from which the index was built.")
        norms = np.linalg.norm(W_dec, axis=1, keepdims=True)
        self._directions = (W_dec / np.where(norms > 0, norms, 1)).astype(np.float32)

    def nearest(self, feature: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Features by falling decoder cosine with `feature` (itself first), and the cosines."""
        self._row(feature)
        if self._directions is not None:
            return self.nearest_to(self._directions[feature], first=feature)
        ids, cosines = self._array("near_id")[feature], self._array("near_cos")[feature]
        known = (ids >= 0) & (ids < self.n_features) & (ids != feature)
        return (np.concatenate([[feature], ids[known]]).astype(np.int64),
                np.concatenate([[1.0], cosines[known]]).astype(np.float64))

    def nearest_to(self, direction: NDArray[np.float32], *, first: int | None = None,
                   ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """All features by falling cosine with `direction` [d_in]; needs `use_directions`."""
        if self._directions is None:
            raise AuditorError("The decoder directions are not loaded.", "Open the dictionary of this index first.")
        norm = float(np.linalg.norm(direction)) or 1.0
        cosines = (self._directions @ (direction / norm).astype(np.float32)).astype(np.float64)
        keys = -cosines
        if first is not None:
            keys[first] = -np.inf
        order = np.argsort(keys, kind="stable")
        return order, cosines[order]

    # one feature

    def feature(self, i: int) -> Feature:
        """All facts on feature `i`. AuditorError where there is no such feature."""
        row = self._row(i)
        i, max_act = int(i), float(row["max_act"])
        edges = np.linspace(0.0, max_act if max_act > 0 else 1.0, int(self.meta["bins"]) + 1)
        figures = {name: row[name].item() for name in DTYPE.names or ()}
        near, cosines = self.nearest(i)
        keep = int(self._array("near_id").shape[1])
        found = self._rows("SELECT auto_label FROM feature WHERE id = ?", "s", i)
        blobs = self._rows("SELECT data FROM examples WHERE block = ?", "b", i // BLOCK)
        packed = unpack_block(blobs[0][0], i % BLOCK) if blobs else b""
        return Feature(
            **figures, label=self.human_labels().get(i, ""), auto_label=found[0][0] if found else "",
            note=self.human.get(i, "note") if self.human is not None else "",
            modality=MODALITY_NAMES[int(modality(self.table[i:i + 1])[0])],
            histogram=Histogram(edges, self._array("hist_text")[i].astype(np.int64),
                                self._array("hist_image")[i].astype(np.int64)),
            top_logits=self._logits("top", i), bottom_logits=self._logits("bottom", i),
            nearest=[(int(a), float(b)) for a, b in zip(near[1:keep + 1], cosines[1:keep + 1], strict=True)],
            examples=[self._example(p) for p in unpack(packed, max_act)] if packed else [],
        )

    def thumbnail(self, sample_id: str) -> bytes | None:
        """The sample's thumbnail as WebP bytes (untrusted: decode it in the jail), None where there is none."""
        rows = self._rows("SELECT webp FROM thumbnail JOIN sample ON sample.thumb = thumbnail.number "
                          "WHERE sample.id = ? LIMIT 1", "b", sample_id)
        return rows[0][0] if rows else None

    def token(self, number: int) -> str:
        """The string of token `number` of the index's vocabulary."""
        return self._vocabulary[number] if 0 <= number < len(self._vocabulary) else ""

    def check(self) -> None:
        """Read both files whole and compare with the digests in meta.json; AuditorError names what differs."""
        for name in FILES:
            if sha256_file(self.path / name) != self.meta["files"][name]["sha256"]:
                raise AuditorError(f"“{name}” of “{self.path.name}” is not the file that was written.", REBUILD)

    def close(self) -> None:
        """Let go of the index's files, and of the label file where this index opened it."""
        self._arrays.close()
        with self._lock:
            self._db.close()
        if self._own_labels and self.human is not None:
            self.human.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # reading

    def _row(self, i: int) -> Any:
        if not 0 <= i < self.n_features:
            raise AuditorError(f"There is no feature {i} in “{self.path.name}”.",
                               f"The features are numbered 0 to {self.n_features - 1}.")
        return self.table[i]

    def _read_table(self) -> Table:
        table = empty_table(self.n_features)
        for name, values in self.columns.items():
            table[name] = values
        return table

    def _array(self, name: str) -> NDArray[Any]:
        return self._arrays.read(name, (self.n_features, None))

    def _rows(self, sql: str, types: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query, whose cells must be of `types`: i integer, f number, s text, b bytes; a capital letter
        allows NULL. A stranger's database may hold anything anywhere."""
        with self._lock:
            try:
                rows = self._db.execute(sql, values).fetchall()
            except (sqlite3.Error, UnicodeError) as error:
                raise AuditorError(f"“{self.path.name}/index.sqlite” cannot be read ({error}).", REBUILD) from None
        if not all(_is(cell, kind) for row in rows for cell, kind in zip(row, types, strict=True)):
            raise AuditorError(f"“{self.path.name}/index.sqlite” holds what no index holds.", REBUILD)
        return rows

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        rows = self._rows("SELECT data FROM blob WHERE name = 'vocabulary'", "b")
        try:
            words = json.loads(inflate(rows[0][0], 1 << 28)) if rows else []
            return [str(word) for word in words]
        except (ValueError, TypeError, RecursionError):
            raise AuditorError(f"The vocabulary of “{self.path.name}” is damaged.", REBUILD) from None

    def _logits(self, end: str, i: int) -> list[tuple[str, float]]:
        ids, values = self._array(f"logit_{end}_id")[i], self._array(f"logit_{end}")[i]
        return [(self.token(int(a)), float(b)) for a, b in zip(ids, values, strict=True)]

    def _read_sample(self, row: int) -> tuple[Any, ...]:
        found = self._rows("SELECT first_row, id, grp, caption, n_rows, codes, grid_rows, grid_cols FROM sample "
                           "WHERE first_row <= ? ORDER BY first_row DESC LIMIT 1", "issSibII", row)
        if not found or not 0 < found[0][4] <= _MAX_ROWS or row >= found[0][0] + found[0][4]:
            raise AuditorError(f"“{self.path.name}” holds no sample for row {row}.", REBUILD)
        first, name, group, caption, n, codes, rows, cols = found[0]
        data = inflate(codes, 9 * n)
        if len(data) not in (3 * n, 5 * n, 7 * n, 9 * n):
            raise AuditorError(f"The tokens of sample “{name}” are damaged.", REBUILD)
        small, kinds = len(data) in (3 * n, 7 * n), np.frombuffer(data, "u1", n)
        tokens = np.frombuffer(data, "<u2" if small else "<u4", n, n)
        cells = np.frombuffer(data, "<u4", n, len(data) - 4 * n) if len(data) > 5 * n else None
        told = min(rows or 0, cols or 0) > 0
        grid = (rows, cols) if told and _known(kinds, cells, rows * cols) else None
        return first, name, group, caption, kinds, tokens, grid, cells

    def _example(self, packed: Packed) -> Example:
        first, name, group, caption, kinds, tokens, grid, placed = self._sample(packed.row)
        at = packed.row - first
        if kinds[at] != packed.kind:
            raise AuditorError(f"The examples of “{self.path.name}” do not fit its samples.", REBUILD)
        load = functools.partial(self.thumbnail, name)
        if packed.kind == IMAGE:
            count = int((kinds == IMAGE).sum())
            peak = int((kinds[:at] == IMAGE).sum())
            activations = _spread(packed, 0, count)
            activations[peak] = packed.peak
            picture = int(placed[at] >> 24) + 1 if placed is not None else 0
            if grid is not None and (placed is not None or grid[0] * grid[1] != count):
                cells = patches(kinds, grid[0] * grid[1]) if placed is None else placed[kinds == IMAGE] & _CELL
                assert cells is not None
                whole = np.zeros(grid[0] * grid[1], np.float32)
                whole[cells] = activations
                activations, peak = [float(value) for value in whole], int(cells[peak])
            return Example("image", GROUPS[packed.group], name, group, [], activations, peak, packed.peak, packed.row,
                           grid, caption, load, picture)
        window = int(self.meta["window"])
        low, high = stretch(kinds, at, window)
        activations = _spread(packed, at - window - low, high - low)
        activations[at - low] = packed.peak
        words = [self.token(int(number)) for number in tokens[low:high]]
        return Example("text", GROUPS[packed.group], name, group, words, activations, at - low, packed.peak,
                       packed.row, grid, caption, load)


def _known(kinds: NDArray[np.uint8], cells: NDArray[np.uint32] | None, count: int) -> bool:
    """Whether it can be told which of `count` patches each image row is."""
    if cells is None:
        return patches(kinds, count) is not None
    return count <= _CELL and bool(((cells[kinds == IMAGE] & _CELL) < count).all())


def patches(kinds: NDArray[np.uint8], count: int) -> NDArray[np.int64] | None:
    """Which of a picture's `count` patches each image row of a sample is; None where that cannot be told.

    Patches that are attention sinks (registers of their own making in large ViTs: Darcet et al. 2024, arXiv:2309.16588)
    are marked special as the class token is, but they stand among the others: all patches stand together, in a
    picture's own stream at its end.
    """
    found: NDArray[np.int64] = np.flatnonzero(kinds == IMAGE)
    if not len(found):
        return None
    start = len(kinds) - count
    if len(found) == count or found[-1] - found[0] + 1 == count:
        start = int(found[0])
    elif not 0 <= start <= found[0] or (kinds == TEXT).any():
        return None
    cells: NDArray[np.int64] = np.arange(count) if len(found) == count else found - start
    return cells


def _is(cell: object, kind: str) -> bool:
    return isinstance(cell, _CELLS[kind.lower()]) or (cell is None and kind.isupper())


def _spread(packed: Packed, shift: int, n: int) -> list[float]:
    values = np.zeros(n, np.float32)
    at = packed.offsets + shift
    inside = (at >= 0) & (at < n)
    values[at[inside]] = packed.activations[inside]
    return [float(value) for value in values]
