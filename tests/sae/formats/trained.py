"""Dictionaries trained here, exported for the packages to load: what `make_fixtures.py --check` gives them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from auditor.sae.formats import formats
from auditor.sae.sae import Sae
from auditor.sae.trainer import TrainConfig, train
from tests.sae.memory_store import MemoryStore, known

PEERS = {"sae-lens": "saelens", "sparsify": "sparsify", "dictionary-learning": "dictionary_learning"}
# Each architecture with what it may be exported for.
TRAINED = {
    "topk": ("sae-lens", "sparsify", "dictionary-learning"),
    "relu": ("sae-lens", "dictionary-learning"),
    "jumprelu": ("sae-lens", "dictionary-learning"),
    "batchtopk": ("sae-lens", "dictionary-learning"),
    "matryoshka": ("sae-lens", "dictionary-learning"),
    "gated": ("sae-lens", "dictionary-learning"),
    "matching_pursuit": ("sae-lens",),
    "abstopk": ("sae-lens",),
    "groupmax": ("sparsify",),
    "temporal": ("sae-lens",),
}
RUNS = [16, 16, 16]


def write_trained(folder: Path) -> None:
    """Train one dictionary of each architecture and write it for each package as `folder`/PEER/ARCH, with our own
    figures on fresh rows in ARCH.expected."""
    rows, _ = known(3000, d_in=24, n_true=32, offset=0.5)
    fresh = torch.from_numpy(known(48, d_in=24, n_true=32, offset=0.5, seed=1)[0])
    for arch, peers in TRAINED.items():
        config = TrainConfig(
            arch=arch, d_sae=64, k=4, steps=120, batch_size=64, lr=1e-2, checkpoint_every=200, metrics_every=100,
            device="cpu", heads=2, bottleneck=4,
        )  # fmt: skip
        sae = train(config, MemoryStore(rows), folder / "trained" / arch)
        for peer in peers:
            export(sae, PEERS[peer], folder / peer / arch, fresh)

    for name, (peer, sae) in transcoders().items():
        export(sae, PEERS[peer], folder / peer / name, fresh[:, : sae.d_in])


def transcoders() -> dict[str, tuple[str, Sae]]:
    """Transcoders of random weights, each with the package that has such."""
    g = torch.Generator().manual_seed(7)

    def made(arch: str, d_out: int, skip: bool, **more: object) -> Sae:
        shapes = {"W_enc": (12, 40), "W_dec": (40, d_out), "b_enc": (40,), "b_dec": (d_out,)}
        shapes |= {"W_skip": (12, d_out)} if skip else {}
        tensors = {name: torch.randn(shape, generator=g) * 0.4 for name, shape in shapes.items()}
        if arch == "jumprelu":
            tensors["threshold"] = torch.rand(40, generator=g)
        hooks = {"hook": "blocks.2.resid_mid", "hook_out": "blocks.2.mlp_out"}
        return Sae(arch, **tensors, **hooks, **more)

    return {
        "transcoder": ("sae-lens", made("relu", 8, False)),
        "skip-transcoder": ("sae-lens", made("relu", 8, True)),
        "jumprelu-transcoder": ("sae-lens", made("jumprelu", 8, False)),
        "jumprelu-skip-transcoder": ("sae-lens", made("jumprelu", 8, True)),
        "topk-transcoder": ("sparsify", made("topk", 12, False, k=4)),
        "topk-skip-transcoder": ("sparsify", made("topk", 12, True, k=4)),
    }


def export(sae: Sae, name: str, path: Path, x: torch.Tensor) -> None:
    """Write `sae` in the format `name` to `path`, and our figures for rows x beside it."""
    write = formats().get(name).write
    assert write is not None
    write(sae, path)
    runs = None if sae.context is None else RUNS
    figures = {"x": x, "acts": sae.encode(x, runs), "out": sae.reconstruct(x, runs)}
    if path.name == "abstopk":  # one feature there has both sides
        positive, negative = figures["acts"].chunk(2, dim=1)
        figures["acts"] = positive - negative
    figures |= {} if runs is None else {"runs": torch.tensor(runs)}
    save_file({key: tensor.contiguous() for key, tensor in figures.items()}, f"{path}.expected")
