"""GPT, GPT-2 and what is built like them: learned positions, layer norms, often one projection to queries, keys and
values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch

from auditor.intake.weights import ModelFacts
from auditor.models import linearise
from auditor.models.adapters.decoder import Decoder, Frozen, packed
from auditor.models.hook_points import Blocks, Heads, Site

GPT2_BLOCKS = Blocks(
    stack="transformer.h",
    # The sum of token and position embeddings; dropout passes it on as it is.
    embed=Site("transformer.drop"),
    attn_out=Site("attn"),
    resid_mid=Site("ln_2", "input", shared=True),
    mlp_hidden=Site("mlp.c_proj", "input"),
    mlp_out=Site("mlp"),
    final_norm=Site("transformer.ln_f"),
    pattern=Site("attn", "inside", inside="dropout"),
    z=Site("attn.c_proj", "input"),
    mlp_pre=Site("mlp.c_fc"),
)


class Gpt2Adapter(Decoder):
    family = "gpt2"
    config_class = "GPT2Config"
    architectures = ("GPT2LMHeadModel",)
    blocks = GPT2_BLOCKS
    frozen: ClassVar[Frozen | None] = Frozen(("ln_1", "ln_2"), linearise.layer_norm, "mlp.act", linearise.activation)
    plain = True

    def table(self) -> Blocks:
        heads = self.heads()
        q, k, v = packed("attn.c_attn", (heads.count, heads.groups, heads.groups))
        return replace(self.blocks, q=q, k=k, v=v)

    def mlp_width(self) -> int:
        return int(self.config.n_inner or 4 * self.d_model)


class GptBigCodeAdapter(Gpt2Adapter):
    """All heads may share one key and one value; otherwise each has the three of them side by side."""

    family = "gpt_bigcode"
    config_class = "GPTBigCodeConfig"
    architectures = ("GPTBigCodeForCausalLM",)

    def heads(self) -> Heads:
        whole = super().heads()
        return replace(whole, groups=1) if self.config.multi_query else whole

    def table(self) -> Blocks:
        heads = self.heads()
        counts, groups = ((heads.count, 1, 1), 1) if self.config.multi_query else ((1, 1, 1), heads.count)
        q, k, v = packed("attn.c_attn", counts, groups)
        return replace(self.blocks, q=q, k=k, v=v)


class GptNeoAdapter(Decoder):
    """Attention does not go through transformers' interface; its dropout passes the pattern on in every run."""

    family = "gpt_neo"
    config_class = "GPTNeoConfig"
    architectures = ("GPTNeoForCausalLM",)
    blocks = replace(
        GPT2_BLOCKS,
        q=Site("attn.attention.q_proj"),
        k=Site("attn.attention.k_proj"),
        v=Site("attn.attention.v_proj"),
        pattern=Site("attn.attention.attn_dropout"),
        z=Site("attn.attention.out_proj", "input"),
    )
    frozen = Frozen(("ln_1", "ln_2"), linearise.layer_norm, "mlp.act", linearise.activation)

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size or 4 * self.d_model)


class GptJAdapter(Decoder):
    """Attention and MLP read the same normed residual stream; the pattern as in GPT-Neo."""

    family = "gptj"
    config_class = "GPTJConfig"
    architectures = ("GPTJForCausalLM",)
    blocks = replace(
        GPT2_BLOCKS,
        q=Site("attn.q_proj"),
        k=Site("attn.k_proj"),
        v=Site("attn.v_proj"),
        pattern=Site("attn.attn_dropout"),
        z=Site("attn.out_proj", "input"),
        resid_mid=None,
        mlp_pre=Site("mlp.fc_in"),
        mlp_hidden=Site("mlp.fc_out", "input"),
    )
    frozen = Frozen(("ln_1",), linearise.layer_norm, "mlp.act", linearise.activation)

    def mlp_width(self) -> int:
        return int(self.config.n_inner or 4 * self.d_model)


class CodeGenAdapter(GptJAdapter):
    """Its projection gives queries, values and keys of a quarter of the heads at a time."""

    family = "codegen"
    config_class = "CodeGenConfig"
    architectures = ("CodeGenForCausalLM",)
    q, v, k = packed("attn.qkv_proj", (1, 1, 1), 4)
    blocks = replace(GptJAdapter.blocks, q=q, k=k, v=v)


class OpenAiGptAdapter(Gpt2Adapter):
    """GPT, whose norms stand after each sum, where `resid_mid` and `resid_post` are taken; there is no last norm."""

    family = "openai_gpt"
    config_class = "OpenAIGPTConfig"
    architectures = ("OpenAIGPTLMHeadModel",)
    blocks = replace(GPT2_BLOCKS, resid_mid=Site("ln_1"), final_norm=None, pattern=Site("attn.attn_dropout"))
    normed_after = True
    frozen = None
    plain = False

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        for number in range(self.n_layers):
            attention: Any = self.network.get_submodule(f"{self.blocks.stack}.{number}.attn")
            attention.bias = attention.bias.to(dtype)  # patterns are multiplied with it

    def mlp_width(self) -> int:
        return 4 * self.d_model

    def unembed(self) -> None:
        """It is read off the residual stream itself, which no last norm makes ready."""


GPT2_LIKE: tuple[type[Decoder], ...] = (
    Gpt2Adapter,
    GptBigCodeAdapter,
    GptNeoAdapter,
    GptJAdapter,
    CodeGenAdapter,
    OpenAiGptAdapter,
)
