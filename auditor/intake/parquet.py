"""Parquet files from anywhere: sizes and counts checked first, rows parsed in a jailed child of their own.

A row comes back as plain values: texts, numbers, dates as text, bytes, lists and objects of those. Columns of number
lists (embeddings) are left out. Rows are kept in an unnamed temporary file on disk, of which any row can be read; the
last files that were opened stay there for as long as the program runs.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError
from auditor.intake.jail import Jail, Limits
from auditor.intake.spool import Spool
from auditor.intake.wire import message, parsed

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 20_000_000
MAX_COLUMNS = 2000
MAX_GROUPS = 100_000
MAX_VALUE_BYTES = 256 << 20
_FOOTER_BYTES = 64 << 20
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1024
_DEEPEST = 8
_MOST_ITEMS = 100_000
_KEPT = 2
_LIMITS = Limits(memory_bytes=6 << 30, cpu_seconds=3600, wall_seconds=120.0)
_HINT = "It may be damaged or made to do harm; nothing of it was kept."

_opened: OrderedDict[tuple[Path, int, int], ParquetRows] = OrderedDict()
_opening = threading.Lock()


class ParquetRows:
    """The rows of a file as plain objects, in order."""

    def __init__(self, path: Path) -> None:
        """AuditorError for a file that is damaged, too large, or that cannot be parsed within the jail's limits."""
        self._spool, self._ends = Spool(path.name), array("q", [0])
        jail = Jail(_LIMITS, again=False)
        try:
            rows = jail.call("auditor.intake.parquet:begin", str(path.resolve()), MAX_ROWS)
            while len(self) < rows:
                lengths, data = jail.call("auditor.intake.parquet:more")
                if not lengths or min(lengths) < 0 or sum(lengths) != len(data):
                    raise AuditorError(f"“{path.name}” has fewer rows than it says.", _HINT)
                start, _ = self._spool.add(data)
                self._ends.extend(start + end for end in accumulate(lengths))
        finally:
            jail.close()

    @classmethod
    def of(cls, path: Path) -> ParquetRows:
        """The rows of a file; those of the last two files are kept, since a form, a plan and a recording each ask."""
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        with _opening:
            if key not in _opened:
                _opened[key] = cls(path)
                while len(_opened) > _KEPT:
                    _opened.popitem(last=False)
            _opened.move_to_end(key)
            return _opened[key]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> dict[str, Any] | None:
        """The row; None for one whose texts are not UTF-8."""
        start, stop = self._ends[number], self._ends[number + 1]
        row: dict[str, Any] | None = parsed(self._spool.at(start, stop)) if stop > start else None
        return row


_reading: list[Any] = []


def begin(path: str, most: int) -> int:
    """Runs in the child: check the file, of at most `most` rows; how many it has."""
    import pyarrow.parquet as pq

    name = Path(path).name
    try:
        file = pq.ParquetFile(
            path, memory_map=False, pre_buffer=False, thrift_string_size_limit=_FOOTER_BYTES,
            thrift_container_size_limit=10 * MAX_GROUPS,
        )  # fmt: skip
    except Exception as error:
        raise AuditorError(f"“{name}” is not a sound Parquet file.", "Copy it again.") from error
    facts = file.metadata
    counts = (
        (facts.num_rows, most, "rows"), (facts.num_columns, MAX_COLUMNS, "columns"),
        (facts.num_row_groups, MAX_GROUPS, "row groups"),
    )  # fmt: skip
    for count, limit, what in counts:
        if not 0 <= count <= limit:
            raise AuditorError(f"“{name}” has {count:,} {what}; at most {limit:,} are read.", "Cut it into parts.")
    columns = [field.name for field in file.schema_arrow if _kept(field.type)]
    if not columns:
        raise AuditorError(f"“{name}” has no column of texts, numbers or images.", "Choose another file.")
    size = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
    each = max(size, 0) // max(facts.num_rows, 1)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(each, 1)))
    _reading[:] = [file.iter_batches(batch_size=rows, columns=columns, use_threads=False), name]
    return int(facts.num_rows)


def more() -> list[Any]:
    """Runs in the child: the next rows as messages one after the other, and before them the length of each; none at the
    end, and 0 for one whose texts are not UTF-8."""
    batches, name = _reading
    try:
        batch = next(batches, None)
    except Exception as error:
        raise AuditorError(f"“{name}” is damaged.", "Copy it again.") from error
    if batch is None:
        return [[], b""]
    try:
        rows = [_plain(row) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        rows = [_alone(batch.slice(number, 1)) for number in range(batch.num_rows)]
    written = [b"" if row is None else message(row) for row in rows]
    return [[len(one) for one in written], b"".join(written)]


def _alone(row: pa.RecordBatch) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = _plain(row.to_pylist()[0])
    except UnicodeDecodeError:
        return None
    return found


def _kept(kind: pa.DataType) -> bool:
    """Whether a column can be a text, an image, a conversation or a label."""
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        return not pa.types.is_list(inner) and not pa.types.is_floating(inner) and not pa.types.is_integer(inner)
    return not pa.types.is_map(kind) and not pa.types.is_union(kind)


def _plain(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None  # neither NaN nor infinite
    if isinstance(value, bytes):
        return value if len(value) <= MAX_VALUE_BYTES else None
    if depth < _DEEPEST and isinstance(value, list) and len(value) <= _MOST_ITEMS:
        return [_plain(item, depth + 1) for item in value]
    if depth < _DEEPEST and isinstance(value, dict):
        # The pipe gives another meaning to an object with this name.
        return {str(name): _plain(item, depth + 1) for name, item in value.items() if name != "$bytes"}
    return str(value)[:1000]
