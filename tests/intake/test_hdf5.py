"""Hostile HDF5 files: each is refused with one sentence, reads no other file and loads no plug-in."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.base.paths import root
from auditor.intake import hdf5
from auditor.intake.hdf5 import ForeignFile, h5py, inspect_hdf5, walked
from auditor.intake.jail import Jail, Limits

SECRET = b"the secret of another file"


def external_link(file, folder) -> None:
    file["out"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def nested_external_link(file, folder) -> None:
    file.create_group("a/b/c")["out"] = h5py.ExternalLink("other.h5", "/x")


def external_storage(file, folder) -> None:
    file.create_dataset("x", (len(SECRET),), "u1", external=[(str(folder / "secret"), 0, len(SECRET))])


def virtual(file, folder) -> None:
    layout = h5py.VirtualLayout((4, 4), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (4, 4))
    file.create_virtual_dataset("x", layout)


def references(file, folder) -> None:
    file["x"] = np.ones(3)
    file.create_dataset("r", (1,), h5py.ref_dtype)[0] = file["x"].ref


def foreign_filter(file, folder) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((4, 4))
    made.set_filter(32004, h5py.h5z.FLAG_OPTIONAL, (1,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, 4)), made)


def sixteen_tebibytes(file, folder) -> None:
    file.create_dataset("x", (1 << 31, 1 << 11), "f4")


def chunked_claim(file, folder) -> None:
    file.create_dataset("x", (1 << 31, 1 << 11), "f4", chunks=(64, 64))[:64] = 1


def bomb(file, folder) -> None:
    file.create_dataset("x", data=np.zeros((4096, 4096), "f4"), chunks=(1024, 1024), compression="gzip")


def huge_chunk(file, folder) -> None:
    file.create_dataset("x", (4096, 8192), "f4", chunks=(4096, 8192))[0, 0] = 1


def deep(file, folder) -> None:
    file.create_group("/".join(["g"] * 80))["x"] = np.ones(3)


def many(file, folder) -> None:
    for number in range(300):
        file.create_group(str(number))


HOSTILE = {
    external_link: "links to another file", nested_external_link: "links to another file",
    external_storage: "another file", virtual: "virtual", references: "references", foreign_filter: "filter 32004",
    sixteen_tebibytes: "claims", chunked_claim: "claims", bomb: "claims", huge_chunk: "claims|64 MiB", deep: "levels",
    many: "objects",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones((4, 4), "f4")
    return tmp_path


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_that_a_hostile_file_is_refused(make, folder, monkeypatch) -> None:
    monkeypatch.setattr(hdf5, "MAX_OBJECTS", 200)
    with h5py.File(folder / "bad.h5", "w") as file:
        make(file, folder)
    with pytest.raises(AuditorError, match=HOSTILE[make]) as caught:
        walked(str(folder / "bad.h5"))
    assert SECRET.decode() not in str(caught.value)


def test_that_the_jail_refuses_and_other_kinds_of_file_are_told(folder) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:
        external_storage(file, folder)
    (folder / "text.h5").write_text("not hdf5")
    os.mkfifo(folder / "pipe.h5")
    with h5py.File(folder / "block.h5", "w", userblock_size=512) as file:
        file["x"] = np.ones(3)
    for name, why in (
        ("bad.h5", "another file"), ("text.h5", "signature"), ("pipe.h5", "not a file"), ("block.h5", "signature"),
        ("none.h5", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(AuditorError, match=why):
            inspect_hdf5(folder / name)


def test_that_rings_of_groups_and_soft_links_do_not_hang(folder) -> None:
    with h5py.File(folder / "ring.h5", "w") as file:
        group = file.create_group("a/b")
        group["back"] = file["a"]
        group["soft"] = h5py.SoftLink("/a/b/soft")
        group["x"] = np.ones((3, 2), ">f4")
        group["name"] = ["é", "b"]
    found = {dataset.path: dataset for dataset in inspect_hdf5(folder / "ring.h5")}
    assert set(found) == {"/a/b/x", "/a/b/name"} and found["/a/b/x"].shape == (3, 2) and found["/a/b/x"].is_float


def test_that_numbers_and_texts_come_through_the_jail(folder) -> None:
    values = np.random.default_rng(0).normal(size=(50, 6))
    with h5py.File(folder / "good.h5", "w") as file:
        file.create_dataset("big", data=values.astype(">f4"))
        file.create_dataset("packed", data=values, chunks=(7, 6), compression="gzip", shuffle=True)
        file["text"] = ["é", "bc"]
    with ForeignFile(folder / "good.h5") as file:
        np.testing.assert_array_equal(file.read("big", 3, 40), values[3:40].astype("f4"))
        np.testing.assert_array_equal(file.read("/packed", 0, 50), values)
        assert file.strings("text", 0, 2) == ["é", "bc"]
        with pytest.raises(AuditorError, match="no dataset"):
            file.read("missing", 0, 1)


def test_that_damaged_files_give_a_sentence_in_time(folder) -> None:
    with h5py.File(folder / "good.h5", "w") as file:
        file.create_dataset("a/x", data=np.arange(4000.0).reshape(100, 40), chunks=(10, 40), compression="gzip")
        file["text"] = ["a", "b"]
    good = (folder / "good.h5").read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    begun = time.monotonic()
    with contextlib.closing(Jail(Limits(wall_seconds=10))) as jail:
        for number in range(60):
            data = bytearray(good if number % 2 else good[: int(rng.integers(100, len(good)))])
            for at in rng.integers(8, len(data), 6):
                data[at] = int(rng.integers(256))
            path = folder / f"mutant{number}.h5"
            path.write_bytes(data)
            try:
                jail.call("auditor.intake.hdf5:walked", str(path))
            except AuditorError:
                refused += 1
    assert refused > 20 and time.monotonic() - begun < 30
    with pytest.raises(AuditorError):
        (folder / "cut.h5").write_bytes(good[:300])
        inspect_hdf5(folder / "cut.h5")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler to plant a plug-in")
def test_that_a_planted_plug_in_is_never_loaded(folder) -> None:
    canary = folder / "canary"
    source = (
        "#include <stdio.h>\n"
        "__attribute__((constructor)) static void ran(void)\n"
        f'{{ FILE *f = fopen("{canary}", "w"); if (f) fclose(f); }}\n'
        "int H5PLget_plugin_type(void) { return 0; }\nconst void *H5PLget_plugin_info(void) { return 0; }\n"
    )
    (folder / "plant.c").write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libplant.so", folder / "plant.c"], check=True)
    made = (
        "d = h5py.h5p.create(h5py.h5p.DATASET_CREATE); d.set_chunk((4,)); d.set_filter(32004, 1, (1,));"
        "f = h5py.File('x.h5', 'w'); h5py.h5d.create(f.id, b'x', h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), d)"
        ".write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(4, 'f4'));"
        "print(f['x'][:])"
    )
    environment = os.environ | {"HDF5_PLUGIN_PATH": str(folder), "PYTHONPATH": str(root())}
    environment.pop("HDF5_PLUGIN_PRELOAD", None)
    ran = {}
    for how in ("import h5py", "from auditor.intake.hdf5 import h5py"):
        canary.unlink(missing_ok=True)
        command = [sys.executable, "-c", f"import numpy as np; {how}; {made}"]
        subprocess.run(command, env=environment, cwd=folder, check=False, capture_output=True)
        ran[how] = canary.exists()
    assert ran == {"import h5py": True, "from auditor.intake.hdf5 import h5py": False}
