"""A project made by the command line alone: real weights, texts and captioned pictures, recorded, trained, indexed."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from auditor.base.paths import sample_data
from tests.journeys.running import done

HOOK = "blocks.0.resid_post"
TEXTS, PICTURES = 64, 12


@dataclass(frozen=True)
class Begun:
    """The project's folder, the files that it was made from, and what each step told; copy it before changing it."""

    folder: Path
    model: Path
    samples: Path
    told: dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def mixed_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of real texts and captioned pictures, with the pictures beside it."""
    folder = tmp_path_factory.mktemp("mixed")
    with gzip.open(sample_data() / "texts" / "texts.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    chosen = [{key: row[key] for key in ("id", "group", "text")} for row in rows[:: len(rows) // TEXTS][:TEXTS]]
    manifest = (sample_data() / "images" / "images.jsonl").read_text(encoding="utf-8").splitlines()
    pictures = [json.loads(line) for line in manifest[:: len(manifest) // PICTURES][:PICTURES]]
    with zipfile.ZipFile(sample_data() / "images" / "images.zip") as archive:
        for row in pictures:
            (folder / row["file"]).write_bytes(archive.read(row["file"]))
    lines = [json.dumps(row) for row in (*chosen, *pictures)]
    (folder / "mixed.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "mixed.jsonl"


@pytest.fixture(scope="session")
def begun(tiny_paired_folder: Path, mixed_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    folder = tmp_path_factory.mktemp("journey") / "project"
    where = ("--project", folder)
    train = ("--d-sae", 256, "--k", 8, "--batch-size", 256, "--evaluate-rows", 1024, "--device", "cpu")
    told = {
        "model": done("open", tiny_paired_folder, *where),
        "samples": done("open", mixed_samples, *where),
        "record": done("record", "--model", tiny_paired_folder.name, "--samples", "mixed", "--hooks", HOOK,
                       "--context", 48, "--batch-size", 8, *where),
        "train": done("train", *train, "--steps", 30, *where),
        "index": done("index", "--top", 4, "--per-band", 1, *where),
    }  # fmt: skip
    return Begun(folder, tiny_paired_folder, mixed_samples, told)
