"""Hostile samples: no file runs code, reads another, takes more room than it may, or ends but in a sentence."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.data import Samples, open_samples
from auditor.data.checked import sifted
from auditor.intake import parquet as parquet_module
from auditor.intake import spool as spool_module
from auditor.intake.parquet import ParquetRows

SECRET = "the secret of another folder"


def opened(path: Path, **options: str) -> Samples | AuditorError:
    """What opening gave; anything but a sentence fails the test."""
    try:
        samples = open_samples(path, **options)
        for sample in samples:
            assert sample.text is not None or sample.image is not None or sample.messages is not None
        return samples
    except AuditorError as error:
        assert error.message and "Traceback" not in error.message
        return error


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table() -> pa.Table:
    return pa.table({
        "text": [f"text {n % 7}" for n in range(300)],
        "image": [{"bytes": bytes([n % 256]) * 40, "path": f"{n}.bin"} for n in range(300)],
        "messages": [[{"role": "user", "content": str(n)}] for n in range(300)],
        "n": list(range(300)),
    })  # fmt: skip


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("seed", range(4))
def test_that_a_damaged_parquet_file_gives_rows_or_one_sentence(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pq.write_table(table(), tmp_path / "whole.parquet", compression=["snappy", "zstd", "gzip", "none"][seed])
    whole = (tmp_path / "whole.parquet").read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    ends = []
    for turn in range(4):
        data = bytearray(whole)
        low = len(data) - footer - 8 if turn % 2 else 4
        for place in rng.integers(low, len(data), 6):
            data[int(place)] = int(rng.integers(256))
        if turn == 3:
            data = data[: int(rng.integers(8, len(data)))]
        path = tmp_path / f"{turn}.parquet"
        path.write_bytes(data)
        started = time.monotonic()
        ends.append(opened(path))
        assert time.monotonic() - started < 30
    assert any(isinstance(end, AuditorError) for end in ends)


def test_that_a_parquet_file_runs_no_code_of_its_own(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    payload = pickle.dumps(Payload(canary))
    for name in (b"arrow.py_extension_type", b"pandas", b"arrow.opaque"):
        facts = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": payload}
        schema = pa.schema([pa.field("text", pa.string(), metadata=facts)], metadata={b"pandas": payload})
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": ["one"]}, schema=schema), path)
        parquet_module._opened.clear()
        opened(path)
        assert not canary.exists()


def test_that_a_parquet_file_that_claims_or_unpacks_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tmp_path / "many.parquet"
    pq.write_table(pa.table({"text": pa.nulls(50_000, pa.string())}), many)
    monkeypatch.setattr(parquet_module, "MAX_ROWS", 40_000)
    with pytest.raises(AuditorError, match="50,000 rows; at most 40,000"):
        open_samples(many)
    bomb = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"text": pa.array(["x" * 10_000] * 2000).dictionary_encode()}), bomb)
    assert bomb.stat().st_size < 200_000
    monkeypatch.setattr(spool_module, "MAX_BYTES", 10 << 20)
    with pytest.raises(AuditorError, match="unpacks to more than"):
        open_samples(bomb)


def test_that_rows_of_parquet_cannot_forge_what_crosses_the_pipe(tmp_path: Path) -> None:
    rows = [{"text": "a", "$bytes": [0, 1], "inner": {"$bytes": [0, 99]}, "b": b"\x00\xff"}] * 3
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert ParquetRows(tmp_path / "a.parquet")[1] == {"text": "a", "inner": {}, "b": b"\x00\xff"}
    broken = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "b.parquet")
    found = open_samples(tmp_path / "b.parquet")
    assert [sample.text for sample in found] == ["fine"] and "not UTF-8" in found.skips.first[0]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.csv.gz"])
def test_that_a_gzip_bomb_is_refused_early(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_RATIO_FROM_BYTES", 1 << 20)
    (tmp_path / name).write_bytes(gzip.compress(b"a" * (64 << 20), 9))
    started = time.monotonic()
    with pytest.raises(AuditorError, match=f"“{name}” unpacks to over 100 times its size"):
        open_samples(tmp_path / name)
    assert time.monotonic() - started < 10


def test_that_what_a_folder_or_list_names_elsewhere_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "secret.txt").write_text(SECRET, encoding="utf-8")
    (secret / "secret.png").write_bytes(png())
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "own.txt").write_text("own", encoding="utf-8")
    (inside / "link.txt").symlink_to(secret / "secret.txt")
    (inside / "folder").symlink_to(secret, target_is_directory=True)
    os.mkfifo(inside / "pipe.txt")
    found = open_samples(inside)
    assert [sample.text for sample in found] == ["own"] and "leads out of the folder" in found.skips.first[0]
    (secret / "secret.csv").write_text(f"text\n{SECRET}\n", encoding="utf-8")
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "a.csv").symlink_to(secret / "secret.csv")
    (tables / "b.csv").write_text("text\nown\n", encoding="utf-8")
    found = open_samples(tables, field="text")
    assert [sample.text for sample in found] == ["own"] and "leads out of the folder" in found.skips.first[0]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "own.png").write_bytes(png())
    (pictures / "link.png").symlink_to(secret / "secret.png")
    assert [sample.id for sample in open_samples(pictures)] == ["own.png"]
    names = ("own.png", "../elsewhere/secret.png", str(secret / "secret.png"), "link.png")
    (pictures / "list.txt").write_text("\n".join(names), encoding="utf-8")
    rows = [{"file": name} for name in names]
    (pictures / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": name} for name in names]}), pictures / "rows.parquet")
    for file in ("list.txt", "rows.jsonl", "rows.parquet"):
        found = open_samples(pictures / file)
        assert len(found) == 1 and found.skips.count == 3, file


def test_that_quotes_that_never_close_take_time_in_proportion_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,n\n" + '"never closed, 1\n' * 20_000 + "good,1\n", encoding="utf-8")
    started = time.monotonic()
    found = opened(path)
    assert time.monotonic() - started < 20
    assert isinstance(found, AuditorError) or found.skips.count >= 100


@pytest.mark.parametrize(
    "line",
    ["[" * 200_000, '{"text": ' + "9" * 10_000 + "}", '{"text": {"$bytes": [0, 9]}}', '{"a":' * 90_000, "\x00" * 50,
     '{"messages": [' + '{"role": "user", "content": "x"},' * 20_000 + '{"role": "user", "content": "x"}]}',
     '{"messages": [{"role": "user", "content": {"a": [1]}}]}',
     r'{"text": "half a character: \ud800"}', r'{"text": "three", "id": "\udfff"}', r'{"text": "three", "\ud800": 1}',
     r'{"messages": "[{\"role\": \"user\", \"content\": \"\\ud800\"}]"}', '{"text": "three", "n": 1e999}',
     '{"text": "three", "n": ' + "[" * 400 + "]" * 400 + "}", r'{"file": "a\u0000.png"}', r'{"file": "\ud800.png"}',
     '{"file": "' + "a" * 5000 + '.png"}', '{"file": "ring.png"}'],
)  # fmt: skip
def test_that_a_hostile_line_costs_only_itself(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' + line + '\n{"text": "two"}\n', encoding="utf-8")
    (tmp_path / "ring.png").symlink_to("ring.png")
    found = open_samples(path)
    assert [sample.text for sample in found] == ["one", "two"] and found.skips.count == 1 and found.digest


@pytest.mark.parametrize("header", ["text,label\rhello,1\rworld,2\r", "text," + "x" * (9 << 20) + "\nhello,1\n"])
def test_that_a_header_that_is_none_is_told_in_a_sentence(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(header.encode())
    with pytest.raises(AuditorError, match=r"header of “a\.csv” cannot be read"):
        open_samples(path)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), ending=st.sampled_from([".jsonl", ".csv", ".tsv", ".txt", ".py", ".jsonl.gz"]))
def test_that_any_bytes_give_samples_or_a_sentence(tmp_path: Path, data: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(data)
    opened(path)


cells = st.text(alphabet='ab,;"\n\r\t \u2028\x0bé', max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(cells, cells), max_size=5))
def test_that_a_row_read_again_is_the_row_that_was_found(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "a.csv"
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [("text", "n"), *rows]]
    path.write_text("\n".join(quoted), encoding="utf-8", newline="")
    wanted = [(text, n) for text, n in rows if text.strip()]
    found = opened(path)
    got = [] if isinstance(found, AuditorError) else [(s.text, s.labels["n"]) for s in found]
    assert got == wanted


def too_large() -> bytes:
    """A PNG that claims 60,000 × 60,000 pixels, and has few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("form", ["parts", "list", "messages"])
