"""Several processes of one run on this machine, met through a file, forked from one that has loaded torch already."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from pathlib import Path

from auditor.base.errors import AuditorError, Stop

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = [
    "torch.distributed.checkpoint.hf_storage", "torch.distributed.tensor", "torch.distributed.device_mesh",
    "torch._dynamo", "auditor.sae.trainer", "auditor.sae.distributed.group", "auditor.sae.distributed.sharded",
    "auditor.store.together", "auditor.tasks.record", "auditor.tasks.opening", "auditor.models", "auditor.data",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto", "tokenizers",
    "tests.torchrun.runs",
]  # fmt: skip


def together(size, function, *arguments, seconds=120.0, device="cpu", **named):
    """`function(group, *arguments, **named)` on `size` processes; what each gives, or the AuditorError or Stop that
    ended it; None of one that was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    with tempfile.TemporaryDirectory() as place:
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        members = [
            context.Process(
                target=_member, args=(rank, size, place, pipes[rank][1], device, function, arguments, named)
            )
            for rank in range(size)
        ]
        for member in members:
            member.start()
        for _, sending in pipes:
            sending.close()
        try:
            given = [_received(receiving, seconds) for receiving, _ in pipes]
            for member in members:
                member.join(seconds)
                assert member.exitcode is not None, "a process did not end"
        finally:
            for member in members:
                member.kill()
    for result in given:
        assert not isinstance(result, str) or not result.startswith("Traceback"), result
    return given


def _received(receiving, seconds):
    assert receiving.poll(seconds), "a process gave nothing"
    try:
        return receiving.recv()
    except EOFError:
        return None


def _member(rank, size, place, sending, device, function, arguments, named):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), AUDITOR_MEETING=f"file://{place}/meeting"
    )
    import torch

    from auditor.sae.distributed.group import join

    torch.set_num_threads(1)
    group = join(device, patience_s=60)
    try:
        result = function(group, *arguments, **named)
    except (AuditorError, Stop) as error:
        result = error
    except BaseException:
        result = traceback.format_exc()
    sending.send(result)
    sending.close()
    group.leave()
