"""Arrow and Parquet files of tables with a vector, a matrix or a list of numbers in each row, parsed only in a jailed
child.

Of Arrow, both layouts are read: the stream, which Hugging Face's datasets write, and the file with a footer, whose
record batches are the same messages. The child maps the file, finds where each record batch lies (in Parquet: how many
rows each row group has), and later gives the numbers of some rows of one column: so memory does not grow with the file,
and each call stands alone.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.intake.jail import Jail, Limits

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BATCHES = 1_000_000
MAX_COLUMNS = 2000
MAX_READ_BYTES = 256 << 20
MAX_RATIO = 100
_MAGIC = b"ARROW1\x00\x00"
_PARQUET = b"PAR1"
_HINT = "It may be damaged or made to do harm; nothing of it was kept."
_NUMBERS = {"halffloat": "<f2", "float": "<f4", "double": "<f8", "int32": "<i4", "int64": "<i8"}


@dataclass(frozen=True)
class Column:
    """A column of a table: the shape of what stands in each row, and its numpy type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        return self.dtype[1] == "f"


def arrow_jail(paths: Sequence[Path]) -> Jail:
    """A child that parses these files. AuditorError where one is missing or no plain file."""
    largest = 0
    for path in paths:
        try:
            status = path.lstat()
        except OSError as error:
            raise AuditorError(f"“{path.name}” is missing.", "Copy the whole folder again.") from error
        if not stat.S_ISREG(status.st_mode):
            raise AuditorError(f"“{path.name}” is not a plain file.", "Copy the whole folder again.")
        largest = max(largest, status.st_size)
    # A file is mapped, which counts as memory; the library maps a few GiB of its own.
    return Jail(Limits(memory_bytes=(6 << 30) + largest, cpu_seconds=24 * 3600, wall_seconds=120.0))


