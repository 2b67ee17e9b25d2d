"""A Llama whose channels stand in another order: the same function, and weights that are in no groups of few bits.

The sample SmolLM2 was in 4 bits, 32 inputs at a time, so that it comes back in them all but unchanged. In the copy each
group holds numbers of many of those, and is rounded as a network's is that never was in 4 bits.

python -m tests.models.permuted SOURCE TARGET
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def permuted(source: Path, target: Path, seed: int = 0) -> Path:
    """Write the copy: residual stream, MLP and values of heads, each in an order drawn for it."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    weights, drawn = load_file(str(source / "model.safetensors")), torch.Generator().manual_seed(seed)
    width, heads, groups = (config[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    size, stream = width // heads, torch.randperm(width, generator=drawn)
    found = {
        "model.norm.weight": weights["model.norm.weight"][stream],
        "model.embed_tokens.weight": weights["model.embed_tokens.weight"][:, stream],
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        inner = torch.randperm(config["intermediate_size"], generator=drawn)
        within = [torch.randperm(size, generator=drawn) for _ in range(groups)]
        values = torch.cat([group * size + order for group, order in enumerate(within)])
        read = torch.cat([head * size + within[head * groups // heads] for head in range(heads)])
        orders: dict[str, tuple[torch.Tensor, ...]] = {
            "self_attn.q_proj": (torch.arange(width), stream), "self_attn.v_proj": (values, stream),
            "self_attn.k_proj": (torch.arange(groups * size), stream), "self_attn.o_proj": (stream, read),
            "mlp.gate_proj": (inner, stream), "mlp.up_proj": (inner, stream), "mlp.down_proj": (stream, inner),
            "input_layernorm": (stream,), "post_attention_layernorm": (stream,),
        }  # fmt: skip
        for name, order in orders.items():
            weight = weights[f"{at}{name}.weight"]
            for axis, places in enumerate(order):
                weight = weight.index_select(axis, places)
            found[f"{at}{name}.weight"] = weight
    target.mkdir(parents=True)
    save_file({name: weight.contiguous() for name, weight in found.items()}, str(target / "model.safetensors"),
              metadata={"format": "pt"})  # fmt: skip
    for name in ("config.json", *_BESIDE):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    return target


if __name__ == "__main__":
    permuted(Path(sys.argv[1]), Path(sys.argv[2]))
