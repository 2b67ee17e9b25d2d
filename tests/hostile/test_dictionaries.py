"""Hostile files of dictionaries: each gets one sentence, runs nothing, takes no room, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.intake.npz import read_npz
from auditor.project import Project
from auditor.sae import load
from auditor.sae.formats import dictionaries_in, formats, recognise
from tests.journeys.running import auditor

FIXTURES = Path(__file__).parents[1] / "sae" / "formats" / "fixtures"
# Each with its file of weights and its settings.
KINDS = {
    "saelens": ("sae-lens/jumprelu", "sae_weights.safetensors", "cfg.json"),
    "sparsify": ("sparsify/layers.3", "sae.safetensors", "cfg.json"),
    "dictionary_learning": ("dictionary-learning/AutoEncoderTopK", "ae.pt", "config.json"),
}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, folders for what is wrong and for temporary files beside it, and a canary that must not come to be."""
    (tmp_path / "out").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    Project.create(tmp_path / "project").close()
    return tmp_path


def copied(place: Path, kind: str) -> tuple[Path, Path, Path]:
    source, weights, settings = KINDS[kind]
    folder = place / "out" / kind
    shutil.copytree(FIXTURES / source, folder)
    return folder, folder / weights, folder / settings


def refused(place: Path, path: Path, *more: object) -> str:
    """The sentence with which the command line refuses to import `path`; the project is as it was, nothing was run."""
    before = sorted(item for item in (place / "project").rglob("*") if "sqlite" not in item.name)
    told = auditor("import", path, *more, "--project", place / "project")
    assert told.code == 2 and not told.out, told
    assert "Traceback" not in told.err and "Error(" not in told.err
    assert len(told.err.strip().splitlines()) <= 2, told.err
    assert not (place / "canary").exists()
    assert sorted(item for item in (place / "project").rglob("*") if "sqlite" not in item.name) == before
    assert not list((place / "temporary").iterdir())
    with Project.open(place / "project", write=False) as project:
        assert project.artefacts() == []
    return told.err


def forms(canary: Path) -> dict[str, bytes]:
    """Pickles that run code when they are read carelessly, in every wrapping that torch.load takes."""
    evil = Payload(canary)
    made: dict[str, bytes] = {"plain pickle": pickle.dumps({"W_enc": evil}), "old protocol": pickle.dumps(evil, 0)}
    for name, content in {
        "torch zip": {"W_enc": evil}, "nested": {"ae": {"encoder.weight": torch.zeros(2), "x": [evil]}},
        "beside tensors": {"encoder.weight": torch.zeros(2, 2), "optimizer": evil},
    }.items():  # fmt: skip
        for new in (True, False):
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=new)
            made[f"{name}, {'zip' if new else 'legacy'}"] = out.getvalue()
    # A zip whose pickle is swapped for another after it was written.
    clean, swapped = io.BytesIO(), io.BytesIO()
    torch.save({"W_enc": torch.zeros(2)}, clean)
    with zipfile.ZipFile(clean) as source, zipfile.ZipFile(swapped, "w") as target:
        for entry in source.infolist():
            data = pickle.dumps({"W_enc": evil}, 2) if entry.filename.endswith("data.pkl") else source.read(entry)
            target.writestr(entry.filename, data)
    return made | {"swapped inside the zip": swapped.getvalue()}


@pytest.mark.parametrize("form", sorted(forms(Path("x"))))
def test_that_a_pickle_of_weights_runs_nothing(place, form):
    folder, weights, _ = copied(place, "dictionary_learning")
    weights.write_bytes(forms(place / "canary")[form])
    assert "ae.pt” holds more than tensors" in refused(place, folder)


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "sae.safetensors", "params.npz", "layer_0.safetensors"])
def test_that_a_pickle_under_another_name_runs_nothing(place, name):
    folder = place / "out" / "swapped"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard", "k": 3, "metadata": {}}))
    (folder / "config.yaml").write_text("model_name: x\n")
    (folder / name).write_bytes(forms(place / "canary")["plain pickle"])
    refused(place, folder)


