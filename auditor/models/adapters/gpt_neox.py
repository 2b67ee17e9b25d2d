"""GPT-NeoX (Pythia), BLOOM, Falcon, MPT and DBRX: one projection that gives queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from auditor.models import linearise
from auditor.models.adapters.decoder import Decoder, Frozen, packed
from auditor.models.hook_points import Blocks, Heads, Site

NORMS = ("input_layernorm", "post_attention_layernorm")


class GptNeoxAdapter(Decoder):
    """Rotary positions; attention and MLP read the same residual stream in most of its networks."""

    family = "gpt_neox"
    config_class = "GPTNeoXConfig"
    architectures = ("GPTNeoXForCausalLM",)
    blocks = Blocks(
        stack="gpt_neox.layers",
        embed=Site("gpt_neox.emb_dropout"),
        attn_out=Site("attention"),
        resid_mid=Site("post_attention_layernorm", "input", shared=True),
        mlp_hidden=Site("mlp.dense_4h_to_h", "input"),
        mlp_out=Site("mlp"),
        final_norm=Site("gpt_neox.final_layer_norm"),
        pattern=Site("attention", "inside", inside="dropout"),
        z=Site("attention.dense", "input"),
        mlp_pre=Site("mlp.dense_h_to_4h"),
    )
    frozen = Frozen(NORMS, linearise.layer_norm, "mlp.act", linearise.activation)
    plain = True

    def table(self) -> Blocks:
        q, k, v = packed("attention.query_key_value", (1, 1, 1), self.heads().count)
        # Side by side there is no residual stream between attention and MLP.
        middle = None if self.config.use_parallel_residual else self.blocks.resid_mid
        return replace(self.blocks, q=q, k=k, v=v, resid_mid=middle)


BLOOM_BLOCKS = Blocks(
    stack="transformer.h",
    embed=Site("transformer.word_embeddings_layernorm"),
    # Attention and MLP give the sum; what they write to it is their last projection's.
    attn_out=Site("self_attention.dense"),
    resid_mid=Site("post_attention_layernorm", "input", shared=True),
    mlp_hidden=Site("mlp.dense_4h_to_h", "input"),
    mlp_out=Site("mlp.dense_4h_to_h"),
    final_norm=Site("transformer.ln_f"),
    pattern=Site("self_attention.attention_dropout"),
    z=Site("self_attention.dense", "input"),
    mlp_pre=Site("mlp.dense_h_to_4h"),
)


class BloomAdapter(Decoder):
    """Positions are a bias of the attention (ALiBi); its dropout passes the pattern on in every run."""

    family = "bloom"
    config_class = "BloomConfig"
    architectures = ("BloomForCausalLM",)
    blocks = BLOOM_BLOCKS
    frozen = Frozen(NORMS, linearise.layer_norm, "mlp.gelu_impl", linearise.activation)

    def mlp_width(self) -> int:
        return 4 * self.d_model

    def table(self) -> Blocks:
        q, k, v = packed("self_attention.query_key_value", (1, 1, 1), self.heads().count)
        # Where the sum goes on from normed values there is no residual stream that both are added to.
        middle = None if self.config.apply_residual_connection_post_layernorm else self.blocks.resid_mid
        return replace(self.blocks, q=q, k=k, v=v, resid_mid=middle)


class FalconAdapter(Decoder):
    """Queries of one group stand before its key and value; attention and MLP side by side in most of its networks."""

    family = "falcon"
    config_class = "FalconConfig"
    architectures = ("FalconForCausalLM",)
    blocks = replace(
        BLOOM_BLOCKS,
        embed=Site("transformer.word_embeddings"),
        attn_out=Site("self_attention"),
        # The network adds what attention gives into the tensor that the MLP gives.
        mlp_out=Site("mlp", overwritten=True),
        pattern=Site("self_attention", "inside", inside="softmax"),
    )
    frozen = Frozen((*NORMS, "ln_attn", "ln_mlp"), linearise.layer_norm, "mlp.act", linearise.activation)

    def mlp_width(self) -> int:
        return int(self.config.ffn_hidden_size)

    def heads(self) -> Heads:
        count = int(self.config.num_attention_heads)
        if self.config.new_decoder_architecture:
            groups = int(self.config.num_kv_heads)
        else:
            groups = 1 if self.config.multi_query else count
        return Heads(count, groups, self.d_model // count)

    def table(self) -> Blocks:
        heads = self.heads()
        q, k, v = packed("self_attention.query_key_value", (heads.count // heads.groups, 1, 1), heads.groups)
        in_turn = not (self.config.new_decoder_architecture or self.config.parallel_attn)
        middle = self.blocks.resid_mid if in_turn else None
        return replace(self.blocks, q=q, k=k, v=v, resid_mid=middle)


class MptAdapter(Decoder):
    """The queries of all heads stand before all keys, these before all values; positions are ALiBi."""

    family = "mpt"
    config_class = "MptConfig"
    architectures = ("MptForCausalLM",)
    q, k, v = packed("attn.Wqkv", (1, 1, 1))
    blocks = Blocks(
        stack="transformer.blocks",
        embed=Site("transformer.wte"),
        attn_out=Site("attn"),
        resid_mid=Site("norm_2", "input", shared=True),
        mlp_hidden=Site("ffn.down_proj", "input"),
        # The MLP gives the sum; what it writes to it is its last projection's.
        mlp_out=Site("ffn.down_proj"),
        final_norm=Site("transformer.norm_f"),
        q=q,
        k=k,
        v=v,
        pattern=Site("attn", "inside", inside="dropout"),
        z=Site("attn.out_proj", "input"),
        mlp_pre=Site("ffn.up_proj"),
    )
    frozen = Frozen(("norm_1", "norm_2"), linearise.layer_norm, "ffn.act", linearise.activation)

    def mlp_width(self) -> int:
        return 4 * self.d_model

    def longest(self) -> int:
        return int(self.config.max_seq_len)


class DbrxAdapter(Decoder):
    """Mixtures of experts; `q`, `k` and `v` are from before they are clipped."""

    family = "dbrx"
    config_class = "DbrxConfig"
    architectures = ("DbrxForCausalLM",)
    blocks = Blocks(
        stack="transformer.blocks",
        embed=Site("transformer.wte"),
        attn_out=Site("norm_attn_norm.attn"),
        resid_mid=Site("norm_attn_norm.norm_2", "input", shared=True),
        mlp_hidden=None,
        mlp_out=Site("ffn"),
        final_norm=Site("transformer.norm_f"),
        pattern=Site("norm_attn_norm.attn", "inside", inside="dropout"),
        z=Site("norm_attn_norm.attn.out_proj", "input"),
        router=Site("ffn.router"),
        expert_weights=Site("ffn.experts", "expert_weights"),
    )
    plain = True

    def mlp_width(self) -> int:
        return int(self.config.ffn_config.ffn_hidden_size)

    def experts(self) -> int:
        return int(self.config.ffn_config.moe_num_experts)

    def heads(self) -> Heads:
        return replace(super().heads(), groups=int(self.config.attn_config.kv_n_heads))

    def table(self) -> Blocks:
        heads = self.heads()
        q, k, v = packed("norm_attn_norm.attn.Wqkv", (heads.count, heads.groups, heads.groups))
        return replace(self.blocks, q=q, k=k, v=v)


NEOX_LIKE: tuple[type[Decoder], ...] = (GptNeoxAdapter, BloomAdapter, FalconAdapter, MptAdapter, DbrxAdapter)
