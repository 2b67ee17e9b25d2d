"""A store in memory with the part of the contract that training and evaluation use, and data with known directions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from auditor.base.digest import sha256_bytes
from auditor.data.sample import PositionKind


class MemoryStore:
    """Rows [n, width] of one hook point, or of several by name; the first half are text, the rest image unless `kind`
    says otherwise."""

    def __init__(self, rows, hook="blocks.1.resid_post", kind=None, sample=None):
        named = rows if isinstance(rows, dict) else {hook: rows}
        self.parts = {name: np.asarray(part, dtype=np.float32) for name, part in named.items()}
        self.data = next(iter(self.parts.values()))
        self.hook_points = {name: part.shape[1] for name, part in self.parts.items()}
        self.n_rows = len(self.data)
        self.kind = np.where(np.arange(self.n_rows) < self.n_rows // 2, 1, 2).astype(np.uint8) if kind is None else kind
        self.sample = (np.arange(self.n_rows) // 16).astype(np.int32) if sample is None else sample
        self.digest = sha256_bytes(b"".join(part.tobytes() for part in self.parts.values()))
        self.meta = {"model": {"name": "tiny", "digest": "0" * 64}}
        self.served: list[tuple[int, int]] = []  # (seed, batch number)

    def rows(self, index, hook=None):
        return (self.data if hook is None else self.parts[hook])[index]

    def counts(self):
        return {"text": int((self.kind == 1).sum()), "image": int((self.kind == 2).sum())}

    def positions(self, index):
        return SimpleNamespace(sample=self.sample[index], kind=self.kind[index])

    def batches(self, batch_size, *, seed=0, hook=None, start=0, kinds=("text", "image"), **_):
        which = np.flatnonzero(np.isin(self.kind, [int(PositionKind[name.upper()]) for name in kinds]))
        names = [hook] if isinstance(hook, str) else hook or list(self.parts)[:1]
        number = start
        while len(which):
            order = np.random.default_rng([seed, number]).choice(which, batch_size)
            self.served.append((seed, number))
            yield np.concatenate([self.parts[name][order] for name in names], axis=1)
            number += 1


def known(n, d_in=32, n_true=48, active=3, seed=0, offset=1.0):
    """(rows [n, d_in], true unit directions [n_true, d_in]): a few directions at once, a mean, noise."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((n_true, d_in))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = (rng.random((n, n_true)) < active / n_true) * (0.5 + rng.random((n, n_true)))
    rows = weights @ directions + offset * directions[0] + 0.01 * rng.standard_normal((n, d_in))
    return rows.astype(np.float32), directions.astype(np.float32)
