"""Runs in SAELens' environment: caches activations as its runner does, without the network that it would load.

    PEERS/sae-lens/bin/python tests/store/formats/written_by_saelens.py tests/store/formats/fixtures/sae-lens
    PEERS/sae-lens/bin/python tests/store/formats/written_by_saelens.py --load FOLDER

The first writes the fixture and `made.json` with the versions; the second has the package read a folder that was
exported here, and prints what it found as JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import torch
from datasets import Array2D, Features, Sequence, Value
from sae_lens.cache_activations_runner import CacheActivationsRunner
from sae_lens.config import CacheActivationsRunnerConfig
from sae_lens.training.activations_store import ActivationsStore

CONTEXT, WIDTH, SEQUENCES, BUFFERS = 5, 6, 4, 2
HOOK = "blocks.3.hook_resid_post"


def make(out: Path) -> None:
    """Two shards of four sequences each, by the runner's own methods; beside them the numbers that went in."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "cache").mkdir(parents=True)
    generator = torch.Generator().manual_seed(7)
    acts = torch.randn(BUFFERS, SEQUENCES * CONTEXT, WIDTH, generator=generator)
    tokens = torch.randint(0, 900, (BUFFERS, SEQUENCES * CONTEXT), generator=generator)
    runner = CacheActivationsRunner.__new__(CacheActivationsRunner)
    runner.cfg = SimpleNamespace(hook_name=HOOK, n_seq_in_buffer=SEQUENCES, d_in=WIDTH)
    runner.context_size = CONTEXT
    runner.features = Features(
        {HOOK: Array2D((CONTEXT, WIDTH), "float32"), "token_ids": Sequence(Value("int32"), length=CONTEXT)}
    )
    shards = out / "cache" / ".tmp_shards"
    for buffer in range(BUFFERS):
        shard = runner._create_shard((acts[buffer], tokens[buffer]))
        shard.save_to_disk(str(shards / f"shard_{buffer:05d}"), num_shards=1)
    whole = runner._consolidate_shards(shards, out / "cache", copy_files=False)
    hub(out / "hub", whole)
    np.savez(out / "expected.npz", acts=acts.reshape(-1, WIDTH).numpy(), tokens=tokens.reshape(-1).numpy())
    made = {name: version(name) for name in ("sae-lens", "datasets", "pyarrow")}
    (out / "made.json").write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def hub(out: Path, whole: datasets.Dataset) -> None:
    """What a copy from the Hub has: the rows as Parquet, and the runner's settings."""
    (out / "data").mkdir(parents=True)
    whole.to_parquet(out / "data" / "train-00000-of-00001.parquet")
    settings = CacheActivationsRunnerConfig(
        dataset_path="NeelNanda/c4-10k", model_name="gelu-1l", model_batch_size=SEQUENCES, hook_name=HOOK, d_in=WIDTH,
        training_tokens=SEQUENCES * CONTEXT * BUFFERS, context_size=CONTEXT, new_cached_activations_path="cache",
        device="cpu",
    )  # fmt: skip
    text = json.dumps(asdict(settings), indent=2, ensure_ascii=False)
    (out / "cache_activations_runner_cfg.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> dict[str, object]:
    """What SAELens' own store reads from `folder`."""
    held = datasets.load_from_disk(str(folder))
    hook = next(name for name in held.column_names if name != "token_ids")
    store = ActivationsStore.__new__(ActivationsStore)
    store.cached_activations_path, store.hook_name = str(folder), hook
    shape = held.features[hook].shape
    store.context_size, store.d_in, store.dtype, store.device = shape[0], shape[1], torch.float32, torch.device("cpu")
    store.store_batch_size_prompts = len(held)
    store.cached_activation_dataset = store.load_cached_activation_dataset()
    acts, tokens = store._load_raw_llm_batch_from_cached(raise_on_epoch_end=False)
    return {"hook": hook, "acts": acts.reshape(-1, shape[1]).tolist(), "tokens": tokens.reshape(-1).tolist()}


if __name__ == "__main__":
    if sys.argv[1] == "--load":
        sys.stdout.write(json.dumps(load(Path(sys.argv[2]))) + "\n")
    else:
        make(Path(sys.argv[1]))
