"""Folders of activations as saev and Llamascopium lay them out, written here by a few lines of numpy."""

from __future__ import annotations

import json
import pickle
import shutil
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from auditor.base.errors import AuditorError
from auditor.store import formats
from auditor.store.formats.llamascopium import Chunks
from auditor.store.formats.saev import Shards
from auditor.store.formats.source import Vocabulary, import_source

LAYERS, CONTENT, WIDTH = [3, 7], 4, 6


class _Payload:
    def __reduce__(self):
        return (exit, ())


def saev(folder: Path, protocol: str = "2.1", examples: int = 7, cls: bool = True) -> np.ndarray:
    """Shards with room for three examples each; gives what is in them, [examples, layers, tokens, width]."""
    tokens = CONTENT + cls
    acts = np.random.default_rng(5).normal(size=(examples, len(LAYERS), tokens, WIDTH)).astype("<f4")
    room = 3 * tokens * len(LAYERS) + 5
    facts = {"layers": LAYERS, "cls_token": cls, "data": b64encode(pickle.dumps(_Payload())).decode()}
    if protocol == "0.1":  # as version 0.1.0 on PyPI writes it
        facts |= {"vit_family": "clip", "vit_ckpt": "ViT-B-16", "n_patches_per_img": CONTENT, "d_vit": WIDTH, "seed": 1}
        facts |= {"n_imgs": examples, "n_patches_per_shard": room}
    else:
        facts |= {"family": "dinov2", "ckpt": "dinov2_vitb14", "content_tokens_per_example": CONTENT, "d_model": WIDTH}
        facts |= {"n_examples": examples, "max_tokens_per_shard": room, "dataset": "/data", "pixel_agg": None}
        facts |= {"dtype": "float32", "protocol": protocol}
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps(facts))
    listed = []
    for number in range(-(-examples // 3)):
        held = np.zeros((3, len(LAYERS), tokens, WIDTH), "<f4")
        part = acts[3 * number : 3 * number + 3]
        held[: len(part)] = part
        held.tofile(folder / f"acts{number:06}.bin")
        listed.append({"name": f"acts{number:06}.bin", "n_examples": len(part)})
    if protocol != "0.1":
        (folder / "shards.json").write_text(json.dumps(listed))
    return acts


@pytest.mark.parametrize(("protocol", "cls"), [("2.1", True), ("2.1", False), ("0.1", True)])
def test_that_saevs_shards_keep_their_numbers(protocol, cls, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.source._PIECE_BYTES", 1000)
    acts = saev(tmp_path / "a1b2", protocol, cls=cls)
    held = formats.recognise(tmp_path / "a1b2")
    assert held is not None and held.name == "saev"
    store = import_source(held.open(tmp_path / "a1b2"), tmp_path / "a.store")
    assert list(store.hook_points) == ["blocks.3.resid_post", "blocks.7.resid_post"] and store.n_samples == 7
    for at, hook in enumerate(store.hook_points):
        np.testing.assert_array_equal(store.rows(slice(None), hook), acts[:, at].reshape(-1, WIDTH))
    assert store.counts() == {"image": 7 * CONTENT, **({"special": 7} if cls else {})}
    unit = np.arange(-1 if cls else 0, CONTENT)
    np.testing.assert_array_equal(store.positions().unit, np.tile(unit, 7))
    assert store.sample(4).grid == (2, 2) and "_Payload" not in json.dumps(store.meta)


def test_that_saevs_shards_that_lie_are_refused(tmp_path) -> None:
    saev(tmp_path / "whole")
    told = {
        "short": ("acts000001.bin", lambda data: data[:-4], "bytes instead of"),
        "many": ("shards.json", lambda data: data.replace(b": 1}", b": 3}"), "contradicts"),
        "elsewhere": ("shards.json", lambda data: data.replace(b"acts000000", b"../x/acts0"), "names no shards"),
        "huge": ("metadata.json", lambda data: data.replace(b'"d_model": 6', b'"d_model": 6e9'), "d_model"),
        "wide": ("metadata.json", lambda data: data.replace(b'"d_model": 6', b'"d_model": 7'), "bytes instead of"),
        "no": ("metadata.json", lambda data: b"[" * 100_000, "cannot be read"),
    }
    for name, (file, change, why) in told.items():
        saev(tmp_path / name)
        (tmp_path / name / file).write_bytes(change((tmp_path / name / file).read_bytes()))
        with pytest.raises(AuditorError, match=why):
            Shards(tmp_path / name)


def chunks(folder: Path, hooks: tuple[str, ...], names: tuple[str, ...], dtype=torch.float32) -> dict:
    """Chunks of two samples; gives the activations of each hook point and the tokens, chunk by chunk."""
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(0, 900, (2, 5), generator=generator) for _ in names]
    mask, attention = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.long)
    mask[:, 0], attention[1, 3:] = False, 0
    found = {"tokens": torch.cat(tokens)}
    for hook in hooks:
        (folder / hook).mkdir(parents=True)
        acts = [torch.randn(2, 5, WIDTH, generator=generator).to(dtype) for _ in names]
        for name, held, ids in zip(names, acts, tokens, strict=True):
            tensors = {"activation": held, "tokens": ids, "mask": mask, "attention_mask": attention}
            save_file(tensors, folder / hook / f"{name}.safetensors")
            meta = [{"dataset_name": "pile", "context_idx": at, "text": f"text {at}"} for at in range(2)]
            (folder / hook / f"{name}.meta.json").write_text(json.dumps(meta))
        found[hook] = torch.cat(acts)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_that_llamascopiums_chunks_keep_numbers_tokens_and_what_is_known(dtype, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.source._PIECE_BYTES", 700)  # pieces that cross the chunks
    hooks, names = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"), ("chunk-00000002", "chunk-00000010")
    wanted = chunks(tmp_path / "cache", hooks, names, dtype)
    held = formats.recognise(tmp_path / "cache")
    assert held is not None and held.name == "llamascopium"
    source = held.open(tmp_path / "cache")
    store = import_source(source, tmp_path / "a.store")
    assert store.dtype == str(dtype).removeprefix("torch.")
    kept = np.tile(np.arange(10) < 8, 2)  # two positions of each second sample are padding
    for hook in hooks:
        rows = wanted[hook].float().numpy().reshape(-1, WIDTH)
        np.testing.assert_array_equal(store.rows(slice(None), hook), rows[kept])
    np.testing.assert_array_equal(store.positions().token, wanted["tokens"].numpy().reshape(-1)[kept])
    assert store.counts() == {"text": 12, "special": 4} and store.n_samples == 4
    sample = store.sample(3)
    assert (sample.group, sample.text, sample.labels["context_idx"], sample.n_rows) == ("pile", "text 1", "1", 3)
    alone = import_source(Chunks(tmp_path / "cache" / hooks[1]), tmp_path / "b.store")
    np.testing.assert_array_equal(alone.rows(slice(None)), store.rows(slice(None), hooks[1]))


def test_that_leading_positions_are_counted_behind_padding_in_front(tmp_path) -> None:
    ids = torch.arange(15).reshape(3, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1]])
    (tmp_path / "h").mkdir()
    tensors = {"activation": torch.randn(3, 5, WIDTH), "tokens": ids, "attention_mask": mask}
    save_file(tensors, tmp_path / "h" / "chunk-00000000.safetensors")
    at = import_source(Chunks(tmp_path / "h"), tmp_path / "a.store", leading=1).positions()
    assert at.token[at.kind == 3].tolist() == [2, 5, 11] and len(at) == 11