@pytest.mark.parametrize("where", ["openai", "prisma", "crosscoder", "saev"])
def test_that_pickles_of_formats_that_are_only_read_run_nothing(place, where):
    folder = place / "out" / where
    folder.mkdir()
    evil = {"pre_bias": torch.zeros(2), "latent_bias": torch.zeros(2), "W_enc": Payload(place / "canary")}
    (folder / "cfg.json").write_text("{}")
    if where == "prisma":
        (folder / "config.json").write_text('{"d_in": 2, "hook_point_layer": 3, "activation_fn_str": "relu"}')
    name = {"openai": "4.pt", "prisma": "weights.pt", "crosscoder": "cc_weights.pt", "saev": "sae.pt"}[where]
    with open(folder / name, "wb") as file:
        file.write(b'{"schema": 5, "cfg": {}}\n' if where == "saev" else b"")
        torch.save(evil, file)
    assert "holds more than tensors" in refused(place, folder / name if where == "openai" else folder)
    if where == "openai":
        assert recognise(folder / name).name == "openai"
    with pytest.raises(AuditorError):
        formats().get(where).read(folder / name if where == "openai" else folder)
    assert not (place / "canary").exists()


def test_that_an_archive_with_objects_is_not_unpickled(place):
    folder = place / "out" / "layer_1"
    folder.mkdir()
    np.savez(folder / "params.npz", W_enc=np.array([Payload(place / "canary")], dtype=object))
    assert "holds no plain numbers" in refused(place, folder)


def npy(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (npy((50_000, 50_000), b"\0" * 64), "another size than its shape"),
        (npy((-4, 4), b"\0" * 64), "has no usable shape"),
        (npy((2, 2), b"\0" * 16, "|O"), "holds no plain numbers"),
        (npy((2,), b"\0" * 16, "<U2"), "holds no plain numbers"),
        (b"\x93NUMPY\x01\x00\xff\xff{" + b"(" * 3000, "not a sound array"),
        (npy((2, 2), b"\0" * 16, "<f4', 'x': __import__('os').system('true'), 'y': '"), "not a sound array"),
        (b"", "not a sound array"),
    ],
)
def test_that_an_array_that_lies_gets_a_sentence(place, array, told):
    folder = place / "out" / "layer_1"
    folder.mkdir()
    with zipfile.ZipFile(folder / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", array)
    with pytest.raises(AuditorError, match=told):
        read_npz(folder / "params.npz")
    assert told in refused(place, folder)


def test_that_an_archive_that_is_a_bomb_or_names_files_outside_is_refused(place):
    folder = place / "out" / "layer_1"
    folder.mkdir()
    with zipfile.ZipFile(folder / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W_enc.npy", npy((1 << 26,), bytes(1 << 28)))
    assert "unpacks to over 100 times its size" in refused(place, folder)
    with zipfile.ZipFile(folder / "params.npz", "w") as archive:
        archive.writestr("../../W_enc.npy", npy((2,), bytes(8)))
    assert "names a file outside itself" in refused(place, folder)
    with zipfile.ZipFile(folder / "params.npz", "w") as archive:
        archive.writestr("readme.txt", b"hello")
    assert "which is no array" in refused(place, folder)


BOMBS = {
    "deep": "[" * 200_000, "cut": '{"d_in": 1', "list": "[]", "word": '"x"', "empty": "", "large": " " * (5 << 20),
    "long number": "{" + '"k": ' + "9" * 100_000 + "}", "binary": "\x00\x01",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_that_settings_that_are_bombs_get_a_sentence(place, kind, bomb):
    folder, _, settings = copied(place, kind)
    settings.write_text(BOMBS[bomb])
    began = time.monotonic()
    refused(place, folder)
    assert time.monotonic() - began < 30


WRONG_SETTINGS = {
    "saelens": [{"architecture": 7}, {"architecture": ["jumprelu"]}, {"d_in": 9}, {"d_sae": "many"},
                {"architecture": "topk"},
                {"normalize_activations": "covariance_whitening"}, {"normalize_activations": {"a": 1}},
                {"metadata": {"auditor": {}, "auditor_dictionary": {"sources": [[1]]}}},
                {"metadata": {"auditor": 3, "auditor_dictionary": {"original": {"format": "x"}}}},
                {"metadata": {"auditor": {}, "auditor_dictionary": {"sources": [["a", 3]]}}}],
    "sparsify": [{"k": 0}, {"k": -3}, {"k": True}, {"k": 1e9}, {"k": 10**9}, {"d_in": 13}, {"num_latents": 31},
                 {"activation": "groupmax"}, {"skip_connection": True}],
    "dictionary_learning": [{"trainer": None}, {"trainer": []}, {"trainer": {"dict_class": "os.system"}},
                            {"trainer": {"dict_class": "IdentityDict"}},
                            {"trainer": {"dict_class": "AutoEncoderTopK", "dict_size": 33}},
                            {"trainer": {"dict_class": "GatedAutoEncoder"}}],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "wrong"), [(kind, wrong) for kind, all_ in WRONG_SETTINGS.items() for wrong in all_])
def test_that_settings_that_do_not_fit_get_a_sentence(place, kind, wrong):
    folder, _, settings = copied(place, kind)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | wrong))
    refused(place, folder)


