"""The kernels of the fused TopK step go through Triton's compiler and NVIDIA's assembler on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
# What a program may have on an H100 or H200.
SHARED_BYTES = 232_448
KERNELS = {
    "_centre", "_choose", "_decode", "_find_dead", "_gather", "_group_maxima", "_index", "_keep_largest", "_miss",
    "_partial_sums", "_settle", "_step_b_dec", "_step_b_enc", "_sum_pieces", "_through_relu", "_update",
}  # fmt: skip


def test_that_every_kernel_compiles_for_real_sizes():
    # Kept from run to run: a kernel that did not change is not compiled again.
    kept = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(ROOT / "build" / "triton")}
    environment = {**os.environ, **kept, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.sae.compiled_kernels"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name for name, _, _ in found} == KERNELS
    assert all(code > 0 and shared <= SHARED_BYTES for _, code, shared in found)
