"""The four ways of storing numbers: what comes back, what is refused and counted, and what any HDF5 program sees."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.intake.hdf5 import h5py
from auditor.store import Store, StoredSample, StoreWriter, open_store
from auditor.store.convert import Numbers, Spread, fvu_of, scale_of
from auditor.store.export import export_hook
from auditor.store.joined import joined
from auditor.store.layout import MANIFEST, RAW, Scale
from tests.bench.bench_numbers import compared

WIDTH = 24
DTYPES = list(RAW)


def activations(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows with one dimension a hundred times as large as the rest, and one far from 0, as networks have them."""
    rows = rng.normal(size=(n, WIDTH)).astype(np.float32)
    rows[:, 3] *= 100
    rows[:, 5] += 40
    return rows


def written(path, dtype: str, rows: np.ndarray, scales=None, hooks=("h",), kind=None) -> Store:
    with StoreWriter(path, dict.fromkeys(hooks, WIDTH), {}, dtype, shard_bytes=9000, scales=scales) as writer:
        for start in range(0, len(rows), 50):
            part = rows[start : start + 50]
            kinds = np.ones(len(part)) if kind is None else kind[start : start + 50]
            columns = (np.zeros(len(part), int), np.arange(len(part)), kinds, np.ones(len(part)))
            writer.append([StoredSample(f"s{start}")], dict.fromkeys(hooks, part), *columns)
        return writer.finish()


def as_bfloat16(rows: np.ndarray) -> np.ndarray:
    """Round to the nearest of 16 upper bits, to even where two are as near."""
    bits = rows.view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return (bits >> 16 << 16).astype(np.uint32).view(np.float32)


