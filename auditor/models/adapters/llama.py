"""Llama and what is built like it (SmolLM2): pre-norm blocks, rotary positions, a gated MLP."""

from __future__ import annotations

from torch import Tensor, nn

from auditor.models import linearise
from auditor.models.adapters.adapter import TextAdapter, blocks_until, head_weight
from auditor.models.hook_points import Blocks, Site
from auditor.models.linearise import LinearPart


def llama_blocks(prefix: str = "model.") -> Blocks:
    """The table, for a decoder whose modules are named below `prefix`."""
    return Blocks(
        stack=f"{prefix}layers",
        embed=Site(f"{prefix}embed_tokens"),
        attn_out=Site("self_attn"),
        resid_mid=Site("post_attention_layernorm", "input", shared=True),
        mlp_hidden=Site("mlp.down_proj", "input"),
        mlp_out=Site("mlp"),
        final_norm=Site(f"{prefix}norm"),
        q=Site("self_attn.q_proj"),
        k=Site("self_attn.k_proj"),
        v=Site("self_attn.v_proj"),
        pattern=Site("self_attn", "inside", inside="dropout"),
        z=Site("self_attn.o_proj", "input"),
        mlp_pre=Site("mlp.gate_proj"),
        mlp_linear=Site("mlp.up_proj"),
        router=Site("mlp.gate", "inside", inside="linear"),
        expert_weights=Site("mlp.experts", "expert_weights"),
    )


def llama_linear_parts(n_layers: int, prefix: str = "model.") -> list[LinearPart]:
    """Norms, queries, keys and gated MLPs of a decoder below `prefix`."""
    parts = [LinearPart(f"{prefix}norm", linearise.rms_norm)]
    for number in range(n_layers):
        at = f"{prefix}layers.{number}"
        parts += [LinearPart(f"{at}.{name}", linearise.rms_norm) for name in LLAMA_NORMS]
        parts += [LinearPart(f"{at}.self_attn.{name}", linearise.constant) for name in ("q_proj", "k_proj")]
        parts.append(LinearPart(f"{at}.mlp", linearise.gated_mlp))
    return parts


LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")


class LlamaAdapter(TextAdapter):
    family = "llama"
    config_class = "LlamaConfig"
    architectures = ("LlamaForCausalLM",)
    blocks = llama_blocks()

    def unembed(self) -> Tensor:
        return head_weight(self.network, "lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule("model.norm")

    def before(self, hook: str) -> list[str]:
        return blocks_until(self.blocks.stack, hook)

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers)
