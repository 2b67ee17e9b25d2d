"""Gemma 4's language models: norms before and after attention and MLP, a vector of each token's own for every block,
heads of another size in every sixth, and a factor that each block multiplies the stream with.

Google DeepMind 2026, https://ai.google.dev/gemma/docs/core.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from auditor.models import linearise
from auditor.models.adapters.adapter import TextAdapter, blocks_until
from auditor.models.adapters.decoder import Decoder
from auditor.models.adapters.post_norm import GEMMA, SANDWICHED
from auditor.models.hook_points import TOKENS, Blocks, Heads, HookPoint, Site
from auditor.models.linearise import LinearPart

NORMS = (*GEMMA.norms, "post_per_layer_input_norm", "self_attn.v_norm")
TABLE = replace(
    SANDWICHED,
    v=Site("self_attn.v_norm"),
    router=Site("router.proj"),
    expert_weights=Site("experts", "expert_weights"),
)
_ROUTED = ("router", "expert_weights")


def gemma4_blocks(plain: Blocks) -> Blocks:
    """The table below the modules that `plain` names."""
    return replace(TABLE, stack=plain.stack, embed=plain.embed, final_norm=plain.final_norm)


class Gemma4Language(TextAdapter):
    """``per_layer_out`` is what a token's own vector adds to the stream; `resid_post` is the sum of all that is
    written, times the block's factor. Of a mixture, experts stand beside the MLP: ``experts_out`` is what they give
    together.

    The last blocks may have no keys and values of their own. `v` is behind its norm.
    """

    def heads(self) -> Heads:
        # Of the first block; the others' are told by themselves (`_as_in`).
        first = self.config.per_layer_config[0]
        return Heads(int(self.config.num_attention_heads), int(first.num_key_value_heads), int(first.head_dim))

    def hook_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        routed: list[HookPoint] = []
        stack = self.table().stack
        for point in super().hook_points():
            number, site = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.*)", point.name).groups()  # type: ignore[union-attr]
            if number is None:
                found.append(point)
                continue
            at, name = f"{stack}.{number}", f"blocks.{number}"
            block: Any = self.network.get_submodule(at)
            if site in _ROUTED:
                routed.append(point)
                continue
            if site == "resid_post" and hasattr(block, "post_per_layer_input_norm"):
                found.append(self._beside(f"{name}.per_layer_out", f"{at}.post_per_layer_input_norm"))
            found.append(_as_in(block, point, site))
            if site == "mlp_hidden" and routed:
                found += [*routed, self._beside(f"{name}.experts_out", f"{at}.experts")]
                routed = []
        return found

    def before(self, hook: str) -> list[str]:
        shared = bool(self.config.num_kv_shared_layers)
        return [] if shared else blocks_until(self.table().stack, hook)

    def beyond(self, hook: str) -> str:
        return shared_beyond(hook, self.config)

    def scaled(self, hook: str) -> float:
        found = re.fullmatch(r"blocks\.(\d+)\.(.*)", hook)
        if found is None and hook not in ("embed", "image_tokens"):
            return 1.0
        first = 0 if found is None else int(found[1]) + (found[2] == "resid_post")
        product = 1.0
        for number in range(first, self.n_layers):
            block: Any = self.network.get_submodule(f"{self.table().stack}.{number}")
            product *= float(block.layer_scalar)
        return product

    def linear_parts(self) -> list[LinearPart]:
        if getattr(self.config, "enable_moe_block", False) or not self.causal:
            return []
        table = self.table()
        held = dict(self.network.named_modules())
        assert table.final_norm is not None
        parts = [LinearPart(table.final_norm.module, linearise.activation)]
        # What a token's own vectors take from its embedding counts as their own.
        path = f"{table.stack.removesuffix('layers')}per_layer_model_projection"
        parts += [LinearPart(path, linearise.constant)] if path in held else []
        for number in range(self.n_layers):
            at = f"{table.stack}.{number}."
            norms = [*NORMS, "act_fn"]
            parts += [LinearPart(at + name, linearise.activation) for name in norms if at + name in held]
            # Not the projection to keys, which may be that to values too.
            constant = [at + name for name in ("self_attn.q_proj", "self_attn.k_norm") if at + name in held]
            parts += [LinearPart(path, linearise.constant) for path in constant]
            parts.append(LinearPart(f"{at}mlp", linearise.gated_mlp))
        return parts

    def _beside(self, name: str, module: str) -> HookPoint:
        return HookPoint(name, self.d_model, TOKENS, module, 0, "output")


def shared_beyond(hook: str, config: Any) -> str:
    """Of a family whose last blocks look by keys and values of others: that these pass by `hook`, where they do."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.*)", hook)
    shared = int(config.num_kv_shared_layers)
    if found is None or not shared:
        return ""
    each = list(enumerate(zip(config.kv_sharing_modes, config.layer_types, strict=True)))
    reading = {kind for _, (mode, kind) in each if mode == "reuse"}
    first = min(number for number, (mode, kind) in each if mode == "store" and kind in reading)
    block = int(found[1])
    last = block == int(config.num_hidden_layers) - 1 and found[2] != "resid_pre"
    early = block < first or (block == first and found[2] == "resid_pre")
    return "" if early or last else f"the last blocks read keys and values of block {first}, which pass by it"


def _as_in(block: Any, point: HookPoint, site: str) -> HookPoint:
    """A point of the table, as wide as its block has it."""
    if site in ("mlp_pre", "mlp_linear", "mlp_hidden"):
        return replace(point, width=int(block.mlp.intermediate_size))
    if site not in ("q", "k", "v", "z"):
        return point
    attention: Any = block.self_attn
    count, size = int(attention.config.num_attention_heads), int(attention.head_dim)
    ways = count if site in ("q", "z") else count // int(attention.num_key_value_groups)
    return replace(point, width=ways * size, heads=ways)


class Gemma4TextAdapter(Gemma4Language, Decoder):
    family = "gemma4_text"
    config_class = "Gemma4TextConfig"
    architectures = ("Gemma4ForCausalLM",)
    blocks = TABLE


class Gemma4UnifiedTextAdapter(Gemma4TextAdapter):
    family = "gemma4_unified_text"
    config_class = "Gemma4UnifiedTextConfig"
    architectures = ("Gemma4UnifiedForCausalLM",)
