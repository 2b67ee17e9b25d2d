"""Arrow files from anywhere: both layouts, what does not fit, and what unpacks to far more than it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auditor.base.errors import AuditorError
from auditor.intake.arrow import ArrowTable, arrow_jail

MATRIX = pa.list_(pa.list_(pa.float32()))


def written(path: Path, columns: dict[str, pa.Array], *, file: bool = False, compression: str | None = None,
            parquet: bool = False) -> Path:  # fmt: skip
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    if parquet:
        pq.write_table(pa.Table.from_batches([batch, batch.slice(1)]), path, row_group_size=4)
        return path
    begin = pa.ipc.new_file if file else pa.ipc.new_stream
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, begin(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch.slice(1))
    return path


@pytest.mark.parametrize("form", [{}, {"file": True}, {"compression": "zstd"}, {"file": True, "compression": "lz4"},
                                  {"parquet": True}])
def test_that_numbers_of_any_rows_are_those_of_the_file(form: dict, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows, ids = rng.normal(size=(7, 3, 4)).astype("f4"), rng.integers(0, 90, (7, 3))
    columns = {
        "acts": pa.array(rows.tolist(), MATRIX), "ids": pa.array(ids.tolist(), pa.list_(pa.int64(), 3)),
        "vector": pa.array(rows[:, 0].tolist(), pa.list_(pa.float64())), "text": pa.array(["x"] * 7),
    }  # fmt: skip
    path = written(tmp_path / "x.arrow", columns, **form)
    jail = arrow_jail([path])
    try:
        table = ArrowTable(path, jail)
        assert {name: (column.shape, column.dtype) for name, column in table.columns.items()} == {
            "acts": ((3, 4), "<f4"), "ids": ((3,), "<i8"), "vector": ((4,), "<f8")
        }  # fmt: skip
        both = np.concatenate([rows, rows[1:]])
        for start, stop in ((0, 13), (5, 9), (12, 13), (4, 4)):
            np.testing.assert_array_equal(table.read("acts", start, stop), both[start:stop])
        np.testing.assert_array_equal(table.read("ids", 6, 8), np.concatenate([ids, ids[1:]])[6:8])
    finally:
        jail.close()


def test_that_rows_that_do_not_fit_and_bombs_are_refused(tmp_path: Path) -> None:
    zeros = pa.ListArray.from_arrays(pa.array(np.arange(3001, dtype="i4") * 1000), pa.array(np.zeros(3_000_000, "f4")))
    told = {
        "ragged": ({"x": pa.array([[[1, 2], [3, 4]], [[1, 2]]], MATRIX)}, None, "are not all"),
        "none": ({"x": pa.array([[[1, 2], [3, None]], [[1, 2], [3, 4]]], MATRIX)}, None, "are not all"),
        "row": ({"x": pa.array([[[1, 2], [3, 4]], None], MATRIX)}, None, "are not all"),
        "bomb": ({"x": zeros}, "zstd", "over 100 times its size"),
    }
    for name, (columns, compression, why) in told.items():
        path = written(tmp_path / f"{name}.arrow", columns, compression=compression)
        jail = arrow_jail([path])
        try:
            with pytest.raises(AuditorError, match=why):
                ArrowTable(path, jail).read("x", 0, 2)
        finally:
            jail.close()
    (tmp_path / "no.arrow").write_bytes(b"not Arrow at all, but long enough to be looked at")
    jail = arrow_jail([tmp_path / "no.arrow"])
    try:
        with pytest.raises(AuditorError, match=r"no.arrow” is not a sound Arrow file|process that read"):
            ArrowTable(tmp_path / "no.arrow", jail)
    finally:
        jail.close()
    (tmp_path / "link.arrow").symlink_to(tmp_path / "ragged.arrow")
    with pytest.raises(AuditorError, match="not a plain file"):
        arrow_jail([tmp_path / "link.arrow"])


@pytest.mark.parametrize("form", [{}, {"parquet": True}])
def test_that_two_columns_of_one_name_are_refused(form: dict, tmp_path: Path) -> None:
    held = [pa.array([[value, value]] * 3, pa.list_(pa.float32())) for value in (1.0, 2.0, 3.0)]
    batch = pa.record_batch(held, names=["acts", "acts", "other"])
    path = tmp_path / "x.arrow"
    if form:
        pq.write_table(pa.Table.from_batches([batch]), path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
    jail = arrow_jail([path])
    try:
        with pytest.raises(AuditorError, match="two columns of one name"):
            ArrowTable(path, jail)
    finally:
        jail.close()
