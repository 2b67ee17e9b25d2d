"""Times each kernel of the fused TopK step under several tilings: auditor bench tune_step.

Kernels have names of their own, so one variant changes all of them at once and each column is read by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from auditor.sae.kernels.cuda import language
from auditor.sae.kernels.cuda.pipeline import Pipeline, Tiling
from auditor.sae.kernels.cuda.step import FusedTopK
from tests.bench.bench_step import kernels_ms, median_ms, rows, start

# The second with the pairs per feature of the full size (2), at a quarter of its features.
SHAPES = ((768, 24_576, 4096, 32), (4096, 32_768, 1024, 64))
NAMES = ("block_rows", "decode", "update", "piece", "pieces", "select_block", "select_warps")
VARIANTS = {
    768: [
        (4096, (8, 4), (2, 1), 32, (16, 2), 256, 1),
        (4096, (8, 4), (2, 1), 16, (16, 2), 256, 1),
        (4096, (8, 4), (1, 2), 32, (16, 1), 512, 1),
        (4096, (8, 4), (2, 2), 16, (8, 4), 256, 1),
    ],
    4096: [
        (1024, (8, 8), (2, 4), 32, (8, 16), 256, 1),
        (1024, (8, 8), (1, 4), 16, (16, 16), 256, 1),
        (1024, (8, 8), (1, 8), 32, (16, 8), 256, 1),
    ],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the variants' kernels, longest first."""
    parser = argparse.ArgumentParser(prog="auditor bench tune_step", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", type=int, nargs="*", help="only these")
    parser.add_argument("--d-in", type=int, nargs="*", default=[768, 4096])
    given = parser.parse_args(argv)
    if not (torch.cuda.is_available() and language.usable(torch.device("cuda"))):
        print("This bench needs an NVIDIA GPU and triton; nothing was measured.", file=sys.stderr)
        return 1
    for shape in SHAPES:
        d, d_sae, batch, k = shape
        if d not in given.d_in:
            continue
        x = [rows(batch, d, torch.device("cuda"), seed).half() for seed in range(2)]
        silent = torch.zeros(d_sae, dtype=torch.int64, device="cuda")
        step = FusedTopK(*start(x[0].float(), d_sae), k=k, batch_size=batch)
        for i in range(0 if given.variant else 60):
            step.step(x[i % 2], 1e-3, silent)
        found = {}
        for number in given.variant or range(len(VARIANTS[d])):
            if number >= len(VARIANTS[d]):
                continue
            tiling = replace(Tiling.of(batch, d, d_sae, k), **dict(zip(NAMES, VARIANTS[d][number], strict=True)))
            pipeline = Pipeline(step.state, step.settings, batch, tiling)
            pipeline.lr.fill_(0.0)

            def run(i: int, pipeline: Pipeline = pipeline, silent: torch.Tensor = silent, x: list = x) -> None:
                pipeline.run(x[i % 2], silent, 0)

            for i in range(3):
                run(i)
            found[number] = kernels_ms(run, 5)
            whole, empty = pipeline.update, torch.zeros_like(pipeline.starts)
            rest = pipeline.rates, pipeline.finite, step.settings.constants
            for name, matrix in (("decoder", pipeline.gradient), ("encoder", pipeline.centred)):
                for label, starts in ((name, pipeline.starts), (f"{name} without pairs", empty)):
                    given_ = name, starts, pipeline.pair_rows, whole.to_values, matrix, None, *rest
                    found[number][f"  ({label})"] = median_ms(lambda i, g=given_, w=whole: w.step(*g), 10)
        names = sorted({n for f in found.values() for n in f}, key=lambda n: -max(f.get(n, 0) for f in found.values()))
        print(f"{shape}, us; {NAMES}")
        for number in found:
            print(f"  {number}: {VARIANTS[d][number]}")
        for name in names:
            print("".join(f"{f.get(name, 0) * 1e3:9.1f}" for f in found.values()), name[:70])
        sums = [sum(ms for name, ms in f.items() if not name.startswith(" ")) for f in found.values()]
        print("".join(f"{ms * 1e3:9.1f}" for ms in sums), "sum", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
