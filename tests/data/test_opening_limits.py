"""Folders of more packed files, or tables, than the system lets a program have open: told, not left out one by one."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
from auditor.base.errors import AuditorError
from auditor.data import open_samples
try:
    print(len(open_samples(sys.argv[1])))
except AuditorError as error:
    print(error.message)
"""


@pytest.mark.parametrize(("ending", "count", "said"), [
    ("txt.gz", 60, "The system lets this program open no more files at once."),
    ("txt.gz", 20, "20"),
    ("parquet", 60, "The system lets this program open no more files at once."),
])  # fmt: skip
def test_that_no_file_is_left_out_because_too_many_are_open(tmp_path: Path, ending: str, count: int, said: str) -> None:
    for number in range(count):
        path = tmp_path / f"{number:03}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.table({"text": [f"text {number}"]}), path)
        else:
            path.write_bytes(gzip.compress(f"text {number}".encode()))
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == said, done.stderr