class ArrowTable:
    """The rows of one Arrow or Parquet file: `columns` of numbers by name, and `n_rows`; parsed in `jail`."""

    def __init__(self, path: Path, jail: Jail) -> None:
        """AuditorError for a file that is damaged or that cannot be parsed within the jail's limits."""
        self.path, self._jail = path.resolve(), jail
        found = self._jail.call("auditor.intake.arrow:walked", str(self.path))
        self.columns = {str(n): Column(tuple(map(int, s)), str(d)) for n, s, d in found["columns"]}
        self._batches = np.array(found["batches"], dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum(self._batches[:, 1])
        self.n_rows = int(self._ends[-1]) if len(self._ends) else 0
        row = sum(math.prod(column.shape) * np.dtype(column.dtype).itemsize for column in self.columns.values())
        if self.n_rows * row > max(MAX_RATIO * path.stat().st_size, 1 << 20):
            raise AuditorError(f"“{path.name}” unpacks to over {MAX_RATIO} times its size.", _HINT)

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a column of numbers, [rows, *shape]."""
        facts = self.columns[column]
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start}:{stop} of {self.n_rows}")
        pieces, at = [np.empty((0, *facts.shape), facts.dtype)], start
        while at < stop:
            batch = int(np.searchsorted(self._ends, at, side="right"))
            offset, count = (int(value) for value in self._batches[batch])
            before = int(self._ends[batch]) - count
            end = min(stop, before + count)
            data = self._jail.call(
                "auditor.intake.arrow:numbers", str(self.path), column, offset, at - before, end - before,
                list(facts.shape), facts.dtype,
            )  # fmt: skip
            wanted = (end - at, *facts.shape)
            if not isinstance(data, bytes) or len(data) != int(np.prod(wanted)) * np.dtype(facts.dtype).itemsize:
                raise AuditorError(f"“{column}” of “{self.path.name}” gave another number of bytes.", _HINT)
            pieces.append(np.frombuffer(data, facts.dtype).reshape(wanted))
            at = end
        return np.concatenate(pieces) if len(pieces) > 2 else pieces[-1]


# What follows runs in the jailed child.

# The row group of a column that was read last: it is unpacked once for the many calls that want some of its rows.
_unpacked: dict[tuple[str, str, int], Any] = {}


def walked(path: str) -> dict[str, Any]:
    """Columns of numbers with the shape of their first row, and [offset, rows] of each record batch."""
    name = Path(path).name
    if _is_parquet(path):
        return _walked_parquet(path)
    source, schema = _opened(path)
    _count(schema, name)
    batches: list[list[int]] = []
    columns: list[list[Any]] = []
    while (found := _next(source, schema, name)) is not None:
        offset, batch = found
        batches.append([offset, batch.num_rows])
        if len(batches) > MAX_BATCHES:
            raise AuditorError(f"“{name}” has over {MAX_BATCHES:,} record batches.", _HINT)
        if not columns and batch.num_rows:
            columns = [[field.name, *_shape(batch.column(at))] for at, field in enumerate(schema) if _held(field.type)]
    return {"columns": columns, "batches": batches}


def numbers(path: str, column: str, offset: int, start: int, stop: int, shape: list[int], dtype: str) -> bytes:
    """The numbers of rows `start` to `stop` of the record batch at `offset`, in C order, little-endian."""
    import pyarrow as pa

    name = Path(path).name
    count = (stop - start) * int(np.prod(shape))
    if count * np.dtype(dtype).itemsize > MAX_READ_BYTES:
        raise AuditorError(f"One row of “{column}” in “{name}” is too large to read.", "Cut it into shorter rows.")
    try:
        whole = _of_group(path, column, offset) if _is_parquet(path) else _of_batch(path, column, offset)
        held = whole.slice(start, stop - start)
        held.validate(full=True)
        wanted = [(stop - start) * int(np.prod(shape[: depth + 1])) for depth in range(len(shape))]
        fits = [_inner(held, depth) for depth in range(len(shape))] == wanted
        flat = _flat(held, len(shape))
        if not fits or flat.null_count:
            raise AuditorError(f"Rows {start} to {stop} of “{column}” in “{name}” are not all {shape}.", _HINT)
        found: bytes = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False), dtype=dtype).tobytes()
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise AuditorError(f"“{name}” is damaged ({str(error)[:80]}).", "Copy it again.") from error
    return found


def _of_batch(path: str, column: str, offset: int) -> pa.Array:
    """A column of the record batch at `offset`; nothing of it is copied."""
    import pyarrow as pa

    source, schema = _opened(path)
    source.seek(offset)
    batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
    return batch.column(schema.get_field_index(column))


def _of_group(path: str, column: str, group: int) -> pa.Array:
    """A column of a row group of a Parquet file."""
    key = (path, column, group)
    if key not in _unpacked:
        _unpacked.clear()
        table = _parquet(path).read_row_group(group, columns=[column], use_threads=False)
        _unpacked[key] = table.column(column).combine_chunks()
    return _unpacked[key]


def _walked_parquet(path: str) -> dict[str, Any]:
    """As `walked`; row groups are told by their numbers."""
    name, file = Path(path).name, _parquet(path)
    facts = file.metadata
    if facts.num_row_groups > MAX_BATCHES:
        raise AuditorError(f"“{name}” has over {MAX_BATCHES:,} row groups.", _HINT)
    _count(file.schema_arrow, name)
    batches = [[number, facts.row_group(number).num_rows] for number in range(facts.num_row_groups)]
    held = [field.name for field in file.schema_arrow if _held(field.type)]
    first = next(file.iter_batches(batch_size=1, columns=held, use_threads=False), None) if held else None
    columns = [[column, *_shape(first.column(column))] for column in held] if first is not None else []
    return {"columns": columns, "batches": batches}


def _parquet(path: str) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False, thrift_string_size_limit=64 << 20,
                              thrift_container_size_limit=10 * MAX_BATCHES)  # fmt: skip
    except Exception as error:
        raise AuditorError(f"“{Path(path).name}” is not a sound Parquet file.", "Copy it again.") from error


def _is_parquet(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_PARQUET)) == _PARQUET


def _count(schema: pa.Schema, name: str) -> None:
    if len(schema) > MAX_COLUMNS:
        raise AuditorError(f"“{name}” has {len(schema):,} columns; at most {MAX_COLUMNS:,} are read.", _HINT)
    if len(set(schema.names)) < len(schema):
        raise AuditorError(f"“{name}” has two columns of one name.", "Save it with a name for each.")


def _opened(path: str) -> tuple[Any, pa.Schema]:
    """The mapped file behind its schema."""
    import pyarrow as pa

    try:
        source = pa.memory_map(path)
        if source.read(len(_MAGIC)) != _MAGIC:
            source.seek(0)
        return source, pa.ipc.read_schema(pa.ipc.read_message(source))
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise AuditorError(f"“{Path(path).name}” is not a sound Arrow file.", "Copy it again.") from error


def _next(source: Any, schema: pa.Schema, name: str) -> tuple[int, pa.RecordBatch] | None:
    """Where the next record batch begins, and it; None at the end."""
    import pyarrow as pa

    offset = int(source.tell())
    if offset >= source.size() or _ends(source, offset):
        return None
    try:
        message = pa.ipc.read_message(source)
        if message.type != "record batch":
            raise AuditorError(f"“{name}” holds a {message.type}, which is not read.", "Save it without dictionaries.")
        return offset, pa.ipc.read_record_batch(message, schema)
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise AuditorError(f"“{name}” is damaged or cut short.", "Copy it again.") from error


def _ends(source: Any, offset: int) -> bool:
    """Whether the mark of the end stands here: a message of no length."""
    head = source.read(8)
    source.seek(offset)
    return len(head) < 8 or head in (b"\xff\xff\xff\xff\x00\x00\x00\x00", b"\x00" * 8)


def _held(kind: pa.DataType) -> bool:
    """Whether it is lists of numbers, or lists of those."""
    import pyarrow as pa

    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return 1 <= depth <= 3 and str(kind) in _NUMBERS


def _shape(column: pa.Array) -> tuple[list[int], str]:
    """The shape of the first row of a column, and the type of its numbers."""
    held, shape = column.slice(0, 1), []
    while hasattr(held, "flatten") and hasattr(held.type, "value_type"):
        held = held.flatten()
        shape.append(len(held))
    sides = [count // before if before else 0 for before, count in zip([1, *shape], shape, strict=False)]
    return sides, _NUMBERS[str(held.type)]


def _flat(held: pa.Array, depth: int) -> pa.Array:
    for _ in range(depth):
        held = held.flatten()
    return held


def _inner(held: pa.Array, depth: int) -> int:
    """Entries of all rows together, `depth` + 1 lists down; −1 where the lists differ in length or lack."""
    for _ in range(depth):
        held = held.flatten()
    if held.null_count:
        return -1
    if hasattr(held.type, "list_size"):
        return int(held.type.list_size) * len(held)
    lengths = np.unique(held.value_lengths().to_numpy(zero_copy_only=False))
    return int(lengths[0]) * len(held) if len(lengths) == 1 else -1 if len(held) else 0
