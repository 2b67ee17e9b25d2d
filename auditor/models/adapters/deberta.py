"""DeBERTa, all versions: BERT's blocks, attention that scores content and relative position apart."""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.hook_points import Blocks, HookPoint, Part, Site


class DebertaAdapter(BertAdapter):
    family = "deberta"
    config_class = "DebertaConfig"
    architectures = with_heads("Deberta")
    base = "deberta"

    def table(self) -> Blocks:
        """One projection gives q, k and v, a head after the other; q and v are before their bias."""
        heads, whole = int(self.config.num_attention_heads), "attention.self.in_proj"
        return replace(
            super().table(),
            q=Site(whole, part=Part(heads, 3, 0, 1)),
            k=Site(whole, part=Part(heads, 3, 1, 2)),
            v=Site(whole, part=Part(heads, 3, 2, 3)),
            pattern=Site("attention.self.dropout"),
        )


class DebertaV2Adapter(BertAdapter):
    """Versions 2 and 3. Some add a convolution over the words to what the first block gives: its `resid_post` is the
    sum, which the second block reads."""

    family = "deberta_v2"
    config_class = "DebertaV2Config"
    architectures = with_heads("DebertaV2")
    base = "deberta"

    def table(self) -> Blocks:
        return replace(
            super().table(),
            q=Site("attention.self.query_proj"),
            k=Site("attention.self.key_proj"),
            v=Site("attention.self.value_proj"),
            pattern=Site("attention.self.dropout"),
        )

    def hook_points(self) -> list[HookPoint]:
        return [self._placed(point) for point in super().hook_points()]

    def _placed(self, point: HookPoint) -> HookPoint:
        if point.name == "blocks.0.resid_post" and getattr(self.config, "conv_kernel_size", 0) > 0:
            return replace(point, module=f"{self.prefix}encoder.conv")
        # Version 3 projects positions by the same modules, after the words.
        return replace(point, call=0) if point.name.endswith((".q", ".k")) else point
