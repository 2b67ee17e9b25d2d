"""Other programs' arrays (HDF5, .npy, .npz, safetensors): read in place, imported, refused; ours given to others."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.intake.hdf5 import h5py
from auditor.store import StoredSample, StoreWriter
from auditor.store.convert import scale_of
from auditor.store.export import export_hook
from auditor.store.formats.arrays import ArrayRows, Mapping, candidates, open_foreign, suggest_mapping
from auditor.store.formats.source import import_source
from auditor.store.layout import KINDS


def imported(path, mapping, out, reporter=None, **settings):
    return import_source(ArrayRows(path, mapping), out, reporter, **settings)


@pytest.fixture
def foreign(tmp_path):
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 900, (30, 12))
    arrays = {
        "acts": rng.normal(size=(30, 12, 8)).astype("f4"), "half": rng.normal(size=(500, 6)).astype("f2"),
        "packed": rng.normal(size=(40, 9)), "big": rng.normal(size=(50, 3)).astype(">f4"),
        "maps": rng.normal(size=(4, 5, 3, 2)).astype("f4"),
    }  # fmt: skip
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, array in arrays.items():
            chunks = {"chunks": (7, 9), "compression": "gzip"} if name == "packed" else {}
            file.create_dataset(f"run/{name}", data=array, **chunks)
        file["run/tokens"] = tokens
        file["run/prompts"] = [f"prompt {number} é" for number in range(30)]
        file["run/ids"] = np.arange(7)
    return tmp_path / "f.h5", arrays | {"tokens": tokens}


def test_that_the_likeliest_mapping_is_suggested(foreign) -> None:
    path, _ = foreign
    mapping = suggest_mapping(path)
    assert mapping == Mapping(
        dataset="/run/half", axes=("position", "feature"), hook="imported", kind="text", tokens=None, texts=None
    )
    found = {candidate.mapping.dataset: candidate for candidate in candidates(path)}
    assert set(found) == {"/run/acts", "/run/half", "/run/packed", "/run/big", "/run/maps"}
    acts = found["/run/acts"]
    assert (acts.rows, acts.width, acts.mapping.tokens, acts.mapping.texts) == (360, 8, "/run/tokens", "/run/prompts")
    assert acts.mapping.axes == ("sample", "position", "feature") and found["/run/maps"].mapping.kind == "image"


CASES = {
    "acts": (("sample", "position", "feature"), (0, 1, 2)),
    "half": (("position", "feature"), (0, 1)),
    "packed": (("sample", "feature"), (0, 1)),
    "big": (("position", "feature"), (0, 1)),
    "maps": (("sample", "feature", "position", "position"), (0, 2, 3, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_that_rows_are_those_of_the_file(name, foreign, tmp_path) -> None:
    path, arrays = foreign
    axes, order = CASES[name]
    mapping = Mapping(dataset=f"run/{name}", axes=axes, hook="h")
    wanted = arrays[name].transpose(order)
    wanted = wanted.reshape(-1, wanted.shape[-1]).astype("f4")
    here, copied = open_foreign(path, mapping), imported(path, mapping, tmp_path / "a.store")
    picks = np.random.default_rng(1).integers(0, len(wanted), 20)
    for store in (here, copied):
        assert store.n_rows == len(wanted) and store.hook_points == {"h": wanted.shape[1]}
        np.testing.assert_array_equal(store.rows(slice(None)), wanted)
        np.testing.assert_array_equal(store.rows(picks), wanted[picks])
        got = np.concatenate(list(store.batches(17, epochs=1)))
        np.testing.assert_array_equal(got[np.lexsort(got.T)], wanted[np.lexsort(wanted.T)])
        assert store.sample_of(len(wanted) - 1).n_rows > 0
    assert here.digest == copied.meta["samples"]["digest"] and here.counts() == {"text": len(wanted)}


def test_that_tokens_and_texts_come_along(foreign, tmp_path) -> None:
    path, arrays = foreign
    mapping = next(c.mapping for c in candidates(path) if c.mapping.dataset == "/run/acts")
    for store in (open_foreign(path, mapping), imported(path, mapping, tmp_path / "a.store")):
        np.testing.assert_array_equal(store.positions().token, arrays["tokens"].reshape(-1))
        assert store.n_samples == 30 and store.sample(7).text == "prompt 7 é" and store.sample(7).first_row == 84
        np.testing.assert_array_equal(store.positions(slice(80, 90)).unit, [8, 9, 10, 11, 0, 1, 2, 3, 4, 5])


def test_that_what_does_not_fit_is_told(foreign, tmp_path) -> None:
    path, _ = foreign
    good = {"dataset": "run/acts", "axes": ("sample", "position", "feature")}
    for changes, why in (
        ({"dataset": "run/none"}, "no dataset"), ({"dataset": "run/ids", "axes": ("feature",)}, "no activations"),
        ({"axes": ("sample", "feature")}, "3 axes"), ({"axes": ("sample", "sample", "feature")}, "3 axes"),
        ({"axes": ("feature", "sample", "position")}, "first axis"), ({"tokens": "run/ids"}, "cannot be the token"),
        ({"texts": "run/ids"}, "cannot be the texts"), ({"hook": "../x"}, "cannot be a hook"),
    ):  # fmt: skip
        with pytest.raises(AuditorError, match=why):
            open_foreign(path, Mapping(**(good | changes)))
    for bad in (np.nan, 1e300):
        with h5py.File(tmp_path / "bad.h5", "w") as file:
            file["x"] = np.where(np.arange(90).reshape(30, 3) == 52, bad, 1.0)
        mapping = suggest_mapping(tmp_path / "bad.h5")
        with pytest.raises(AuditorError, match="row 17 of “/x”"):
            imported(tmp_path / "bad.h5", mapping, tmp_path / f"{bad}.store")
        with pytest.raises(AuditorError, match="row 17 of “/x”"):
            open_foreign(tmp_path / "bad.h5", mapping).rows(slice(10, 20))
        assert not (tmp_path / f"{bad}.store" / "manifest.json").exists()


def test_that_a_cancelled_import_goes_on(foreign, tmp_path, monkeypatch) -> None:
    path, _ = foreign
    monkeypatch.setattr("auditor.store.formats.source._PIECE_BYTES", 1000)
    monkeypatch.setattr("auditor.store.writer.SHARD_BYTES", 800)

    class StopsAt(Reporter):
        def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
            if done >= 200:
                raise Stop

    mapping = Mapping(dataset="run/acts", axes=("sample", "position", "feature"))
    with pytest.raises(Stop):
        imported(path, mapping, tmp_path / "a.store", StopsAt())
    assert (tmp_path / "a.store" / "shard-00002.h5").exists()
    resumed = imported(path, mapping, tmp_path / "a.store")
    assert resumed.digest == imported(path, mapping, tmp_path / "b.store").digest


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_that_exports_are_read_by_other_programs(dtype, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.export._CHUNK_ROWS", 64)
    rows = np.random.default_rng(0).normal(size=(200, 5)).astype(dtype)
    with StoreWriter(tmp_path / "a.store", {"h": 5}, {}, dtype=dtype) as writer:
        column = np.repeat([0, 1], 100)
        writer.append([StoredSample("a"), StoredSample("b")], {"h": rows}, column, np.arange(200), column + 1, column)
        store = writer.finish()
    for name in ("x.npy", "x.safetensors", "x.h5"):
        export_hook(store, None, tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), rows)
    from safetensors.numpy import load_file

    loaded = load_file(tmp_path / "x.safetensors")
    with h5py.File(tmp_path / "x.h5") as file:
        plain = {name: file[name][:] for name in file}
    for found in (loaded, plain):
        np.testing.assert_array_equal(found["activations"], rows)
        assert found["activations"].dtype == dtype
        for name in ("sample", "unit", "kind", "token"):
            np.testing.assert_array_equal(found[name], getattr(store.positions(), name))
    np.testing.assert_array_equal(open_foreign(tmp_path / "x.h5").rows(slice(None)), rows.astype("f4"))
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(AuditorError, match="no known ending"):
        export_hook(store, None, tmp_path / "x.csv")


def test_that_exports_of_ours_come_back_with_their_samples_and_special_positions(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.arrays._READ_ROWS", 7)
    lengths = np.random.default_rng().integers(1, 9, 12)
    sample, n = np.repeat(np.arange(12), lengths), lengths.sum()
    unit = np.concatenate([np.arange(length) for length in lengths])
    kind = np.where(unit == 0, KINDS["special"], KINDS["text"])
    rows = np.random.default_rng().normal(size=(n, 5)).astype("f4")
    with StoreWriter(tmp_path / "a.store", {"h": 5}, {}, dtype="float32") as writer:
        writer.append([StoredSample(str(number)) for number in range(12)], {"h": rows}, sample, unit, kind, unit + 3)
        store = writer.finish()
    for name in ("x.safetensors", "x.h5"):
        export_hook(store, None, tmp_path / name)
        back = imported(tmp_path / name, suggest_mapping(tmp_path / name), tmp_path / f"{name}.store")
        np.testing.assert_array_equal(back.rows(slice(None)), rows)
        for column, held in (("sample", sample), ("unit", unit), ("kind", kind), ("token", unit + 3)):
            np.testing.assert_array_equal(getattr(back.positions(), column), held)
    short = suggest_mapping(tmp_path / "x.h5").model_copy(update={"kinds": "activations"})
    with pytest.raises(AuditorError, match="does not say of each row"):
        ArrayRows(tmp_path / "x.h5", short)


META = {"model": {"name": "m", "digest": "a" * 64, "family": "llama"}, "samples": {"name": "s", "digest": "b" * 64}}


def recorded(folder, ids=("a/1", "two\nlines é", "x" * 400), hook="blocks.1.resid_post", dtype="float16"):
    """A store of samples with 5, 5, … rows, whose units are not in order."""
    n = 5 * len(ids)
    rows = np.random.default_rng(1).normal(size=(n, 4)).astype("f4")
    sample, unit = np.repeat(np.arange(len(ids)), 5), np.tile([0, 4, 2, 9, 1], len(ids))
    scales = {hook: scale_of(rows)} if dtype == "int8" else None
    with StoreWriter(folder, {hook: 4}, META, dtype=dtype, scales=scales) as writer:
        samples = [StoredSample(name) for name in ids]
        writer.append(samples, {hook: rows}, sample, unit, np.ones(n), np.full(n, -1))
        return writer.finish()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["x.safetensors", "x.h5"])
def test_that_exports_come_back_with_hook_point_names_of_samples_and_their_origin(name, dtype, tmp_path) -> None:
    store = recorded(tmp_path / "a.store", dtype=dtype)
    export_hook(store, None, tmp_path / name)
    back = imported(tmp_path / name, suggest_mapping(tmp_path / name), tmp_path / "b.store")
    assert back.hook_points == store.hook_points
    assert [back.sample(number).id for number in range(3)] == ["a/1", "two\nlines é", "x" * 255]
    np.testing.assert_array_equal(back.positions().unit, store.positions().unit)
    np.testing.assert_array_equal(back.rows(slice(None)), store.rows(slice(None)))
    assert back.meta["exported"] == {
        "hook": "blocks.1.resid_post", "numbers": dtype, "store": store.digest,
        "model": {"name": "m", "digest": "a" * 64}, "samples": {"name": "s", "digest": "b" * 64},
    }  # fmt: skip
    assert "model" not in back.meta  # what a file says of itself is not what was recorded
    here = open_foreign(tmp_path / name)
    assert here.sample(1).id == "two\nlines é" and here.digest == back.meta["samples"]["digest"]


LIES = {
    "no JSON": "{", "deep": "[" * 100_000, "a list": "[1]", "long": '{"hook": "h", "x": "' + "y" * 70_000 + '"}',
    "a hook that leads out": '{"hook": "../../h"}', "a hook of lines": '{"hook": "a\\nb"}', "a number": '{"hook": 3}',
    "no digest": '{"hook": "h", "store": "zz"}', "empty": "",
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", ["x.safetensors", "x.h5"])
def test_that_what_a_file_says_of_itself_wrongly_is_as_if_it_were_not_said(name, lie, tmp_path) -> None:
    rows, column = np.ones((6, 3), "f4"), np.arange(6, dtype="i4") // 3
    arrays = {"activations": rows, "sample": column, "kind": column + 1}
    if name == "x.h5":
        with h5py.File(tmp_path / name, "w") as file:
            for held, array in arrays.items():
                file[held] = array
            file["sample_id"] = np.array([b"first", b"second"])
            file["auditor"] = [LIES[lie]]
    else:
        from safetensors.numpy import save_file

        arrays["sample_id"] = np.array([b"first\0", b"second"]).view("u1").reshape(2, 6)
        save_file(arrays, tmp_path / name, metadata={"auditor": LIES[lie]})
    mapping = suggest_mapping(tmp_path / name)
    assert mapping.hook == "imported"
    back = imported(tmp_path / name, mapping, tmp_path / "b.store")
    assert [back.sample(number).id for number in range(2)] == ["first", "second"] and "exported" not in back.meta


def test_that_numbers_of_samples_that_have_no_name_do_no_harm(tmp_path) -> None:
    from safetensors.numpy import save_file

    for number, sample in enumerate(([5, 5, 5], [-1, 0, 1], [2**31 - 1, 0, -(2**31)], [0, 900, 0])):
        arrays = {"activations": np.ones((3, 2), "f4"), "sample": np.array(sample, "i4"), "kind": np.ones(3, "u1")}
        save_file(arrays | {"sample_id": np.full((1000, 1), 65, "u1")}, tmp_path / f"{number}.safetensors")
        mapping = suggest_mapping(tmp_path / f"{number}.safetensors")
        back = imported(tmp_path / f"{number}.safetensors", mapping, tmp_path / f"{number}.store")
        found = [back.sample(at).id for at in range(back.n_samples)]
        assert found == [["A"], ["activations[0:1]", "A", "A"], ["activations[0:1]", "A", "activations[2:3]"],
                         ["activations[0:1]", "activations[1:2]", "activations[2:3]"]][number]  # fmt: skip


def bfloat16_bits(rows: np.ndarray) -> np.ndarray:
    return (rows.astype("<f4").view("<u4") >> 16).astype("<u2")


def written(folder, form: str) -> tuple:
    """A file of each form with [30, 12, 8] numbers and their token ids, as the libraries themselves write it."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(3)
    acts, tokens = rng.normal(size=(30, 12, 8)).astype("f4"), rng.integers(0, 900, (30, 12))
    path = folder / f"x.{form.split('-')[0]}"
    if form == "npy-fortran":
        np.save(path, np.asfortranarray(acts))
    elif form == "npy":
        np.save(path, acts)
    elif form == "npy-half":
        np.save(path, acts.astype("f2"))
    elif form == "npz":
        np.savez(path, acts=acts, tokens=tokens, names=np.array(["a", "b"]).view("U1").astype("S1").view("u1"))
    elif form == "npz-compressed":
        np.savez_compressed(path, acts=np.round(acts, 1), tokens=tokens)
    elif form == "safetensors":
        save_file({"acts": acts, "tokens": tokens.astype("i4")}, path)
    else:  # bfloat16, which numpy has not
        import torch
        from safetensors.torch import save_file as save_torch

        save_torch({"acts": torch.from_numpy(acts).bfloat16(), "tokens": torch.from_numpy(tokens)}, path)
    return path, acts, tokens


