"""DeepSeek-V2 and -V3, and what is built like them: keys and values from one compressed row, dense blocks first and
mixtures of experts after.

`v` is the values' part of the projection out of that row. There is no `k`: a head's key is one part of it and a rotary
part that all heads share.
"""

from __future__ import annotations

import math
from dataclasses import replace

from auditor.models.adapters.decoder import Decoder, like
from auditor.models.adapters.llama import LlamaAdapter, llama_blocks
from auditor.models.hook_points import Blocks, Heads, Part, Site


class DeepseekV2Adapter(LlamaAdapter):
    family = "deepseek_v2"
    config_class = "DeepseekV2Config"
    architectures = ("DeepseekV2ForCausalLM",)
    frozen = None

    def heads(self) -> Heads:
        count = int(self.config.num_attention_heads)
        size = int(self.config.qk_nope_head_dim + self.config.qk_rope_head_dim)
        return Heads(count, count, size, int(self.config.v_head_dim))

    def table(self) -> Blocks:
        heads = self.heads()
        keys = int(self.config.qk_nope_head_dim)
        values = Part(heads.count, keys + heads.written, keys, keys + heads.written)
        query = "q_proj" if getattr(self.config, "q_lora_rank", None) is None else "q_b_proj"
        return replace(llama_blocks(), q=Site(f"self_attn.{query}"), k=None, v=Site("self_attn.kv_b_proj", part=values))


class MiniCpm3Adapter(DeepseekV2Adapter):
    """All blocks are dense. `attn_out` and `mlp_out` are what attention and MLP give; the sum takes them times
    scale_depth / √blocks."""

    family = "minicpm3"
    config_class = "MiniCPM3Config"
    architectures = ("MiniCPM3ForCausalLM",)

    def logit_scale(self) -> float:
        return 1.0 / float(self.config.logits_scaling)

    def scaled(self, hook: str) -> float:
        factor = float(self.config.scale_depth) / math.sqrt(self.n_layers)
        return factor if hook.endswith(("attn_out", "mlp_out")) else 1.0


DEEPSEEK: tuple[type[Decoder], ...] = (
    DeepseekV2Adapter,
    like(DeepseekV2Adapter, "deepseek_v3", "DeepseekV3Config"),
    like(DeepseekV2Adapter, "deepseek_v32", "DeepseekV32Config"),
    like(DeepseekV2Adapter, "glm_moe_dsa", "GlmMoeDsaConfig", plain=False),  # a block also gives what its index chose
    like(DeepseekV2Adapter, "glm4_moe_lite", "Glm4MoeLiteConfig"),
    like(DeepseekV2Adapter, "mistral4", "Mistral4Config"),
    like(DeepseekV2Adapter, "youtu", "YoutuConfig"),
    MiniCpm3Adapter,
)
