"""Opening an index: fast, without torch, and never trusting the folder."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.features.examples import IMAGE, TEXT, Packed, pack, pack_block, stretch, unpack, unpack_block
from auditor.features.export import write_csv
from auditor.features.index import Index, open_index, patches
from tests.features.conftest import PLANTED, WIDTH

_SPECIAL = 3


@pytest.fixture()
def copy(index: Index, tmp_path: Path) -> Path:
    return Path(shutil.copytree(index.path, tmp_path / "copy.index"))


def edit_meta(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_bytes())
    (path / "meta.json").write_bytes(canonical_json(meta | changes))


def accept_sizes(path: Path) -> None:
    meta = json.loads((path / "meta.json").read_bytes())
    for name, facts in meta["files"].items():
        facts["bytes"] = (path / name).stat().st_size
    (path / "meta.json").write_bytes(canonical_json(meta))


def test_that_the_reader_needs_neither_torch_nor_h5py(index: Index) -> None:
    code = (
        "import sys; from auditor.features import open_index; i = open_index(sys.argv[1]); i.search('padlock');"
        f"i.feature({PLANTED}).examples; i.thumbnail('picture-60')\n"
        "bad = {'torch', 'h5py', 'transformers', 'scipy', 'PIL', 'PySide6'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(index.path)], check=True, timeout=60)


def test_that_meta_tells_where_all_of_it_comes_from(index: Index) -> None:
    assert index.meta["store"]["name"] == "planted" and len(index.meta["store"]["digest"]) == 64
    assert len(index.meta["dictionary"]["digest"]) == 64 and index.meta["config"]["seed"] == 0
    assert "density" in index.meta["definitions"]
    index.check()


def test_that_a_newer_version_is_refused(copy: Path) -> None:
    edit_meta(copy, version=2)
    with pytest.raises(AuditorError, match="newer version"):
        open_index(copy)


@pytest.mark.parametrize("name", ["index.sqlite", "arrays.npz"])
def test_that_a_file_cut_short_or_missing_is_named(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(AuditorError, match=name):
        open_index(copy)
    (copy / name).unlink()
    with pytest.raises(AuditorError, match="missing"):
        open_index(copy)


def test_that_a_folder_without_or_with_a_damaged_meta_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(AuditorError, match="not a feature index"):
        open_index(tmp_path)
    for data in (b"", b"[]", b"{", b"\xff\xfe", b'{"format":"other"}', b"[" * 100_000):
        (copy / "meta.json").write_bytes(data)
        with pytest.raises(AuditorError, match="damaged"):
            open_index(copy)


def test_that_a_changed_file_of_the_same_size_is_found_by_check(copy: Path) -> None:
    data = bytearray((copy / "index.sqlite").read_bytes())
    data[63] ^= 1
    (copy / "index.sqlite").write_bytes(data)
    with open_index(copy) as changed, pytest.raises(AuditorError, match=r"index\.sqlite"):
        changed.check()


def test_that_flipped_bytes_give_a_sentence_or_a_result_never_a_crash(copy: Path) -> None:
    rng = np.random.default_rng(4)
    for name in ("arrays.npz", "index.sqlite"):
        whole = (copy / name).read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 8):
                data[at] = rng.integers(256)
            (copy / name).write_bytes(data)
            try:
                with open_index(copy) as index:
                    index.search("padlock")
                    for i in range(0, WIDTH, 5):
                        _ = [example.image for example in index.feature(i).examples]
            except AuditorError as error:
                assert error.hint
        (copy / name).write_bytes(whole)


def test_that_a_claim_of_very_many_features_takes_no_memory(copy: Path) -> None:
    for n in (10**8, 10**12, -1):
        edit_meta(copy, n_features=n)
        with pytest.raises(AuditorError, match="damaged"):
            open_index(copy)


def test_that_a_database_with_a_trigger_or_view_is_refused(copy: Path) -> None:
    db = sqlite3.connect(copy / "index.sqlite")
    db.execute("CREATE VIEW surprise AS SELECT 1")
    db.commit()
    db.close()
    accept_sizes(copy)
    with pytest.raises(AuditorError, match="surprise"):
        open_index(copy)


def test_that_a_blob_that_grows_without_end_is_refused() -> None:
    with pytest.raises(AuditorError, match="damaged"):
        unpack_block(zlib.compress(bytes(1 << 26)), 1)
    with pytest.raises(AuditorError, match="damaged"):
        unpack_block(zlib.compress(b"\xff" * 400), 1)
    with pytest.raises(AuditorError, match="damaged"):
        unpack(b"nonsense", 1.0)


def test_that_packing_keeps_every_example_to_its_told_precision() -> None:
    rng = np.random.default_rng(3)
    examples = [
        Packed(int(rng.choice([TEXT, IMAGE])), int(rng.integers(5)), int(rng.integers(1 << 40)),
               float(rng.random() * 7), np.sort(rng.choice(500, n, replace=False)),
               rng.uniform(1e-4, 7, n).astype(np.float32))
        for n in (0, 1, 25, 196)
    ]  # fmt: skip
    block = pack_block({3: b"other", 31: pack(examples, 7.0)})
    assert unpack_block(block, 3) == b"other" and unpack_block(block, 4) == b""
    for want, found in zip(examples, unpack(unpack_block(block, 31), 7.0), strict=True):
        assert (found.kind, found.group, found.row) == (want.kind, want.group, want.row)
        assert np.array_equal(found.offsets, want.offsets) and abs(found.peak - want.peak) <= 7 / 131_070 + 1e-9
        assert (found.activations > 0).all()
        big = want.activations > 7 / 510
        assert np.abs(found.activations - want.activations)[big].max(initial=0) <= 7 / 510 + 1e-6


def test_that_a_window_ends_where_the_text_ends() -> None:
    kinds = np.array([3, 2, 2, 1, 1, 1, 1, 3, 1], np.uint8)
    assert stretch(kinds, 4, 12) == (3, 7)
    assert stretch(kinds, 4, 1) == (3, 6)
    assert stretch(kinds, 8, 5) == (8, 9)


def test_that_a_spreadsheet_cannot_run_a_label(index: Index, tmp_path: Path) -> None:
    with open_index(index.path, labels=tmp_path / "labels.sqlite") as own:
        own.set_label(PLANTED, '=HYPERLINK("x")', "Ada")
        assert write_csv(own, tmp_path / "features.csv") == WIDTH
    lines = (tmp_path / "features.csv").read_bytes().decode("utf-8-sig").split("\r\n")
    assert lines[0].startswith("id,density") and len(lines) == WIDTH + 2
    assert "'=HYPERLINK" in lines[1 + PLANTED]


@pytest.mark.parametrize(
    ("kinds", "cells"),
    [
        ([IMAGE] * 4, [0, 1, 2, 3]),
        ([_SPECIAL, IMAGE, _SPECIAL, IMAGE, IMAGE], [0, 2, 3]),
        ([_SPECIAL, _SPECIAL, IMAGE, IMAGE, IMAGE], [1, 2, 3]),
        ([_SPECIAL, TEXT, IMAGE, _SPECIAL, IMAGE, IMAGE, TEXT], [0, 2, 3]),
        ([_SPECIAL, TEXT, _SPECIAL, IMAGE, IMAGE, IMAGE, TEXT], None),
        ([IMAGE] * 5, None),
        ([TEXT, TEXT], None),
    ],
)
def test_that_patches_keep_their_places_where_some_are_sinks(kinds: list[int], cells: list[int] | None) -> None:
    found = patches(np.array(kinds, np.uint8), 4)
    assert (None if found is None else found.tolist()) == cells
