"""Idefics: a Llama with blocks between its own that look at pictures (Laurençon et al. 2023, arXiv:2306.16527), which
is an open Flamingo (Alayrac et al. 2022, arXiv:2204.14198)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.data.image import Pixels
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import clip_vision_points
from auditor.models.adapters.idefics2 import AROUND, of_latents
from auditor.models.adapters.image_text import ImageTextAdapter, LookedAtAdapter, Sheets, stacked
from auditor.models.adapters.llama import llama_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import PATTERN, TOKENS, Blocks, Cells, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, Positions
from auditor.models.pictures import CLIP, picture_rule
from auditor.models.sheets import Panel, Sheet

IMAGE = "<image>"
TOWER, RESAMPLER, CROSS = "model.vision_model.", "model.perceiver_resampler", "model.gated_cross_attn_layers"
# What a gate lets through is the product with its tanh, which is a module, and no module's output itself.
_CROSS_BLOCKS = Blocks(
    stack=CROSS,
    embed=Site(CROSS),
    attn_out=Site("", "inside", inside="mul", after="act_cross_attn"),
    resid_mid=Site("post_attention_layernorm", "input", shared=True),
    mlp_hidden=Site("mlp.down_proj", "input"),
    mlp_out=Site("", "inside", inside="mul", after="act_dense"),
    final_norm=None,
    q=Site("cross_attn.q_proj"),
    k=Site("cross_attn.k_proj"),
    v=Site("cross_attn.v_proj"),
    pattern=Site("cross_attn", "inside", inside="dropout"),
    z=Site("cross_attn.o_proj", "input"),
    mlp_pre=Site("mlp.gate_proj"),
    mlp_linear=Site("mlp.up_proj"),
)


class IdeficsAdapter(LookedAtAdapter):
    """A picture has one token in the text, which is special. Positions from there to the next picture look at what the
    tower makes of it, or at a few latents that a resampler makes of that (``resampler.blocks.N``), in blocks of their
    own, before every block of the Llama or every second, fourth, ….

    Such a gated block before block N has the names of that with ``cross_``: from ``blocks.N.cross_resid_pre`` over
    ``cross_q``, …, ``cross_attn_out``, ``cross_resid_mid``, …, ``cross_mlp_out`` to ``cross_resid_post``, which is
    ``resid_pre``. ``cross_attn_out`` and ``cross_mlp_out`` are what is added to the stream, behind the gates tanh(α);
    the α are weights, ``….alpha_cross_attn`` and ``….alpha_dense`` of the block's module. Keys and values are at the
    rows of a sample's pictures; a position before the first picture has the same weight for all of them, and nothing is
    added there.
    """

    family = "idefics"
    config_class = "IdeficsConfig"
    architectures = ("IdeficsForVisionText2Text",)
    language = "model."

    def image_number(self) -> int:
        known = self.tokenizer.get_vocab() if self.tokenizer is not None else {}
        return int(known.get(IMAGE, self.whole.vocab_size + self.whole.additional_vocab_size - 1))

    def prepares(self, facts: ModelFacts) -> None:
        vision, side = self.whole.vision_config, pair(self.whole.vision_config.image_size)
        usual = CLIP | {"size": {"height": side[0], "width": side[1]}, "do_center_crop": False}
        self.rule = picture_rule(facts.folder, usual, side)
        self.grid = self.rule.grid(pair(vision.patch_size))
        self.latents = int(self.whole.perceiver_config.resampler_n_latents) if self.whole.use_resampler else 0
        # Every hook point of a batch asks.
        self._rows = lru_cache(maxsize=16)(self._rows_of)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        return (Panel(0, self.rule.seen(rows, columns), *self.grid),)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)[None]

    def table(self) -> Blocks:
        return llama_blocks(self.language)

    def vision_points(self) -> list[HookPoint]:
        return clip_vision_points(self.whole.vision_config, TOWER)

    def hook_points(self) -> list[HookPoint]:
        crossing = self.cross_points()
        found = [*self.vision_points(), *self.resampler_points()]
        for point in super(ImageTextAdapter, self).hook_points():
            found += [*crossing.get(point.name, ()), point]
        return found

    def resampler_points(self) -> list[HookPoint]:
        """Of blocks that are a list of two modules each, called one after the other by the resampler."""
        if not self.latents:
            return []
        said, width = self.whole.perceiver_config, int(self.whole.vision_config.embed_dim)
        heads = int(said.resampler_n_heads)
        inner = heads * int(said.resampler_head_dim)

        def point(name: str, width: int, site: Site, heads: int = 0) -> HookPoint:
            return HookPoint(
                f"resampler.{name}", width, TOKENS if width else PATTERN, site.module, 0, site.tensor, "vision",
                site.shared, inside=site.inside, after=site.after, overwritten=site.overwritten, heads=heads,
            )  # fmt: skip

        def block(number: int) -> Iterator[HookPoint]:
            name, at = f"blocks.{number}.", f"{RESAMPLER}.blocks.{number}"
            yield point(f"{name}resid_pre", width, Site(f"{at}.0.latents_layer_norm", "input", shared=True))
            for site in ("q", "k", "v"):
                yield point(name + site, inner, Site(f"{at}.0.{site}_proj"), heads)
            yield point(f"{name}pattern", 0, Site(f"{at}.0", "inside", inside="softmax"), heads)
            yield point(f"{name}z", inner, Site(f"{at}.0.output_proj", "input"), heads)
            yield point(f"{name}attn_out", width, Site(f"{at}.0"))
            yield point(f"{name}resid_mid", width, _sum_after(f"blocks.{number}.0"))
            yield point(f"{name}mlp_pre", width * 4, Site(f"{at}.1.fc"))
            yield point(f"{name}mlp_hidden", width * 4, Site(f"{at}.1.c_proj", "input"))
            yield point(f"{name}mlp_out", width, Site(f"{at}.1"))
            yield point(f"{name}resid_post", width, _sum_after(f"blocks.{number}.1"))

        points = [each for number in range(int(said.resampler_depth)) for each in block(number)]
        return of_latents([*points, point("final_norm", width, Site(RESAMPLER))])

    def cross_points(self) -> dict[str, list[HookPoint]]:
        """Hook points of the gated blocks, by the name of the one that they stand before."""
        every = int(self.whole.cross_layer_interval)
        points = block_points(
            _CROSS_BLOCKS, self.n_layers // every, self.d_model, self.mlp_width(), heads=self.heads()
        )  # fmt: skip
        cells: Cells = "tokens" if self.latents else "patches"
        found: dict[str, list[HookPoint]] = {}
        for point in points[1:]:
            _, number, site = point.name.split(".")
            block = f"blocks.{int(number) * every}."
            if site in ("k", "v"):
                point = replace(point, stream="vision", cells=cells, leading=0 if self.latents else 1)
            found.setdefault(f"{block}resid_pre", []).append(replace(point, name=f"{block}cross_{site}"))
        return found

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        """The tower and the resampler see all pictures in turn; what positions look at has as many places for pictures
        in every sample as the one with the most needs."""
        crossing = point.module.startswith(CROSS)
        if point.stream != "vision" or not (crossing or any(inputs.sheets)):
            return None
        whose, unit = (held.to(inputs.kind.device) for held in self._rows(point.cells, crossing, inputs.sheets))
        kind = torch.where(unit < 0, int(PositionKind.SPECIAL), int(PositionKind.IMAGE))
        kind = kind.masked_fill(whose < 0, int(PositionKind.PAD)).to(torch.uint8)
        if point.cells == "tokens":
            return whose, Positions(kind, unit.to(torch.int32), None)
        grid = next((sheet.grid for sheet in inputs.sheets if sheet is not None), None)
        return whose, Positions(kind, unit.to(torch.int32), grid, inputs.sheets)

    def _rows_of(self, cells: Cells, crossing: bool, sheets: Sheets) -> tuple[Tensor, Tensor]:
        """int64 [B, P]: which rows are a sample's, and what they stand for, −1: nothing."""
        most = max(1, *(0 if sheet is None else len(sheet.panels) for sheet in sheets))
        rows, units, turn = [], [], 0
        for number, sheet in enumerate(sheets):
            row, own = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
            for at, panel in enumerate(() if sheet is None else sheet.panels):
                own.append(self._units(cells, sheet, panel, at))
                first = (number * most + at if crossing else turn) * len(own[-1])
                row.append(first + np.arange(len(own[-1])))
                turn += 1
            rows.append(np.concatenate(row))
            units.append(np.concatenate(own))
        return stacked(rows), stacked(units)

    def _units(self, cells: Cells, sheet: Sheet | None, panel: Panel, number: int) -> NDArray[np.int64]:
        """What the rows of picture `number` of a sample stand for."""
        if cells == "tokens":
            return number * self.latents + np.arange(self.latents)
        behind = np.full(self.latents if cells == "context" else 0, -1)
        assert sheet is not None
        return np.concatenate([np.full(1, -1), sheet.units(panel), behind])

    def spelled(self, panels: Sequence[Panel]) -> str:
        return f"{AROUND}{self._name(self.image_id)}{AROUND}"

    def written(self, sample: Sample, sheet: Sheet | None) -> list[str]:
        """As the processor does, without spaces around pictures."""
        pieces = super().written(sample, sheet)
        token = re.escape(self.spelled(()))
        for at in range(0, len(pieces), 2):
            pieces[at] = re.sub(f" *({token}) *", r"\1", pieces[at]).replace(AROUND + AROUND, AROUND)
        return pieces

    def forward(self, inputs: Inputs) -> Tensor:
        marks = (inputs.ids < 0) & inputs.mask
        ids = inputs.ids.masked_fill(marks, self.image_id).clamp(min=0)
        counts = marks.sum(1)
        most = max(1, int(counts.max()))
        argument = "perceiver_embeddings" if self.latents else "image_encoder_embeddings"
        seen = {argument: self._seen(inputs, counts, most)}
        # Of each position the last picture before it, which alone it looks at.
        last = marks.cumsum(1) - 1
        looks = (last[..., None] == torch.arange(most, device=last.device)).to(torch.int64)
        logits: Tensor = self.library(
            input_ids=ids, attention_mask=inputs.mask.to(torch.int64), image_attention_mask=looks, use_cache=False,
            **seen,
        ).logits  # fmt: skip
        return logits

    def _seen(self, inputs: Inputs, counts: Tensor, most: int) -> Tensor:
        """[B, pictures, rows, width]: what the tower, or the resampler, makes of the pictures, zeros where a sample has
        fewer."""
        width, rows = int(self.whole.vision_config.embed_dim), self.latents or 1 + self.grid[0] * self.grid[1]
        empty = torch.zeros(len(counts), most, rows, width, dtype=self.dtype, device=counts.device)
        if inputs.pixels is None:
            return empty
        states = self.library.model.vision_model(pixel_values=inputs.pixels.to(self.dtype)).last_hidden_state
        states = self.library.model.perceiver_resampler(states) if self.latents else states
        held = torch.arange(most, device=counts.device) < counts[:, None]
        return empty.masked_scatter(held[..., None, None], states)

    def unembed(self) -> Tensor | None:
        head = self.library.lm_head
        more = [head.additional_fc.weight] if self.whole.additional_vocab_size > 0 else []
        return torch.cat([head.weight, *more]).T

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule("model.norm")


def _sum_after(path: str) -> Site:
    """The residual sum behind what a module of the resampler gives; the next block's edits are written into it."""
    return Site(RESAMPLER, "inside", inside="add", after=path, overwritten=True)
