"""One training step of a TopK dictionary on a GPU: gradients, Adam and AuxK fused, replayed as a CUDA graph.

A step's floor is the encoder's dense product and the optimiser's traffic; all else follows the k active features of
each row. Nothing of size [B, M] but the scores exists, and no gradient of size [M, D].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from auditor.sae.kernels.cuda import language
from auditor.sae.kernels.cuda.pipeline import Pipeline, Tiling
from auditor.sae.kernels.cuda.plain import reference_step
from auditor.sae.kernels.cuda.state import LAG, Outcome, Settings, State

_LEAST_ROOM = 256


class FusedTopK:
    """Trains encoder, decoder float32 [M, D], b_enc [M] and b_dec [D] in place, decoder rows at unit norm.

    Same arithmetic with kernels and without (`kernels=False`, or where Triton is missing); with them, the same inputs
    give the same bits on one device. `graph` replays whole batches as a CUDA graph. `scale` multiplies every input.
    """

    def __init__(
        self, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor, *, k: int, batch_size: int,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, auxk_alpha: float = 0.0, auxk_rows: int = 512,
        dead_after: int = 200_000, scale: float = 1.0, moments: Mapping[str, Tensor] | None = None,
        kernels: bool = True, graph: bool = True, tiling: Tiling | None = None,
    ) -> None:
        self.settings = Settings(k, betas, eps, auxk_alpha, auxk_rows, dead_after, scale)
        parameters = {"encoder": encoder, "decoder": decoder, "b_enc": b_enc, "b_dec": b_dec}
        self.state = State.of(parameters)
        self.batch_size = batch_size
        device = encoder.device
        self.pipeline: Pipeline | None = None
        if kernels and language.usable(device):
            self.pipeline = Pipeline(self.state, self.settings, batch_size, tiling)
        self._graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Outcome]] = {}
        self._use_graph = graph and device.type == "cuda" and self.pipeline is not None
        self._x: Tensor | None = None
        self._lr: float | None = None
        self._dead = torch.zeros(LAG, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._copied: list[Any] = [None] * LAG
        self._turn = 0
        self._copies: Any = None
        if self.pipeline is not None and device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        if moments is not None:
            self.take(moments)

    def step(self, x: Tensor, lr: float, silent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, Σ (x' - x)², active features per row, and firings int32 [M] of one step on x [B, D].

        They and `finite` stay on the device and hold until the next step. `silent` int64 [M] counts rows since a
        feature fired, and is brought up to date. Where the loss is not finite, nothing changes.
        """
        if len(x) > self.batch_size:
            raise ValueError(f"{len(x)} rows are more than the {self.batch_size} that were asked for")
        room = self._room()
        if self.pipeline is None:
            outcome = reference_step(self.state, self.settings, x, lr, silent, room)
        else:
            if lr != self._lr:
                self.pipeline.lr.fill_(lr)
                self._lr = lr
            if self._use_graph and len(x) == self.batch_size:
                outcome = self._replay(self.pipeline, x, silent, room)
            else:
                self._let_copy_end()
                outcome = self.pipeline.run(x.to(self.state.b_dec.device).contiguous(), silent, room)
        if self.settings.auxk_alpha:
            self._remember(outcome.dead)
        self.finite = outcome.finite
        return outcome.loss, outcome.squared_error, outcome.l0, outcome.counts

    def moments(self) -> dict[str, Tensor]:
        """What a later FusedTopK needs beside the weights to go on bit for bit; waits for the device."""
        self._let_counts_arrive()
        return {**self.state.moments(), "dead": self._dead.roll(-self._turn)}

    def take(self, moments: Mapping[str, Tensor]) -> None:
        """Go on from such moments, copied into the buffers held here, and from the weights as they are now."""
        self._let_counts_arrive()
        self.state.take(moments)
        self._dead.copy_(moments["dead"])
        self._copied, self._turn = [None] * LAG, 0

    def refresh(self) -> None:
        """Take over weights that were changed from outside."""
        self.state.refresh()

    def _let_counts_arrive(self) -> None:
        for event in self._copied:
            if event is not None:
                event.synchronize()

    def _room(self) -> int:
        """Places for dead features in this step: a power of two that held those of LAG steps ago."""
        event = self._copied[self._turn]
        if event is not None:
            event.synchronize()
        count = int(self._dead[self._turn])
        if not (count and self.settings.auxk_alpha):
            return 0
        return min(len(self.state.b_enc), language.padded(count, _LEAST_ROOM))

    def _remember(self, dead: Tensor) -> None:
        """Copy the number of dead features to the host, beside what the device does next."""
        place = self._dead[self._turn : self._turn + 1]
        if self._copies is None:
            place.copy_(dead.view(1))
        else:
            self._copies.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._copies):
                place.copy_(dead.view(1), non_blocking=True)
                self._copied[self._turn] = self._copies.record_event()
        self._turn = (self._turn + 1) % LAG

    def _let_copy_end(self) -> None:
        """The number on the device is overwritten by the next step."""
        event = self._copied[self._turn - 1]
        if event is not None:
            torch.cuda.current_stream().wait_event(event)

    def _replay(self, pipeline: Pipeline, x: Tensor, silent: Tensor, room: int) -> Outcome:
        if self._x is None or self._x.dtype != x.dtype:
            self._x = torch.empty(x.shape, dtype=x.dtype, device=self.state.b_dec.device)
            self._graphs.clear()
        key = (room, silent.data_ptr())
        if key not in self._graphs:
            self._let_copy_end()
            self._graphs[key] = self._capture(pipeline, self._x, silent, room)
        self._x.copy_(x, non_blocking=True)
        graph, outcome = self._graphs[key]
        self._let_copy_end()
        graph.replay()
        return outcome

    def _capture(
        self, pipeline: Pipeline, x: Tensor, silent: Tensor, room: int
    ) -> tuple[torch.cuda.CUDAGraph, Outcome]:
        # Kernels are compiled and libraries set up by a step that changes nothing, since its loss is not finite.
        x.fill_(float("nan"))
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            pipeline.run(x, silent, room)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # The thread that sends batches goes on allocating and copying meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outcome = pipeline.run(x, silent, room)
        return graph, outcome
