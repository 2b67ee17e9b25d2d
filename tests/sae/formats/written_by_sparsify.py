"""Runs in sparsify's environment: saves coders of each kind, or loads those that were exported here."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

D, M, ROWS = 12, 32, 16
CODERS = {
    "layers.3": {"k": 5, "num_latents": M},
    "expanded/layers.4": {"k": 4, "expansion_factor": 2},
    "bfloat16/layers.5": {"k": 5, "num_latents": M},
    "transcoders/layers.6.mlp": {"k": 5, "num_latents": M, "transcode": True},
    "transcoders/layers.7.mlp": {"k": 5, "num_latents": M, "transcode": True, "skip_connection": True},
    "groupmax/layers.8": {"k": 4, "num_latents": M, "activation": "groupmax"},
    "groupmax/layers.9.mlp": {
        "k": 8, "num_latents": M, "activation": "groupmax", "transcode": True, "skip_connection": True,
    },
}  # fmt: skip


def expected(coder: SparseCoder, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The package's own activations, made dense, and its output."""
    with torch.no_grad():
        values, ids, pre = coder.encode(rows.to(coder.dtype))
        acts = torch.zeros(pre.shape, dtype=pre.dtype).scatter(1, ids, values)
        out = coder(rows.to(coder.dtype)).sae_out
    return {"x": rows, "acts": acts.float(), "out": out.float()}


def make(out: Path) -> None:
    generator = torch.Generator().manual_seed(20261126)
    rows = torch.randn(ROWS, D, generator=generator) * 2 + 0.5
    for name, settings in CODERS.items():
        dtype = torch.bfloat16 if name.startswith("bfloat16") else torch.float32
        coder = SparseCoder(D, SparseCoderConfig(**settings), dtype=dtype)
        with torch.no_grad():
            for parameter in coder.parameters():
                drawn = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.4)
                parameter.copy_(drawn)
        coder.save_to_disk(out / name)
        loaded = SparseCoder.load_from_disk(out / name).float()  # its weights, without rounding its sums
        save_file(expected(loaded, rows), out / f"{name}.expected")
    run = {"model": "EleutherAI/pythia-70m", "dataset": "EleutherAI/pile", "ctx_len": 2048}
    (out / "transcoders" / "config.json").write_text(json.dumps(run))


def load(folder: Path) -> list[dict]:
    """How far this package's figures are from those beside each dictionary."""
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        ours = load_file(f"{path}.expected")
        theirs = expected(SparseCoder.load_from_disk(path), ours["x"])
        away = {f"{key}_difference": float((theirs[key] - ours[key]).abs().max()) for key in ("acts", "out")}
        found.append({"peer": "eai-sparsify", "version": version("eai-sparsify"), "name": path.name, **away})
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
        print(json.dumps({"eai-sparsify": version("eai-sparsify"), "torch": version("torch")}))  # noqa: T201
    else:
        print(json.dumps(load(Path(sys.argv[2]))))  # noqa: T201