def as_int8(rows: np.ndarray, scale: Scale) -> np.ndarray:
    zero, spread, rate = (scale.vector(name).astype(np.float64) for name in ("zero", "spread", "rate"))
    levels = np.clip(np.round(np.arcsinh((rows - zero) / spread) / rate), -127, 127)
    return zero + spread * np.sinh(rate * levels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_that_each_format_gives_back_what_its_convention_says(dtype, tmp_path) -> None:
    rows = activations(np.random.default_rng(0), 700)
    scales = {"h": scale_of(rows[:300])}
    store = written(tmp_path / "a.store", dtype, rows, scales)
    wanted = {
        "float32": rows, "float16": rows.astype(np.float16).astype(np.float32), "bfloat16": as_bfloat16(rows),
        "int8": as_int8(rows, scales["h"]),
    }[dtype]  # fmt: skip
    assert store.dtype == dtype and len(list(store.path.glob("shard*"))) >= 2
    picks = np.random.default_rng(1).integers(0, 700, 90)
    for index in (slice(None), slice(40, 300), picks):
        np.testing.assert_allclose(store.rows(index), wanted[index], rtol=1e-6, atol=1e-6)
    got = np.concatenate(list(store.batches(64, epochs=1)))
    order = np.lexsort(wanted.T)
    np.testing.assert_allclose(got[np.lexsort(got.T)], wanted[order], rtol=1e-6, atol=1e-6)
    size = store.manifest.shards[0].datasets["rows/h"]
    assert size.bytes == size.shape[0] * WIDTH * {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_that_any_hdf5_program_finds_the_rows_and_what_they_mean(dtype, tmp_path) -> None:
    rows = activations(np.random.default_rng(2), 120)
    store = written(tmp_path / "a.store", dtype, rows, {"h": scale_of(rows)})
    store.check()
    with h5py.File(store.path / "shard-00000.h5") as file:
        raw = file["rows/h"][...]
        assert raw.dtype == RAW[dtype]
        if dtype == "bfloat16":
            assert file["rows/h"].attrs["number_format"] == "bfloat16"
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        if dtype == "int8":
            raw = file["zero/h"][...] + file["spread/h"][...] * np.sinh(file["rate/h"][...] * raw)
    np.testing.assert_allclose(raw, store.rows(slice(0, len(raw))), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_that_batches_in_given_memory_travel_raw_and_widen_to_the_same(dtype, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.shuffle.WINDOW_BYTES", 9000)
    rows = activations(np.random.default_rng(3), 400)
    scales = {hook: scale_of(rows * size) for hook, size in (("a", 1), ("b", 2))}
    store = written(tmp_path / "a.store", dtype, rows, scales, hooks=("a", "b"))
    slot, numbers = np.empty((32, 2 * WIDTH), RAW[dtype]), store.numbers("b", "a")
    plain = store.batches(32, seed=5, hook=["b", "a"])
    raw = store.batches(32, seed=5, hook=["b", "a"], room=lambda shape, dtype: slot)
    for _, kept, wanted in zip(range(30), raw, plain, strict=False):
        assert kept.dtype == RAW[dtype] and np.shares_memory(kept, slot)
        np.testing.assert_array_equal(numbers.widen(numbers.tensor(kept)).numpy(), wanted)


def test_that_numbers_beyond_the_scale_are_clipped_and_counted(tmp_path) -> None:
    rng = np.random.default_rng(4)
    rows = activations(rng, 500)
    scale = scale_of(rows)
    kind = np.ones(500)
    kind[::50] = 3
    rows[::50, 7] = 25_000  # attention sinks that were not measured
    rows[[33, 77], 9] = [60, -60]
    store = written(tmp_path / "a.store", "int8", rows, {"h": scale}, kind=kind)
    cost = store.quantisation()["h"]
    assert (cost.clipped, cost.clipped_special, cost.numbers) == (2, 10, 490 * WIDTH)
    usual = rows[kind == 1]
    lost = np.square(store.rows(slice(None))[kind == 1] - usual, dtype=np.float64).sum()
    held = np.square(usual - scale.vector("zero"), dtype=np.float64).sum()
    assert cost.fvu == pytest.approx(lost / held, rel=1e-5) and 0 < cost.fvu < 0.01
    written_down = json.loads((store.path / MANIFEST).read_text())["shards"]
    assert sum(shard["quantised"]["h"]["clipped"] for shard in written_down) == 2


def test_that_a_scale_for_each_dimension_keeps_what_a_scale_for_each_row_loses(smollm2) -> None:
    from tests.bench.bench_numbers import activations as recorded

    rows = recorded(smollm2.path, "blocks.14.resid_post", 64)
    found = {name: figures for name, *figures in compared(rows)}
    assert len(rows) > 1000
    assert found["int8"][0] < 2e-4 and found["int8"][1] < 2e-4
    assert found["int8, a scale a row"][1] > 10 * found["int8"][1]
    assert found["int8, even steps"][0] > found["int8"][0]
    assert found["float16"][0] < 1e-6 and found["bfloat16"][0] < 1e-4


def test_that_int8_goes_on_with_the_scales_it_was_begun_with(tmp_path) -> None:
    rows = activations(np.random.default_rng(5), 60)
    columns = (np.zeros(60, int), np.arange(60), np.ones(60), np.ones(60))
    with pytest.raises(ValueError, match="begun with scales"):
        StoreWriter(tmp_path / "a.store", {"h": WIDTH}, {}, "int8")
    with StoreWriter(tmp_path / "a.store", {"h": WIDTH}, {}, "int8", scales={"h": scale_of(rows)}) as writer:
        writer.append([StoredSample("a")], {"h": rows}, *columns)
        writer.flush()
    other = {"h": scale_of(7 * rows)}
    with StoreWriter(tmp_path / "a.store", {"h": WIDTH}, {}, "int8", scales=other) as writer:
        assert writer.n_batches == 1
        writer.append([StoredSample("b")], {"h": rows}, *columns)
        store = writer.finish()
    np.testing.assert_array_equal(store.rows(slice(0, 60)), store.rows(slice(60, 120)))
    assert store.quantisation()["h"].numbers == 120 * WIDTH


def test_that_what_a_format_cannot_hold_is_refused() -> None:
    too_large = np.full((2, 3), 3.4e38, np.float32)
    for dtype, rows, said in (
        ("float16", np.full((2, 3), 7e4), "bfloat16 or float32"), ("bfloat16", too_large, "no activation"),
        ("int8", np.full((2, 3), np.nan), "Not a finite"),
    ):  # fmt: skip
        with pytest.raises(AuditorError) as caught:
            Numbers.of(dtype, [scale_of(np.ones((2, 3)))]).narrowed(rows, lambda row: f"row {row}")
        assert said in f"{caught.value.message} {caught.value.hint}" and "row 0" in caught.value.message
    for number, said in ((np.nan, "Not a finite number (NaN) at row 1"), (-np.inf, "A number at row 1 does not fit")):
        rows = np.full((3, 2), -65504.0, np.float16)
        rows[1, 1] = number
        with pytest.raises(AuditorError) as caught:
            Numbers("float16").narrowed(rows, lambda row: f"row {row}")
        assert said in caught.value.message
    largest = np.full((3, 2), -65504.0, np.float16)
    np.testing.assert_array_equal(Numbers("float16").narrowed(largest, str), largest)
    constant = np.full((9, 2), 5.0, np.float32)
    assert fvu_of(constant, "int8") == 0.0


def test_that_stores_of_several_formats_join_as_float32_and_of_one_as_they_are(tmp_path) -> None:
    rows = activations(np.random.default_rng(6), 150)
    stores = {dtype: written(tmp_path / f"{dtype}.store", dtype, rows, {"h": scale_of(rows)}) for dtype in DTYPES}
    both = joined([stores["int8"], stores["bfloat16"]])
    assert both.dtype == "float32"
    for dtype in ("int8", "bfloat16"):
        np.testing.assert_array_equal(both.rows(slice(None), f"{dtype}/h"), stores[dtype].rows(slice(None)))
    twice = joined([stores["int8"], written(tmp_path / "more.store", "int8", rows, {"h": scale_of(3 * rows)})])
    assert twice.dtype == "int8"
    for name in ("int8", "more"):
        wanted = open_store(tmp_path / f"{name}.store").rows(slice(None))
        np.testing.assert_array_equal(twice.rows(slice(None), f"{name}/h"), wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_that_exports_hold_the_numbers_that_are_meant(dtype, tmp_path) -> None:
    from safetensors.torch import load_file

    rows = activations(np.random.default_rng(7), 80)
    store = written(tmp_path / "a.store", dtype, rows, {"h": scale_of(rows)})
    plain = np.load(export_hook(store, None, tmp_path / "a.npy"))
    tensors = load_file(export_hook(store, None, tmp_path / "a.safetensors"))
    np.testing.assert_array_equal(plain, store.rows(slice(None)))
    np.testing.assert_array_equal(tensors["activations"].float().numpy(), store.rows(slice(None)))
    assert tensors["activations"].dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_that_a_dictionary_is_trained_on_what_the_numbers_mean(dtype, tmp_path) -> None:
    """The same batches as a store of float32 that holds what this one gives back: the same dictionary to the bit."""
    from auditor.sae.train_config import TrainConfig
    from auditor.sae.trainer import train

    rows = activations(np.random.default_rng(8), 600)
    narrow = written(tmp_path / "narrow.store", dtype, rows, {"h": scale_of(rows)})
    wide = written(tmp_path / "wide.store", "float32", narrow.rows(slice(None)))
    config = TrainConfig(d_sae=48, k=4, steps=8, batch_size=64, device="cpu", evaluate_rows=100, splice_samples=0)
    one, other = (train(config, store, tmp_path / f"{store.name}.sae") for store in (narrow, wide))
    assert torch.equal(one.W_dec, other.W_dec) and torch.equal(one.W_enc, other.W_enc)


def test_that_attention_sinks_that_were_measured_are_kept_and_cost_the_others_little(tmp_path) -> None:
    rng = np.random.default_rng(9)
    rows, kind = activations(rng, 600), np.ones(600)
    kind[::40] = 3
    without = scale_of(rows[kind == 1])
    rows[::40, 7] = rng.uniform(2e4, 3e4, 15)
    spread = Spread(WIDTH)
    spread.add(rows, kind != 3)
    store = written(tmp_path / "a.store", "int8", rows, {"h": spread.scale()}, kind=kind)
    plain = written(tmp_path / "b.store", "int8", rows, {"h": without}, kind=kind)
    cost, before = store.quantisation()["h"], plain.quantisation()["h"]
    assert (cost.clipped_special, before.clipped_special) == (0, 15) and cost.fvu < 2 * before.fvu
    np.testing.assert_allclose(store.rows(slice(None))[::40, 7], rows[::40, 7], rtol=0.06)
