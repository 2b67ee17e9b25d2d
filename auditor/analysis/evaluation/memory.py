"""How much memory an evaluation takes at most, so that one that cannot fit is refused before it begins."""

from __future__ import annotations

from auditor.analysis.evaluation.pooled import MOST_CONTROLS
from auditor.base.errors import AuditorError
from auditor.sae.sae import Sae

GIB = 1 << 30
# Of contestants beside each other, each with figures of its own for each k.
_CONTESTANTS = 5
_DRAWS = 1001
# Blocks of draws, of columns and of rows that are worked on at a time.
_WORKING = 3 << 26


def evaluation_bytes(sae: Sae, n: int, *, tasks: int, ks: int, splits: int, parts: int = 1) -> int:
    """Of n samples, as often as they are held (`parts`: 2 where some are taken out): the activations of all features
    and random directions, of which a half is copied at a time; their rows, with components and probes in float64; draws
    of the bootstrap; and whether each probe is right for each task, k and split."""
    codes = sae.d_sae + min(sae.d_sae, MOST_CONTROLS)
    width = sae.d_in + (sae.d_out if sae.hook_out else 0)
    held = parts * 4 * (codes + width)
    working = max(2 * sae.d_sae, 16 * width)
    kept = _CONTESTANTS * ks * splits * tasks * (tasks + 1) // 2
    return n * (held + working + kept + _DRAWS) + 8 * codes * width + _WORKING


def must_fit(needed: int, free: int, n: int, what: str, way: str) -> None:
    """AuditorError with figures where `needed` bytes for n of `what` are not free; `way` says what to change."""
    if needed <= free:
        return
    fits = int(n * free / needed)
    raise AuditorError(
        f"To evaluate {n:,} {what} takes up to {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free.",
        f"About {fits:,} {what} fit: {way}.",
    )
