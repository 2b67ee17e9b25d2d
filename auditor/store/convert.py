"""Between the numbers of a network and the numbers of a store: refuse what is not finite, then narrow or widen.

Formats and their conventions are those of `auditor.store.layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.store.layout import RAW, VECTORS, Quantised, Scale

_LARGEST = {"float16": 65504.0, "bfloat16": float(torch.finfo(torch.bfloat16).max)}
_RANGE = 127
# Of a float16's bits: all but the sign, and infinity's, beyond which is NaN.
_WITHOUT_SIGN, _INFINITE = np.uint16(0x7FFF), 0x7C00
# How far int8 reaches beyond what was measured. On SmolLM2's residual streams 400 rows are then enough for what
# follows: none of 4,700 had a number beyond, at an FVU of 1.4e-4. Four times as far would cost 1.3e-4 more.
_REACH = 4.0


@dataclass(frozen=True, eq=False)
class Numbers:
    """How the columns of one or more hook points are kept: `dtype` as a manifest names it, and for int8 the vectors
    `zero`, `spread` and `rate` float32 [width]."""

    dtype: str
    vectors: Sequence[np.ndarray] = ()
    _there: dict[torch.device, list[Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, dtype: str, scales: Sequence[Scale]) -> Numbers:
        """Of hook points side by side, with a scale each where `dtype` is int8."""
        if dtype != "int8":
            return cls(dtype)
        return cls(dtype, [np.concatenate([scale.vector(name) for scale in scales]) for name in VECTORS])

    @property
    def raw(self) -> np.dtype:
        """What numpy has of them."""
        return np.dtype(RAW[self.dtype])

    def tensor(self, raw: np.ndarray) -> Tensor:
        """`raw` as torch has it, over the same memory."""
        return (
            torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16)
            if self.dtype == "bfloat16"
            else torch.from_numpy(raw)
        )

    def array(self, kept: Tensor) -> np.ndarray:
        """The other way."""
        found: np.ndarray = kept.view(torch.int16).numpy().view(np.uint16) if self.dtype == "bfloat16" else kept.numpy()
        return found

    def widen(self, kept: Tensor) -> Tensor:
        """`kept` [n, width], as `tensor` gives it, as float32 on its device."""
        if self.dtype != "int8":
            return kept.float()
        zero, spread, rate = self._vectors(kept.device)
        return torch.addcmul(zero, kept.float().mul_(rate).sinh_(), spread)

    def widened(self, raw: np.ndarray) -> np.ndarray:
        """`raw` as float32, by torch's conversion: numpy's from float16 is two to three times slower."""
        if self.dtype == "float32":
            return raw
        rows: np.ndarray = self.widen(self.tensor(np.ascontiguousarray(raw))).numpy()
        return rows

    def widen_into(self, raw: np.ndarray, out: np.ndarray) -> None:
        """`raw` as float32 into `out`."""
        kept = self.tensor(raw)
        torch.from_numpy(out).copy_(self.widen(kept) if self.dtype == "int8" else kept)

    def narrowed(self, rows: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
        """`rows` [n, width] in this format, in memory of their own.

        AuditorError names the first row (through `where`) that holds NaN, an infinity, or, for float16 and bfloat16, a
        number beyond the largest: clipping it would change what was recorded without a word. int8 clips, and
        `quantised` tells. Of rows that come in float16, an infinity may have been such a number.
        """
        if not rows.size:
            return np.empty(rows.shape, self.raw)
        _check(rows, self.dtype, where)
        if self.dtype == "int8":
            return np.asarray(self._levels(rows).round_().clamp_(-_RANGE, _RANGE).to(torch.int8).numpy())
        if self.dtype == "bfloat16":
            return self.array(torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(torch.bfloat16))
        return _cast(rows, self.dtype)

    def quantised(
        self, rows: np.ndarray, where: Callable[[int], str], ordinary: np.ndarray
    ) -> tuple[np.ndarray, Quantised]:
        """`rows` as `narrowed` gives them in int8, and what that cost; those of `ordinary` bool [n] are not special."""
        if not rows.size:
            return np.empty(rows.shape, self.raw), Quantised()
        _check(rows, self.dtype, where)
        given = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
        levels = self._levels(rows)
        beyond = (levels.abs() >= _RANGE + 0.5).sum(1).numpy()
        kept = levels.round_().clamp_(-_RANGE, _RANGE).to(torch.int8)
        zero, usual = self._vectors(given.device)[0], torch.from_numpy(ordinary.astype(np.float32))
        # Column sums as products with 0 and 1: no row is copied to be left out.
        lost, held = usual @ self.widen(kept).sub_(given).square_(), usual @ given.sub(zero).square_()
        cost = Quantised(
            lost=float(lost.double().sum()), held=float(held.double().sum()),
            numbers=int(ordinary.sum()) * rows.shape[1],
            clipped=int(beyond[ordinary].sum()), clipped_special=int(beyond[~ordinary].sum()),
        )  # fmt: skip
        return kept.numpy(), cost

    def _levels(self, rows: np.ndarray) -> Tensor:
        zero, spread, rate = self._vectors(torch.device("cpu"))
        scaled = torch.from_numpy(np.ascontiguousarray(rows, np.float32)).sub(zero).div_(spread)
        # asinh y = ln(|y| + √(y² + 1)), with y's sign: torch's own takes fourteen times as long.
        size = scaled.abs()
        return size.add_(size.square().add_(1.0).sqrt_()).log_().copysign_(scaled).div_(rate)

    def _vectors(self, device: torch.device) -> list[Tensor]:
        if device not in self._there:
            self._there[device] = [torch.from_numpy(vector).to(device) for vector in self.vectors]
        return self._there[device]


class Spread:
    """Mean, standard deviation and range of each of `width` dimensions, over rows that come in pieces. Special rows
    count for the range alone."""

    def __init__(self, width: int) -> None:
        self._low, self._high = np.full(width, np.inf), np.full(width, -np.inf)
        self._total, self._squares, self._n = np.zeros(width), np.zeros(width), 0

    def add(self, rows: np.ndarray, ordinary: np.ndarray) -> None:
        """`rows` float [n, width], of which `ordinary` bool [n] are not special."""
        if len(rows):
            self._low = np.minimum(self._low, rows.min(axis=0))
            self._high = np.maximum(self._high, rows.max(axis=0))
            usual = rows[ordinary]
            self._total += usual.sum(axis=0, dtype=np.float64)
            self._squares += np.square(usual, dtype=np.float64).sum(axis=0)
            self._n += len(usual)

    def scale(self) -> Scale:
        """The int8 scale of each dimension. One that never varies gets the spread of a usual one."""
        mean = self._total / max(self._n, 1)
        spread = np.sqrt(np.maximum(self._squares / max(self._n, 1) - mean**2, 0.0))
        varies = spread > 1e-6 * (np.abs(mean) + np.median(spread)).clip(1e-30)
        spread[~varies] = np.median(spread[varies]) if varies.any() else 1.0
        far = np.maximum(self._high - mean, mean - self._low).clip(0.0)
        far = np.where(np.isfinite(far), far, 0.0)
        return Scale.of(mean, spread, np.arcsinh(np.maximum(_REACH * far / spread, 1.0)) / _RANGE)


def scale_of(rows: np.ndarray) -> Scale:
    """The int8 scale of `rows` float [n, width], none of them special."""
    spread = Spread(rows.shape[1])
    spread.add(rows, np.ones(len(rows), bool))
    return spread.scale()


def fvu_of(rows: np.ndarray, dtype: str, scale: Scale | None = None) -> float:
    """Fraction of the variance of `rows` float32 [n, width] that keeping them as `dtype` loses."""
    numbers = Numbers.of(dtype, [scale or scale_of(rows)])
    mean = rows.mean(axis=0, dtype=np.float64)
    held = np.square(rows - mean, dtype=np.float64).sum()
    kept = numbers.narrowed(rows, lambda row: f"row {row}")
    lost = np.square(numbers.widened(kept) - rows, dtype=np.float64).sum()
    return float(lost / held) if held else 0.0


def columns_of(dtype: str, scales: Mapping[str, Scale], hooks: Sequence[str]) -> Numbers:
    """How the columns of `hooks`, side by side, are kept."""
    return Numbers.of(dtype, [scales[hook] for hook in hooks] if dtype == "int8" else [])


def _check(rows: np.ndarray, dtype: str, where: Callable[[int], str]) -> None:
    if rows.dtype == np.float16 and dtype == "float16":
        _check_narrow(rows, where)
        return
    low, high = float(rows.min()), float(rows.max())  # both are NaN if any number is
    limit = _LARGEST.get(dtype, float(np.finfo(np.float32).max))
    if low >= -limit and high <= limit:
        return
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise AuditorError(
            f"Not a finite number (NaN or infinity) at {where(int(np.argmin(finite)))}.",
            "Check the model's weights and, if it ran in float16 or bfloat16, run it in float32.",
        )
    row = int(np.argmax(np.abs(rows).max(axis=1)))
    raise AuditorError(
        f"{float(np.abs(rows[row]).max()):.6g} at {where(row)} does not fit into {dtype} (up to {limit:.6g}).",
        "Store these activations as bfloat16 or float32."
        if dtype == "float16"
        else "This is no activation of a working network.",
    )


def _check_narrow(rows: np.ndarray, where: Callable[[int], str]) -> None:
    # By their bits: numpy compares float16 one by one.
    size = np.ascontiguousarray(rows).view(np.uint16) & _WITHOUT_SIGN
    if int(size.max()) < _INFINITE:
        return
    row = int(np.argmax((size >= _INFINITE).any(axis=1)))
    if (size[row] > _INFINITE).any():
        raise AuditorError(
            f"Not a finite number (NaN) at {where(row)}.",
            "Check the model's weights and, if it ran in float16 or bfloat16, run it in float32.",
        )
    raise AuditorError(
        f"A number at {where(row)} does not fit into float16 (up to {_LARGEST['float16']:.6g}).",
        "Store these activations as bfloat16 or float32; if the network gave an infinity, that will be told.",
    )


def _cast(rows: np.ndarray, dtype: str) -> np.ndarray:
    if rows.dtype == dtype:
        return np.array(rows)  # the writer keeps it; the caller may use its buffer again
    if rows.dtype not in (np.float16, np.float32) or not rows.flags.writeable or not rows.flags.c_contiguous:
        return rows.astype(dtype)
    return torch.from_numpy(rows).to(getattr(torch, dtype)).numpy()
