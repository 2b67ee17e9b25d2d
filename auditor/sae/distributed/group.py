"""The processes of one run and what they say to one another; a process that ends is noticed by the others."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from auditor.base.errors import AuditorError, Stop
from auditor.base.files import full_disk_behind
from auditor.models.device import device_named

# How long a process waits for another: the first may be evaluating or writing meanwhile.
_PATIENCE_S = 1800
_GOES_ON = "The same command goes on from the last checkpoint."
_FINE, _STOPPED, _FULL, _FAILED = range(4)


class Broken(AuditorError):
    """Another process of the run has ended, or does not answer."""


class Group:
    """Process `rank` of `size`, `on_machine` of which run on this machine, on `device`. Every method is called by all
    in the same order; each raises Broken where another process has ended. Sums are the same bits on all of them, and
    the same again for the same `size`."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        # Numbers of the host must not wait for what a GPU has still to do.
        self.host = dist.new_group(backend="gloo")

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place."""
        with _heard(self):
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, which have one shape, in the order of processes."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _heard(self):
            dist.all_gather(parts, tensor.contiguous())
        return parts

    def spread(self, tensor: Tensor) -> Tensor:
        """Process 0's tensor on all, in place."""
        with _heard(self):
            dist.broadcast(tensor, 0)
        return tensor

    def stack(self, part: Tensor, starts: list[int]) -> Tensor:
        """Rows `starts[r]` to `starts[r + 1]` of each process r as one tensor on the CPU of process 0, taken in one
        after another; the others get back their own."""
        own = part.detach().cpu().contiguous()
        if self.rank:
            with _heard(self):
                dist.send(own, 0, group=self.host)
            return own
        whole = torch.empty(starts[-1], *own.shape[1:], dtype=own.dtype)
        whole[: len(own)] = own
        for rank in range(1, self.size):
            with _heard(self):
                dist.recv(whole[starts[rank] : starts[rank + 1]], rank, group=self.host)
        return whole

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return self._most(int(flag)) > 0

    def tell(self, value: Any = None) -> Any:
        """Process 0's `value` (plain JSON) on all."""
        data = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        size = torch.tensor([len(data)])
        with _heard(self):
            dist.broadcast(size, 0, group=self.host)
        told = torch.from_numpy(data.copy()) if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        with _heard(self):
            dist.broadcast(told, 0, group=self.host)
        return json.loads(told.numpy().tobytes())

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Stop where any process was stopped, and an AuditorError where any failed, before the next thing is shared;
        where one found the disk full and none failed otherwise, an error that comes of that on all."""
        state, raised = _FINE, None
        try:
            yield
        except Broken:
            raise
        except Stop:
            state = _STOPPED
        except (AuditorError, OSError) as error:
            state, raised = _FULL if full_disk_behind(error) else _FAILED, error
        worst = self._most(state)
        if raised is not None:
            raise raised
        if worst == _FAILED:
            raise Broken("Another process of this run failed.", "Its own message says why.")
        if worst == _FULL:
            raise AuditorError(
                "The disk is full where another process of this run writes.", "Free some room, then start again."
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if worst == _STOPPED:
            raise Stop

    def wait(self) -> None:
        """Until all have come here."""
        self._most(_FINE)

    def leave(self) -> None:
        """End the exchange; the others go on without this process until they next need it."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _most(self, number: int) -> int:
        held = torch.tensor([number])
        with _heard(self):
            dist.all_reduce(held, dist.ReduceOp.MAX, group=self.host)
        return int(held)


def launched() -> bool:
    """Whether torchrun, or this program's own launcher, started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(device: str = "auto", patience_s: float | None = None) -> Group:
    """Meet the other processes as the environment says (RANK, WORLD_SIZE, LOCAL_RANK and torchrun's meeting point).

    AuditorError where they cannot be met, and where two processes would share a GPU.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = _own_device(device, int(os.environ.get("LOCAL_RANK", rank)))
    patience = timedelta(seconds=patience_s or float(os.environ.get("AUDITOR_PATIENCE_S", _PATIENCE_S)))
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    meeting = os.environ.get("AUDITOR_MEETING", "env://")
    try:
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=size, timeout=patience)
        return Group(rank, size, place)
    except (RuntimeError, ValueError, OSError) as error:
        raise AuditorError(
            f"Process {rank} of {size} did not meet the others ({_first_line(error)}).",
            "Start all of them with torchrun, or with --processes on one machine.",
        ) from error


def _own_device(device: str, local: int) -> torch.device:
    place = device_named(device)
    if place.type != "cuda":
        return place
    if local >= torch.cuda.device_count():
        raise AuditorError(
            f"This machine has {torch.cuda.device_count()} GPUs, and a process beyond them was started.",
            "Start as many processes as there are GPUs.",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def broken(size: int, error: BaseException) -> Broken:
    """What a failed exchange among `size` processes means."""
    return Broken(
        f"Another of the {size} processes of this run has ended or does not answer ({_first_line(error)}).", _GOES_ON
    )


@contextlib.contextmanager
def _heard(group: Group) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise broken(group.size, error) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:160] or type(error).__name__
