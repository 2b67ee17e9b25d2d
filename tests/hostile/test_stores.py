"""Hostile stores: forged manifests and journals get one sentence, reach no other file, and take no memory."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import StoredSample, StoreWriter, open_store
from auditor.store.journal import Journal
from auditor.store.layout import UNFINISHED
from auditor.store.samples import pack, unpack

HOOKS = {"a": 16, "b": 8}
JOURNAL = "shard-00000.journal.partial"


def writer_of(folder: Path) -> StoreWriter:
    return StoreWriter(folder, HOOKS, {})


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A store of which two batches are acknowledged."""
    rng = np.random.default_rng(0)
    with writer_of(tmp_path / "a.store") as writer:
        for number in range(2):
            rows = {hook: rng.normal(size=(20, width)) for hook, width in HOOKS.items()}
            columns = (np.repeat([0, 1], 10), np.arange(20), np.ones(20), np.ones(20))
            samples = [StoredSample(f"{number}-{part}", text="x", image=b"WEBP") for part in range(2)]
            writer.append(samples, rows, *columns)
            writer.flush()
    return tmp_path / "a.store"


def sealed(text: bytes, arrays: bytes) -> bytes:
    """An entry whose digest is right."""
    body = struct.pack("<I", len(text)) + text + arrays
    return struct.pack("<Q", len(body)) + hashlib.sha256(body).digest() + body


def entries(folder: Path) -> tuple[dict, bytes]:
    """The first entry's text, and its arrays."""
    data = (folder / JOURNAL).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    body = data[40 : 40 + length]
    start = 4 + struct.unpack("<I", body[:4])[0]
    return json.loads(body[4:start]), body[start:]


def refused(folder: Path) -> None:
    """Neither read nor gone on with, in one sentence."""
    with pytest.raises(AuditorError, match="unfinished store"):
        open_store(folder)
    with pytest.raises(AuditorError, match="unfinished store"):
        writer_of(folder)


def test_that_an_entry_that_was_never_acknowledged_is_left_out(unfinished) -> None:
    data = (unfinished / JOURNAL).read_bytes()
    rng = np.random.default_rng(1)
    assert open_store(unfinished).n_rows == 40
    for junk in (b"x", bytes(40), struct.pack("<Q", 1 << 60) + bytes(100), rng.bytes(300), data[:-1][-200:]):
        (unfinished / JOURNAL).write_bytes(data + junk)
        assert open_store(unfinished).n_rows == 40
    for cut in (1, 50, len(data) // 2 - 5):
        (unfinished / JOURNAL).write_bytes(data[:-cut])
        assert open_store(unfinished).n_rows == 20
    flipped = bytearray(data)
    flipped[60] ^= 1
    (unfinished / JOURNAL).write_bytes(flipped)
    assert open_store(unfinished).n_rows == 0


def test_that_a_forged_journal_is_refused(unfinished) -> None:
    told, arrays = entries(unfinished)
    facts, names = told["facts"], told["arrays"]
    forgeries = [
        {"facts": facts | {"room": -1}}, {"facts": facts | {"room": 1 << 60}}, {"facts": facts | {"room": "8"}},
        {"facts": facts | {"capacity": {}}}, {"facts": facts | {"capacity": {"": 3}}},
        {"facts": facts | {"samples": 9}},
        {"facts": facts | {"quantised": {"a": {"lost": -1}}}}, {"facts": facts | {"quantised": []}}, {"facts": []},
        {"facts": {name: value for name, value in facts.items() if name != "room"}},
        {"arrays": names[:-1]}, {"arrays": [[name, dtype, -1] for name, dtype, _ in names]},
        {"arrays": [[name, "object", count] for name, _, count in names]},
        {"arrays": [[name, dtype, 1 << 50] for name, dtype, _ in names]}, {"arrays": 7}, {"arrays": [[1]]},
        {"arrays": [["kind", "int64", 2] if name == "kind" else [name, *rest] for name, *rest in names]},
    ]  # fmt: skip
    for change in forgeries:
        (unfinished / JOURNAL).write_bytes(sealed(json.dumps(told | change).encode(), arrays))
        refused(unfinished)
    for text in (b"", b"[]", b"{", b'{"a":' * 5000, b"\xff\xfe"):
        (unfinished / JOURNAL).write_bytes(sealed(text, arrays))
        refused(unfinished)


def test_that_a_journal_or_rows_that_are_no_plain_files_are_refused(unfinished) -> None:
    data = (unfinished / JOURNAL).read_bytes()
    (unfinished / JOURNAL).unlink()
    os.symlink("/etc/hostname", unfinished / JOURNAL)
    refused(unfinished)
    (unfinished / JOURNAL).unlink()
    (unfinished / JOURNAL).mkdir()
    refused(unfinished)
    (unfinished / JOURNAL).rmdir()
    (unfinished / JOURNAL).write_bytes(data)
    (unfinished / "shard-00000.h5.partial").unlink()
    with pytest.raises(AuditorError, match=r"unfinished store .* is missing or cut short"):
        writer_of(unfinished)
    with pytest.raises(AuditorError, match="cannot be read"):
        open_store(unfinished).rows([0], "a")
    secret = unfinished.parent / "secret"
    secret.write_bytes(b"s" * 100_000)
    os.symlink(secret, unfinished / "shard-00000.h5.partial")
    with pytest.raises(AuditorError):
        open_store(unfinished).rows([0], "a")
    with pytest.raises(AuditorError, match="missing or cut short"):
        writer_of(unfinished)
    assert secret.read_bytes() == b"s" * 100_000


def test_that_random_bytes_never_get_past_the_journal(unfinished) -> None:
    good = (unfinished / JOURNAL).read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(300):
        data = bytearray(good)
        for place in rng.integers(0, len(data), int(rng.integers(1, 5))):
            data[place] = int(rng.integers(256))
        (unfinished / JOURNAL).write_bytes(data)
        assert sum(int(entry.facts["batches"]) for entry in Journal(unfinished / JOURNAL).entries) <= 2
    manifest = (unfinished / UNFINISHED).read_bytes()
    for _ in range(300):
        data = bytearray(manifest)
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        (unfinished / UNFINISHED).write_bytes(data)
        try:
            open_store(unfinished)
        except AuditorError:
            continue


@pytest.mark.parametrize("number", [-1, 7, 2**31 - 1, 3])
def test_that_a_row_of_no_sample_is_told_in_a_sentence(unfinished: Path, number: int) -> None:
    with writer_of(unfinished) as writer:
        store = writer.finish()
    facts = store.manifest.shards[0]
    with open(store.path / facts.file, "r+b") as file:
        file.seek(facts.datasets["sample"].offset)
        file.write(struct.pack("<i", number))
    store = open_store(store.path)
    with pytest.raises(AuditorError, match=r"Row 0 .*belongs to no sample"):
        store.sample_of(0)
    assert store.sample_of(1).id == "0-0"


@pytest.mark.parametrize(
    "changed",
    [{"grid": [1e999, 1]}, {"grid": [10**9, 10**9]}, {"grid": [-1, 2]}, {"grid": [2]}, {"batch": 1e999}, {"views": 3},
     {"labels": []}, {"tokens": 5}],
)  # fmt: skip
def test_that_a_record_that_no_writer_makes_is_told_in_a_sentence(changed: dict) -> None:
    record = json.loads(zlib.decompress(pack(StoredSample("a"), 0))) | changed
    data = zlib.compress(json.dumps(record).encode())
    with pytest.raises(AuditorError, match="Sample 0 is damaged"):
        unpack(data, b"", 0, 1, "Sample 0", "text" if "views" in changed else "")
