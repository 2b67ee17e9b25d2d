"""Decoders: networks that predict the next token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from auditor.models import Inputs
from tests.models.tiny.entry import TEXT, Tiny

GROUPED = TEXT | {"num_key_value_heads": 2, "max_position_embeddings": 40, "tie_word_embeddings": False}
DENSE = "it is no mixture of experts"
NO_EXPERTS = {"experts": DENSE}
ALL_BLOCKS = NO_EXPERTS | {"given": "its blocks are never left out"}
MIXED = {"mlp": "its experts compute in one call, so that no one's hidden values stand anywhere",
         "linearised": "experts are chosen, not weighted smoothly"}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_SCALED = "what a head gives is its pattern times its values, less what it gives to a sink"
SINKS = {"heads": _SCALED, "frozen": _SCALED}
APART = {"sliding_window": 3}
BOTH = ["sliding_attention", "full_attention", "sliding_attention"]


def of(config: str, model: str = "", **settings: Any) -> Callable[[], Any]:
    """A builder of a decoder with grouped heads from the names of its classes in transformers."""

    def build() -> Any:
        kind = getattr(transformers, config)
        named = model or config.removesuffix("Config").removesuffix("Text") + "ForCausalLM"
        return getattr(transformers, named)(kind(**GROUPED | settings))

    return build


def llama_shaped(name: str, config: str, activation: str = "silu", **settings: Any) -> Tiny:
    return Tiny(name, of(config, **settings), activation=activation, lacks=NO_EXPERTS)


def mixture(name: str, config: str, **settings: Any) -> Tiny:
    return Tiny(name, of(config, **EXPERTS | settings), lacks=MIXED)


def gemma3n() -> Any:
    config = transformers.Gemma3nTextConfig(
        **GROUPED | {"num_hidden_layers": 4, "head_dim": 8}, sliding_window=3, vocab_size_per_layer_input=10,
        hidden_size_per_layer_input=6, num_kv_shared_layers=1, laurel_rank=4, altup_num_inputs=3,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    )  # fmt: skip
    return transformers.Gemma3nForCausalLM(config)


def gemma4(**settings: Any) -> Callable[[], Any]:
    """With heads of two sizes, and a factor of each block's own."""

    def build() -> Any:
        usual = {"num_hidden_layers": 4, "head_dim": 8, "global_head_dim": 12, "sliding_window": 3}
        usual |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 0}
        network = transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**GROUPED | usual | settings))
        for number, block in enumerate(network.model.layers):
            block.layer_scalar.fill_(1.5 - 0.25 * number)
        return network

    return build


def gemma4_unified() -> Any:
    config = transformers.Gemma4UnifiedTextConfig(
        **GROUPED, head_dim=8, global_head_dim=12, sliding_window=3, use_bidirectional_attention=None,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )  # fmt: skip
    network = transformers.Gemma4UnifiedForCausalLM(config)
    network.model.layers[1].layer_scalar.fill_(0.75)
    return network


