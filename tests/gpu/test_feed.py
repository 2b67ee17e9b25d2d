"""Batches that a thread sends to the GPU arrive whole and in order, whatever is slow and however it ends."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
import torch

from auditor.sae.feed import Feed
from auditor.sae.pump import Pump
from auditor.store import StoredSample, StoreWriter
from auditor.store.convert import scale_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def batches(count, rows=4096, width=768, dtype=np.float16):
    held = np.random.default_rng(0).standard_normal((rows, width)).astype(dtype)
    for number in range(count):
        yield held + dtype(number % 7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_that_batches_arrive_whole_and_in_order_while_the_gpu_is_busy(dtype):
    device = torch.device("cuda", 0)
    busy = torch.randn(4096, 4096, device=device)
    for sent, came in zip(batches(60, dtype=dtype), Feed(device).send(batches(60, dtype=dtype)), strict=True):
        for _ in range(3):
            busy = (busy @ busy).clamp(-1, 1)
        assert came.dtype == torch.float32
        assert torch.equal(came.cpu(), torch.from_numpy(sent).float())


def test_that_the_thread_ends_with_the_iteration_and_what_it_raised_is_raised():
    def failing():
        yield from batches(5)
        raise ValueError("the store is damaged")

    with pytest.raises(ValueError, match="damaged"):
        for _ in Feed(torch.device("cuda", 0)).send(failing()):
            pass
    feed = Feed(torch.device("cuda", 0)).send(batches(10**9))
    next(feed)
    feed.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "train-feed"]


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s.store", {"x": 768}, {}) as writer:
        for _ in range(40):
            rows, ones = rng.standard_normal((4096, 768), dtype=np.float32), np.ones(4096)
            writer.append([StoredSample("s")], {"x": rows}, np.zeros(4096, int), ones, ones, ones)
        return writer.finish()


def pumped(store, device):
    how = {"seed": 1, "hook": "x"}
    return Feed(device).pumped(Pump(store.path, 4096, 768, store.numbers("x"), how, pinned=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_that_numbers_that_torch_does_not_take_for_floats_are_widened_on_the_gpu(dtype, tmp_path):
    rows, ones = np.random.default_rng(1).standard_normal((6000, 96), dtype=np.float32), np.ones(6000)
    with StoreWriter(tmp_path / "n.store", {"x": 96}, {}, dtype, scales={"x": scale_of(rows)}) as writer:
        writer.append([StoredSample("s")], {"x": rows}, np.zeros(6000, int), ones, ones, ones)
        held = writer.finish()
    feed = Feed(torch.device("cuda", 0), held.numbers("x"))
    sent, wanted = feed.send(held.batches(512, seed=2, room=feed.room)), held.batches(512, seed=2)
    for _ in range(30):
        assert torch.allclose(next(sent).cpu(), torch.from_numpy(next(wanted)), rtol=1e-6, atol=1e-6)
    sent.close()


def test_that_what_another_process_gathers_arrives_whole_and_in_order(store):
    device = torch.device("cuda", 0)
    busy, wanted = torch.randn(4096, 4096, device=device), store.batches(4096, seed=1)
    rows = pumped(store, device)
    for _ in range(60):
        came = next(rows)
        for _ in range(3):
            busy = (busy @ busy).clamp(-1, 1)
        assert torch.equal(came.cpu(), torch.from_numpy(next(wanted)))
    rows.close()


def test_that_the_feed_keeps_up_with_what_gathers_the_rows(store):
    """Prints batches a second: gathered only; gathered by another process, sent and widened while the GPU multiplies;
    multiplied only."""
    device, count = torch.device("cuda", 0), 300
    weight = torch.randn(768, 24_576, device=device, dtype=torch.bfloat16)

    def rate(batches):
        for _ in zip(range(20), batches, strict=False):
            pass
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _, rows in zip(range(count), batches, strict=False):
            if isinstance(rows, torch.Tensor):
                rows.bfloat16() @ weight
        torch.cuda.synchronize()
        return count / (time.perf_counter() - begun)

    pinned = torch.empty(4096, 768, dtype=torch.float16, pin_memory=True).numpy()
    alone = rate(store.batches(4096, seed=1, room=lambda shape, dtype: pinned))
    held = torch.randn(4096, 768, device=device)
    multiplied = rate(held for _ in range(10**6))
    feed = pumped(store, device)
    fed = rate(feed)
    feed.close()
    sys.stdout.write(f"\nbatches/s of 4096 x 768: gathered {alone:.0f}, multiplied {multiplied:.0f}, fed {fed:.0f}\n")
    assert fed > 0.8 * min(alone, multiplied)
