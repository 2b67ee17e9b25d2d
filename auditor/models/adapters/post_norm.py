"""Llama-shaped decoders that norm what attention and MLP give before it enters the sum (Gemma 2, OLMo 2).

`attn_out` and `mlp_out` are what is added to the residual stream: the values after those norms.
"""

from __future__ import annotations

from dataclasses import replace

from auditor.models import linearise
from auditor.models.adapters.decoder import Decoder, Frozen, like
from auditor.models.adapters.gates import gated_by
from auditor.models.adapters.llama import GATED, LLAMA_NORMS, LlamaAdapter, llama_blocks
from auditor.models.adapters.packed import PACKED_MLP
from auditor.models.hook_points import HookPoint, Site
from auditor.models.linearise import LinearPart

AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")
# Norms before and after both.
SANDWICHED = replace(
    llama_blocks(),
    attn_out=Site("post_attention_layernorm"),
    resid_mid=Site("pre_feedforward_layernorm", "input", shared=True),
    mlp_out=Site("post_feedforward_layernorm"),
)
# Norms after only: the MLP reads the stream as it is.
TRAILING = replace(SANDWICHED, resid_mid=Site("mlp", "input", shared=True))
GEMMA = replace(GATED, norms=("input_layernorm", "pre_feedforward_layernorm", *AFTER))


def gemma_linear_parts(n_layers: int, prefix: str, frozen: Frozen = GEMMA) -> list[LinearPart]:
    """Norms, queries, keys and gated MLPs of a Gemma below `prefix`, within another network."""
    parts = [LinearPart(f"{prefix}norm", frozen.norm)]
    for number in range(n_layers):
        at = f"{prefix}layers.{number}."
        parts += [LinearPart(at + name, frozen.norm) for name in frozen.norms]
        parts += [LinearPart(f"{at}self_attn.{name}", linearise.constant) for name in ("q_proj", "k_proj")]
        parts.append(LinearPart(at + frozen.mlp, frozen.exchange))
    return parts


GLM4 = replace(
    llama_blocks(),
    attn_out=Site("post_self_attn_layernorm"),
    mlp_out=Site("post_mlp_layernorm"),
    mlp_pre=PACKED_MLP[0],
    mlp_linear=PACKED_MLP[1],
)
GLM4_NORMS = (*LLAMA_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm")

# Of mixtures, what their experts give together stands before the norm.
MIXED = Site("mlp.experts")


class AfmoeAdapter(LlamaAdapter):
    """Dense blocks first, mixtures after, and a gate of what heads give."""

    family = "afmoe"
    config_class = "AfmoeConfig"
    architectures = ("AfmoeForCausalLM",)
    frozen = None
    blocks = replace(
        llama_blocks(),
        # Embeddings may be multiplied before they enter the first block.
        embed=Site("model.layers.0", "input"),
        attn_out=Site("post_attention_layernorm"),
        resid_mid=Site("pre_mlp_layernorm", "input", shared=True),
        mlp_out=Site("post_mlp_layernorm"),
        router=Site("mlp.router.gate"),
        experts_out=MIXED,
    )

    def hook_points(self) -> list[HookPoint]:
        return gated_by(super().hook_points(), "gate_proj", "pattern")


class Kolibri1Adapter(LlamaAdapter):
    """All blocks are mixtures."""

    family = "kolibri1"
    config_class = "Kolibri1Config"
    architectures = ("Kolibri1ForCausalLM",)
    blocks = replace(llama_blocks(), attn_out=GLM4.attn_out, mlp_out=GLM4.mlp_out, experts_out=MIXED)
    frozen = None

    def mlp_width(self) -> int:
        return 0


POST_NORM: tuple[type[Decoder], ...] = (
    like(LlamaAdapter, "gemma2", "Gemma2Config", blocks=SANDWICHED, frozen=GEMMA, gain_offset=1.0),
    like(LlamaAdapter, "gemma3_text", "Gemma3TextConfig", blocks=SANDWICHED, frozen=GEMMA, gain_offset=1.0),
    like(
        LlamaAdapter, "vaultgemma", "VaultGemmaConfig", gain_offset=1.0,
        blocks=replace(llama_blocks(), resid_mid=SANDWICHED.resid_mid), frozen=replace(GEMMA, norms=GEMMA.norms[:2]),
    ),
    like(LlamaAdapter, "olmo2", "Olmo2Config", blocks=TRAILING, frozen=replace(GATED, norms=AFTER)),
    like(LlamaAdapter, "olmo3", "Olmo3Config", blocks=TRAILING, frozen=replace(GATED, norms=AFTER)),
    like(
        LlamaAdapter, "flex_olmo", "FlexOlmoConfig", frozen=None,
        blocks=replace(TRAILING, experts_out=MIXED),
    ),
    Kolibri1Adapter,
    AfmoeAdapter,
    like(LlamaAdapter, "exaone4", "Exaone4Config", blocks=TRAILING, frozen=replace(GATED, norms=AFTER)),
    like(
        LlamaAdapter, "glm4", "Glm4Config", blocks=GLM4,
        frozen=Frozen(GLM4_NORMS, linearise.activation, "mlp", linearise.packed_gated_mlp),
    ),
)  # fmt: skip
