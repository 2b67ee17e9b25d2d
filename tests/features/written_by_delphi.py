"""Runs where delphi is installed: caches latents as it does, without the network that it would run.

    python tests/features/written_by_delphi.py tests/features/fixtures/delphi

Writes the folder that delphi writes, `expected.npz` with the dense latents and tokens that went in, and `made.json`.
"""

from __future__ import annotations

import json
import shutil
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

BATCHES, BATCH, CONTEXT, WIDTH = 3, 4, 8, 24


def make(out: Path) -> None:
    """Three batches of sequences, two hook points, in four splits."""
    for name in ("faiss", "blobfile"):  # wanted by its other parts alone
        sys.modules.setdefault(name, types.ModuleType(name))
    from delphi import __version__
    from delphi.config import CacheConfig
    from delphi.latents.cache import LatentCache

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    generator = torch.Generator().manual_seed(3)
    cache = LatentCache(torch.nn.Identity(), {}, batch_size=BATCH)
    cache.width = WIDTH
    expected = {}
    tokens = torch.randint(0, 60, (BATCHES, BATCH, CONTEXT), generator=generator)
    for hook in ("layers.1", "layers.4.mlp"):
        latents = torch.relu(torch.randn(BATCHES, BATCH, CONTEXT, WIDTH, generator=generator) - 0.8)
        for number in range(BATCHES):
            cache.cache.add(latents[number], tokens[number], number, hook)
        expected[hook] = latents.reshape(-1, CONTEXT, WIDTH).half().numpy()
    cache.cache.save()
    cache.save_splits(4, out)
    cache.save_config(out, CacheConfig(cache_ctx_len=CONTEXT, n_splits=4), "EleutherAI/pythia-70m")
    np.savez(out / "expected.npz", tokens=tokens.reshape(-1, CONTEXT).numpy(), **expected)
    made = {"delphi": __version__, "torch": version("torch"), "safetensors": version("safetensors")}
    (out / "made.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
