"""LLaVA-OneVision: LLaVA-NeXT over many tiles, whose tokens are joined where there would be too many.

Li et al. 2024, arXiv:2408.03326.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.image_text import Laid, Sheets
from auditor.models.adapters.llava_next import LlavaNextAdapter, Tiling
from auditor.models.hook_points import HookPoint
from auditor.models.inputs import Inputs
from auditor.models.pictures import Size, resampled
from auditor.models.sheets import Box, Panel, Sheet

MOST = "anyres_max_"
# Up to this factor on a side the library leaves tokens as they are.
_LOOSE = 1.1


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """Where a picture's tiles have more cells than so many tiles (`vision_aspect_ratio`), their tokens are resampled to
    fewer, so that a token of the text stands for a larger cell than one of the projector's (`image_tokens`). Of several
    pictures in a sample each is read whole alone, filled up to a square, with one token behind it for its end."""

    family = "llava_onevision"
    config_class = "LlavaOnevisionConfig"
    architectures = ("LlavaOnevisionForConditionalGeneration",)

    def prepares(self, facts: ModelFacts) -> None:
        super().prepares(facts)
        told = str(self.whole.vision_aspect_ratio).removeprefix(MOST)
        if not told.isdecimal() or not 1 <= int(told) <= 1 << 10:
            raise AuditorError(
                f"config.json in “{facts.name}” has no usable vision_aspect_ratio: {self.whole.vision_aspect_ratio}.",
                f"It is written as {MOST}9.",
            )
        self.most = int(told)

    def must_fit(self, sample: Sample, sizes: Sequence[Size]) -> None:
        if len(sizes) < 2:
            super().must_fit(sample, sizes)
            return
        longest, count = self.longest(), len(sizes) * (math.prod(self.grid) + 1)
        if longest is not None and count > longest:
            raise AuditorError(
                f"“{sample.id}” has {len(sizes):,} pictures of {count:,} tokens in all; the model reads at most "
                f"{longest:,}.",
                "Take fewer pictures.",
            )

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        whole, tiled = super().panels(rows, columns)
        high, wide = self.joined_to(tiled)
        return whole, replace(tiled, rows=high, columns=wide)

    def joined_to(self, tiled: Panel) -> Size:
        """Rows and columns of tokens of a picture whose tiles have the cells of `tiled`."""
        ratio = math.sqrt(len(tiled) / (self.most * self.grid[0] ** 2))
        if ratio <= _LOOSE:
            return tiled.rows, tiled.columns
        return int(tiled.rows // ratio), int(tiled.columns // ratio)

    def _sheet(self, shapes: Sequence[tuple[int, ...]]) -> Sheet | None:
        if len(shapes) < 2:
            return super()._sheet(shapes)
        return Sheet.of([Panel(number, _square(*shape[:2]), *self.grid) for number, shape in enumerate(shapes)])

    def parts(self, sheet: Sheet) -> list[tuple[Panel, Tiling | None]]:
        return [(panel, None) for panel in sheet.panels] if _several(sheet) else super().parts(sheet)

    def _cells(self, sheet: Sheet | None) -> list[int]:
        if sheet is None or not _several(sheet):
            return super()._cells(sheet)
        return [unit for panel in sheet.panels for unit in (*sheet.units(panel).tolist(), -1)]

    def spelled(self, panels: Sequence[Panel]) -> str:
        return self._name(self.image_id) * (len(panels[0]) + 1) if len(panels) == 1 else super().spelled(panels)

    def prepare_all(self, pictures: Sequence[Pixels]) -> list[Tensor]:
        if len(pictures) < 2:
            return super().prepare_all(pictures)
        side = self.side, self.side
        return [self._frame(resampled(self._filled(pixels), side, self.rule.resample))[None] for pixels in pictures]

    def _filled(self, pixels: Pixels) -> Pixels:
        """A picture in the middle of a square of the mean colour."""
        top, left, bottom, right = _square(*pixels.shape[:2])
        square = np.empty((bottom - top, right - left, 3), np.uint8)
        square[:] = [int(255 * share) for share in self.rule.mean]
        square[-top : pixels.shape[0] - top, -left : pixels.shape[1] - left] = pixels
        return square

    def beside(self, sheets: Sequence[Sheet | None]) -> Mapping[str, Tensor]:
        """[pictures, 2]: rows and columns of pixels; zeros for one of several in its sample."""
        shapes: list[tuple[int, int]] = []
        for sheet in (sheet for sheet in sheets if sheet is not None):
            shapes += [(0, 0)] * len(sheet.panels) if _several(sheet) else [sheet.panels[0].box[2:]]
        return {"sizes": torch.tensor(shapes)} if shapes else {}

    def sheet_of(self, inputs: Inputs, number: int, hooks: Sequence[HookPoint]) -> Sheet | None:
        sheet = super().sheet_of(inputs, number, hooks)
        return self._full(sheet) if hooks and all(point.stream == "vision" for point in hooks) else sheet

    def _lay(self, cells: str, leading: int, sheets: Sheets) -> Laid:
        return super()._lay(cells, leading, tuple(map(self._full, sheets)))

    def _full(self, sheet: Sheet | None) -> Sheet | None:
        """With the cells of the tower and of the projector, before tokens are joined."""
        return sheet if sheet is None or _several(sheet) else Sheet.of(super().panels(*sheet.panels[0].box[2:]))

    def placed(self, tokens: Tensor, beside: Mapping[str, Any]) -> Tensor:
        found, start = [], 0
        end = self.library.model.image_newline.to(tokens)
        for rows, columns in beside["sizes"].tolist():
            if not rows:
                found += [tokens[start], end[None]]
                start += 1
                continue
            tiling = self.tiling(rows, columns)
            count = tiling.down * tiling.across
            whole, tiles = tokens[start], tokens[start + 1 : start + 1 + count]
            start += 1 + count
            # [width, rows, columns] of all tiles side by side, less what was filled up.
            cells = tiles.reshape(tiling.down, tiling.across, *self.grid, -1).permute(4, 0, 2, 1, 3)
            cells = cells.flatten(1, 2).flatten(2, 3)
            cells = cells[:, tiling.top : tiling.top + tiling.rows, tiling.left : tiling.left + tiling.columns]
            size = self.joined_to(Panel(0, (0, 0, rows, columns), tiling.rows, tiling.columns))
            if size != tuple(cells.shape[1:]):
                cells = interpolate(cells[None], list(size), mode="bilinear")[0]
            cells = torch.cat([cells, end[:, None, None].expand(-1, cells.shape[1], 1)], dim=-1)
            found += [whole, cells.flatten(1).T]
        return torch.cat(found)


def _several(sheet: Sheet) -> bool:
    """Whether it holds several pictures, which are not tiled then."""
    return sheet.panels[-1].picture > 0


def _square(rows: int, columns: int) -> Box:
    """Around a picture of so many pixels, as the library fills it up."""
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    return -top, -left, side - top, side - left