FORMS = ("npy", "npy-half", "npy-fortran", "npz", "npz-compressed", "safetensors", "safetensors-bfloat16")


@pytest.mark.parametrize("form", FORMS)
def test_that_arrays_of_every_form_keep_their_numbers_and_tokens(form, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.source._PIECE_BYTES", 4000)
    path, acts, tokens = written(tmp_path, form)
    wanted = {
        "npy-half": acts.astype("f2").astype("f4"), "npz-compressed": np.round(acts, 1),
        "safetensors-bfloat16": (bfloat16_bits(acts).astype("<u4") << 16).view("<f4"),
    }.get(form, acts).reshape(-1, 8)  # fmt: skip
    if "bfloat16" in form:  # torch rounds to nearest, cutting bits off does not
        import torch

        wanted = torch.from_numpy(acts).bfloat16().float().numpy().reshape(-1, 8)
    mapping = suggest_mapping(path)
    assert mapping.axes == ("sample", "position", "feature")
    here, store = open_foreign(path, mapping), imported(path, mapping, tmp_path / "a.store")
    assert store.dtype == {"npy-half": "float16", "safetensors-bfloat16": "bfloat16"}.get(form, "float32")
    for held in (here, store):
        np.testing.assert_array_equal(held.rows(slice(None)), wanted)
        np.testing.assert_array_equal(held.rows([359, 0, 17]), wanted[[359, 0, 17]])
        ids = tokens.reshape(-1) if mapping.tokens else np.full(360, -1)
        np.testing.assert_array_equal(held.positions().token, ids)
        assert held.n_samples == 30 and held.positions(slice(13, 14)).unit[0] == 1
    assert bool(mapping.tokens) == (not form.startswith("npy"))


class _Harmful:
    def __reduce__(self):
        return (exit, ())


def test_that_arrays_that_lie_or_could_do_harm_are_refused(tmp_path) -> None:
    np.save(tmp_path / "objects.npy", np.array([_Harmful()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([_Harmful()], dtype=object))
    np.save(tmp_path / "whole.npy", np.ones((40, 3), "f4"))
    data = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(data[:-8])
    (tmp_path / "more.npy").write_bytes(data.replace(b"(40, 3)", b"(9**9,3)"[:7]))
    (tmp_path / "large.npy").write_bytes(data.replace(b"(40, 3), }", b"(99999, 3)}"[:10]))
    (tmp_path / "text.npy").write_bytes(b"not an array")
    (tmp_path / "words.npy").write_bytes(data.replace(b"<f4", b"<U1"))
    told = {
        "objects.npy": "no plain numbers", "objects.npz": "no plain numbers", "short.npy": "bytes, not those",
        "more.npy": "not a sound array", "large.npy": "not a sound array|bytes, not those",
        "text.npy": "no NumPy array", "words.npy": "no plain numbers",
    }  # fmt: skip
    for name, why in told.items():
        with pytest.raises(AuditorError, match=why):
            open_foreign(tmp_path / name)
