"""Idefics2: a SigLIP tower over pictures of any shape, whose patches are read by a few latents, and a Mistral.

Laurençon et al. 2024, arXiv:2405.02246.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.decoder import SELF_ATTENTION
from auditor.models.adapters.image_text import ImageTextAdapter, stacked
from auditor.models.adapters.llama import llama_linear_parts
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import TOKENS, Blocks, Heads, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, Positions
from auditor.models.linearise import LinearPart
from auditor.models.pictures import BILINEAR, HALF, LARGEST, Size, picture_rule, processor_config
from auditor.models.sheets import Panel, Sheet

AROUND = "<fake_token_around_image>"
MOST = 1 << 14
"""Patches of a part."""
RESAMPLER = Blocks(
    stack="model.connector.perceiver_resampler.layers",
    embed=Site("model.connector.modality_projection"),
    attn_out=Site("self_attn"),
    resid_mid=Site("post_attention_layernorm", "input", shared=True),
    mlp_hidden=Site("mlp.down_proj", "input"),
    mlp_out=Site("mlp"),
    final_norm=None,
    q=Site("self_attn.q_proj"),
    k=Site("self_attn.k_proj"),
    v=Site("self_attn.v_proj"),
    pattern=SELF_ATTENTION,
    z=Site("self_attn.o_proj", "input"),
    mlp_pre=Site("mlp.gate_proj"),
    mlp_linear=Site("mlp.up_proj"),
)
IDEFICS2: dict[str, Any] = {"size": None, "resample": BILINEAR, "image_mean": HALF, "image_std": HALF}


@dataclass(frozen=True)
class Bounds:
    """The longer side becomes at most `most` pixels, the other follows, and both at least `least`."""

    least: int
    most: int

    def size(self, rows: int, columns: int) -> Size:
        shape = columns / rows
        if columns >= rows and columns > self.most:
            rows, columns = int(self.most / shape), self.most
        elif rows > columns and rows > self.most:
            rows, columns = self.most, int(self.most * shape)
        return max(rows, self.least), max(columns, self.least)


class Idefics2Adapter(ImageTextAdapter):
    """A picture is read whole, and its four quarters before it where the folder's `do_image_splitting` is on; each part
    has its shape and, whatever its size, as many tokens.

    Those tokens are latents that look at all of their part, in the blocks ``resampler.blocks.N``: they are no places in
    the picture, so that a sample's are counted in turn and have no grid. The tower's patches have theirs, and so have
    the latents' keys and values, which are of the part's patches and behind them of the latents themselves.
    """

    family = "idefics2"
    config_class = "Idefics2Config"
    architectures = ("Idefics2ForConditionalGeneration",)
    language = "model.text_model."
    connector = "model.connector"

    def prepares(self, facts: ModelFacts) -> None:
        said = processor_config(facts.folder, {})[1]
        size = said["size"] if isinstance(said.get("size"), dict) else {}
        least, most = size.get("shortest_edge", 378), size.get("longest_edge", 980)
        self.patch = pair(self.whole.vision_config.patch_size)[0]
        usable = all(isinstance(side, int) and self.patch <= side <= LARGEST for side in (least, most))
        if not usable or least > most or (most // self.patch) ** 2 > MOST:
            raise AuditorError(
                f"The preprocessor config in “{facts.name}” wants pictures of {least} to {most} pixels a side.",
                "Copy it again.",
            )
        self.bounds, self.splits = Bounds(least, most), bool(said.get("do_image_splitting", False))
        plain = picture_rule(facts.folder, {**IDEFICS2, "do_resize": False})
        self.rule = replace(plain, size=None, expects=None, crop=None)
        self.latents = int(self.whole.perceiver_config.resampler_n_latents)

    def boxes(self, rows: int, columns: int) -> list[tuple[int, int, int, int]]:
        """The parts of a picture of so many pixels."""
        whole, middle, across = (0, 0, rows, columns), rows // 2, columns // 2
        if not self.splits or not middle or not across:
            return [whole] * (5 if self.splits else 1)
        quarters = [
            (top, left, bottom, right)
            for top, bottom in ((0, middle), (middle, rows))
            for left, right in ((0, across), (across, columns))
        ]
        return [*quarters, whole]

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        """The patches of the parts."""
        found = []
        for box in self.boxes(rows, columns):
            high, wide = self.bounds.size(box[2] - box[0], box[3] - box[1])
            found.append(Panel(0, box, high // self.patch, wide // self.patch))
        return tuple(found)

    def prepare(self, pixels: Pixels) -> list[Tensor]:  # type: ignore[override]
        parts = []
        for top, left, bottom, right in self.boxes(*pixels.shape[:2]):
            part = np.ascontiguousarray(pixels[top:bottom, left:right])
            parts.append(replace(self.rule, size=self.bounds.size(*part.shape[:2])).prepare(part))
        return parts

    def together(self, prepared: Sequence[Any]) -> Tensor:
        """[parts, 3, rows, columns], zeros to the right of a part and below it."""
        parts: list[Tensor] = [part for picture in prepared for part in picture]
        high, wide = (max(part.shape[axis] for part in parts) for axis in (1, 2))
        return torch.stack([pad(part, (0, wide - part.shape[2], 0, high - part.shape[1])) for part in parts])

    def vision_points(self) -> list[HookPoint]:
        tower = tower_points(siglip_vision_blocks("model.vision_model."), self.whole.vision_config, leading=0)
        said = self.whole.perceiver_config
        width, heads = int(said.hidden_size), int(said.resampler_n_heads)
        projected, *points = block_points(
            RESAMPLER, int(said.resampler_depth), width, width * 4, prefix="resampler.", stream="vision",
            heads=Heads(heads, int(said.num_key_value_heads), int(said.resampler_head_dim)),
        )  # fmt: skip
        return [*tower, *self._projection(), replace(projected, name="resampler.context"), *of_latents(points)]

    def _projection(self) -> list[HookPoint]:
        """Of the gated MLP that makes of patches what the latents look at."""
        sites = {"mlp_pre": Site("gate_proj"), "mlp_linear": Site("up_proj"), "mlp_hidden": Site("down_proj", "input")}
        return [
            HookPoint(
                f"projector.{last}", int(self.config.intermediate_size), TOKENS,
                f"{self.connector}.modality_projection.{site.module}", 0, site.tensor, "vision",
            )
            for last, site in sites.items()
        ]  # fmt: skip

    def around(self) -> tuple[str, str]:
        return AROUND, AROUND

    def spelled(self, panels: Sequence[Panel]) -> str:
        return AROUND + f"{self._name(self.image_id) * self.latents}{AROUND}" * len(panels)

    def written(self, sample: Sample, sheet: Sheet | None) -> list[str]:
        pieces = super().written(sample, sheet)
        for at in range(0, len(pieces), 2):
            once = pieces[at].replace(AROUND + AROUND, AROUND)
            pieces[at] = re.sub(rf"{re.escape(AROUND)}(?=[^\s<])", f"{AROUND} ", once)
        return pieces

    def must_fit(self, sample: Sample, sizes: Sequence[Size]) -> None:
        count, longest = self.latents * sum(len(self.boxes(*size)) for size in sizes), self.longest()
        if longest is not None and count > longest:
            raise AuditorError(
                f"“{sample.id}” has {len(sizes):,} pictures of {count:,} tokens in all; the model reads at most "
                f"{longest:,}.",
                "Take fewer pictures.",
            )

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        inputs = super().encode(samples, max_tokens)
        parts = [
            [number, panel.picture, *panel.box, panel.rows, panel.columns]
            for number, sheet in enumerate(inputs.sheets)
            for panel in (() if sheet is None else sheet.panels)
        ]
        # Of the text, pictures have no cells: what lies where is told of the tower alone.
        return replace(inputs, sheets=(), grid=None, beside={"parts": torch.tensor(parts)} if parts else {})

    def copies(self, inputs: Inputs, n: int) -> Inputs:
        many = super().copies(inputs, n)
        if "parts" not in many.beside:
            return many
        parts = torch.cat([inputs.beside["parts"]] * n)
        parts[:, 0] = torch.arange(n, device=parts.device).repeat_interleave(len(inputs.beside["parts"]))
        return replace(many, beside={"parts": parts})

    def sheet_of(self, inputs: Inputs, number: int, hooks: Sequence[HookPoint]) -> Sheet | None:
        """The parts for hook points of the tower, else the whole pictures."""
        sheet = self._parts_of(inputs.beside["parts"].tolist(), number) if "parts" in inputs.beside else None
        if sheet is None or any(point.stream == "vision" and point.cells != "tokens" for point in hooks):
            return sheet
        return Sheet.of([*{panel.picture: panel for panel in sheet.panels}.values()])  # the last of each is the whole

    def _cells(self, sheet: Sheet | None) -> list[int]:
        return list(range(self.latents * (0 if sheet is None else len(sheet.panels))))

    def _inside(self, places: Sequence[int], sheet: Sheet | None) -> int:
        pictures = [panel.picture for panel in (() if sheet is None else sheet.panels) for _ in range(self.latents)]
        ends: dict[int, tuple[int, int]] = {}
        for place, picture in zip(places, pictures, strict=True):
            ends[picture] = ends.get(picture, (place, place))[0], place
        return sum(last - first + 1 for first, last in ends.values())

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        if point.stream != "vision" or "parts" not in inputs.beside:
            return None
        parts = inputs.beside["parts"].tolist()
        tokens = point.cells == "tokens"
        high, wide = max(part[6] for part in parts), max(part[7] for part in parts)
        behind = self.latents if point.cells == "context" else 0
        rows: list[list[int]] = [[] for _ in inputs.samples]
        units: list[list[int]] = [[] for _ in inputs.samples]
        sheets = [self._parts_of(parts, number) for number in range(len(inputs.samples))]
        seen = [0] * len(inputs.samples)
        for turn, (number, *_, down, across) in enumerate(parts):
            if tokens:
                units[number] += range(len(rows[number]), len(rows[number]) + self.latents)
                rows[number] += range(turn * self.latents, (turn + 1) * self.latents)
                continue
            sheet = sheets[number]
            assert sheet is not None
            first = turn * (high * wide + behind)
            rows[number] += [first + y * wide + x for y in range(down) for x in range(across)]
            units[number] += sheet.units(sheet.panels[seen[number]]).tolist()
            rows[number] += range(first + high * wide, first + high * wide + behind)
            units[number] += [-1] * behind
            seen[number] += 1
        device = inputs.kind.device
        whose, unit = (stacked([np.array(row, np.int64) for row in held]).to(device) for held in (rows, units))
        kind = torch.where(unit < 0, int(PositionKind.SPECIAL), int(PositionKind.IMAGE))
        kind = kind.masked_fill(whose < 0, int(PositionKind.PAD)).to(torch.uint8)
        if tokens:
            return whose, Positions(kind, unit.to(torch.int32), None)
        grid = next(sheet.grid for sheet in sheets if sheet is not None)
        return whose, Positions(kind, unit.to(torch.int32), grid, tuple(sheets))

    def _parts_of(self, parts: Sequence[Sequence[int]], sample: int) -> Sheet | None:
        """The patches of a sample's parts, side by side."""
        panels = [
            Panel(picture, (top, left, bottom, right), rows, columns)
            for number, picture, top, left, bottom, right, rows, columns in parts
            if number == sample
        ]
        return Sheet.of(panels) if panels else None

    def features(self, inputs: Inputs) -> Any:
        assert inputs.pixels is not None
        # A part that is all zero would be taken for padding and left out.
        empty = (inputs.pixels == 0).flatten(1).all(dim=1)
        pixels = inputs.pixels + empty[:, None, None, None] * 1e-6
        high, wide = (torch.arange(side, device=pixels.device) // self.patch for side in pixels.shape[2:])
        down, across = inputs.beside["parts"][:, 6:].T
        held = (high < down[:, None])[:, :, None] & (wide < across[:, None])[:, None]
        return self.library.model.get_image_features(pixels[:, None].to(self.dtype), held[:, None])

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, self.language)


def of_latents(points: Iterable[HookPoint]) -> list[HookPoint]:
    """Hook points of a resampler's blocks: its queries are latents, its keys all that they look at."""
    found = []
    for point in points:
        block, _, site = point.name.rpartition(".")
        keys = f"{block}.k" if site == "pattern" else ""
        found.append(replace(point, cells="context" if site in ("k", "v") else "tokens", keys=keys))
    return found
