"""Runs where saev 0.1.0 is installed, the one on PyPI: writes shards as it does, without the network that it would run.

    python tests/store/formats/written_by_saev.py tests/store/formats/fixtures/saev

Writes the folder, `expected.npz` with the activations that went in, and `made.json`. Newer protocols are not on PyPI;
`test_published_layouts.py` lays them out by hand.
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

IMAGES, LAYERS, PATCHES, WIDTH = 7, [1, 3], 4, 6


def make(out: Path) -> None:
    """Seven images, two layers, a [CLS] token and four patches each, three images a shard."""
    for name in ("torchvision", "torchvision.datasets"):  # wanted by its own data sets alone
        sys.modules.setdefault(name, types.ModuleType(name))
    vars(sys.modules["torchvision"])["datasets"] = sys.modules["torchvision.datasets"]
    vars(sys.modules["torchvision.datasets"])["ImageFolder"] = object
    from saev import activations, config

    shutil.rmtree(out, ignore_errors=True)
    acts = torch.randn(IMAGES, len(LAYERS), PATCHES + 1, WIDTH, generator=torch.Generator().manual_seed(5))
    data = config.Ade20kDataset()
    type(data).n_imgs = property(lambda _: IMAGES)  # told by its folder, which is not here
    settings = config.Activations(
        data=data, dump_to=str(out), vit_family="clip", vit_ckpt="ViT-B-16/openai", vit_layers=LAYERS, d_vit=WIDTH,
        n_patches_per_img=PATCHES, cls_token=True, n_patches_per_shard=3 * len(LAYERS) * (PATCHES + 1),
    )  # fmt: skip
    out.mkdir(parents=True)
    writer = activations.ShardWriter(settings)
    for start in range(0, IMAGES, 2):
        stop = min(IMAGES, start + 2)
        writer[start:stop] = acts[start:stop]
    writer.flush()
    (made,) = [path for path in out.iterdir() if path.is_dir()]
    made.rename(out / "shards")
    np.savez(out / "expected.npz", acts=acts.numpy())
    facts = {"saev": version("saev"), "torch": version("torch"), "numpy": version("numpy")}
    (out / "made.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
