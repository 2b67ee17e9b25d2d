"""Activations learned from as they arise: a model run over samples through a shuffle buffer, with no store at all.

The samples' order is drawn anew for each epoch. Whole batches of the model fill a window of rows, which is handed out
in an order of its own; the first windows are small, so that training starts at once. Window and order depend on the
seed alone. A training that goes on is told where its window begins, and runs the model from there: at most one window
again. Without that mark it runs the model from the start, to the same rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.data.reading import Chosen
from auditor.data.sample import ORDINARY, PositionKind, Sample
from auditor.data.samples import Samples
from auditor.models.model import Model
from auditor.sae.scaling import names_of
from auditor.sae.train_config import TrainConfig
from auditor.store.batch_size import USUAL
from auditor.store.capture import kinds_of
from auditor.store.recipe import (
    RecordConfig,
    chosen_hooks,
    groups_of,
    needs_not_all,
    pieces_of,
    samples_facts,
    schedule,
)

_CODES = {name: PositionKind[name.upper()] for name in ORDINARY}
# Rows of the first window; each is twice as large as the one before, up to the buffer.
_FIRST_WINDOW = 16_384
# Samples that training never sees: one in twenty, as many as evaluation can use.
_HELD_ONE_IN, _HELD_MOST = 20, 2048
_HELD_SEED = 0x5EED
# Of each row that training takes so many tokens: attention sinks are none.
_TOKENS_A_ROW = 1.25


@dataclass(frozen=True)
class _Held:
    """Rows [n, all columns] of held-out samples, with the sample and kind of each."""

    rows: NDArray[np.float32]
    sample: NDArray[np.int32]
    kind: NDArray[np.uint8]


@dataclass(frozen=True)
class HeldPositions:
    """Where held rows come from, one entry a row."""

    sample: NDArray[np.int32]
    kind: NDArray[np.uint8]


@dataclass(frozen=True)
class _Mark:
    """Where a window begins: rows handed out before it, epoch, and batch of the model within the epoch."""

    handed: int
    epoch: int
    batch: int


class Stream:
    """What a store gives training and evaluation (`auditor.sae.source.Source`), computed on the way.

    `rows`, `positions` and `n_rows` are of samples that are held out of the batches, at most `evaluate_rows` rows.
    """

    def __init__(self, config: TrainConfig, model: Model, samples: Sequence[Sample]) -> None:
        hooks = (*names_of(config.hook), *names_of(config.target))
        self._recipe = RecordConfig(model="", samples="", hooks=hooks, context=config.context, batch_size=USUAL)
        self._hooks = chosen_hooks(self._recipe, model)
        if len(groups := groups_of(model, self._hooks)) > 1:
            raise AuditorError(
                f"Hook points of different parts ({', '.join(groups)}) have different positions.",
                "Learn from one of them.",
            )
        self.hook_points: dict[str, int] = {name: model.hook_points[name].width for name in self._hooks}
        if len(samples) < 2:
            raise AuditorError("A stream needs two samples at least, one of them to measure on.", "Choose more.")
        self.model, self._samples, self._config = model, samples, config
        self._marks: dict[str, list[_Mark]] = {}
        self._first: tuple[str, Tensor, _Mark] | None = None
        self._spent, self._run = 0.0, 0
        tokens = math.ceil(_TOKENS_A_ROW * config.steps * config.batch_size)
        some = self._recipe.model_copy(update={"max_tokens": tokens})
        self._learned_by = some if needs_not_all(samples, model, some) else self._recipe

    @cached_property
    def digest(self) -> str:
        """SHA-256 that names the model, the samples, and how rows are made of them."""
        return digest_json(self.meta)

    @cached_property
    def meta(self) -> dict[str, Any]:
        named = samples_facts(self._samples)
        settings = {"context": self._config.context, "buffer_rows": self._config.buffer_rows, "held": len(self.held)}
        settings |= {"tokens": self._learned_by.max_tokens} if self._learned_by.max_tokens else {}
        return {
            "model": {
                "name": self.model.name, "digest": self.model.digest, "family": self.model.family, **self.model.parts,
            },
            "samples": {"name": named.name, "digest": named.digest, "count": named.count},
            "stream": settings | {"hooks": self._hooks, "skip_first": self._recipe.skip_first},
        }  # fmt: skip

    @property
    def held(self) -> list[Sample]:
        """The samples that training never sees; the same ones whatever the seed of the training."""
        return [self._samples[number] for number in sorted(self._held_numbers)]

    @property
    def n_rows(self) -> int:
        """Rows to measure on."""
        return len(self._measured.rows)

    @property
    def buffer_bytes(self) -> int:
        """Memory of a window while it is put together."""
        return 8 * self._config.buffer_rows * sum(self.hook_points.values())

    def row_seconds(self) -> float:
        """Time that the model takes for each row handed out, so far."""
        return self._spent / max(1, self._run)

    def rows(self, index: Any, hook: str | None = None) -> NDArray[np.float32]:
        """Held-out rows [n, width] of one hook point."""
        begin = sum(self.hook_points[name] for name in self._hooks[: self._hooks.index(hook or self._hooks[0])])
        found: NDArray[np.float32] = self._measured.rows[index]
        return found[..., begin : begin + self.hook_points[hook or self._hooks[0]]]

    def positions(self, index: Any) -> HeldPositions:
        """Where held-out rows come from."""
        return HeldPositions(self._measured.sample[index], self._measured.kind[index])

    def counts(self) -> Mapping[str, int]:
        """Rows of each kind that the samples to learn from give in all, as the held-out ones let expect."""
        seen = max(1, len(np.unique(self._measured.sample)))
        per_sample = len(self.learned) / seen
        found = {name: int((self._measured.kind == int(code)).sum()) for name, code in _CODES.items()}
        return {name: round(count * per_sample) for name, count in found.items() if count}

    def marks(self) -> dict[str, Any]:
        """What `take_marks` takes: where the windows began."""
        return {key: [[m.handed, m.epoch, m.batch] for m in found] for key, found in self._marks.items()}

    def take_marks(self, marks: dict[str, Any]) -> None:
        """Know where windows began in an earlier part of the training."""
        for key, found in marks.items():
            known = [_Mark(*(int(number) for number in mark)) for mark in found]
            self._marks[key] = max(known, self._marks.get(key, []), key=len)

    def batches(
        self, batch_size: int, *, seed: int = 0, hook: str | Sequence[str] | None = None, start: int = 0,
        kinds: Sequence[str] = ORDINARY,
    ) -> Iterator[Any]:
        """Shuffled rows [batch_size, width] without end, from batch number `start` on exactly as if the earlier ones
        had been taken: numpy arrays of float32, or tensors where the model runs on a GPU; several hook points side by
        side. AuditorError where the samples give no rows of `kinds`."""
        hooks = self._hooks if hook is None else [hook] if isinstance(hook, str) else list(hook)
        skip, pieces, held = start * batch_size, list[Tensor](), 0
        for rows, handed in self._windows(seed, hooks, kinds, skip):
            rest = rows[max(0, skip - handed) :]
            while len(rest):
                piece, rest = rest[: batch_size - held], rest[batch_size - held :]
                pieces.append(piece)
                held += len(piece)
                if held == batch_size:
                    batch = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
                    yield batch if batch.is_cuda else batch.numpy()
                    pieces, held = [], 0

    def _windows(
        self, seed: int, hooks: Sequence[str], kinds: Sequence[str], skip: int
    ) -> Iterator[tuple[Tensor, int]]:
        """Rows of each window in the order they are handed out, with the number of rows before it; from the one that
        holds row number `skip` on."""
        key = f"{seed} {' '.join(kinds)}"
        marks = self._marks.setdefault(key, [_Mark(0, 0, 0)])
        number = max(at for at, mark in enumerate(marks) if mark.handed <= skip)
        while True:
            mark = marks[number]
            rows, following = self._window(f"{key} {' '.join(hooks)} {number}", seed, number, mark, hooks, kinds)
            if number + 1 == len(marks):
                marks.append(following)
            if following.handed > skip:
                order = np.random.default_rng([seed, 1, number]).permutation(len(rows))
                yield rows[torch.from_numpy(order).to(rows.device)], mark.handed
            number += 1

    def _window(
        self, key: str, seed: int, number: int, mark: _Mark, hooks: Sequence[str], kinds: Sequence[str]
    ) -> tuple[Tensor, _Mark]:
        """Whole batches of the model until the window is full, and the mark behind it."""
        full = min(self._config.buffer_rows, _FIRST_WINDOW << min(number, 20))
        if self._first is not None and self._first[0] == key:
            return self._first[1:]
        parts, held, epoch, at = list[Tensor](), 0, mark.epoch, mark.batch
        begun = time.perf_counter()
        order, empty_since = self._order(seed, epoch), 0
        while held < full:
            if at == len(order):
                epoch, at, empty_since = epoch + 1, 0, empty_since + 1
                order = self._order(seed, epoch)
            if empty_since > 1 and not held:
                raise AuditorError(
                    f"The samples give no rows of kind {' or '.join(kinds)} at {', '.join(hooks)}.",
                    "Choose other samples or positions.",
                )
            rows = self._run_on([self.learned[sample] for sample in order[at]], hooks, kinds)[0]
            parts.append(rows)
            held, at = held + len(rows), at + 1
        self._spent, self._run = self._spent + time.perf_counter() - begun, self._run + held
        window, following = torch.cat(parts), _Mark(mark.handed + held, epoch, at)
        if number == 0:  # every dictionary of a sweep begins with a look at the same rows
            self._first = key, window, following
        return window, following

    def _order(self, seed: int, epoch: int) -> list[list[int]]:
        drawn = np.random.default_rng([seed, 0, epoch])
        recipe = self._recipe.model_copy(update={"seed": int(drawn.integers(2**31))})
        batches = schedule(self.learned, recipe)
        return [batches[number] for number in drawn.permutation(len(batches))]

    def _run_on(
        self, samples: Sequence[Sample], hooks: Sequence[str], kinds: Sequence[str]
    ) -> tuple[Tensor, NDArray[np.int32], NDArray[np.uint8]]:
        """Rows [n, columns] float32 of the positions of `kinds`, with the number of each row's sample and its kind."""
        run = self.model.run(self.model.encode(samples, self._config.context), record=self._hooks, logits=False)
        kind = kinds_of(run, self._hooks, self._recipe)
        wanted = torch.zeros(256, dtype=torch.bool, device=kind.device)
        wanted[[int(_CODES[name]) for name in kinds]] = True
        mask = wanted[kind.long()]
        rows = torch.cat([run.rows(hook)[mask].float() for hook in hooks], dim=1)
        return rows, mask.nonzero()[:, 0].to(torch.int32).cpu().numpy(), kind[mask].cpu().numpy()

    @cached_property
    def learned(self) -> Sequence[Sample]:
        """The pieces of samples that training sees; of a large corpus, as many as it takes."""
        others = np.setdiff1d(np.arange(len(self._samples)), list(self._held_numbers))
        told = self._samples if isinstance(self._samples, Samples) else Samples("samples", self._samples)
        learned = Samples(told.name, Chosen(told, others), counts=told.counts)
        kinds = [_CODES[name] for name in (ORDINARY if self._config.kinds == "all" else (self._config.kinds,))]
        return pieces_of(learned, self.model, self._learned_by, kinds=kinds)

    @cached_property
    def _held_numbers(self) -> frozenset[int]:
        count = min(math.ceil(len(self._samples) / _HELD_ONE_IN), _HELD_MOST)
        order: list[int] = np.random.default_rng(_HELD_SEED).permutation(len(self._samples)).tolist()
        return frozenset(order[:count])

    @cached_property
    def _measured(self) -> _Held:
        wanted = max(2, self._config.evaluate_rows)
        some = self._recipe.model_copy(update={"max_tokens": math.ceil(_TOKENS_A_ROW * wanted), "seed": _HELD_SEED})
        held = pieces_of(Samples("held", self.held), self.model, some, kinds=list(_CODES.values()))
        rows, samples, kinds, count = list[NDArray[Any]](), list[NDArray[Any]](), list[NDArray[Any]](), 0
        size = self._recipe.batch_size
        for begin in range(0, len(held), size):
            found, sample, kind = self._run_on(held[begin : begin + size], self._hooks, tuple(_CODES))
            rows.append(found.cpu().numpy())
            samples.append(sample + begin)
            kinds.append(kind)
            if (count := count + len(sample)) >= wanted:
                break
        return _Held(np.concatenate(rows)[:wanted], np.concatenate(samples)[:wanted], np.concatenate(kinds)[:wanted])
