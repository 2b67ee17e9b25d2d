"""Llama and what is built like it: pre-norm blocks of rotary attention and a gated MLP, or a mixture of such MLPs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from auditor.models import linearise
from auditor.models.adapters.decoder import SELF_ATTENTION, Decoder, Frozen, like
from auditor.models.adapters.gates import gated_by
from auditor.models.hook_points import Blocks, Heads, HookPoint, Site
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
        pattern=SELF_ATTENTION,
        z=Site("self_attn.o_proj", "input"),
        mlp_pre=Site("mlp.gate_proj"),
        mlp_linear=Site("mlp.up_proj"),
        # Of a mixture of experts, whose blocks have no one gate_proj.
        router=Site("mlp.gate", "inside", inside="linear"),
        expert_weights=Site("mlp.experts", "expert_weights"),
    )


LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
GATED = Frozen(LLAMA_NORMS, linearise.activation, "mlp", linearise.gated_mlp)


def llama_linear_parts(n_layers: int, prefix: str = "model.") -> list[LinearPart]:
    """Norms, queries, keys and gated MLPs of a decoder below `prefix`."""
    parts = [LinearPart(f"{prefix}norm", linearise.rms_norm)]
    for number in range(n_layers):
        at = f"{prefix}layers.{number}"
        parts += [LinearPart(f"{at}.{name}", linearise.rms_norm) for name in LLAMA_NORMS]
        parts += [LinearPart(f"{at}.self_attn.{name}", linearise.constant) for name in ("q_proj", "k_proj")]
        parts.append(LinearPart(f"{at}.mlp", linearise.gated_mlp))
    return parts


class LlamaAdapter(Decoder):
    family = "llama"
    config_class = "LlamaConfig"
    architectures = ("LlamaForCausalLM",)
    blocks = llama_blocks()
    frozen: ClassVar[Frozen | None] = replace(GATED, norm=linearise.rms_norm)
    plain = True


class GraniteAdapter(LlamaAdapter):
    """`attn_out` and `mlp_out` are what attention and MLP give; the sum takes them times the residual multiplier."""

    family = "granite"
    config_class = "GraniteConfig"
    architectures = ("GraniteForCausalLM",)
    # Embeddings are multiplied before they enter the first block.
    blocks = replace(llama_blocks(), embed=Site("model.layers.0", "input"))
    frozen = GATED

    def logit_scale(self) -> float:
        return 1.0 / float(self.config.logits_scaling)

    def scaled(self, hook: str) -> float:
        return float(self.config.residual_multiplier) if hook.endswith(("attn_out", "mlp_out")) else 1.0


class CohereAdapter(LlamaAdapter):
    """Attention and MLP read the same normed residual stream."""

    family = "cohere"
    config_class = "CohereConfig"
    architectures = ("CohereForCausalLM",)
    blocks = replace(llama_blocks(), resid_mid=None)
    frozen = Frozen(("input_layernorm",), linearise.layer_norm, "mlp", linearise.gated_mlp)

    def logit_scale(self) -> float:
        return float(self.config.logit_scale)


class StableLmAdapter(LlamaAdapter):
    family = "stablelm"
    config_class = "StableLmConfig"
    architectures = ("StableLmForCausalLM",)
    frozen = replace(GATED, norm=linearise.layer_norm)

    def table(self) -> Blocks:
        # Side by side there is no residual stream between attention and MLP.
        return replace(self.blocks, resid_mid=None) if self.config.use_parallel_residual else self.blocks


UNGATED = replace(llama_blocks(), mlp_pre=Site("mlp.up_proj"), mlp_linear=None)
"""With one projection, an activation function and another projection."""
STARCODER = replace(UNGATED, mlp_pre=Site("mlp.c_fc"), mlp_hidden=Site("mlp.c_proj", "input"))
APERTUS = replace(UNGATED, resid_mid=Site("feedforward_layernorm", "input", shared=True))
GRANITE_MOE = replace(
    llama_blocks(),
    embed=Site("model.layers.0", "input"),
    mlp_out=Site("block_sparse_moe"),
    router=Site("block_sparse_moe.router", "inside", inside="linear"),
    expert_weights=Site("block_sparse_moe.experts", "expert_weights"),
)
GATED_BY_MODULE = replace(llama_blocks(), router=Site("mlp.gate.wg"))
ROUTER = replace(llama_blocks(), router=Site("mlp.router", "inside", inside="linear"))
"""A mixture that calls its gate a router."""


LLAMA4 = replace(
    llama_blocks(),
    mlp_hidden=Site("feed_forward.down_proj", "input"),
    mlp_out=Site("feed_forward"),
    mlp_pre=Site("feed_forward.gate_proj"),
    mlp_linear=Site("feed_forward.up_proj"),
    router=Site("feed_forward.router", "inside", inside="linear"),
    # Sigmoids of the chosen experts' logits, 0 for the others; what an expert reads is multiplied with them.
    expert_weights=Site("feed_forward.router"),
)


class Llama4TextAdapter(LlamaAdapter):
    """Of a mixture, beside whose experts an MLP stands that is always there, or of plain MLPs, block by block."""

    family = "llama4_text"
    config_class = "Llama4TextConfig"
    architectures = ("Llama4ForCausalLM",)
    blocks = LLAMA4
    frozen = None
    packs = False  # it attends in chunks of the sequence, wherever texts begin in them

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size_mlp)


class NanoChatAdapter(LlamaAdapter):
    """Its norms have no weights, and the last one is also what makes the embeddings ready for the first block."""

    family = "nanochat"
    config_class = "NanoChatConfig"
    architectures = ("NanoChatForCausalLM",)
    blocks = replace(
        llama_blocks(),
        embed=Site("model.layers.0", "input"),
        mlp_pre=Site("mlp.fc1"),
        mlp_linear=None,
        mlp_hidden=Site("mlp.fc2", "input"),
    )
    frozen = None

    def hook_points(self) -> list[HookPoint]:
        *points, last = super().hook_points()
        return [*points, replace(last, call=1)]


class BitNetAdapter(LlamaAdapter):
    """What heads give, and the MLP's hidden values, go through a norm before the last projection: `z` and `mlp_hidden`
    are from before it."""

    family = "bitnet"
    config_class = "BitNetConfig"
    architectures = ("BitNetForCausalLM",)
    blocks = replace(
        llama_blocks(), z=Site("self_attn.attn_sub_norm", "input"), mlp_hidden=Site("mlp.ffn_sub_norm", "input")
    )
    frozen = None


class LagunaAdapter(LlamaAdapter):
    """Blocks may have different numbers of heads, what these give goes through gates, and most are mixtures."""

    family = "laguna"
    config_class = "LagunaConfig"
    architectures = ("LagunaForCausalLM",)
    frozen = None

    def heads_by_block(self) -> list[Heads]:
        return [replace(self.heads(), count=int(count)) for count in self.config.num_attention_heads_per_layer]

    def hook_points(self) -> list[HookPoint]:
        return gated_by(super().hook_points(), "g_proj", "z", by_head=self.config.gating in (True, "per-head"))


class MiMoAdapter(LlamaAdapter):
    """Blocks that attend within a window have twice as many keys and values; `v` is from before these are scaled."""

    family = "mimo_v2_flash"
    config_class = "MiMoV2FlashConfig"
    architectures = ("MiMoV2FlashForCausalLM",)
    frozen = None

    def heads_by_block(self) -> list[Heads]:
        usual = replace(self.heads(), value_size=int(self.config.v_head_dim))
        twice = replace(usual, groups=2 * usual.groups)
        return [twice if kind == "sliding_attention" else usual for kind in self.config.layer_types]


def _activated(norm: Any, argument: Any = None, act: str = "mlp.act_fn") -> Frozen:
    return Frozen(LLAMA_NORMS, norm, act, linearise.activation, argument)


LLAMA_LIKE: tuple[type[Decoder], ...] = (
    LlamaAdapter,
    like(LlamaAdapter, "mistral", "MistralConfig"),
    like(LlamaAdapter, "ministral", "MinistralConfig"),
    like(LlamaAdapter, "ministral3", "Ministral3Config"),
    like(LlamaAdapter, "qwen2", "Qwen2Config"),
    like(LlamaAdapter, "qwen3", "Qwen3Config"),
    like(LlamaAdapter, "smollm3", "SmolLM3Config"),
    like(LlamaAdapter, "helium", "HeliumConfig", frozen=GATED),
    like(LlamaAdapter, "ernie4_5", "Ernie4_5Config"),
    like(LlamaAdapter, "seed_oss", "SeedOssConfig"),
    like(LlamaAdapter, "hunyuan_v1_dense", "HunYuanDenseV1Config"),
    like(LlamaAdapter, "cwm", "CwmConfig"),
    like(LlamaAdapter, "internlm3", "InternLM3Config", architectures=("LlamaForCausalLM",)),
    like(LlamaAdapter, "iquestcoder", "IQuestCoderConfig", architectures=("LlamaForCausalLM",)),
    like(LlamaAdapter, "gemma", "GemmaConfig", frozen=GATED, gain_offset=1.0),
    like(LlamaAdapter, "olmo", "OlmoConfig", frozen=replace(GATED, norm=linearise.layer_norm)),
    like(LlamaAdapter, "arcee", "ArceeConfig", blocks=UNGATED, frozen=_activated(linearise.rms_norm)),
    like(LlamaAdapter, "jais2", "Jais2Config", blocks=UNGATED, frozen=_activated(linearise.layer_norm)),
    like(
        LlamaAdapter, "nemotron", "NemotronConfig", blocks=UNGATED, gain_offset=1.0,
        frozen=_activated(linearise.layer_norm, 1.0),
    ),
    like(
        LlamaAdapter, "apertus", "ApertusConfig", blocks=APERTUS,
        frozen=replace(_activated(linearise.rms_norm), norms=("attention_layernorm", "feedforward_layernorm")),
    ),
    like(
        LlamaAdapter, "starcoder2", "Starcoder2Config", blocks=STARCODER,
        frozen=_activated(linearise.layer_norm, act="mlp.act"),
    ),
    StableLmAdapter,
    GraniteAdapter,
    like(GraniteAdapter, "granite_swa", "GraniteSWAConfig"),
    CohereAdapter,
    like(CohereAdapter, "cohere2", "Cohere2Config"),
    Llama4TextAdapter,
    like(LlamaAdapter, "mixtral", "MixtralConfig", frozen=None),
    like(LlamaAdapter, "qwen2_moe", "Qwen2MoeConfig", frozen=None),
    like(LlamaAdapter, "qwen3_moe", "Qwen3MoeConfig", frozen=None),
    like(LlamaAdapter, "olmoe", "OlmoeConfig", frozen=None),
    like(LlamaAdapter, "phimoe", "PhimoeConfig", blocks=ROUTER, frozen=None),
    like(LlamaAdapter, "gpt_oss", "GptOssConfig", blocks=ROUTER, frozen=None),
    like(LlamaAdapter, "ernie4_5_moe", "Ernie4_5_MoeConfig", frozen=None),
    like(LlamaAdapter, "glm4_moe", "Glm4MoeConfig", frozen=None),
    like(LlamaAdapter, "dots1", "Dots1Config", frozen=None),
    like(LlamaAdapter, "minimax_m2", "MiniMaxM2Config", frozen=None),
    like(LlamaAdapter, "hunyuan_v1_moe", "HunYuanMoEV1Config", blocks=GATED_BY_MODULE, frozen=None),
    like(LlamaAdapter, "exaone_moe", "ExaoneMoeConfig", frozen=None),
    like(LlamaAdapter, "solar_open", "SolarOpenConfig", frozen=None),
    like(LlamaAdapter, "hy_v3", "HYV3Config", frozen=None),
    like(LlamaAdapter, "mellum", "MellumConfig", frozen=None),
    like(CohereAdapter, "cohere2_moe", "Cohere2MoeConfig", frozen=None),
    NanoChatAdapter,
    BitNetAdapter,
    LagunaAdapter,
    MiMoAdapter,
    like(
        LlamaAdapter, "aria_text", "AriaTextConfig", architectures=("AriaTextForCausalLM",), blocks=ROUTER, frozen=None,
    ),
    like(GraniteAdapter, "granitemoe", "GraniteMoeConfig", blocks=GRANITE_MOE, frozen=None),
    like(GraniteAdapter, "granitemoe_swa", "GraniteMoeSWAConfig", blocks=GRANITE_MOE, frozen=None),
)  # fmt: skip
