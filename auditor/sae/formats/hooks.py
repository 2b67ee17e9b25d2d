"""What other tools call a hook point, in this program's names, and the other way round."""

from __future__ import annotations

import re
from collections.abc import Sequence

_STACK = r"(?:(?:model|transformer|gpt_neox|language_model|encoder)\.)*(?:layers|layer|h|blocks)"
_PLACES = (
    # TransformerLens and what follows it.
    (r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)", r"blocks.\1.\2"),
    (r"blocks\.(\d+)\.hook_mlp_in", r"blocks.\1.resid_mid"),
    (r"blocks\.(\d+)\.mlp\.hook_post", r"blocks.\1.mlp_hidden"),
    (r"blocks\.(\d+)\.mlp\.hook_out", r"blocks.\1.mlp_out"),
    (r"blocks\.(\d+)\.mlp\.hook_pre", r"blocks.\1.mlp_pre"),
    (r"blocks\.(\d+)\.mlp\.hook_pre_linear", r"blocks.\1.mlp_linear"),
    (r"blocks\.(\d+)\.attn\.hook_(q|k|v|z)", r"blocks.\1.\2"),
    (r"hook_embed", "embed"),
    (r"ln_final\.hook_normalized", "final_norm"),
    # Modules of transformers, whose output is meant.
    (rf"{_STACK}\.(\d+)", r"blocks.\1.resid_post"),
    (rf"{_STACK}\.(\d+)\.mlp", r"blocks.\1.mlp_out"),
    (rf"{_STACK}\.(\d+)\.(?:self_attn|attn|attention)", r"blocks.\1.attn_out"),
    (r"(?:(?:model|transformer|gpt_neox)\.)*(?:embed_tokens|wte|embed_in)", "embed"),
    # Names of dictionary_learning's submodules.
    (r"resid_post_layer_(\d+)", r"blocks.\1.resid_post"),
    (r"mlp_(?:out_)?layer_(\d+)", r"blocks.\1.mlp_out"),
    (r"attn_(?:out_)?layer_(\d+)", r"blocks.\1.attn_out"),
)

# TransformerLens' names of ours.
_USUAL = (
    (r"blocks\.(\d+)\.(resid_pre|resid_mid|resid_post|attn_out|mlp_out)", r"blocks.\1.hook_\2"),
    (r"blocks\.(\d+)\.mlp_hidden", r"blocks.\1.mlp.hook_post"),
    (r"blocks\.(\d+)\.mlp_pre", r"blocks.\1.mlp.hook_pre"),
    (r"blocks\.(\d+)\.mlp_linear", r"blocks.\1.mlp.hook_pre_linear"),
    (r"blocks\.(\d+)\.(q|k|v|z)", r"blocks.\1.attn.hook_\2"),
    (r"embed", "hook_embed"),
    (r"final_norm", "ln_final.hook_normalized"),
)


def canonical(name: str) -> str:
    """The hook point that another tool calls `name`; "" where this program has none that is surely the same."""
    return _renamed(name, _PLACES) or ""


def usual(name: str) -> str:
    """TransformerLens' name of a hook point, which SAELens runs models by; `name` itself where it has none."""
    return _renamed(name, _USUAL) or name


def _renamed(name: str, places: Sequence[tuple[str, str]]) -> str | None:
    for pattern, other in places:
        if found := re.fullmatch(pattern, name):
            return found.expand(other)
    return None


def output_beside(name: str) -> str:
    """What a transcoder that reads `name` is taken to predict where its file does not say: the block's MLP."""
    found = re.match(r"(blocks\.\d+)\.", name)
    return f"{found[1]}.hook_mlp_out" if found else f"{name or 'input'}, transcoded"
