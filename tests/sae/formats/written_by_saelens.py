"""Runs in SAELens' environment: saves one dictionary of each architecture, or loads those that were exported here."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_class, get_sae_training_class
from safetensors.torch import load_file, save_file

D, M, D_OUT, ROWS = 12, 32, 8, 16
# Samples that the rows are, for what reads samples in order.
RUNS = (7, 1, 8)
HOOK, HOOK_OUT = "blocks.3.hook_resid_post", "blocks.3.hook_mlp_out"
INFERENCE = {
    "standard": ("standard", {}),
    "standard-no-input-bias": ("standard", {"apply_b_dec_to_input": False}),
    "standard-layer-norm": ("standard", {"normalize_activations": "layer_norm"}),
    "standard-constant-norm": ("standard", {"normalize_activations": "constant_norm_rescale"}),
    "standard-bfloat16": ("standard", {"dtype": "bfloat16"}),
    "gated": ("gated", {}),
    "gated-no-input-bias": ("gated", {"apply_b_dec_to_input": False}),
    "jumprelu": ("jumprelu", {}),
    "jumprelu-no-input-bias": ("jumprelu", {"apply_b_dec_to_input": False}),
    "topk": ("topk", {"k": 5}),
    "topk-rescaled": ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "topk-hook-z": ("topk", {"k": 5, "reshape_activations": "hook_z"}),
    "abstopk": ("abstopk", {"k": 5}),
    "matching-pursuit": ("matching_pursuit", {"residual_threshold": 0.5}),
    "matching-pursuit-repeats": (
        "matching_pursuit",
        {"residual_threshold": 0.1, "max_iterations": 9, "stop_on_duplicate_support": False},
    ),
    "temporal": ("temporal", {"n_heads": 2, "bottleneck_factor": 4, "kval_topk": 4}),
    "transcoder": ("transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
    "skip-transcoder": ("skip_transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
    "jumprelu-transcoder": ("jumprelu_transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
    "jumprelu-skip-transcoder": ("jumprelu_skip_transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
}
TRAINING = {
    "checkpoint-batchtopk": ("batchtopk", {"k": 4.0, "rescale_acts_by_decoder_norm": True}),
    "checkpoint-matryoshka": (
        "matryoshka_batchtopk",
        {"k": 4.0, "matryoshka_widths": [8, M], "rescale_acts_by_decoder_norm": False},
    ),
}
# Drawn by a generator of their own, so that those above stay what they are.
TEMPORAL = {"n_heads": 2, "bottleneck_factor": 4}
MORE = {
    "temporal-untied": TEMPORAL | {"tied_weights": False, "apply_b_dec_to_input": False, "kval_topk": 6},
    "temporal-scaled": TEMPORAL | {
        "n_attn_layers": 2, "sae_diff_type": "relu", "normalize_activations": "constant_scalar_rescale",
        "activation_normalization_factor": 0.37,
    },
    "temporal-layer-norm": TEMPORAL | {
        "kval_topk": 4, "apply_b_dec_to_input": False, "normalize_activations": "layer_norm",
    },
}  # fmt: skip
CHECKPOINTS = {
    "standard": {}, "gated": {}, "jumprelu": {}, "matching_pursuit": {"residual_threshold": 0.5},
    "topk": {"k": 5, "rescale_acts_by_decoder_norm": True}, "abstopk": {"k": 5, "rescale_acts_by_decoder_norm": False},
}  # fmt: skip


def shaken(sae: SAE, generator: torch.Generator) -> SAE:
    """With random weights everywhere, thresholds above zero, and unit decoder rows for matching pursuit."""
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.4)
            if name == "threshold":
                drawn = drawn.abs() * 2
            if name == "W_dec" and sae.cfg.architecture() == "matching_pursuit":
                drawn = drawn / drawn.norm(dim=1, keepdim=True)
            parameter.copy_(drawn.to(parameter.dtype))
    return sae


def config(architecture: str, settings: dict, training: bool = False):
    found = (get_sae_training_class if training else get_sae_class)(architecture)
    made = found[1](d_in=D, d_sae=M, **settings)
    hook = "blocks.3.attn.hook_z" if settings.get("reshape_activations") == "hook_z" else HOOK
    made.metadata.hook_name = hook
    made.metadata.model_name = "gpt2-small"
    if architecture.endswith("transcoder"):
        made.metadata.hook_name_out = HOOK_OUT
    return found[0](made)


def expected(sae: SAE, rows: torch.Tensor, runs: Sequence[int] = RUNS) -> dict[str, torch.Tensor]:
    """The package's own activations and output, in float32; a temporal dictionary's for samples of `runs` rows."""
    if sae.cfg.architecture() == "temporal":
        with torch.no_grad():
            samples = [part[None] for part in torch.split(rows, list(runs))]
            acts, out = (torch.cat([of(x)[0] for x in samples]) for of in (sae.encode, sae))
        return {"x": rows, "runs": torch.tensor(runs), "acts": acts.float().clone(), "out": out.float().clone()}
    x = rows.unflatten(1, (3, D // 3)) if sae.cfg.reshape_activations == "hook_z" else rows
    with torch.no_grad():
        acts = sae.encode(x)
        acts = acts.to_dense() if acts.is_sparse else acts
        return {"x": rows, "acts": acts.float().clone(), "out": sae(x).reshape(len(rows), -1).float().clone()}


def make(out: Path) -> None:
    generator = torch.Generator().manual_seed(20261126)
    rows = torch.randn(ROWS, D, generator=generator) * 2 + 0.5
    for name, (architecture, settings) in INFERENCE.items():
        sae = shaken(config(architecture, settings), generator)
        sae.save_model(out / name)
        loaded = SAE.load_from_disk(out / name, dtype="float32")  # its weights, without rounding its sums
        save_file(expected(loaded, rows), out / f"{name}.expected")
    for name, (architecture, settings) in TRAINING.items():
        sae = shaken(config(architecture, settings, training=True), generator)
        sae.topk_threshold = torch.tensor(1.2345, dtype=torch.double)
        sae.save_model(out / name)
        inference = name.replace("checkpoint", "inference")
        sae.save_inference_model(out / inference)
        for made in (name, inference):  # a checkpoint stands for the dictionary that it would end as
            save_file(expected(SAE.load_from_disk(out / inference), rows), out / f"{made}.expected")
    scaled(out, generator, rows)
    flat(out, generator, rows)
    more(out, torch.Generator().manual_seed(20261127), rows)


def more(out: Path, generator: torch.Generator, rows: torch.Tensor) -> None:
    """Temporal dictionaries, and checkpoints of the classes that train."""
    for name, settings in MORE.items():
        sae = shaken(config("temporal", settings), generator)
        with torch.no_grad():
            sae.W_dec.mul_(4)  # so that its codes are of the size of the others'
        sae.save_model(out / name)
        save_file(expected(SAE.load_from_disk(out / name), rows), out / f"{name}.expected")
    for architecture, settings in CHECKPOINTS.items():
        sae = shaken(config(architecture, settings, training=True), generator)
        name = f"checkpoint-{architecture}"
        sae.save_model(out / name)
        sae.save_inference_model(out / "inference")
        save_file(expected(SAE.load_from_disk(out / "inference"), rows), out / f"{name}.expected")
        shutil.rmtree(out / "inference")


def scaled(out: Path, generator: torch.Generator, rows: torch.Tensor) -> None:
    """A checkpoint of a run with a norm factor, which the trainer keeps beside the weights and folds in at its end."""
    from sae_lens.training.activation_scaler import ActivationScaler

    name = "checkpoint-scaled"
    sae = shaken(config("standard", {"normalize_activations": "expected_average_only_in"}), generator)
    sae.save_model(out / name)
    ActivationScaler(scaling_factor=0.37).save(str(out / name / "activation_scaler.json"))
    sae.fold_activation_norm_scaling_factor(0.37)
    save_file(expected(sae, rows), out / f"{name}.expected")
    for name, on_input in (("checkpoint-whitened", True), ("checkpoint-whitened-no-input-bias", False)):
        settings = {"normalize_activations": "covariance_whitening", "apply_b_dec_to_input": on_input}
        sae = shaken(config("standard", settings), generator)
        sae.save_model(out / name)
        scaler = ActivationScaler()
        scaler.estimate_whitening(D, iter([torch.randn(200, D, generator=generator) @ torch.randn(D, D)]), 1)
        scaler.save(str(out / name / "activation_scaler.json"))
        whitening = scaler.whitening
        sae.fold_activation_whitening(whitening.mean, whitening.matrix, whitening.inverse_matrix)
        save_file(expected(sae, rows), out / f"{name}.expected")


def flat(out: Path, generator: torch.Generator, rows: torch.Tensor) -> None:
    """Folders as versions before 6 wrote them, with the weights of this one: the package still reads them."""
    before = {
        "flat-standard": ("standard", {}, {"architecture": "standard", "activation_fn_str": "relu"}),
        "flat-topk": ("topk", {"k": 3}, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}),
        "flat-hook-z": ("standard", {}, {"activation_fn_str": "relu", "hook_point": "blocks.3.attn.hook_z"}),
    }
    for name, (architecture, settings, old) in before.items():
        sae = shaken(config(architecture, settings), generator)
        sae.save_model(out / name)
        tensors = load_file(out / name / "sae_weights.safetensors")
        save_file(tensors | {"scaling_factor": torch.ones(M)}, out / name / "sae_weights.safetensors")
        written = {
            "d_in": D, "d_sae": M, "dtype": "float32", "device": "cpu", "model_name": "gpt2-small", "hook_point": HOOK,
            "hook_point_layer": 3, "normalize_activations": "none", "finetuning_scaling_factor": False,
            "apply_b_dec_to_input": True, "prepend_bos": True, "context_size": 128,
            "sae_lens_training_version": "3.5.0",
        }  # fmt: skip
        (out / name / "cfg.json").write_text(json.dumps(written | old))
        save_file(expected(SAE.load_from_disk(out / name), rows), out / f"{name}.expected")


def load(folder: Path) -> list[dict]:
    """How far this package's figures are from those beside each dictionary."""
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        ours = load_file(f"{path}.expected")
        theirs = expected(SAE.load_from_disk(path), ours["x"], ours["runs"].tolist() if "runs" in ours else RUNS)
        away = {f"{key}_difference": float((theirs[key] - ours[key]).abs().max()) for key in ("acts", "out")}
        found.append({"peer": "sae-lens", "version": version("sae-lens"), "name": path.name, **away})
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
        print(json.dumps({"sae-lens": version("sae-lens"), "torch": version("torch")}))  # noqa: T201
    else:
        print(json.dumps(load(Path(sys.argv[2]))))  # noqa: T201