def scaled_sums(network: Any, block: str, records: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What a block of Gemma 4 sums: all that is written, times the block's own factor."""
    here = {name.removeprefix(f"{block}."): x for name, x in records.items() if name.startswith(f"{block}.")}
    language = getattr(network.model, "language_model", network.model)
    factor = language.layers[int(block.rpartition(".")[2])].layer_scalar
    ended = here["resid_mid"] + here["mlp_out"] + here.get("per_layer_out", torch.zeros(()))
    return [(here["resid_pre"] + here["attn_out"], here["resid_mid"]), (ended * factor, here["resid_post"])]


def side_by_side(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The library's hidden states of several streams, one after the other, and of the one that blocks compute with."""
    return by_lane(network(input_ids=inputs.ids, output_hidden_states=True).hidden_states, network.config)


def by_lane(told: Sequence[Tensor], config: Any) -> dict[str, Tensor]:
    lanes, active = [state for state in told if state.ndim == 4], config.altup_active_idx
    found = {"blocks.0.streams_pre": together(lanes[0]), "blocks.0.resid_pre": lanes[0][active]}
    for number, state in enumerate(lanes[1:]):
        found |= {f"blocks.{number}.streams_post": together(state), f"blocks.{number}.resid_post": state[active]}
    return found


def together(streams: Tensor) -> Tensor:
    """[lanes, B, P, width] → [B, P, lanes · width]."""
    return streams.permute(1, 2, 0, 3).flatten(2)


def mixed_sums(network: Any, block: str, records: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What a block of Gemma 3n sums, and what the network's own AltUp makes of the streams before and of the end."""
    here = {name.removeprefix(f"{block}."): x for name, x in records.items() if name.startswith(f"{block}.")}
    language = getattr(network.model, "language_model", network.model)
    altup = language.layers[int(block.rpartition(".")[2])].altup
    before = here["streams_pre"].unflatten(-1, (altup.config.altup_num_inputs, -1)).permute(2, 0, 1, 3)
    predicted = altup.predict(before)
    corrected = altup.correct(predicted, here["activated"])
    corrected[1:] += here["per_layer_out"]
    return [
        (predicted[altup.config.altup_active_idx], here["predicted"]),
        ((here["predicted"] + here["laurel_out"] + here["attn_out"]) / 2**0.5, here["resid_mid"]),
        (here["resid_mid"] + here["mlp_out"], here["activated"]),
        (together(corrected), here["streams_post"]),
        (corrected[altup.config.altup_active_idx], here["resid_post"]),
    ]


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=10, n_positions=40, n_embd=32, n_layer=3, n_head=4)
    return transformers.GPT2LMHeadModel(config)


def gpt_bigcode(multi_query: bool) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.GPTBigCodeConfig(
            vocab_size=10, n_positions=40, n_embd=32, n_layer=3, n_head=4, multi_query=multi_query
        )
        return transformers.GPTBigCodeForCausalLM(config)

    return build


def gpt_neo() -> Any:
    config = transformers.GPTNeoConfig(
        vocab_size=10, max_position_embeddings=40, hidden_size=32, num_layers=4, num_heads=4, window_size=3,
        attention_types=[[["global", "local"], 2]], bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.GPTNeoForCausalLM(config)


def gptj() -> Any:
    config = transformers.GPTJConfig(
        vocab_size=10, n_positions=40, n_embd=32, n_layer=3, n_head=4, rotary_dim=4, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPTJForCausalLM(config)


def codegen() -> Any:
    config = transformers.CodeGenConfig(
        vocab_size=10, n_positions=40, n_embd=32, n_layer=3, n_head=4, rotary_dim=4, bos_token_id=1, eos_token_id=2
    )
    return transformers.CodeGenForCausalLM(config)


def openai_gpt() -> Any:
    config = transformers.OpenAIGPTConfig(vocab_size=10, n_positions=40, n_embd=32, n_layer=3, n_head=4)
    return transformers.OpenAIGPTLMHeadModel(config)


def every_state(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The library's hidden states of a network without a last norm."""
    told = network(input_ids=inputs.ids, output_hidden_states=True).hidden_states
    return {"embed": told[0]} | {f"blocks.{number}.resid_post": state for number, state in enumerate(told[1:])}


def neox(parallel: bool) -> Callable[[], Any]:
    return lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**TEXT, use_parallel_residual=parallel))


def bloom() -> Any:
    return transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=10, hidden_size=32, n_layer=3, n_head=4))


def falcon(**settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.FalconConfig(
            vocab_size=10, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, bos_token_id=1, eos_token_id=2,
            **settings,
        )  # fmt: skip
        return transformers.FalconForCausalLM(config)

    return build


def without_cache(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The library's hidden states of a network whose cache must not be there."""
    told = network(input_ids=inputs.ids, output_hidden_states=True, use_cache=False).hidden_states
    return {"embed": told[0]} | {f"blocks.{number}.resid_post": state for number, state in enumerate(told[1:-1])}


def every_second(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The patterns of a network that attends in every second block."""
    told = network(input_ids=inputs.ids, output_attentions=True).attentions
    return {f"blocks.{2 * number + 1}.pattern": pattern for number, pattern in enumerate(told)}


def where_it_attends(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The patterns of a network whose config says which blocks attend."""
    told = network(input_ids=inputs.ids, output_attentions=True).attentions
    attending = [number for number, kind in enumerate(network.config.layers_block_type) if kind != "linear_attention"]
    return {f"blocks.{number}.pattern": pattern for number, pattern in zip(attending, told, strict=True)}


def in_second(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The pattern of a network that attends in its second block alone."""
    (told,) = network(input_ids=inputs.ids, output_attentions=True).attentions
    return {"blocks.1.pattern": told}


def kolibri1() -> Any:
    """Its config names no width of MLPs that are no experts."""
    sizes = {name: value for name, value in GROUPED.items() if name != "intermediate_size"}
    config = transformers.Kolibri1Config(**sizes | SHARED | EXPERTS | APART, head_dim=8, layer_types=BOTH)
    return transformers.Kolibri1ForCausalLM(config)


def dbrx() -> Any:
    config = transformers.DbrxConfig(
        vocab_size=10, d_model=32, n_layers=3, n_heads=4, max_seq_len=40, bos_token_id=1, eos_token_id=2,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        ffn_config={"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    )  # fmt: skip
    return transformers.DbrxForCausalLM(config)


def xlstm() -> Any:
    config = transformers.xLSTMConfig(
        vocab_size=10, hidden_size=32, num_hidden_layers=3, num_blocks=3, num_heads=4, output_logit_soft_cap=5.0
    )
    return transformers.xLSTMForCausalLM(config)


def mpt() -> Any:
    config = transformers.MptConfig(vocab_size=10, d_model=32, n_layers=3, n_heads=4, max_seq_len=40)
    return transformers.MptForCausalLM(config)


def opt(before: bool) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.OPTConfig(
            vocab_size=10, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=48,
            max_position_embeddings=40, do_layer_norm_before=before, word_embed_proj_dim=32 if before else 16,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return transformers.OPTForCausalLM(config)

    return build


def deepseek(config: str, **settings: Any) -> Callable[[], Any]:
    latent = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_shared_experts": 1}
    grouped = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}
    return of(config, **latent | experts | grouped | settings)


LATENT = {
    "q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "num_key_value_heads": 4,
}  # fmt: skip
UNCOMPRESSED = {name: value for name, value in LATENT.items() if name != "q_lora_rank"}
ONE_PART = {
    "num_hidden_layers": 4, "head_dim": 8, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8,
    "n_groups": 2, "chunk_size": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
}  # fmt: skip
TWO_SIDES = {
    "head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4,
    "embedding_multiplier": 2.0, "lm_head_multiplier": 0.5, "key_multiplier": 0.7, "attention_in_multiplier": 1.5,
    "attention_out_multiplier": 0.6, "ssm_in_multiplier": 1.2, "ssm_out_multiplier": 0.8, "mlp_multipliers": [0.9, 0.7],
}  # fmt: skip
ONE_ROW = "keys and values come from one row that is normed"
OPT_350M = NO_EXPERTS | {
    "sums": "its norms stand after each sum", "linearised": "there is no last norm",
    "unembedding": "there is no last norm",
}  # fmt: skip
AFTER_SUMS = ALL_BLOCKS | OPT_350M
SHARED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
DELTA = {
    "layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4, "head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
KIMI = {
    "layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4, "linear_num_heads": 2,
    "linear_head_dim": 8, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
}  # fmt: skip
NO_DELTA = "what its blocks without attention do is not frozen"
MAMBA = {
    "layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4, "mamba_n_heads": 4,
    "mamba_d_head": 16, "mamba_d_state": 8, "shared_intermediate_size": 24, "residual_multiplier": 0.3,
    "logits_scaling": 2.0, "embedding_multiplier": 3.0, "mamba_chunk_size": 4,
}  # fmt: skip
DECODERS: tuple[Tiny, ...] = (
    llama_shaped("llama", "LlamaConfig"),
    llama_shaped("mistral", "MistralConfig", **APART),
    llama_shaped("ministral", "MinistralConfig", head_dim=8, **APART, layer_types=BOTH),
    llama_shaped("ministral3", "Ministral3Config", head_dim=8),
    llama_shaped("qwen2", "Qwen2Config", **APART, use_sliding_window=True, max_window_layers=1),
    llama_shaped("qwen3", "Qwen3Config", head_dim=6),
    llama_shaped("smollm3", "SmolLM3Config", no_rope_layers=[1, 0, 1]),
    llama_shaped("helium", "HeliumConfig", head_dim=8),
    llama_shaped("ernie4_5", "Ernie4_5Config", head_dim=8),
    llama_shaped("seed_oss", "SeedOssConfig", head_dim=8),
    llama_shaped("hunyuan_v1_dense", "HunYuanDenseV1Config", head_dim=8),
    llama_shaped("cwm", "CwmConfig", head_dim=8, **APART, layer_types=BOTH),
    Tiny("internlm3", of("InternLM3Config", "LlamaForCausalLM", head_dim=8), lacks=NO_EXPERTS),
    Tiny("iquestcoder", of("IQuestCoderConfig", "LlamaForCausalLM", head_dim=8), lacks=NO_EXPERTS),
    llama_shaped("gemma", "GemmaConfig", "gelu_pytorch_tanh", head_dim=12),
    llama_shaped("gemma2", "Gemma2Config", "gelu_pytorch_tanh", head_dim=12, query_pre_attn_scalar=12, **APART),
    llama_shaped(
        "gemma3_text", "Gemma3TextConfig", "gelu_pytorch_tanh", head_dim=12, query_pre_attn_scalar=12, **APART,
        layer_types=BOTH,
    ),
    Tiny(
        "gemma3n_text", gemma3n, states=side_by_side, activation="gelu_pytorch_tanh", sums=mixed_sums,
        written=2**-0.5, lacks=ALL_BLOCKS,
        remark="blocks compute with one of several streams side by side, which they mix by factors that depend on them",
    ),
    Tiny(
        "gemma4_text", sums=scaled_sums, activation="gelu_pytorch_tanh", lacks=ALL_BLOCKS,
        build=gemma4(
            hidden_size_per_layer_input=6, vocab_size_per_layer_input=10, num_kv_shared_layers=2,
            use_double_wide_mlp=True,
        ),
        remark="some blocks have larger heads; the last ones look by keys of others, and have MLPs of twice the width",
    ),
    Tiny(
        "gemma4_text mixture", sums=scaled_sums, activation="gelu_pytorch_tanh", gives="experts_out",
        build=gemma4(
            enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=24, attention_k_eq_v=True,
            num_global_key_value_heads=1,
        ),
        lacks={"linearised": MIXED["linearised"]},
        remark="experts stand beside an MLP; in the blocks with larger heads values are made of what keys are made of",
    ),
    Tiny(
        "gemma4_unified_text", sums=scaled_sums, activation="gelu_pytorch_tanh", lacks=NO_EXPERTS, build=gemma4_unified,
    ),
    Tiny(
        "recurrent_gemma", of("RecurrentGemmaConfig", attention_window_size=3, lru_width=40, logits_soft_cap=5.0),
        activation="gelu_pytorch_tanh", patterns=where_it_attends, lacks=NO_EXPERTS | {"linearised": NO_DELTA},
        remark="blocks without attention mix positions by a gated linear recurrence",
    ),
    llama_shaped("vaultgemma", "VaultGemmaConfig", "gelu_pytorch_tanh", head_dim=12, query_pre_attn_scalar=12, **APART),
    llama_shaped("olmo", "OlmoConfig"),
    Tiny("olmo2", of("Olmo2Config"), lacks=NO_EXPERTS, normed_together=True),
    Tiny("olmo3", of("Olmo3Config", **APART, layer_types=BOTH), lacks=NO_EXPERTS, normed_together=True),
    llama_shaped("exaone4", "Exaone4Config", head_dim=8, **APART, layer_types=BOTH),
    llama_shaped("arcee", "ArceeConfig", "relu2", head_dim=8),
    llama_shaped("jais2", "Jais2Config", "relu2", head_dim=8),
    llama_shaped("nemotron", "NemotronConfig", "relu2", head_dim=8),
    llama_shaped("apertus", "ApertusConfig", "gelu", hidden_act="gelu"),
    llama_shaped("starcoder2", "Starcoder2Config", "gelu_pytorch_tanh", **APART),
    llama_shaped("stablelm", "StableLmConfig", use_parallel_residual=False),
    llama_shaped("stablelm side by side", "StableLmConfig", use_parallel_residual=True, qk_layernorm=True),
    Tiny(
        "granite", of("GraniteConfig", residual_multiplier=0.3, embedding_multiplier=3.0, logits_scaling=2.0),
        lacks=NO_EXPERTS, written=0.3, remark="attn_out and mlp_out enter the sum times `residual_multiplier`",
    ),
    Tiny(
        "granite_swa", of("GraniteSWAConfig", residual_multiplier=0.3, embedding_multiplier=3.0, logits_scaling=2.0,
                          **APART, layer_types=BOTH, layer_rope_theta=[1e4, 0, 1e6]),
        lacks=NO_EXPERTS | SINKS, written=0.3, remark="as granite",
    ),
    llama_shaped("cohere", "CohereConfig", logit_scale=0.25),
    llama_shaped("cohere2", "Cohere2Config", logit_scale=0.25, **APART, layer_types=BOTH),
    llama_shaped("glm", "GlmConfig", head_dim=8),
    llama_shaped("glm4", "Glm4Config", head_dim=8),
    llama_shaped("phi", "PhiConfig", "gelu_new"),
    llama_shaped("phi3", "Phi3Config", **APART),
    Tiny("persimmon", of("PersimmonConfig", num_key_value_heads=4), activation="relu2", lacks=NO_EXPERTS),
    Tiny(
        "llama4_text",
        of("Llama4TextConfig", num_local_experts=4, num_experts_per_tok=2, intermediate_size_mlp=40, head_dim=8,
           moe_layers=[0, 2], attention_chunk_size=4, no_rope_layer_interval=2, floor_scale=4),
        lacks={"linearised": MIXED["linearised"]}, reads_weighted=True,
        remark="a sigmoid of each chosen expert's logit multiplies what the expert reads",
    ),
    mixture("mixtral", "MixtralConfig", **APART),
    Tiny(
        "qwen2_moe", of("Qwen2MoeConfig", **EXPERTS, shared_expert_intermediate_size=24, mlp_only_layers=[1]),
        lacks={"linearised": MIXED["linearised"]}, remark="a block may be dense: then it has the points of an MLP",
    ),
    mixture("qwen3_moe", "Qwen3MoeConfig", head_dim=8, norm_topk_prob=True),
    Tiny("olmoe", of("OlmoeConfig", **EXPERTS), lacks=MIXED, normed_together=True),
    mixture("phimoe", "PhimoeConfig", head_dim=8),
    mixture("gpt_oss", "GptOssConfig", head_dim=8, **APART, layer_types=BOTH),
    Tiny(
        "granitemoe", of("GraniteMoeConfig", **EXPERTS, residual_multiplier=0.3, logits_scaling=2.0), lacks=MIXED,
        written=0.3, remark="attn_out and mlp_out enter the sum times `residual_multiplier`",
    ),
    Tiny(
        "granitemoe_swa", of("GraniteMoeSWAConfig", **EXPERTS, residual_multiplier=0.3, logits_scaling=2.0, **APART,
                             layer_types=BOTH, layer_rope_theta=[1e4, 0, 1e6]),
        lacks=MIXED | SINKS, written=0.3, remark="as granitemoe",
    ),
    Tiny(
        "laguna", of("LagunaConfig", **EXPERTS, **APART, head_dim=8, num_attention_heads_per_layer=[4, 6, 4],
                     layer_types=BOTH, mlp_layer_types=["dense", "sparse", "sparse"],
                     shared_expert_intermediate_size=24, moe_routed_scaling_factor=1.5),
        lacks={"linearised": MIXED["linearised"]}, gate=torch.nn.functional.softplus,
        remark="blocks may have different numbers of heads; z is behind the heads' gates",
    ),
    Tiny(
        "mimo_v2_flash", of("MiMoV2FlashConfig", **SHARED, **APART, head_dim=8, v_head_dim=6, layer_types=BOTH,
                            num_key_value_heads=1, mlp_layer_types=["dense", "sparse", "sparse"],
                            attention_value_scale=None),
        lacks={"linearised": MIXED["linearised"]},
        remark="blocks that attend within a window have twice as many keys and values, and v is from before its factor",
    ),
    mixture("mellum", "MellumConfig", head_dim=8, **APART, layer_types=BOTH),
    Tiny("flex_olmo", of("FlexOlmoConfig", **EXPERTS), lacks=MIXED, normed_together=True, gives="experts_out"),
    Tiny(
        "kolibri1", kolibri1, lacks=MIXED, gives="experts_out",
    ),
    Tiny(
        "afmoe", of("AfmoeConfig", **SHARED | EXPERTS, **APART, head_dim=8, num_shared_experts=1, num_dense_layers=1,
                    layer_types=BOTH, mup_enabled=True, route_scale=1.5),
        lacks={"linearised": MIXED["linearised"]}, gives="experts_out", remark="z is behind the heads' gates",
    ),
    Tiny(
        "minimax_m3_vl_text",
        of("MiniMaxM3VLTextConfig", "MiniMaxM3VLForCausalLM", **EXPERTS, head_dim=8, dense_intermediate_size=48,
           shared_intermediate_size=24, mlp_layer_types=["dense", "sparse", "sparse"],
           layer_types=["full_attention", "minimax_m3_sparse", "full_attention"], index_n_heads=2, index_head_dim=8,
           index_block_size=2, index_topk_blocks=1),
        lacks={"linearised": MIXED["linearised"], "mlp": "its MLPs bound both factors, and add 1 to the linear one"},
        remark="in some blocks a head looks where an index tells",
    ),
    Tiny(
        "aria_text", of("AriaTextConfig", "AriaTextForCausalLM", moe_num_experts=4, moe_topk=2,
                        moe_num_shared_experts=1), lacks=MIXED,
    ),
    Tiny("dbrx", dbrx, lacks=MIXED, remark="q, k and v are from before they are clipped"),
    Tiny(
        "bitnet", of("BitNetConfig"), activation="relu2",
        lacks=NO_EXPERTS | {"linearised": "norms inside attention and MLP are not frozen"},
        remark="z and mlp_hidden are from before the norms in front of the last projections",
    ),
    Tiny(
        "deepseek_v2", deepseek("DeepseekV2Config"), lacks={"linearised": MIXED["linearised"]},
        remark="no k: a head's key is a part of one projection and a rotary part that all heads share",
    ),
    Tiny(
        "deepseek_v3", deepseek("DeepseekV3Config", q_lora_rank=12), lacks={"linearised": MIXED["linearised"]},
        remark="no k, as in deepseek_v2",
    ),
    # Of few heads, an index gives many places exactly nothing: which of them are chosen then goes by where they stand.
    Tiny(
        "deepseek_v32", deepseek("DeepseekV32Config", q_lora_rank=12, index_n_heads=16, index_head_dim=8, index_topk=3),
        lacks={"linearised": MIXED["linearised"]}, remark="no k, as in deepseek_v2; a head looks where an index tells",
    ),
    Tiny(
        "glm_moe_dsa", deepseek("GlmMoeDsaConfig", q_lora_rank=12, index_n_heads=16, index_head_dim=8, index_topk=3),
        lacks={"linearised": MIXED["linearised"], "given": ALL_BLOCKS["given"]}, remark="as deepseek_v32",
    ),
    Tiny(
        "glm4_moe_lite", deepseek("Glm4MoeLiteConfig", mlp_layer_types=["dense", "sparse", "sparse"], q_lora_rank=12),
        lacks={"linearised": MIXED["linearised"]}, remark="no k, as in deepseek_v2",
    ),
    Tiny(
        "mistral4", deepseek("Mistral4Config", q_lora_rank=12), lacks={"linearised": MIXED["linearised"]},
        remark="no k, as in deepseek_v2",
    ),
    Tiny(
        "youtu", of("YoutuConfig", **LATENT), lacks=NO_EXPERTS | {"linearised": ONE_ROW},
        remark="no k, as in deepseek_v2",
    ),
    Tiny(
        "minicpm3", of("MiniCPM3Config", **LATENT, scale_depth=0.9, scale_emb=2, dim_model_base=16),
        lacks=NO_EXPERTS | {"linearised": ONE_ROW}, written=0.9 / 3**0.5,
        remark="no k, as in deepseek_v2; attn_out and mlp_out enter the sum times scale_depth / √blocks",
    ),
    Tiny(
        "ernie4_5_moe", of("Ernie4_5_MoeConfig", moe_num_experts=4, moe_k=2, moe_intermediate_size=24,
                           moe_num_shared_experts=1), lacks={"linearised": MIXED["linearised"]},
    ),
    Tiny(
        "glm4_moe", of("Glm4MoeConfig", **SHARED, head_dim=8, use_qk_norm=True),
        lacks={"linearised": MIXED["linearised"]},
    ),
    Tiny(
        "dots1", of("Dots1Config", **SHARED, head_dim=8, layer_types=["full_attention"] * 3),
        lacks={"linearised": MIXED["linearised"]},
    ),
    Tiny(
        "exaone_moe", of("ExaoneMoeConfig", **EXPERTS, **APART, head_dim=8, num_shared_experts=1, n_group=1,
                         topk_group=1, layer_types=BOTH, mlp_layer_types=["dense", "sparse", "sparse"]),
        lacks={"linearised": MIXED["linearised"]},
    ),
    Tiny("solar_open", of("SolarOpenConfig", **SHARED, head_dim=8), lacks=MIXED),
    Tiny(
        "hy_v3", of("HYV3Config", **EXPERTS, head_dim=8, num_shared_experts=1, first_k_dense_replace=1),
        lacks={"linearised": MIXED["linearised"]},
    ),
    mixture("cohere2_moe", "Cohere2MoeConfig", head_dim=8, logit_scale=0.25, **APART, layer_types=BOTH),
    Tiny("minimax_m2", of("MiniMaxM2Config", **EXPERTS, head_dim=8), lacks=MIXED, normed_together=True),
    mixture("hunyuan_v1_moe", "HunYuanMoEV1Config", head_dim=8, moe_topk=2),
    Tiny(
        "lfm2", of("Lfm2Config", layer_types=["conv", "full_attention", "conv", "full_attention"], num_hidden_layers=4,
                   block_auto_adjust_ff_dim=False),
        patterns=every_second,
        lacks=NO_EXPERTS | {"linearised": "gates multiply what the convolution reads"},
        remark="blocks without attention mix positions by a convolution",
    ),
    Tiny(
        "lfm2_moe", of("Lfm2MoeConfig", **EXPERTS, layer_types=["conv", "full_attention", "conv", "full_attention"],
                       num_hidden_layers=4, num_dense_layers=1),
        patterns=every_second, lacks={"linearised": "gates multiply what the convolution reads"}, remark="as lfm2",
    ),
    Tiny(
        "lfm3", of("Lfm3Config", layer_types=["conv", "full_attention", "conv", "full_attention"], num_hidden_layers=4,
                   head_dim=8, use_attention_gate=True, use_sandwich_norm=True),
        patterns=every_second, lacks=NO_EXPERTS | {"linearised": "gates multiply what the convolution reads"},
        remark="as lfm2, with norms after too; z is behind the heads' gates",
    ),
    Tiny(
        "kimi_linear", deepseek("KimiLinearConfig", **KIMI, q_lora_rank=None), patterns=every_second,
        lacks={"given": ALL_BLOCKS["given"], "linearised": NO_DELTA},
        remark="no k, as in deepseek_v2; blocks without attention mix positions by a delta rule",
    ),
    Tiny(
        "bailing_hybrid", of("BailingHybridConfig", **UNCOMPRESSED, **SHARED, **KIMI), patterns=every_second,
        lacks={"given": ALL_BLOCKS["given"], "linearised": NO_DELTA},
        remark="as kimi_linear; z is behind the heads' gates",
    ),
    Tiny(
        "qwen3_next", of("Qwen3NextConfig", **EXPERTS | DELTA, shared_expert_intermediate_size=24,
                         mlp_only_layers=[1, 2]), lacks={"linearised": NO_DELTA}, patterns=every_second,
        remark="blocks without attention mix positions by a gated delta rule; z is behind the heads' gates",
    ),
    Tiny(
        "qwen3_5_text", of("Qwen3_5TextConfig", **DELTA), lacks=NO_EXPERTS | {"linearised": NO_DELTA},
        patterns=every_second, remark="as qwen3_next",
    ),
    Tiny(
        "qwen3_5_moe_text", of("Qwen3_5MoeTextConfig", **EXPERTS | DELTA, shared_expert_intermediate_size=24),
        lacks=MIXED | {"linearised": NO_DELTA}, patterns=every_second, remark="as qwen3_next",
    ),
    Tiny(
        "granitemoehybrid", of("GraniteMoeHybridConfig", **EXPERTS | MAMBA), lacks=MIXED | {"linearised": NO_DELTA},
        patterns=every_second, written=0.3, remark="blocks without attention are Mamba 2's",
    ),
    Tiny(
        "granitemoehybrid dense", of("GraniteMoeHybridConfig", **MAMBA | {"num_local_experts": 0}),
        lacks=NO_EXPERTS | {"linearised": NO_DELTA}, patterns=every_second, written=0.3, remark="as granitemoehybrid",
    ),
    Tiny(
        "granitemoeshared", of("GraniteMoeSharedConfig", **EXPERTS, shared_intermediate_size=24,
                               residual_multiplier=0.3, logits_scaling=2.0), lacks=MIXED, written=0.3,
    ),
    Tiny(
        "jamba", of("JambaConfig", **EXPERTS, num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1,
                    expert_layer_period=3, expert_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4),
        lacks={"linearised": NO_DELTA}, patterns=every_second, remark="blocks without attention are Mamba's",
    ),
    Tiny(
        "bamba", of("BambaConfig", num_hidden_layers=4, attn_layer_indices=[1, 3],
                    mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=4),
        lacks=ALL_BLOCKS | {"linearised": NO_DELTA}, patterns=every_second,
        remark="blocks without attention are Mamba 2's",
    ),
    Tiny(
        "zamba2", of("Zamba2Config", num_hidden_layers=4, n_mamba_heads=8, mamba_d_state=8, chunk_size=4,
                     num_mem_blocks=1, num_key_value_heads=4, use_mem_rope=True, adapter_rank=4,
                     layers_block_type=["linear_attention", "hybrid", "linear_attention", "hybrid"]),
        patterns=every_second,
        lacks=ALL_BLOCKS | {"mlp": "what enters the activation function comes of two projections",
                            "linearised": NO_DELTA},
        remark="every block has Mamba 2; some of them read attention and an MLP that share their weights (shared_out)",
    ),
    Tiny(
        "olmo_hybrid", of("OlmoHybridConfig", **{key: DELTA[key] for key in DELTA if key != "head_dim"}),
        lacks=NO_EXPERTS | {"linearised": NO_DELTA}, patterns=every_second, normed_together=True,
        remark="blocks without attention mix positions by a gated delta rule, and have norms elsewhere",
    ),
    Tiny(
        "nemotron_h", of("NemotronHConfig", layers_block_type=["mamba", "attention", "moe", "mlp"], **ONE_PART),
        lacks={"linearised": NO_DELTA}, activation="relu2", patterns=in_second,
        remark="a block is Mamba 2, attention, an MLP or a mixture of experts",
    ),
    Tiny(
        "falcon_h1", of("FalconH1Config", **TWO_SIDES), lacks=ALL_BLOCKS | {"linearised": "Mamba is not frozen"},
        remark="every block has attention and Mamba 2 side by side",
    ),
    Tiny("gpt2", gpt2, activation="gelu_new", lacks=NO_EXPERTS),
    Tiny("gpt_bigcode", gpt_bigcode(True), activation="gelu_pytorch_tanh", lacks=NO_EXPERTS),
    Tiny("gpt_bigcode all keys", gpt_bigcode(False), activation="gelu_pytorch_tanh", lacks=NO_EXPERTS),
    Tiny("gpt_neo", gpt_neo, activation="gelu_new", lacks=ALL_BLOCKS),
    Tiny("gptj", gptj, activation="gelu_new", lacks=ALL_BLOCKS),
    Tiny("codegen", codegen, activation="gelu_new", lacks=ALL_BLOCKS),
    Tiny("openai-gpt", openai_gpt, activation="gelu_new", states=every_state, lacks=AFTER_SUMS),
    Tiny("nanochat", of("NanoChatConfig", final_logit_softcapping=5.0), activation="relu2",
         lacks=NO_EXPERTS | {"linearised": "its last norm is called twice"}),
    Tiny("gpt_neox", neox(True), activation="gelu", lacks=NO_EXPERTS),
    Tiny("gpt_neox in turn", neox(False), activation="gelu", lacks=NO_EXPERTS),
    Tiny("bloom", bloom, activation="gelu_new", lacks=ALL_BLOCKS),
    Tiny(
        "falcon", falcon(new_decoder_architecture=True, num_kv_heads=2), activation="gelu",
        lacks=ALL_BLOCKS,
    ),
    Tiny("falcon one key", falcon(), activation="gelu", lacks=ALL_BLOCKS),
    Tiny(
        "falcon in turn", falcon(alibi=True, parallel_attn=False, multi_query=False, bias=True), activation="gelu",
        lacks=ALL_BLOCKS | {"pattern": "the library's plain attention adds ALiBi twice; the "
                            "recorded pattern is that of the kernel that the network uses"},
    ),
    Tiny(
        "xlstm", xlstm, states=without_cache,
        lacks=ALL_BLOCKS | dict.fromkeys(("pattern", "heads", "frozen"), "it has no attention")
        | {"linearised": "its cells are not frozen"},
        remark="a matrix is the memory of each head; q, k and v are the cells'",
    ),
    Tiny("mpt", mpt, activation="gelu", lacks=ALL_BLOCKS),
    Tiny("opt", opt(True), activation="relu", lacks=NO_EXPERTS),
    Tiny("opt 350m form", opt(False), activation="relu", lacks=OPT_350M),
    Tiny("biogpt", of("BioGptConfig", num_key_value_heads=4), activation="gelu", lacks=NO_EXPERTS),
)  # fmt: skip
