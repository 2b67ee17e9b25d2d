"""From a file of any kind to a store, by the command line alone, with what was left out told and kept."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auditor.base.paths import sample_data
from auditor.store import open_store
from tests.journeys.conftest import HOOK
from tests.journeys.running import auditor, done, made
from tests.journeys.test_full_disk import Disk, disk

__all__ = ["disk"]


def real_texts(count: int) -> list[dict[str, Any]]:
    with gzip.open(sample_data() / "texts" / "texts.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file][:: 1000 // count][:count]


@pytest.fixture
def project(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    done("open", tiny_llama_folder, "--project", tmp_path / "project")
    return tmp_path / "project"


def record(project: Path, samples: str, *more: object) -> dict[str, Any]:
    settings = ("--hooks", HOOK, "--context", 64, "--device", "cpu", "--project", project)
    return done("record", "--model", "tiny-llama", "--samples", samples, *more, *settings)


def test_that_a_column_of_a_parquet_file_is_recorded_with_its_groups(project: Path, tmp_path: Path) -> None:
    rows = [{"body": row["text"], "origin": row["group"], "n": n} for n, row in enumerate(real_texts(20))]
    rows += [{"body": rows[0]["body"] + " ", "origin": "again", "n": 20}, {"body": None, "origin": "none", "n": 21}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    told = done("open", tmp_path / "table.parquet", "--project", project)
    assert told["samples"] == 21 and told["columns"] == {"text": "body (guessed)"} and told["unreadable"] == 1
    found = record(project, "table?group_field=origin", "--unique", "--pack")
    assert found["unreadable"] == 1 and found["repeats"] == 1
    assert found["first_unreadable"] == [{"why": "Row 22 of “table.parquet” has nothing under “body”."}]
    store = open_store(made(found, "store"))
    assert store.meta["left_out"]["repeats"] == 1 and store.rows(slice(0, 5), HOOK).shape == (
        5,
        store.hook_points[HOOK],
    )
    groups = {store.sample(number).group for number in range(store.n_samples)}
    assert groups == {row["origin"] for row in rows[:20]}


def test_that_conversations_and_a_folder_of_code_are_recorded(project: Path, tmp_path: Path) -> None:
    talks = [{"messages": [{"role": "user", "content": f"What is {n} + 1?"}]} for n in range(6)]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)), encoding="utf-8")
    store = open_store(made(record(project, str(tmp_path / "talks.jsonl")), "store"))
    assert all("<|im_start|>user" in (store.sample(number).text or "") for number in range(6))
    code = tmp_path / "code" / "package"
    code.mkdir(parents=True)
    (code / "a.py").write_text("import os\n\n\ndef f(x):\n    return x + 1\n", encoding="utf-8")
    (code / "b.js").write_text("export const a = 1;\n", encoding="utf-8")
    (code / "c.c").write_bytes(b"int main() { return \xe9; }")
    (code / "logo.bin").write_bytes(b"\0\1")
    found = record(project, str(tmp_path / "code"))
    assert found["unreadable"] == 1 and "“c.c” is not UTF-8" in found["first_unreadable"][0]["why"]
    store = open_store(made(found, "store"))
    kept = {store.sample(n).id: store.sample(n) for n in range(store.n_samples)}
    assert kept.keys() == {"package/a.py", "package/b.js"} and kept["package/b.js"].labels["language"] == "js"
    only = record(project, "code?endings=js")
    assert open_store(made(only, "store")).n_samples == 1


def test_that_a_strict_recording_is_refused_and_nothing_is_left(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"text": "one and two"}\n{"text"\n', encoding="utf-8")
    done("open", path, "--project", project)
    before = sorted(file for file in project.rglob("*.store*"))
    told = auditor("record", "--model", "tiny-llama", "--samples", "some", "--strict", "--project", project)
    assert told.code == 2 and "Line 2 of “some.jsonl” is not a JSON object." in told.err
    path.write_text('{"text"\n[]\n', encoding="utf-8")
    told = auditor("record", "--model", "tiny-llama", "--samples", "some", "--project", project)
    assert told.code == 2 and "None of the 2 items of “some.jsonl” can be read. The first: Line 1" in told.err
    assert sorted(file for file in project.rglob("*.store*")) == before


def test_that_no_room_for_what_is_unpacked_is_told(
    project: Path, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"{n} " + "word " * 300} for n in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(disk.place))
    disk.leave(1000)
    for name in ("table.parquet", "rows.jsonl.gz"):
        told = auditor("open", tmp_path / name, "--project", project)
        assert told.code == 2 and "The disk is full" in told.err, told
        assert sorted(path.name for path in disk.place.iterdir()) == ["ballast"]
    disk.free()
    assert done("open", tmp_path / "table.parquet", "--project", project)["samples"] == 2000
