"""Phi and Phi-3, and what is built like them: several projections packed into one, or side by side."""

from __future__ import annotations

from dataclasses import replace

from auditor.models import linearise
from auditor.models.adapters.decoder import Decoder, Frozen, like, packed
from auditor.models.adapters.llama import LLAMA_NORMS, LlamaAdapter, llama_blocks
from auditor.models.hook_points import Blocks, Part, Site

PACKED_MLP = tuple(Site("mlp.gate_up_proj", part=Part(1, 2, number, number + 1)) for number in (0, 1))
GATE_UP = replace(llama_blocks(), mlp_pre=PACKED_MLP[0], mlp_linear=PACKED_MLP[1])


class Phi3Adapter(LlamaAdapter):
    family = "phi3"
    config_class = "Phi3Config"
    architectures = ("Phi3ForCausalLM",)
    frozen = Frozen(LLAMA_NORMS, linearise.rms_norm, "mlp", linearise.packed_gated_mlp)

    def table(self) -> Blocks:
        heads = self.heads()
        q, k, v = packed("self_attn.qkv_proj", (heads.count, heads.groups, heads.groups))
        return replace(GATE_UP, q=q, k=k, v=v)


class PhiAdapter(LlamaAdapter):
    """Attention and MLP read the same normed residual stream."""

    family = "phi"
    config_class = "PhiConfig"
    architectures = ("PhiForCausalLM",)
    blocks = replace(
        llama_blocks(),
        embed=Site("model.embed_dropout"),
        resid_mid=None,
        z=Site("self_attn.dense", "input"),
        mlp_pre=Site("mlp.fc1"),
        mlp_linear=None,
        mlp_hidden=Site("mlp.fc2", "input"),
        final_norm=Site("model.final_layernorm"),
    )
    frozen = Frozen(("input_layernorm",), linearise.layer_norm, "mlp.activation_fn", linearise.activation)


class PersimmonAdapter(LlamaAdapter):
    family = "persimmon"
    config_class = "PersimmonConfig"
    architectures = ("PersimmonForCausalLM",)
    frozen = Frozen(LLAMA_NORMS, linearise.layer_norm, "mlp.act", linearise.activation)

    def table(self) -> Blocks:
        q, k, v = packed("self_attn.query_key_value", (1, 1, 1), self.heads().count)
        return replace(
            llama_blocks(),
            q=q, k=k, v=v,
            z=Site("self_attn.dense", "input"),
            mlp_pre=Site("mlp.dense_h_to_4h"),
            mlp_linear=None,
            mlp_hidden=Site("mlp.dense_4h_to_h", "input"),
            final_norm=Site("model.final_layernorm"),
        )  # fmt: skip


PACKED: tuple[type[Decoder], ...] = (
    PhiAdapter,
    Phi3Adapter,
    PersimmonAdapter,
    like(
        LlamaAdapter, "glm", "GlmConfig", blocks=GATE_UP,
        frozen=Frozen(LLAMA_NORMS, linearise.rms_norm, "mlp", linearise.packed_gated_mlp),
    ),
    like(
        LlamaAdapter, "minimax_m3_vl_text", "MiniMaxM3VLTextConfig", architectures=("MiniMaxM3VLForCausalLM",),
        blocks=GATE_UP, frozen=None, gain_offset=1.0,
    ),
)  # fmt: skip
