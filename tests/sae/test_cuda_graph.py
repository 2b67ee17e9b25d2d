"""How the fused TopK step replays a CUDA graph: with a stand-in for the GPU that does at once what it is told."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from auditor.sae.kernels.cuda.plain import reference_step
from auditor.sae.kernels.cuda.state import Outcome
from auditor.sae.kernels.cuda.step import FusedTopK
from tests.sae.test_cuda_step import weights

D, D_SAE, BATCH, K = 16, 50, 20, 4


class Done:
    """A stream, or an event, of a device that has always finished."""

    def __init__(self, *_):
        pass

    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        assert event is not None

    def synchronize(self):
        pass

    def record_event(self):
        return Done()


class Graph:
    """Does again what was told while it was captured; `now` is the one that is being captured."""

    now = None

    def __init__(self):
        self.told = []

    def replay(self):
        for work in self.told:
            work()


@contextmanager
def captured(graph, capture_error_mode):
    assert capture_error_mode == "thread_local"  # another thread goes on sending batches
    Graph.now = graph
    yield
    Graph.now = None


class Pipeline:
    """The step in plain torch, into buffers that the next one overwrites; noted only, while a graph is captured."""

    def __init__(self, step):
        self.state, self.settings, self.lr = step.state, step.settings, torch.zeros(1)
        whole, single = torch.int32, torch.float32
        sizes = ((single, ()), (single, ()), (single, ()), (whole, D_SAE), (torch.bool, ()), (whole, 1))
        self.out = [torch.zeros(size, dtype=kind) for kind, size in sizes]

    def run(self, x, silent, room):
        work = partial(self._do, x, silent, room)
        work() if Graph.now is None else Graph.now.told.append(work)
        return Outcome(*self.out)

    def _do(self, x, silent, room):
        found = reference_step(self.state, self.settings, x, float(self.lr), silent, room)
        for buffer, value in zip(self.out, vars(found).values(), strict=True):
            buffer.copy_(value)


@pytest.fixture
def gpu(monkeypatch):
    stands = {
        "Stream": Done, "current_stream": Done, "stream": nullcontext, "CUDAGraph": Graph, "graph": captured
    }  # fmt: skip
    for name, stand in stands.items():
        monkeypatch.setattr(torch.cuda, name, stand)


def test_that_replayed_steps_are_those_without_a_graph_whatever_batch_or_number_of_dead_features_comes(gpu):
    rng = np.random.default_rng()
    given, graphs = weights(rng, D, D_SAE), []
    given[2][:9] = -2  # never fire, and are dead from the third step on
    batches = [rng.standard_normal((BATCH, D)).astype(np.float32) for _ in range(11)]
    batches += [batch.astype(np.float16) for batch in batches[:2]]
    batches[4] = batches[4][:7]
    batches[9][3, 3] = np.nan
    runs = []
    for replays in (True, False):
        mine, silent = [t.clone() for t in given], torch.zeros(D_SAE, dtype=torch.int64)
        step = FusedTopK(*mine, k=K, batch_size=BATCH, auxk_alpha=0.1, auxk_rows=8, dead_after=30, kernels=False)
        if replays:
            step.pipeline, step._use_graph, step._copies = Pipeline(step), True, Done()
        told = []
        for number, x in enumerate(batches):
            found = step.step(torch.from_numpy(x), 2.0 ** -(7 + number % 3), silent)
            told += [float(one.sum()) for one in (*found, step.finite)]
            if replays:
                graphs.append({room for room, _ in step._graphs})
        runs.append([torch.tensor(told), silent, *mine, *step.moments().values()])
    for replayed, single in zip(*runs, strict=True):
        torch.testing.assert_close(replayed, single, rtol=0, atol=0, equal_nan=True)
    # One for no dead features; one more once some are known to be dead; a batch of other numbers starts anew.
    assert graphs[0] == graphs[4] == {0} and graphs[8] == graphs[10] == {0, D_SAE} and graphs[11] == {D_SAE}


def test_that_a_step_goes_on_from_the_moments_of_another_without_a_new_graph(gpu):
    rng = np.random.default_rng()
    given, silent = weights(rng, D, D_SAE), torch.zeros(D_SAE, dtype=torch.int64)
    step = FusedTopK(*given, k=K, batch_size=BATCH, auxk_alpha=0.1, auxk_rows=8, dead_after=30, kernels=False)
    step.pipeline, step._use_graph, step._copies = Pipeline(step), True, Done()
    batches = [torch.from_numpy(rng.standard_normal((BATCH, D))).float() for _ in range(10)]
    for x in batches[:6]:
        step.step(x, 0.01, silent)
    kept, before = {name: t.clone() for name, t in step.moments().items()}, [t.clone() for t in (*given, silent)]
    for x in batches[6:]:
        step.step(x, 0.01, silent)
    ended, graphs = [t.clone() for t in (*given, silent)], dict(step._graphs)
    for tensor, value in zip((*given, silent), before, strict=True):
        tensor.copy_(value)
    step.take(kept)
    for x in batches[6:]:
        step.step(x, 0.01, silent)
    assert all(torch.equal(a, b) for a, b in zip((*given, silent), ended, strict=True))
    assert step._graphs == graphs
