"""xLSTM: cells with a matrix for a memory in the place of attention, and gated MLPs.

Beck et al. 2024, arXiv:2405.04517.
"""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.decoder import Decoder
from auditor.models.hook_points import Blocks, Heads, Site


class XlstmAdapter(Decoder):
    """`attn_out` is what the cells write; `q`, `k` and `v` are theirs, `z` what the memory gives behind norm and gate.

    The library runs long texts in pieces, one after the other; here it does not, which changes no result.
    """

    family = "xlstm"
    config_class = "xLSTMConfig"
    architectures = ("xLSTMForCausalLM",)
    blocks = Blocks(
        stack="backbone.blocks",
        embed=Site("backbone.embeddings"),
        attn_out=Site("mlstm_layer"),
        resid_mid=Site("norm_ffn", "input", shared=True),
        mlp_hidden=Site("ffn.proj_down", "input"),
        mlp_out=Site("ffn"),
        final_norm=Site("backbone.out_norm"),
        q=Site("mlstm_layer.q"),
        k=Site("mlstm_layer.k"),
        v=Site("mlstm_layer.v"),
        z=Site("mlstm_layer.out_proj", "input"),
        mlp_pre=Site("ffn.proj_up_gate"),
        mlp_linear=Site("ffn.proj_up"),
    )

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.config.max_inference_chunksize = 1 << 40

    def mlp_width(self) -> int:
        up = self.network.get_submodule(f"{self.blocks.stack}.0.ffn.proj_down")
        return int(up.in_features)  # type: ignore[arg-type]

    def heads(self) -> Heads:
        count = int(self.config.num_heads)
        keys, values = (
            int(self.d_model * factor) // count for factor in (self.config.qk_dim_factor, self.config.v_dim_factor)
        )
        return Heads(count, count, keys, values)

    def longest(self) -> None:
        """It reads any number."""

    def readout(self, normed: Tensor) -> Tensor:
        cap = float(self.config.output_logit_soft_cap)
        return torch.tanh(super().readout(normed) / cap) * cap
