"""ALBERT: blocks that share their weights, so that each is one of several calls of a module."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from auditor.base.errors import AuditorError
from auditor.intake.weights import MAX_LAYERS, ModelFacts
from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.hook_points import Blocks, HookPoint, Site, block_points


class AlbertAdapter(BertAdapter):
    """A group of `inner_group_num` layers is run once or more; block N is the N-th layer that runs."""

    family = "albert"
    config_class = "AlbertConfig"
    architectures = with_heads("Albert")
    base = "albert"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        inner, groups = (facts.config.get(name, 1) for name in ("inner_group_num", "num_hidden_groups"))
        layers = facts.config.get("num_hidden_layers", 12)
        whole = all(isinstance(count, int) and 1 <= count <= MAX_LAYERS for count in (inner, groups, layers))
        if not whole or inner * layers > MAX_LAYERS:
            raise AuditorError(
                f"config.json in “{facts.name}” gives impossible layers: {layers} × {inner}, {groups} groups.",
                "Copy the folder from its source again.",
            )
        super().__init__(facts, dtype)
        self.n_layers *= int(self.config.inner_group_num)

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.prefix}encoder",
            embed=Site(f"{self.prefix}encoder.embedding_hidden_mapping_in"),
            attn_out=Site("attention.dense"),
            resid_mid=Site("attention"),
            mlp_hidden=Site("ffn_output", "input"),
            mlp_out=Site("ffn_output"),
            final_norm=None,
            q=Site("attention.query"),
            k=Site("attention.key"),
            v=Site("attention.value"),
            pattern=Site("attention", "inside", inside="dropout"),
            z=Site("attention.dense", "input"),
            mlp_pre=Site("ffn"),
        )

    def hook_points(self) -> list[HookPoint]:
        points = block_points(self.table(), self.n_layers, self.d_model, self.mlp_width(), heads=self.heads())
        return [self._called(point) for point in points]

    def _called(self, point: HookPoint) -> HookPoint:
        """The point, whose module the table names ``encoder.N.…``, in the module that runs as block N."""
        within = re.fullmatch(rf"{re.escape(self.table().stack)}\.(\d+)(.*)", point.module)
        if within is None:
            return point
        turn, layer = divmod(int(within[1]), int(self.config.inner_group_num))
        group = self._group(turn)
        call = sum(self._group(earlier) == group for earlier in range(turn))
        module = f"{self.table().stack}.albert_layer_groups.{group}.albert_layers.{layer}{within[2]}"
        return replace(point, module=module, call=call)

    def _group(self, turn: int) -> int:
        # As transformers counts, where the number of turns is no multiple of the number of groups.
        return int(turn / (int(self.config.num_hidden_layers) / int(self.config.num_hidden_groups)))
