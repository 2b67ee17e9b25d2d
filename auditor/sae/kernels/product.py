"""The encoder product of a training step on a CPU, in the number formats that processors have in hardware."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from auditor.base.errors import AuditorError


class Product(Protocol):
    """Scores of rows against the encoder. Inexact ones only find candidates, which are scored again in float32."""

    name: str
    exact: bool

    def prepare(self, weight: Tensor, bias: Tensor) -> None:
        """Take this step's encoder rows [M, D] and bias [M]."""

    def scores(self, x: Tensor) -> Tensor:
        """x [R, D] against every feature, float32 [R, M]; valid until the next call. R ≤ `rows` given at birth."""


class Float32:
    """x Wᵀ + b in float32."""

    name, exact = "float32", True

    def __init__(self, rows: int, d_sae: int) -> None:
        # A buffer that is kept: fresh memory of this size costs as much in page faults as a third of the product.
        self._out = torch.empty(rows, d_sae)

    def prepare(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias

    def scores(self, x: Tensor) -> Tensor:
        return torch.addmm(self._bias, x, self._weight.T, out=self._out[: len(x)])


class BFloat16:
    """Operands rounded to bfloat16 (8 bits of mantissa): for processors with AVX512-BF16 or AMX."""

    name, exact = "bfloat16", False

    def __init__(self, rows: int, d_sae: int) -> None:
        self._half = torch.empty(rows, d_sae, dtype=torch.bfloat16)
        self._out = torch.empty(rows, d_sae)

    def prepare(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight.bfloat16(), bias

    def scores(self, x: Tensor) -> Tensor:
        half = torch.mm(x.bfloat16(), self._weight.T, out=self._half[: len(x)])
        return torch.add(half, self._bias, out=self._out[: len(x)])


class Int8:
    """Operands rounded to 8-bit integers, each row by its own largest entry: for processors with VNNI.

    `spread` [D] (largest |x| of each input dimension) evens out dimensions before rounding, as SmoothQuant does
    (Xiao et al. 2023, α = 0.5), so that the few outlier dimensions of a residual stream do not use up the range.
    """

    name, exact = "int8", False

    def __init__(self, rows: int, d_sae: int, spread: Tensor) -> None:
        self._sums = torch.empty(rows, d_sae, dtype=torch.int32)
        self._out = torch.empty(rows, d_sae)
        even = spread.clamp_min(spread.mean().clamp_min(1e-12) * 1e-3).sqrt()
        self._stretch = even / even.mean()
        self._shrink = self._stretch.reciprocal()

        self._weight = torch.empty(d_sae, len(spread), dtype=torch.int8)
        self._unit = torch.empty(d_sae)
        self._rows = torch.empty(rows, len(spread), dtype=torch.int8)
        self._scratch = torch.empty(rows, len(spread))

    def prepare(self, weight: Tensor, bias: Tensor) -> None:
        self._bias = bias
        blocks = (torch.split(t, len(self._scratch)) for t in (weight, self._weight, self._unit))
        for block, whole, unit in zip(*blocks, strict=True):
            unit.copy_(self._round(block, self._stretch, whole))

    def scores(self, x: Tensor) -> Tensor:
        whole = self._rows[: len(x)]
        unit = self._round(x, self._shrink, whole)
        sums = torch._int_mm(whole, self._weight.T, out=self._sums[: len(x)])
        # Two passes of one kind each: a product of mixed types is converted piecemeal and takes longer.
        out = self._out[: len(x)].copy_(sums).mul_(self._unit)
        # Scores stay divided by the row's unit: a positive factor leaves each row's order as it is.
        return out.addr_(unit.reciprocal(), self._bias)

    def error(self, x: Tensor) -> Tensor:
        """Standard deviation [M] of what rounding does to `scores` of rows x [B, D], over the rows at most.

        Each of the 2 D rounded operands is off by a number evenly spread over ± half its unit.
        """
        even = x * self._shrink
        longest = (even.norm(dim=1) / (even.abs().amax(1).clamp_min_(1e-30) / 127)).amax()
        mine = self._weight.float().norm(dim=1) * self._unit
        error: Tensor = ((mine.square() + (self._unit * longest).square()) / 12).sqrt()
        return error

    def _round(self, x: Tensor, factor: Tensor, out: Tensor) -> Tensor:
        """Fill `out` int8 with x · factor in units of each row's largest entry / 127; give the units [R]."""
        scratch = torch.mul(x, factor, out=self._scratch[: len(x)])
        unit = torch.maximum(scratch.amax(1), scratch.amin(1).neg_()).clamp_min_(1e-30) / 127
        out.copy_(scratch.mul_(unit.reciprocal()[:, None]).round_())
        return unit


def resolve(name: str) -> str:
    """The product to use for the setting `name`; `auto` takes the fastest that this processor has in hardware."""
    if name != "auto":
        return name
    if _has("_is_vnni_supported"):
        return "int8"
    return "bfloat16" if _has("_is_avx512_bf16_supported") or _has("_is_amx_tile_supported") else "float32"


def make(name: str, rows: int, d_sae: int, spread: Tensor) -> Product:
    """The product called `name`, for blocks of up to `rows` rows."""
    if name == "float32":
        return Float32(rows, d_sae)
    if name == "bfloat16":
        return BFloat16(rows, d_sae)
    if name == "int8":
        return Int8(rows, d_sae, spread)
    raise AuditorError(f"There is no encoder product called “{name}”.", "Choose float32, bfloat16, int8 or auto.")


def _has(feature: str) -> bool:
    # torch keeps its processor checks private; on a build without them the plain product is right everywhere.
    check = getattr(torch.cpu, feature, None)
    return bool(check and check())
