"""Times the fused TopK step on a GPU against its floor and naive autograd: auditor bench step.

The floor without overlap is the encoder's product alone plus a copy that moves the optimiser's bytes, both measured
here. Needs only torch, triton and numpy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from auditor.sae.kernels.cuda import language
from auditor.sae.kernels.cuda.step import FusedTopK

# d_in, d_sae, batch_size, k.
SHAPES = ((768, 24_576, 4096, 32), (4096, 131_072, 4096, 64))
# Bytes that Adam moves per weight: float32 weight and second moment, bfloat16 first moment, each read and written, and
# the bfloat16 copy written.
ADAM_BYTES = 4 + 4 + 4 + 4 + 2 + 2 + 2


def rows(n: int, d: int, device: torch.device, seed: int, truth: int = 4096, active: float = 24.0) -> Tensor:
    """float32 [n, d]: sparse sums of `truth` fixed directions, Zipf frequencies, mean squared norm d."""
    fixed = torch.Generator(device).manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(truth, d, device=device, generator=fixed))
    share = 1 / torch.arange(21, truth + 21, device=device)
    share *= active / share.sum()
    rng = torch.Generator(device).manual_seed(seed)
    weights = torch.randn(n, truth, device=device, generator=rng).mul_(0.5).exp_()
    weights *= torch.rand(n, truth, device=device, generator=rng) < share
    x = weights @ directions + 0.01 * torch.randn(n, d, device=device, generator=rng)
    return x * (d / x.square().sum(1).mean()).sqrt()


def start(x: Tensor, d_sae: int, seed: int = 0) -> list[Tensor]:
    """encoder, decoder, b_enc, b_dec: random unit decoder rows, encoder half of them, b_dec the mean of x."""
    rng = torch.Generator(x.device).manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(d_sae, x.shape[1], device=x.device, generator=rng))
    return [decoder * 0.5, decoder, torch.zeros(d_sae, device=x.device), x.mean(0)]


class Naive:
    """The same dictionary as most people write it: autograd with bfloat16 autocast, dense products, fused Adam."""

    def __init__(self, parameters: list[Tensor], k: int) -> None:
        self.parameters, self.k = [p.clone().requires_grad_() for p in parameters], k
        self.adam = torch.optim.Adam(self.parameters, fused=True)

    def step(self, x: Tensor, lr: float) -> Tensor:
        encoder, decoder, b_enc, b_dec = self.parameters
        with torch.autocast(x.device.type, torch.bfloat16):
            pre = torch.addmm(b_enc, x - b_dec, encoder.T)
            values, ids = pre.topk(self.k, dim=1, sorted=False)
            z = torch.zeros_like(pre).scatter(1, ids, values.relu())
            out = z @ decoder
        squared = (out.float() + b_dec - x).square().sum()
        self.adam.zero_grad(set_to_none=True)
        (squared / len(x)).backward()
        with torch.no_grad():
            decoder.grad.addcmul_(decoder, torch.linalg.vecdot(decoder.grad, decoder)[:, None], value=-1)
            for group in self.adam.param_groups:
                group["lr"] = lr
            self.adam.step()
            decoder /= decoder.norm(dim=1, keepdim=True)
        return squared.detach()


def fvu(parameters: Sequence[Tensor], k: int, x: Tensor) -> float:
    """Fraction of the variance of x [n, d] that the dictionary leaves unexplained, in float32."""
    encoder, decoder, b_enc, b_dec = (p.detach() for p in parameters)
    values, ids = torch.addmm(b_enc, x - b_dec, encoder.T).topk(k, dim=1)
    out = b_dec.expand_as(x).clone()
    for j in range(k):
        out += values[:, j, None].relu() * decoder[ids[:, j]]
    return float((out - x).square().sum() / (x - x.mean(0)).square().sum())


def median_ms(run: Callable[[int], Any], repeats: int) -> float:
    """Median time of run(i) on the device, the queue kept full."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for i in range(repeats):
        run(i)
        marks[i + 1].record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(marks))


