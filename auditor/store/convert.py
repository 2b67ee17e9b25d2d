"""Between the numbers of a network and the numbers of a store: refuse what is not finite, then narrow or widen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from auditor.base.errors import AuditorError
from auditor.store.layout import FLOAT16_MAX


def narrowed(rows: np.ndarray, dtype: str, where: Callable[[int], str]) -> np.ndarray:
    """`rows` [n, width] as float16 or float32.

    AuditorError names the first row (through `where`) that holds NaN, an infinity, or, for float16, a number beyond
    65504: clipping it would change what was recorded without a word.
    """
    if not rows.size:
        return rows.astype(dtype)
    low, high = float(rows.min()), float(rows.max())  # both are NaN if any number is
    limit = FLOAT16_MAX if dtype == "float16" else float(np.finfo(np.float32).max)
    if low >= -limit and high <= limit:
        return _cast(rows, dtype)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise AuditorError(
            f"Not a finite number (NaN or infinity) at {where(int(np.argmin(finite)))}.",
            "Check the model's weights and, if it ran in float16 or bfloat16, run it in float32.",
        )
    row = int(np.argmax(np.abs(rows).max(axis=1)))
    raise AuditorError(
        f"{float(np.abs(rows[row]).max()):.6g} at {where(row)} does not fit into {dtype} (up to {limit:.6g}).",
        "Store these activations as float32." if dtype == "float16" else "This is no activation of a working network.",
    )


def widened(rows: np.ndarray) -> np.ndarray:
    """`rows` as float32, by torch's conversion: numpy's from float16 is two to three times slower."""
    return rows if rows.dtype == np.float32 else _cast(rows, "float32")


def widen_into(rows: np.ndarray, out: np.ndarray) -> None:
    """`rows` as float32 into `out`."""
    torch.from_numpy(out).copy_(torch.from_numpy(rows))


def _cast(rows: np.ndarray, dtype: str) -> np.ndarray:
    if rows.dtype == dtype:
        return np.array(rows)  # the writer keeps it; the caller may use its buffer again
    if rows.dtype not in (np.float16, np.float32) or not rows.flags.writeable or not rows.flags.c_contiguous:
        return rows.astype(dtype)
    return torch.from_numpy(rows).to(getattr(torch, dtype)).numpy()