def test_that_of_positions_without_their_texts_each_is_a_sample(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.source._PIECE_BYTES", 300)
    rows, ids = np.random.default_rng(0).normal(size=(2, 2, 30, WIDTH)).astype("f4"), np.arange(60).reshape(2, 30)
    for hook, held in zip("gh", rows, strict=True):
        (tmp_path / "cache" / hook).mkdir(parents=True)
        for chunk in range(2):
            tensors = {"activation": torch.from_numpy(held[chunk]), "tokens": torch.from_numpy(ids[chunk])}
            save_file(tensors, tmp_path / "cache" / hook / f"shard-{chunk}-chunk-00000000.safetensors")
    source = Chunks(tmp_path / "cache")
    words = Vocabulary(lambda tokens: [f"<{token}>" for token in tokens], frozenset([7]))
    store = import_source(source, tmp_path / "a.store", vocabulary=words)
    assert "each is a sample of its own" in source.note and store.n_samples == 60 == store.n_rows
    for hook, held in zip("gh", rows, strict=True):
        np.testing.assert_array_equal(store.rows(slice(None), hook), held.reshape(60, WIDTH))
    assert store.positions().token.tolist() == list(range(60)) and not store.positions().unit.any()
    assert (store.sample(41).text, list(store.sample(41).tokens)) == ("<41>", ["<41>"])
    assert store.counts() == {"text": 59, "special": 1}
    tensors = {"activation": torch.ones(30, WIDTH), "tokens": torch.zeros(30, 1, dtype=torch.long)}
    save_file(tensors, tmp_path / "cache" / "h" / "shard-1-chunk-00000000.safetensors")
    with pytest.raises(AuditorError, match="“tokens” is missing or of another shape"):
        Chunks(tmp_path / "cache")


def test_that_llamascopiums_chunks_that_do_not_fit_are_refused(tmp_path) -> None:
    names = ("shard-0-chunk-00000000", "shard-1-chunk-00000000")
    chunks(tmp_path / "pickled", ("h",), names)
    (tmp_path / "pickled" / "h" / "chunk-00000001.pt").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(AuditorError, match="pickles"):
        Chunks(tmp_path / "pickled")
    chunks(tmp_path / "apart", ("g", "h"), names)
    save_file({"activation": torch.ones(2, 5, WIDTH), "tokens": torch.zeros(2, 5, dtype=torch.long)},
              tmp_path / "apart" / "h" / f"{names[0]}.safetensors")  # fmt: skip
    with pytest.raises(AuditorError, match="other tokens"):
        Chunks(tmp_path / "apart").piece(0, 2)
    save_file({"activation": torch.ones(2, 5, WIDTH), "tokens": torch.zeros(2, 4, dtype=torch.long)},
              tmp_path / "apart" / "h" / f"{names[0]}.safetensors")  # fmt: skip
    with pytest.raises(AuditorError, match="“tokens” is missing or of another shape"):
        Chunks(tmp_path / "apart")


def test_that_links_that_lead_out_of_the_folder_are_refused_but_for_a_hubs_cache(tmp_path) -> None:
    chunks(tmp_path / "elsewhere", ("h",), ("chunk-00000000",))
    file = tmp_path / "elsewhere" / "h" / "chunk-00000000.safetensors"
    hub = tmp_path / "datasets--org--cache"
    (hub / "blobs").mkdir(parents=True)
    shutil.copy(file, hub / "blobs" / "abc")
    for place, target in ((tmp_path / "cache", file), (hub / "snapshots" / "rev", hub / "blobs" / "abc")):
        (place / "h").mkdir(parents=True)
        (place / "h" / file.name).symlink_to(target)
    with pytest.raises(AuditorError, match="is a link that leads out of “h”"):
        Chunks(tmp_path / "cache")
    assert Chunks(hub / "snapshots" / "rev").n_samples == 2


def test_that_what_saev_wrote_keeps_its_numbers(tmp_path) -> None:
    fixture = Path(__file__).parent / "fixtures" / "saev"
    store = import_source(Shards(fixture / "shards"), tmp_path / "a.store")
    with np.load(fixture / "expected.npz") as expected:
        acts = expected["acts"]
    for at, hook in enumerate(("blocks.1.resid_post", "blocks.3.resid_post")):
        np.testing.assert_array_equal(store.rows(slice(None), hook), acts[:, at].reshape(-1, 6))
    assert store.n_samples == 7 and store.counts() == {"image": 28, "special": 7}
    assert store.meta["recorded_by"] == {"program": "saev", "protocol": "0.1", "model": "clip ViT-B-16/openai"}
