"""What no training step can be faster than: the dense product of the encoder, then the optimiser's memory traffic."""

from __future__ import annotations

import time

import torch

# Only where candidates are scored again may the product be in 8 bits.
RESCORED = ("topk", "batchtopk")


class Floor:
    """x Wᵀ in the fastest number format and block size here, operands ready; and fused Adam (28 bytes a parameter)."""

    coefficient, version = None, torch.__version__

    def __init__(self, spec):
        d_in, self.spec = spec.data.shape[1], spec
        shapes = ((spec.d_sae, d_in), (spec.d_sae, d_in), (spec.d_sae,), (d_in,))
        self.p = [torch.nn.Parameter(torch.randn(shape, device=spec.device)) for shape in shapes]
        for tensor in self.p:
            tensor.grad = torch.randn_like(tensor)
        self.optimiser = torch.optim.Adam(self.p, lr=1e-3, fused=True)
        self.product, self.facts = self._fastest(spec.batch(0).to(spec.device))

    def _fastest(self, x):
        found = {}
        for name in self._formats():
            for rows in (len(x), 1024, 256):
                product = self._product(name, x, min(rows, len(x)))
                try:
                    product()
                except RuntimeError:  # this build has no such product
                    continue
                found[f"{name}, {rows} rows at once"] = min(self._time(product) for _ in range(3)), product
        best = min(found, key=lambda name: found[name][0])
        return found[best][1], {"floor_format": best}

    def _formats(self):
        if self.spec.device == "cuda":
            return ("bfloat16",)
        return ("float32", "bfloat16", "int8") if self.spec.arch in RESCORED else ("float32", "bfloat16")

    def _product(self, name, x, rows):
        if name == "int8":
            kind, out, multiply = torch.int8, torch.int32, torch._int_mm
        else:
            kind = out = getattr(torch, name)
            multiply = torch.mm
        weight, blocks = (self.p[0].detach() * 20).to(kind), (x * 20).to(kind).split(rows)
        space = torch.empty(rows, len(weight), dtype=out, device=x.device)

        def product():
            for block in blocks:
                multiply(block, weight.T, out=space[: len(block)])

        return product

    def _time(self, what):
        self.spec.wait()
        begin = time.perf_counter()
        what()
        self.spec.wait()
        return time.perf_counter() - begin

    @torch.no_grad()
    def step(self, x, step):
        self.product()
        self.optimiser.step()
