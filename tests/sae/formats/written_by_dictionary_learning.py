"""Runs in dictionary_learning's environment: saves a dictionary of each class, or loads those that were exported here.

The classes' own encode and decode are compared, on the weights as they are saved: `AutoEncoder.from_pretrained` would
also bring decoder columns to unit norm, which scales activations.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from safetensors.torch import load_file, save_file

PEER = "dictionary-learning"
D, M, ROWS = 12, 32, 16
CLASSES = {
    "AutoEncoder": (AutoEncoder, {}),
    "AutoEncoderNew": (AutoEncoderNew, {}),
    "GatedAutoEncoder": (GatedAutoEncoder, {}),
    "JumpReluAutoEncoder": (JumpReluAutoEncoder, {}),
    "AutoEncoderTopK": (AutoEncoderTopK, {"k": 5}),
    "BatchTopKSAE": (BatchTopKSAE, {"k": 5}),
    "MatryoshkaBatchTopKSAE": (MatryoshkaBatchTopKSAE, {"k": 5, "group_sizes": [8, 24]}),
}


def expected(dictionary: torch.nn.Module, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The class's own activations and output."""
    with torch.no_grad():
        acts = dictionary.encode(rows)
        return {"x": rows, "acts": acts.contiguous(), "out": dictionary.decode(acts).contiguous()}


def settings(kind: str, **more: object) -> dict:
    """config.json as the trainers write it."""
    trainer = {
        "dict_class": kind, "trainer_class": "Trainer", "activation_dim": D, "dict_size": M, "lr": 1e-3, "steps": 100,
        "seed": 0, "layer": 4, "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_4",
        "wandb_name": kind, "device": "cpu", **more,
    }  # fmt: skip
    buffer = {"d_submodule": D, "io": "out", "n_ctxs": 3000, "ctx_len": 128, "refresh_batch_size": 8,
              "out_batch_size": 512, "device": "cpu"}  # fmt: skip
    return {"trainer": trainer, "buffer": buffer}


def make(out: Path) -> None:
    generator = torch.Generator().manual_seed(20261126)
    rows = torch.randn(ROWS, D, generator=generator) * 2 + 0.5
    for kind, (made, given) in CLASSES.items():
        dictionary = made(D, M, **given)
        with torch.no_grad():
            for name, parameter in dictionary.named_parameters():
                drawn = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.4)
                parameter.copy_(drawn.abs() * 2 if name == "threshold" else drawn)
            if "BatchTopK" in kind:
                dictionary.threshold.fill_(0.987)
        more = {"k": given["k"]} if "k" in given else {}
        save(out / kind, dictionary.state_dict(), settings(kind, **more))
        save_file(expected(dictionary, rows), out / f"{kind}.expected")
    interrupted(out, generator, rows)


def interrupted(out: Path, generator: torch.Generator, rows: torch.Tensor) -> None:
    """The form of a run that was stopped: the dictionary is one of several entries, its biases not yet scaled."""
    dictionary = AutoEncoderTopK(D, M, k=5)
    with torch.no_grad():
        dictionary.b_dec.copy_(torch.randn(D, generator=generator) * 0.3)
        dictionary.encoder.bias.copy_(torch.randn(M, generator=generator) * 0.3)
    state = {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}
    optimiser = torch.optim.Adam(dictionary.parameters())
    config = settings("AutoEncoderTopK", k=5)
    run = {"step": 40, "ae": state, "optimizer": optimiser.state_dict(), "config": config["trainer"]}
    run["norm_factor"] = 3.5
    save(out / "interrupted", run, config)
    dictionary.scale_biases(3.5)
    save_file(expected(dictionary, rows), out / "interrupted.expected")


def save(path: Path, state: dict, config: dict) -> None:
    path.mkdir()
    torch.save(state, path / "ae.pt")
    (path / "config.json").write_text(json.dumps(config, indent=4))


def load(folder: Path) -> list[dict]:
    """How far this package's figures are from those beside each dictionary."""
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        ours = load_file(f"{path}.expected")
        theirs = expected(load_dictionary(str(path), "cpu")[0], ours["x"])
        away = {f"{key}_difference": float((theirs[key] - ours[key]).abs().max()) for key in ("acts", "out")}
        found.append({"peer": PEER, "version": version(PEER), "name": path.name, **away})
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
        print(json.dumps({name: version(name) for name in ("dictionary-learning", "torch")}))  # noqa: T201
    else:
        print(json.dumps(load(Path(sys.argv[2]))))  # noqa: T201
