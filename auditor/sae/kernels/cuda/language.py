"""Triton where it is installed; elsewhere names enough that the modules of kernels can be imported."""

# mypy: ignore-errors

from __future__ import annotations

import os

import torch

try:
    import triton
    from triton import jit
    from triton import language as tl
except ImportError:
    triton = tl = None

    def jit(kernel):
        return kernel


# Triton reads this when a kernel is declared, so what is set later changes nothing.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def usable(device: torch.device) -> bool:
    """Whether kernels run on tensors of this torch device; on a CPU only under TRITON_INTERPRET=1, which is slow."""
    return triton is not None and (device.type == "cuda" or _INTERPRETED)


def blocks(n: int, size: int) -> int:
    """Blocks of `size` that hold n things."""
    return -(-n // size)


def padded(n: int, least: int = 1) -> int:
    """The least power of two that is at least n and `least`: the sizes Triton's tensors have."""
    return max(least, 1 << max(0, n - 1).bit_length())


__all__ = ["blocks", "jit", "padded", "tl", "triton", "usable"]
