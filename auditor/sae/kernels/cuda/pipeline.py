"""The kernels of one step in their order, over buffers that are allocated once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.sae.kernels.cuda import bias
from auditor.sae.kernels.cuda.adam import settle
from auditor.sae.kernels.cuda.auxiliary import Revival, find_dead
from auditor.sae.kernels.cuda.decode import centre, decode
from auditor.sae.kernels.cuda.language import blocks, padded
from auditor.sae.kernels.cuda.pairs import sort_pairs
from auditor.sae.kernels.cuda.select import Selection
from auditor.sae.kernels.cuda.state import Outcome, Settings, State
from auditor.sae.kernels.cuda.update import Update

_MOST_SCORES = 1 << 31


@dataclass(frozen=True)
class Tiling:
    """How the work is cut: rows whose scores are held at once; rows read together in one program and its warps, for the
    reconstruction, the update and its pieces; pairs per piece; groups per program and warps of the selection."""

    block_rows: int
    decode: tuple[int, int]
    update: tuple[int, int]
    piece: int
    pieces: tuple[int, int]
    select_block: int
    select_warps: int

    @classmethod
    def of(cls, batch_size: int, d: int, d_sae: int, k: int) -> Tiling:
        """What was fastest on an H200."""
        width, rows = padded(d), max(1, min(batch_size, _MOST_SCORES // d_sae))
        update, pieces = (1, 2), (16, 1)
        if width > 1024:
            update, pieces = (2, min(16, width // 1024)), (8, min(16, width // 256))
        decode, select_warps = (8, min(16, max(4, width // 512))), min(8, max(1, padded(k) // 64))
        return cls(rows, decode, update, 32, pieces, 256, select_warps)


class Pipeline:
    """Enqueues steps for batches of up to `batch_size` rows; nothing waits for the device."""

    def __init__(self, state: State, settings: Settings, batch_size: int, tiling: Tiling | None = None) -> None:
        (d_sae, d), k, rows = state.decoder.shape, settings.k, batch_size
        self.state, self.settings, self.batch_size = state, settings, batch_size
        self.tiling = tiling = tiling or Tiling.of(rows, d, d_sae, k)
        device = state.decoder.device

        def of(kind: torch.dtype, *size: int) -> Tensor:
            return torch.empty(size, dtype=kind, device=device)

        half, single, whole = torch.bfloat16, torch.float32, torch.int32
        narrow = torch.int16 if d_sae < 1 << 15 else whole  # sorts in half the passes; d_sae itself means none
        held = min(rows, tiling.block_rows)
        self.selection = Selection(held, d_sae, k, tiling.select_block, tiling.select_warps, device)
        self.scores = of(half, held, d_sae)
        self.centred, self.gradient = of(half, rows, d), of(half, rows, d)
        self.values, self.ids = of(half, rows, k), of(narrow, rows, k)
        self.keys, self.order = of(narrow, rows * k), of(torch.int64, rows * k)
        self.pair_rows, self.pair_values, self.starts = of(whole, rows * k), of(half, rows * k), of(whole, d_sae + 1)
        self.squared, self.active = of(single, rows), of(whole, rows)
        aux_rows = min(settings.auxk_rows, rows) if settings.auxk_alpha else 0
        self.missing, self.aux_squared = of(single, aux_rows, d), of(single, max(1, aux_rows))
        self.update = Update(state, rows * k, tiling.piece, *tiling.update, *tiling.pieces)
        self.plus, self.minus = of(single, blocks(rows, 64), d), of(single, blocks(d_sae, 128), d)
        self.counts, self.slots, self.n_dead = of(whole, d_sae), of(whole, d_sae), of(whole, 1).zero_()
        self.loss, self.error, self.l0 = of(single), of(single), of(single)
        self.finite, self.rates, self.lr = of(torch.int8, 1), of(single, 2), of(single, 1)
        self.betas = torch.tensor(settings.betas, dtype=torch.float64, device=device)
        self.rooms: dict[int, Revival] = {}
        self._side: Any = None
        if device.type == "cuda":
            # Its small kernels would else start only when all programs of a large one beside them have started.
            self._side = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def revival(self, room: int) -> Revival | None:
        """Buffers of AuxK for `room` dead features; none for 0."""
        if room and room not in self.rooms:
            d = self.state.decoder.shape[1]
            self.rooms[room] = Revival(room, len(self.missing), d, self.state.decoder.device)
        return self.rooms.get(room)

    @torch.no_grad()
    def run(self, x: Tensor, silent: Tensor, room: int) -> Outcome:
        """Enqueue one step on x [n, D]; what it gives is overwritten by the next. The learning rate is in `lr`."""
        state, settings, tiling, n = self.state, self.settings, self.tiling, len(x)
        revival = self.revival(room)
        with self._beside():
            if settings.auxk_alpha:
                find_dead(silent, settings.dead_after, revival.who if revival else None, self.slots, self.n_dead)
            counted = self._mark()
        centred, gradient, values, ids = (t[:n] for t in (self.centred, self.gradient, self.values, self.ids))
        centre(x, state.b_dec, settings.scale, centred, tiling.decode[1])
        for start in range(0, n, len(self.scores)):
            block = slice(start, min(n, start + len(self.scores)))
            size = block.stop - start
            scores = torch.addmm(state.b_enc_half, centred[block], state.encoder_half.T, out=self.scores[:size])
            self.selection.run(scores, values[block], ids[block])
        pairs = n * settings.k
        keys, order, rows, sorted_values = (
            t[:pairs] for t in (self.keys, self.order, self.pair_rows, self.pair_values)
        )
        with self._beside():
            sort_pairs(ids, values, keys, order, rows, sorted_values, self.starts)
            sorted_ = self._mark()
        squared, active, missing = self.squared[:n], self.active[:n], self.missing[:n]
        decode(
            x, settings.scale, values, ids, state.decoder_half, state.b_dec, gradient, missing, squared, active,
            *tiling.decode,
        )
        self._wait(counted)
        aux_squared = self.aux_squared[: max(1, len(missing))]
        if revival:
            revival.run(state, centred[: len(missing)], missing, aux_squared, settings.auxk_alpha)
        settle(
            squared, active, aux_squared, self.n_dead, self.lr, self.betas, state.clock, self.rates, self.finite,
            (self.loss, self.error, self.l0), settings.auxk_alpha, revival is not None,
        )
        self._wait(sorted_)
        update, starts, adam = self.update, self.starts, (self.rates, self.finite, settings.constants)
        extra = revival.gradients(self.slots) if revival else (None, None)
        update.pieces("decoder", keys, rows, sorted_values, gradient)
        with self._beside():
            update.pieces("encoder", keys, rows, update.to_values, centred)
            plus = self.plus[: blocks(n, 64)]
            bias.partial_sums(gradient, plus)
            summed = self._mark()
        update.step("decoder", starts, rows, sorted_values, gradient, extra[0], *adam)
        bias.partial_sums(state.encoder_half, self.minus, update.to_bias)
        self._wait(summed)
        with self._beside():
            bias.step_b_dec(state, plus, self.minus, *adam)
            bias.step_b_enc(state, update.to_bias, starts, silent, self.counts, n, *adam)
            stepped = self._mark()
        update.step("encoder", starts, rows, update.to_values, centred, extra[1], *adam)
        self._wait(stepped)
        return Outcome(self.loss, self.error, self.l0, self.counts, self.finite.view(torch.bool)[0], self.n_dead)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """What is enqueued inside runs beside what follows, after all that came before."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            yield

    def _mark(self) -> Any:
        return self._side.record_event() if self._side else None

    def _wait(self, mark: Any) -> None:
        if mark:
            torch.cuda.current_stream().wait_event(mark)
