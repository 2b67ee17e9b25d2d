"""Zamba 2: Mamba 2 in every block, and in front of some of them attention and an MLP that read the block's input beside
the embeddings, with weights that these blocks share.

Glorioso et al. 2024, arXiv:2411.15242.
"""

from __future__ import annotations

from typing import Any

from auditor.models.adapters.decoder import Decoder
from auditor.models.adapters.llama import llama_blocks
from auditor.models.hook_points import PATTERN, TOKENS, Heads, HookPoint, Site

_SHARED = "shared_transformer"
_READ = (
    ("q", Site(f"{_SHARED}.self_attn.q_proj")),
    ("k", Site(f"{_SHARED}.self_attn.k_proj")),
    ("v", Site(f"{_SHARED}.self_attn.v_proj")),
    ("pattern", Site(f"{_SHARED}.self_attn", "inside", inside="dropout")),
    ("z", Site(f"{_SHARED}.self_attn.o_proj", "input")),
    ("mlp_hidden", Site(f"{_SHARED}.feed_forward.down_proj", "input")),
    ("shared_out", Site("linear")),
)


class Zamba2Adapter(Decoder):
    """``shared_out`` is what attention and MLP give a block: its Mamba reads it on top of the residual stream, into
    which it is not written; `mixer_hidden` enters Mamba's last projection, and `mixer_out` is written. `q`, `k` and `v`
    are without the small adapters that some of its networks add for each block."""

    family = "zamba2"
    config_class = "Zamba2Config"
    architectures = ("Zamba2ForCausalLM",)
    blocks = llama_blocks()

    def heads(self) -> Heads:
        count, groups = int(self.config.num_attention_heads), int(self.config.num_key_value_heads)
        return Heads(count, groups, int(self.config.attention_head_dim))

    def hook_points(self) -> list[HookPoint]:
        heads, width = self.heads(), self.d_model
        ways = {"q": heads.count, "k": heads.groups, "v": heads.groups, "pattern": heads.count, "z": heads.count}
        widths = {"pattern": 0, "mlp_hidden": self.mlp_width(), "shared_out": width}
        found = [HookPoint("embed", width, TOKENS, "model.embed_tokens", 0, "output")]
        for number in range(self.n_layers):
            at, name = f"model.layers.{number}", f"blocks.{number}"
            block: Any = self.network.get_submodule(at)
            shared = hasattr(block, _SHARED)
            mamba = f"{at}.mamba_decoder.mamba" if shared else f"{at}.mamba"
            last: Any = self.network.get_submodule(f"{mamba}.out_proj")
            found.append(HookPoint(f"{name}.resid_pre", width, TOKENS, at, 0, "input"))
            found += [
                HookPoint(
                    f"{name}.{site}", widths.get(site, ways.get(site, 0) * heads.size),
                    PATTERN if site == "pattern" else TOKENS, f"{at}.{place.module}", 0, place.tensor,
                    inside=place.inside, heads=ways.get(site, 0),
                )
                for site, place in _READ if shared
            ]  # fmt: skip
            found += [
                HookPoint(f"{name}.mixer_hidden", int(last.in_features), TOKENS, f"{mamba}.out_proj", 0, "input"),
                HookPoint(f"{name}.mixer_out", width, TOKENS, mamba, 0, "output"),
                HookPoint(f"{name}.resid_post", width, TOKENS, at, 0, "output"),
            ]
        return [*found, HookPoint("final_norm", width, TOKENS, "model.final_layernorm", 0, "output")]

    def final_norm(self) -> Any:
        return self.network.get_submodule("model.final_layernorm")
