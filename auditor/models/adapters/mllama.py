"""Llama 3.2 Vision: a Llama, some of whose blocks look at a picture's tiles instead of the text before them.

Grattafiori et al. 2024, arXiv:2407.21783, section 7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import heads_of
from auditor.models.adapters.image_text import LookedAtAdapter, Sheets, stacked
from auditor.models.adapters.llama import llama_blocks
from auditor.models.adapters.vision import pair, projections
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, Positions
from auditor.models.pictures import VIT, Size, picture_rule, resampled
from auditor.models.sheets import Panel, Sheet

TOWER, LANGUAGE = "model.vision_model.", "model.language_model."
# A gate lets through the product with its tanh, which is no module's output; before it the MLP's is masked.
_ATTENDED, _COMPUTED = (Site("", "inside", inside="tanh mul", after=module) for module in ("cross_attn", "mlp"))
_CROSS = replace(
    llama_blocks(LANGUAGE),
    attn_out=_ATTENDED,
    mlp_out=_COMPUTED,
    q=Site("cross_attn.q_proj"),
    k=Site("cross_attn.k_proj"),
    v=Site("cross_attn.v_proj"),
    pattern=Site("cross_attn", "inside", inside="dropout"),
    z=Site("cross_attn.o_proj", "input"),
)
_ATTENTION = ("q", "k", "v", "pattern", "z", "attn_out")


def _tower_blocks(stack: str) -> Blocks:
    return Blocks(
        stack=f"{TOWER}{stack}.layers",
        embed=Site(f"{TOWER}{stack}.layers.0", "input"),
        attn_out=Site("self_attn"),
        resid_mid=Site("post_attention_layernorm", "input", shared=True),
        mlp_hidden=Site("mlp.fc2", "input"),
        mlp_out=Site("mlp"),
        final_norm=None,
        **projections("self_attn"),
        mlp_pre=Site("mlp.fc1"),
    )


_GLOBAL = replace(
    _tower_blocks("global_transformer"),
    attn_out=Site("", "inside", inside="tanh mul", after="self_attn"),
    mlp_out=Site("", "inside", inside="tanh mul", after="mlp"),
)


@dataclass(frozen=True)
class Canvas:
    """A picture at `inside` rows and columns of pixels in the corner of `down` × `across` tiles, zeros elsewhere."""

    down: int
    across: int
    inside: Size


class MllamaAdapter(LookedAtAdapter):
    """A picture has one token in the text, which is special. In some blocks positions look, in the place of each other,
    at the pictures before them: hook points ``blocks.N.cross_q``, …, ``cross_attn_out``, whose keys and values are at
    the patches; ``cross_attn_out`` and ``mlp_out`` there are what is added to the stream, behind the gates. A text
    without pictures passes by such blocks: what they add is 0.

    As the library has it, a position before the first picture looks at all that its sample has, evenly. The tower reads
    a picture in up to four tiles at once, first in ``vision.blocks.N``, then in gated ``vision.global.blocks.N``; it
    has rows for tiles that a picture lacks, which are padding, and which others look at. What positions look at is
    ``vision.context``.
    """

    family = "mllama"
    config_class = "MllamaConfig"
    architectures = ("MllamaForConditionalGeneration",)
    language = LANGUAGE
    connector = "model.multi_modal_projector"

    def prepares(self, facts: ModelFacts) -> None:
        vision = self.whole.vision_config
        self.side, self.most = pair(vision.image_size)[0], int(vision.max_num_tiles)
        self.cells = self.side // pair(vision.patch_size)[0]
        shapes = [[a, b] for a in range(1, self.most + 1) for b in range(1, self.most + 1) if a * b <= self.most]
        if [list(shape) for shape in vision.supported_aspect_ratios] != shapes or self.cells < 1:
            raise AuditorError(
                f"config.json in “{facts.name}” tells of other shapes of pictures than {self.most} tiles can have.",
                "Copy the folder from its source again.",
            )
        self.shapes: list[Size] = [(a, b) for a, b in shapes]
        plain = picture_rule(facts.folder, VIT | {"size": {"height": self.side, "width": self.side}})
        self.rule = replace(plain, size=None, crop=None, expects=None)
        # Every hook point of a batch asks.
        self._rows = lru_cache(maxsize=16)(self._rows_of)

    @property
    def per_tile(self) -> int:
        """Rows that the tower's states have for a tile: its class token, and its patches."""
        return 1 + self.cells**2

    def canvas(self, rows: int, columns: int) -> Canvas:
        """Of a picture of so many pixels, as the library lays it out."""
        scales = [min(a * self.side / rows, b * self.side / columns) for a, b in self.shapes]
        larger = [scale for scale in scales if scale >= 1]
        scale = min(larger) if larger else max(scales)
        down, across = min(
            (shape for shape, held in zip(self.shapes, scales, strict=True) if held == scale),
            key=lambda shape: shape[0] * shape[1],
        )
        high = min(max(rows, self.side), down * self.side)
        wide = min(max(columns, self.side), across * self.side)
        if wide / columns < high / rows:
            high = min(math.floor(rows * (wide / columns)) or 1, high)
        else:
            wide = min(math.floor(columns * (high / rows)) or 1, wide)
        return Canvas(down, across, (high, wide))

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        laid = self.canvas(rows, columns)
        bottom = round(rows * laid.down * self.side / laid.inside[0])
        right = round(columns * laid.across * self.side / laid.inside[1])
        return (Panel(0, (0, 0, bottom, right), laid.down * self.cells, laid.across * self.cells, self.cells),)

    def prepare(self, pixels: Pixels) -> Tensor:
        laid, side = self.canvas(*pixels.shape[:2]), self.side
        held = resampled(pixels, laid.inside, self.rule.resample)
        gaps = laid.down * side - held.shape[0], laid.across * side - held.shape[1]
        numbers = self.rule.prepare(np.pad(held, [(0, gaps[0]), (0, gaps[1]), (0, 0)]))
        tiles = numbers.reshape(3, laid.down, side, laid.across, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
        return torch.cat([tiles, tiles.new_zeros(self.most - len(tiles), *tiles.shape[1:])])

    def beside(self, sheets: Sequence[Sheet | None]) -> Mapping[str, Tensor]:
        """Of each picture the number of its shape, from 1, and of its tiles; and of each sample, of its pictures."""
        panels = [panel for sheet in sheets if sheet is not None for panel in sheet.panels]
        shapes = [(panel.rows // self.cells, panel.columns // self.cells) for panel in panels]
        if not shapes:
            return {}
        return {
            "shape": torch.tensor([self.shapes.index(shape) + 1 for shape in shapes]),
            "tiles": torch.tensor([down * across for down, across in shapes]),
            "pictures": torch.tensor([0 if sheet is None else len(sheet.panels) for sheet in sheets]),
        }

    def vision_points(self) -> list[HookPoint]:
        vision = self.whole.vision_config
        sizes = int(vision.hidden_size), int(vision.intermediate_size)

        def blocks(table: Blocks, count: int, prefix: str) -> list[HookPoint]:
            return block_points(table, count, *sizes, heads=heads_of(vision), prefix=prefix, stream="vision")

        local = replace(_tower_blocks("transformer"), final_norm=Site(f"{TOWER}layernorm_post"))
        points = blocks(local, int(vision.num_hidden_layers), "vision.")
        return [*points, *blocks(_GLOBAL, int(vision.num_global_layers), "vision.global.")[1:]]

    def context_point(self) -> HookPoint:
        return HookPoint("vision.context", self.d_model, TOKENS, self.connector, 0, "output", "vision", cells="context")

    def hook_points(self) -> list[HookPoint]:
        own, crossing = (
            block_points(table, self.n_layers, self.d_model, self.mlp_width(), heads=self.heads())
            for table in (llama_blocks(self.language), _CROSS)
        )
        found = [*self.vision_points(), self.context_point()]
        looking = {f"blocks.{number}" for number in self.config.cross_attention_layers}
        for plain, crossed in zip(own, crossing, strict=True):
            block, _, site = plain.name.rpartition(".")
            if block not in looking:
                found.append(plain)
                continue
            point = replace(crossed, name=f"{block}.cross_{site}") if site in _ATTENTION else crossed
            found.append(replace(point, stream="vision", cells="context") if site in ("k", "v") else point)
        return found

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        """The tower sees all pictures in turn; what positions look at has as many places for pictures in every sample
        as the one with the most needs."""
        crossing = ".cross_attn." in point.module
        if point.stream != "vision" or not (crossing or any(inputs.sheets)):
            return None
        whose, unit, kind = (x.to(inputs.kind.device) for x in self._rows(point.cells, crossing, inputs.sheets))
        grid = next((sheet.grid for sheet in inputs.sheets if sheet is not None), None)
        return whose, Positions(kind.to(torch.uint8), unit.to(torch.int32), grid, inputs.sheets)

    def _rows_of(self, cells: str, crossing: bool, sheets: Sheets) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [B, P]: which rows are a sample's, what they stand for, and their kinds: of each picture its patches,
        row by row, its tiles' class tokens, and what fills it up; or, where patterns are over them, as these have it.
        """
        # In its blocks, the tower fills up the rows of a tile to a multiple of 8.
        each = self.per_tile if cells == "context" else -(-self.per_tile // 8) * 8
        most = max(1, *(0 if sheet is None else len(sheet.panels) for sheet in sheets))
        rows, units, kinds, turn = [], [], [], 0
        for number, sheet in enumerate(sheets):
            row, unit, kind = ([np.zeros(0, np.int64)] for _ in range(3))
            for at, panel in enumerate(() if sheet is None else sheet.panels):
                tile, place = np.divmod(panel.ranks(), self.cells**2)
                patches, classes = tile * each + 1 + place, np.unique(tile) * each
                own, what = np.full(self.most * each, -1), np.full(self.most * each, int(PositionKind.PAD))
                own[patches] = sheet.units(panel)  # type: ignore[union-attr]
                what[patches], what[classes] = int(PositionKind.IMAGE), int(PositionKind.SPECIAL)
                rest = np.flatnonzero(what == int(PositionKind.PAD))
                order = np.arange(len(own)) if crossing else np.concatenate([patches, classes, rest])
                first = (number * most + at if crossing else turn) * len(own)
                row, unit, kind = [*row, first + order], [*unit, own[order]], [*kind, what[order]]
                turn += 1
            rows.append(np.concatenate(row))
            units.append(np.concatenate(unit))
            kinds.append(np.concatenate(kind))
        whose = stacked(rows)
        return whose, stacked(units), stacked(kinds).masked_fill(whose < 0, int(PositionKind.PAD))

    def written(self, sample: Sample, sheet: Sheet | None) -> list[str]:
        """With a begin token, behind pictures that stand before all text, unless the text has one already."""
        begin, mark = getattr(self.tokenizer, "bos_token", None) or "", self._name(self.image_id)
        first, *others = super().written(sample, sheet)
        if begin and any(begin in piece for piece in (first, *others)):
            return [first, *others]
        text = first
        while mark and text.startswith(mark):
            text = text[len(mark) :]
        return [first[: len(first) - len(text)] + begin + text, *others]

    def numbers(self, texts: Sequence[str], max_tokens: int | None) -> list[list[int]]:
        if self.tokenizer is None:
            return super().numbers(texts, max_tokens)
        rows: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return rows

    def spelled(self, panels: Sequence[Panel]) -> str:
        return self._name(self.image_id)

    def forward(self, inputs: Inputs) -> Tensor:
        marks = (inputs.ids < 0) & inputs.mask
        ids = inputs.ids.masked_fill(marks, self.image_id).clamp(min=0)
        held = inputs.beside.get("pictures", marks.new_zeros(len(ids), dtype=torch.int64))
        owned = torch.arange(max(1, int(held.max())), device=ids.device) < held[:, None]
        looks, some = self._looks(marks, owned, inputs.beside.get("tiles"))
        hidden = self.library.model.language_model(
            input_ids=ids, cross_attention_states=self._seen(inputs, owned), cross_attention_mask=looks,
            full_text_row_masked_out_mask=some, use_cache=False,
        ).last_hidden_state  # fmt: skip
        logits: Tensor = self.library.lm_head(hidden)
        return logits

    def _seen(self, inputs: Inputs, owned: Tensor) -> Tensor:
        """[B · pictures · tiles, rows, width]: what the tower makes of the pictures, zeros where a sample has fewer;
        `owned` bool [B, pictures]."""
        width = self.d_model
        states = torch.zeros(*owned.shape, self.most, self.per_tile, width, dtype=self.dtype, device=owned.device)
        if inputs.pixels is not None:
            tiles = torch.arange(self.most, device=owned.device) < inputs.beside["tiles"][:, None]
            given = self.library.model.vision_model(
                pixel_values=inputs.pixels.reshape(-1, 1, self.most, *inputs.pixels.shape[1:]).to(self.dtype),
                aspect_ratio_ids=inputs.beside["shape"][:, None], aspect_ratio_mask=tiles[:, None].long(),
            ).last_hidden_state  # fmt: skip
            states = states.index_put((owned,), self.library.model.multi_modal_projector(given)[:, 0])
        return states.flatten(0, 2)

    def _looks(self, marks: Tensor, owned: Tensor, tiles: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is added to scores [B, 1, P, pictures · tiles · rows], and [B, 1, P, 1]: 0 where a position has no
        picture before it. A position sees the last picture before it, and those right before that one."""
        most, length = owned.shape[1], marks.shape[1]
        place = torch.arange(length, device=marks.device)
        starts = torch.full(owned.shape, length, device=marks.device)
        starts[owned] = marks.nonzero()[:, 1]
        ends = torch.cat([starts[:, 1:], torch.full_like(starts[:, :1], length)], dim=1)
        for at in reversed(range(most - 1)):
            together = ends[:, at] == starts[:, at] + 1
            ends[:, at] = torch.where(together & owned[:, at + 1], ends[:, at + 1], ends[:, at])
        inside = (starts[:, None] <= place[:, None]) & (place[:, None] < ends[:, None])
        used = owned[..., None] & (torch.arange(self.most, device=marks.device) >= 0)
        if tiles is not None:
            used = used.clone()
            used[owned] = torch.arange(self.most, device=marks.device) < tiles[:, None]
        seen = inside[..., None] & used[:, None]
        some = seen.flatten(2).any(-1)
        # Who sees none looks at all, evenly: at its sample's own, or where there are none at zeros.
        own = (owned | ~owned.any(1, keepdim=True))[:, None, :, None].expand_as(seen)
        allowed = torch.where(some[..., None, None], seen, own).flatten(2).repeat_interleave(self.per_tile, dim=2)
        lowest = torch.finfo(self.dtype).min
        added = torch.zeros(allowed.shape, dtype=self.dtype, device=marks.device).masked_fill(~allowed, lowest)
        return added[:, None], some[:, None, :, None].to(self.dtype)