def damaged(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors with one thing wrong each."""
    first = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    bias = next(name for name, tensor in tensors.items() if tensor.ndim == 1)
    nan, huge = tensors[first].clone(), tensors[bias].clone()
    nan[0, 0], huge[0] = float("nan"), float("inf")
    return {
        "missing": {name: tensor for name, tensor in tensors.items() if name != first},
        "one more": tensors | {"W_extra": torch.zeros(3)},
        "not a number": tensors | {first: nan},
        "infinite": tensors | {bias: huge},
        "transposed": tensors | {first: tensors[first].T.contiguous()},
        "flat": tensors | {first: tensors[first].flatten()},
        "three axes": tensors | {first: tensors[first][None]},
        "no features": tensors | {first: tensors[first][:0]},
        "short bias": tensors | {bias: tensors[bias][:-1]},
        "scalar bias": tensors | {bias: torch.zeros(())},
        "whole numbers": tensors | {first: tensors[first].to(torch.int32)},
        "complex": tensors | {bias: tensors[bias].to(torch.complex64)},
        "none": {},
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", sorted(damaged({"a": torch.ones(2, 3), "b": torch.ones(3)})))
def test_that_tensors_that_do_not_fit_get_a_sentence(place, kind, damage):
    folder, weights, _ = copied(place, kind)
    pickled = weights.suffix == ".pt"
    wrong = damaged(torch.load(weights, weights_only=True) if pickled else load_file(weights))[damage]
    if not pickled and damage == "complex":
        pytest.skip("safetensors here has no complex numbers")
    torch.save(wrong, weights) if pickled else save_file(wrong, weights)
    refused(place, folder)


def test_that_a_file_that_claims_ten_gigabytes_is_refused_at_once(place):
    folder, weights, _ = copied(place, "saelens")
    head = json.dumps({"W_enc": {"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10**10]}}).encode()
    weights.write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 100)
    began = time.monotonic()
    assert "cut short" in refused(place, folder)
    assert time.monotonic() - began < 10


def test_that_a_pickle_whose_tensors_claim_more_than_the_file_holds_is_refused(place):
    folder, weights, _ = copied(place, "dictionary_learning")
    state = torch.load(weights, weights_only=True)
    torch.save(state | {"encoder.weight": torch.zeros(1).expand(60_000, 60_000)}, weights)
    assert "claims to be larger than the file" in refused(place, folder)


def test_that_a_packed_zip_of_torch_is_refused(place):
    folder, weights, _ = copied(place, "dictionary_learning")
    packed = io.BytesIO()
    with zipfile.ZipFile(weights) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    weights.write_bytes(packed.getvalue())
    assert "packed in an unusual way" in refused(place, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_that_a_file_that_is_cut_or_rubbish_gets_a_sentence(place, kind):
    folder, weights, _ = copied(place, kind)
    whole = weights.read_bytes()
    rng = np.random.default_rng(5)
    for broken in (whole[:-9], whole[: len(whole) // 2], b"", b"PK", rng.bytes(500), bytes(300)):
        weights.write_bytes(broken)
        refused(place, folder)


def test_that_rubbish_in_weights_never_gives_a_trace(place):
    folder, weights, _ = copied(place, "saelens")
    whole, rng = weights.read_bytes(), np.random.default_rng(7)
    for _ in range(60):
        broken = bytearray(whole)
        for at in rng.integers(0, 600, 3):
            broken[at] = int(rng.integers(256))
        weights.write_bytes(broken)
        try:
            load(folder)
        except AuditorError as error:
            assert error.message.isprintable() or "\n" in error.message


YAMLS = ["a:\n  b: c\n", "? x\n", "\t- x\n", "!!python/object/apply:os.mkdir ['canary']\n", "activation: topk\n",
         "activation: tanh\n", "x" * (2 << 20)]  # fmt: skip


@pytest.mark.parametrize("text", YAMLS)
def test_that_settings_of_circuit_tracer_are_read_flat_or_not_at_all(place, text):
    folder = place / "out" / "set"
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    tensors = {"W_enc": torch.zeros(4, 3), "W_dec": torch.zeros(4, 3), "b_enc": torch.zeros(4), "b_dec": torch.zeros(3)}
    save_file(tensors, folder / "layer_0.safetensors")
    refused(place, folder)


def test_that_links_and_pipes_are_not_followed_into_loops(place):
    loop = place / "out" / "loop"
    loop.mkdir()
    (loop / "again").symlink_to(loop)
    assert dictionaries_in(loop) == {}
    assert "neither activations nor a dictionary" in refused(place, loop)
    os.mkfifo(loop / "ae.pt")
    (loop / "config.json").write_text("{}")
    refused(place, loop)
    assert "no dictionary called" in refused(place, FIXTURES / "sparsify" / "expanded", "--pick", "../../layers.3")


HOOKS = {"hook_point_in": "a", "hook_point_out": "a"}
SHAPELESS = {
    "saelens": ("sae_weights.safetensors", ["W_enc", "b_enc", "W_dec", "b_dec"], "cfg.json", {"metadata": {}}),
    "sparsify": ("sae.safetensors", ["encoder.weight", "encoder.bias", "W_dec", "b_dec"], "cfg.json", {"k": 1}),
    "gemma_scope": ("params.safetensors", ["w_enc", "w_dec", "b_enc", "b_dec", "threshold"], "config.json", {}),
    "llama_scope": (
        "checkpoints/final.safetensors", ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"],
        "hyperparams.json", {"dataset_average_activation_norm": {"in": 1.0, "out": 2.0}, **HOOKS},
    ),
    "llamascopium": (
        "sae_weights.safetensors", ["W_E", "b_E", "W_D", "b_D"], "config.json",
        {"sae_type": "crosscoder", "act_fn": "relu", "norm_activation": "inference"},
    ),
    "circuit_tracer": ("layer_0.safetensors", ["W_enc", "b_enc", "W_dec", "b_dec", "W_skip"], "config.yaml", None),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPELESS)
def test_that_tensors_of_any_shape_give_a_dictionary_or_a_sentence(place, name):
    weights, names, settings, config = SHAPELESS[name]
    folder, rng = place / "out", np.random.default_rng(11)
    (folder / weights).parent.mkdir(exist_ok=True)
    (folder / settings).write_text("model_name: x\n" if config is None else json.dumps(config))
    refusals = 0
    for _ in range(150):
        axes = [tuple(int(side) for side in rng.integers(0, 3, int(rng.integers(0, 4)))) for _ in names]
        save_file({key: torch.ones(shape) for key, shape in zip(names, axes, strict=True)}, folder / weights)
        try:
            formats().get(name).read(folder / weights if config is None else folder)
        except AuditorError as error:
            refusals += bool(error.message)
    assert refusals > 100
