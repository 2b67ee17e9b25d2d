"""Activations that SAELens caches: a data set of Hugging Face's `datasets` on disk, read without that library.

Layout (SAELens 6.54, `CacheActivationsRunner`): `dataset_info.json`, `state.json` with the names of the Arrow files in
order, and those. Each row is a sequence: the column named by the hook point holds a matrix [context, d_in] of float32
(or the type that was asked for), `token_ids` int32 [context]. A copy from the Hub has `data/*.parquet` instead, and
`cache_activations_runner_cfg.json`. Any data set with a column of float matrices, or of float vectors (one position a
row), is read in the same way. Which tokens were special is not written down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.intake.arrow import ArrowTable, Column, arrow_jail
from auditor.store.formats.source import Piece, Source, widened
from auditor.store.layout import KINDS
from auditor.store.samples import StoredSample

TITLE = "SAELens cache"
_STATE, _INFO, _SETTINGS = "state.json", "dataset_info.json", "cache_activations_runner_cfg.json"
_LIMIT = 16 << 20
_TOKENS = ("token_ids", "input_ids", "tokens")
_TOLD = ("model_name", "dataset_path", "context_size", "prepend_bos", "seqpos_slice", "shuffle", "seed")


def recognise(path: Path) -> bool:
    """Whether `path` is the folder of a data set that was saved to disk, or a copy of one from the Hub."""
    saved = (path / _STATE).is_file() and (path / _INFO).is_file()
    return path.is_dir() and (saved or ((path / _SETTINGS).is_file() and bool(_parquet(path))))


class CachedActivations(Source):
    """The sequences of all files of the folder, in order."""

    title = TITLE

    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths = _data_files(path)
        self._jail = arrow_jail(self._paths)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        path = self.path
        self._tables = [table for table in (ArrowTable(file, self._jail) for file in self._paths) if table.n_rows]
        columns = _same_columns(path, self._tables)
        self._hooks = {name: facts for name, facts in columns.items() if facts.is_float and len(facts.shape) <= 2}
        if not self._hooks:
            raise AuditorError(
                f"“{path.name}” has no column of activations.", "They are a matrix [positions, width] in each row."
            )
        contexts = {facts.shape[0] if len(facts.shape) == 2 else 1 for facts in self._hooks.values()}
        if len(contexts) > 1 or 0 in contexts:
            raise AuditorError(f"The columns of “{path.name}” have other numbers of positions.", "Save them apart.")
        self._context = contexts.pop()
        self._token_ids = next((name for name in _TOKENS if _fits(columns.get(name), self._context)), None)
        self.hook_points = {name: facts.shape[-1] for name, facts in self._hooks.items()}
        halves = all(facts.dtype == "<f2" for facts in self._hooks.values())
        self.dtype = "float16" if halves else "float32"
        self._table_starts = np.cumsum([0] + [table.n_rows for table in self._tables])
        self.row_starts = np.arange(self._table_starts[-1] + 1, dtype=np.int64) * self._context
        self.told = {"cached": told} if (told := _settings(path)) else {}

    def files(self) -> Mapping[str, Path]:
        return {path.relative_to(self.path).as_posix(): path for path in self._paths}

    def piece(self, first: int, last: int) -> Piece:
        rows = {}
        for name, facts in self._hooks.items():
            rows[name] = widened(self._read(name, first, last).reshape(-1, facts.shape[-1]))
        count = (last - first) * self._context
        token = self._read(self._token_ids, first, last).reshape(-1) if self._token_ids else np.full(count, -1)
        return Piece(
            [StoredSample(f"sequence {number}") for number in range(first, last)],
            rows,
            sample=np.repeat(np.arange(last - first), self._context),
            unit=np.tile(np.arange(self._context), last - first),
            kind=np.full(count, KINDS["text"]),
            token=np.clip(token, -1, 2**31 - 1),
        )

    def close(self) -> None:
        self._jail.close()

    def _read(self, column: str, first: int, last: int) -> np.ndarray:
        pieces = []
        for table, start in zip(self._tables, self._table_starts, strict=False):
            begin, end = max(first, int(start)), min(last, int(start) + table.n_rows)
            if begin < end:
                pieces.append(table.read(column, begin - int(start), end - int(start)))
        return np.concatenate(pieces)


def _parquet(path: Path) -> list[Path]:
    return sorted((path / "data").glob("*.parquet"))


def _data_files(path: Path) -> list[Path]:
    if not (path / _STATE).is_file():
        return _parquet(path)
    listed = _json(path / _STATE).get("_data_files")
    names = [item.get("filename") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    if not names or not all(isinstance(name, str) and re.fullmatch(r"[^/\\\x00]+\.arrow", name) for name in names):
        raise AuditorError(f"{_STATE} of “{path.name}” names no Arrow files.", "Copy the whole folder again.")
    if len(set(names)) < len(names):
        raise AuditorError(f"{_STATE} of “{path.name}” names a file twice.", "Copy the whole folder again.")
    return [path / str(name) for name in names]


def _same_columns(path: Path, tables: list[ArrowTable]) -> dict[str, Column]:
    if not tables:
        raise AuditorError(f"“{path.name}” holds no rows.", "Cache the activations again.")
    for table in tables:
        if table.columns != tables[0].columns:
            raise AuditorError(
                f"{table.path.name} has other columns than {tables[0].path.name}.", "Copy the whole folder again."
            )
    return tables[0].columns


def _fits(facts: Column | None, context: int) -> bool:
    return facts is not None and not facts.is_float and facts.shape == (context,)


def _settings(path: Path) -> dict[str, Any]:
    if not (path / _SETTINGS).is_file():
        return {}
    held = _json(path / _SETTINGS)
    return {name: held[name] for name in _TOLD if isinstance(held.get(name), str | int | float | bool | list)}


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LIMIT:
            raise ValueError("too large")
        held = json.loads(path.read_bytes())
        if not isinstance(held, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise AuditorError(f"{path.name} of “{path.parent.name}” cannot be read.", "Copy it again.") from error
    return held