def test_that_hostile_pictures_among_others_cost_their_sample_alone(tmp_path: Path, form: str) -> None:
    (tmp_path / "outside.png").write_bytes(png())
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "fine.png").write_bytes(png())
    (folder / "large.png").write_bytes(too_large())
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")

    def row(*names: str) -> dict[str, Any]:
        if form == "list":
            return {"images": list(names), "text": "<image>"}
        parts = [{"type": "image", "image": name} for name in names]
        return {"parts": parts} if form == "parts" else {"messages": [{"role": "user", "content": parts}]}

    rows = [
        row("fine.png", "pixel.png"), row("fine.png", "large.png"), row("fine.png", "link.png"),
        row("fine.png", "../outside.png"), row(*["fine.png"] * 1000), row("fine.png", "x" * 5000),
        row("fine.png", "\x00.png"),
    ]  # fmt: skip
    (folder / "set.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    samples = open_samples(folder / "set.jsonl")
    assert len(samples) == 2 and samples.skips.count == 5
    assert all(len(sentence) < 400 for sentence in samples.skips.first)
    kept, left_out = sifted(list(samples))
    assert [len(sample.pictures) for sample in kept] == [2]
    assert left_out.count == 1 and "“large.png” has too many pixels" in left_out.first[0]


def test_that_a_folder_whose_only_table_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(AuditorError, match="holds no samples"):
        open_samples(tmp_path)
