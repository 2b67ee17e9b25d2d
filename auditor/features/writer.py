"""Writes the folder of an index; what it holds is specified in `auditor.features.index`."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.base.digest import canonical_json, sha256_file
from auditor.features.arrays import write_arrays
from auditor.features.corpus import Corpus
from auditor.features.examples import BLOCK, pack_block
from auditor.features.layout import FILES, FORMAT, TABLES, VERSION
from auditor.features.table import COLUMNS


class IndexWriter:
    """Fills the (new, empty) folder of an index; `finish` writes meta.json last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
        # The folder is renamed into place when it is whole, so a journal would protect nothing.
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(TABLES)
        self._db.execute("BEGIN")
        self._block, self._examples = 0, dict[int, bytes]()
        self._thumbnails: dict[bytes, int] = {}

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self._db.close()

    def feature(self, i: int, auto_label: str, examples: bytes, tokens: str, captions: str) -> None:
        """One feature, by rising number: its automatic label, packed examples, and the texts that search looks in."""
        if i // BLOCK != self._block:
            self._end_block()
            self._block = i // BLOCK
        self._examples[i % BLOCK] = examples
        if auto_label:
            self._db.execute("INSERT INTO feature VALUES (?, ?)", (i, auto_label))
        if auto_label or tokens or captions:
            self._db.execute("INSERT INTO words (rowid, label, tokens, captions) VALUES (?, ?, ?, ?)",
                             (i, auto_label, tokens, captions))

    def _end_block(self) -> None:
        if self._examples:
            self._db.execute("INSERT INTO examples VALUES (?, ?)", (self._block, pack_block(self._examples)))
        self._examples = {}

    def sample(self, corpus: Corpus, run: int, vocabulary: NDArray[np.int64], n_words: int, webp: bytes | None) -> None:
        """One sample: `vocabulary` maps the corpus's token numbers to the index's, of which there are `n_words`."""
        start, end = int(corpus.starts[run]), int(corpus.starts[run + 1])
        tokens = vocabulary[corpus.tokens[start:end]].astype("<u2" if n_words <= 1 << 16 else "<u4")
        cells = corpus.samples[run].cells
        placed = b"" if cells is None else cells.astype("<u4").tobytes()
        codes = zlib.compress(corpus.kinds[start:end].tobytes() + tokens.tobytes() + placed, 9)
        thumb = None
        if webp is not None:
            thumb = self._thumbnails.setdefault(webp, len(self._thumbnails))
            self._db.execute("INSERT OR IGNORE INTO thumbnail VALUES (?, ?)", (thumb, webp))
        told = corpus.samples[run]
        rows, cols = told.grid or (None, None)
        self._db.execute("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                         (start, int(corpus.numbers[run]), _utf8(told.id), _utf8(told.group),
                          None if told.caption is None else _utf8(told.caption), end - start, codes, rows, cols, thumb))

    def finish(self, arrays: Mapping[str, NDArray[Any]], vocabulary: Iterable[str], meta: Mapping[str, Any]) -> None:
        """Write the vocabulary, the arrays and meta.json, which closes the index."""
        self._end_block()
        words = json.dumps(list(vocabulary)).encode()
        self._db.execute("INSERT INTO blob VALUES ('vocabulary', ?)", (zlib.compress(words, 9),))
        self._db.execute("INSERT INTO words (words) VALUES ('optimize')")
        self._db.execute("CREATE INDEX sample_id ON sample (id)")
        self._db.execute("COMMIT")
        self._db.execute("VACUUM")
        self._db.close()
        write_arrays(self.folder / "arrays.npz", arrays)
        files = {name: {"bytes": (self.folder / name).stat().st_size, "sha256": sha256_file(self.folder / name)}
                 for name in FILES}
        facts = {"format": FORMAT, "version": VERSION, "files": files,
                 "definitions": {column.name: column.meaning for column in COLUMNS}, **meta}
        (self.folder / "meta.json").write_bytes(canonical_json(facts))


def _utf8(text: str) -> str:
    """Without lone surrogates, which SQLite cannot keep."""
    return text.encode("utf-8", "replace").decode("utf-8")
