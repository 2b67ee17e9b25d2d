"""Compiles every kernel of the fused TopK step for a GPU that need not be there, and prints what came of each.

A process of its own, since kernels are either interpreted or compiled from when they are declared. Tensors have sizes
and types but no numbers, so that sizes are those of real dictionaries.
"""

from __future__ import annotations

import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from auditor.sae.kernels.cuda.pipeline import Pipeline
from auditor.sae.kernels.cuda.state import Settings, State

# d_in, d_sae, batch_size, k, places for dead features: those that are measured, and one that nothing divides.
SHAPES = ((768, 24_576, 4096, 32, 0), (4096, 131_072, 4096, 64, 512), (200, 1001, 301, 7, 256))
NOTHING = torch.device("meta")


class Driver:
    """Of an H100 or H200, as far as the compiler asks."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def main() -> None:
    """Print a list of [kernel, bytes of its machine code, bytes of shared memory], one for each that was compiled."""
    found: dict[str, tuple[str, int, int]] = {}
    launch = JITFunction.run

    def compile_only(self, *given, warmup, **named):
        kernel = launch(self, *given, warmup=True, **named)
        found[kernel.hash] = self.fn.__name__, len(kernel.asm["cubin"]), kernel.metadata.shared
        return kernel

    JITFunction.run = compile_only
    driver.set_active(Driver())
    for d, d_sae, batch, k, room in SHAPES:
        sizes = {"encoder": (d_sae, d), "decoder": (d_sae, d), "b_enc": (d_sae,), "b_dec": (d,)}
        state = State.of({name: torch.empty(size, device=NOTHING) for name, size in sizes.items()})
        pipeline = Pipeline(state, Settings(k, auxk_alpha=1 / 32, auxk_rows=512, dead_after=1000), batch)
        silent = torch.empty(d_sae, dtype=torch.int64, device=NOTHING)
        pipeline.run(torch.empty(batch, d, device=NOTHING), silent, room)
    json.dump(sorted(found.values()), sys.stdout)


if __name__ == "__main__":
    main()