def kernels_ms(run: Callable[[int], Any], repeats: int) -> dict[str, float]:
    """Time of each kernel in one run, longest first."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for i in range(repeats):
            run(i)
        torch.cuda.synchronize()
    found: dict[str, float] = {}
    for event in profile.key_averages():
        found[event.key] = found.get(event.key, 0.0) + event.self_device_time_total / repeats / 1e3
    return dict(sorted(((k, v) for k, v in found.items() if v > 0), key=lambda pair: -pair[1]))


def floor(x: Tensor, d_sae: int, repeats: int) -> dict[str, float]:
    """The encoder's product on x [B, D] by itself, and a copy of the optimiser's bytes by itself."""
    batch, d = x.shape
    weight = torch.randn(d_sae, d, device=x.device).bfloat16()
    scores = torch.empty(batch, d_sae, dtype=torch.bfloat16, device=x.device)
    product = median_ms(lambda i: torch.mm(x, weight.T, out=scores), repeats)
    source = torch.empty(d_sae * d * ADAM_BYTES, dtype=torch.uint8, device=x.device)  # both matrices, read or written
    target = torch.empty_like(source)
    traffic = median_ms(lambda i: target.copy_(source), repeats)
    return {"product_ms": product, "traffic_ms": traffic, "floor_ms": product + traffic}


def fused(batches: list[Tensor], shape: tuple[int, int, int, int], given: argparse.Namespace) -> dict[str, Any]:
    """The fused step: without dead features, then with some."""
    _, d_sae, batch, k = shape
    silent = torch.zeros(d_sae, dtype=torch.int64, device="cuda")
    step = FusedTopK(
        *start(batches[0].float(), d_sae), k=k, batch_size=batch, auxk_alpha=1 / 32, auxk_rows=512, dead_after=1 << 40
    )

    def run(i: int) -> None:
        step.step(batches[i % len(batches)], 1e-3, silent)

    for i in range(given.warm_up):
        run(i)
    found: dict[str, Any] = {"step_ms": median_ms(run, given.repeats), "kernels_ms": kernels_ms(run, 5)}
    found["samples_per_s"] = batch / found["step_ms"] * 1e3
    for i in range(8):
        silent[:: given.dead_share] = 1 << 50
        run(i)
    found["dead"] = int((silent > 1 << 40).sum())
    found["step_with_dead_ms"], found["kernels_with_dead_ms"] = median_ms(run, given.repeats), kernels_ms(run, 5)
    found["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def naive(batches: list[Tensor], shape: tuple[int, int, int, int], repeats: int) -> dict[str, float]:
    """Naive autograd on the same rows."""
    floats = [x.float() for x in batches]
    contender = Naive(start(floats[0], shape[1]), shape[3])
    for i in range(5):
        contender.step(floats[i % len(floats)], 1e-3)
    return {"naive_ms": median_ms(lambda i: contender.step(floats[i % len(floats)], 1e-3), max(10, repeats // 4))}


def measure(shape: tuple[int, int, int, int], given: argparse.Namespace) -> dict[str, Any]:
    """Everything about one shape."""
    d, d_sae, batch, k = shape
    batches = [rows(batch, d, torch.device("cuda"), seed).half() for seed in range(4)]
    found: dict[str, Any] = {"d_in": d, "d_sae": d_sae, "batch_size": batch, "k": k}
    found |= floor(batches[0].bfloat16(), d_sae, given.repeats)
    torch.cuda.reset_peak_memory_stats()
    found |= fused(batches, shape, given)
    found["of_floor"] = found["step_ms"] / found["floor_ms"]
    torch.cuda.empty_cache()
    if given.naive:
        found |= naive(batches, shape, given.repeats)
        torch.cuda.empty_cache()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table or, with --json, one object."""
    parser = argparse.ArgumentParser(prog="auditor bench step", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), action="append",
                        help="D_IN,D_SAE,BATCH,K; several times for several (default: two)")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=100, help="steps of training before anything is timed")
    parser.add_argument("--dead-share", type=int, default=8, help="one in so many features is dead in a second timing")
    parser.add_argument("--no-naive", dest="naive", action="store_false")
    given = parser.parse_args(argv)
    if not (torch.cuda.is_available() and language.usable(torch.device("cuda"))):
        print("This bench needs an NVIDIA GPU and triton; nothing was measured.", file=sys.stderr)
        return 1
    found = [measure(shape, given) for shape in given.shape or SHAPES]
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": language.triton.__version__}
    print(json.dumps({**facts, "rows": found}) if given.json else _table(facts, found, given.repeats))
    return 0


def _table(facts: dict[str, str], found: list[dict[str, Any]], repeats: int) -> str:
    lines = [f"{facts['device']}, torch {facts['torch']}, triton {facts['triton']}; medians of {repeats}"]
    for r in found:
        beside = ""
        if "naive_ms" in r:
            beside = f"; naive autograd {r['naive_ms']:.3f} ms ({r['naive_ms'] / r['step_ms']:.2f} x)"
        lines += [
            f"d {r['d_in']}, m {r['d_sae']}, B {r['batch_size']}, k {r['k']}",
            f"  fused step {r['step_ms']:.3f} ms ({r['samples_per_s'] / 1e6:.2f} M rows/s), {r['of_floor']:.2f} x the "
            f"floor of {r['floor_ms']:.3f} ms (product {r['product_ms']:.3f} + traffic {r['traffic_ms']:.3f}){beside}",
            f"  with {r['dead']} dead features {r['step_with_dead_ms']:.3f} ms; peak memory {r['peak_mb']:.0f} MB",
        ]
        lines += [f"  {ms:8.4f} ms  {name[:90]}" for name, ms in r["kernels_ms"].items() if ms >= 5e-4]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
