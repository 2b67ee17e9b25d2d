"""LLaVA-NeXT: LLaVA over a picture as a whole and in tiles that keep its shape (Liu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.image_text import Laid, Sheets, stacked
from auditor.models.adapters.llava import LlavaAdapter
from auditor.models.inputs import Inputs
from auditor.models.pictures import LARGEST, Size, resampled
from auditor.models.sheets import Panel, Sheet

TILES = 64


@dataclass(frozen=True)
class Tiling:
    """A picture in `down` × `across` tiles; `top` and `left` rows and columns of cells stand before those of the
    picture, and `rows` × `columns` are the picture's. `inside`: pixels of the picture there, the rest is zero."""

    down: int
    across: int
    top: int
    left: int
    rows: int
    columns: int
    inside: Size


class LlavaNextAdapter(LlavaAdapter):
    """Of a picture's tokens, those of the whole come first; then those of the tiles, row by row over the picture, each
    row with a token for its end, which is special. Cells that fill up the tiles beside the picture have no tokens; in
    the tower they and the tiles' class tokens are special, and stand after the picture's patches."""

    family = "llava_next"
    config_class = "LlavaNextConfig"
    architectures = ("LlavaNextForConditionalGeneration",)

    def prepares(self, facts: ModelFacts) -> None:
        super().prepares(facts)
        self.side = int(self.whole.vision_config.image_size)
        sizes = self.whole.image_grid_pinpoints
        usable = isinstance(sizes, (list, tuple)) and all(
            isinstance(size, (list, tuple)) and len(size) == 2
            and all(isinstance(n, int) and 0 < n <= LARGEST and n % self.side == 0 for n in size)
            and size[0] * size[1] <= TILES * self.side**2
            for size in sizes
        )  # fmt: skip
        if not sizes or not usable:
            raise AuditorError(
                f"config.json in “{facts.name}” gives impossible sizes of pictures in tiles of {self.side} pixels.",
                "Copy the folder from its source again.",
            )
        if self.leading:
            raise AuditorError(
                f"config.json in “{facts.name}” keeps the tower's class token, which has no place among tiles.",
                "Set vision_feature_select_strategy to “default”, or copy the folder again.",
            )
        self.sizes: list[Size] = [(int(size[0]), int(size[1])) for size in sizes]

    def tiling(self, rows: int, columns: int) -> Tiling:
        """Of a picture of so many pixels, as the library cuts it up."""
        high, wide = max(self.sizes, key=lambda size: _fit(size, rows, columns))
        down, across = high // self.side, wide // self.side
        whole, broad = down * self.grid[0], across * self.grid[1]
        top = left = 0
        if columns / rows > broad / whole:
            top = (whole - int(round(rows * (broad / columns), 7))) // 2
        else:
            left = (broad - int(round(columns * (whole / rows), 7))) // 2
        scales = wide / columns, high / rows
        if scales[0] < scales[1]:
            inside = min(math.ceil(rows * scales[0]), high), wide
        else:
            inside = high, min(math.ceil(columns * scales[1]), wide)
        return Tiling(down, across, top, left, whole - 2 * top, broad - 2 * left, inside)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        whole, tiling = (0, 0, rows, columns), self.tiling(rows, columns)
        return Panel(0, whole, *self.grid), Panel(0, whole, tiling.rows, tiling.columns)

    def prepare(self, pixels: Pixels) -> Tensor:
        tiling, side = self.tiling(*pixels.shape[:2]), self.side
        inside = resampled(pixels, tiling.inside, self.rule.resample)
        gaps = [tiling.down * side - inside.shape[0], tiling.across * side - inside.shape[1]]
        filled = np.pad(inside, [*((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)])
        tiles = [
            filled[top : top + side, left : left + side]
            for top in range(0, filled.shape[0], side)
            for left in range(0, filled.shape[1], side)
        ]
        return torch.stack(
            [self._frame(frame) for frame in (resampled(pixels, (side, side), self.rule.resample), *tiles)]
        )

    def _frame(self, frame: Pixels) -> Tensor:
        """What fills the tower's square already."""
        return replace(self.rule, size=None, crop=None).prepare(np.ascontiguousarray(frame))

    def spelled(self, panels: Sequence[Panel]) -> str:
        return self._name(self.image_id) * sum(map(_tokens, panels[::2], panels[1::2]))

    def must_fit(self, sample: Sample, sizes: Sequence[Size]) -> None:
        count, longest = sum(_tokens(*self.panels(*size)) for size in sizes), self.longest()
        if longest is not None and count > longest:
            raise AuditorError(
                f"“{sample.id}” has {len(sizes):,} pictures of {count:,} tokens in all; the model reads at most "
                f"{longest:,}.",
                "Take fewer or smaller pictures.",
            )

    def _cells(self, sheet: Sheet | None) -> list[int]:
        found: list[int] = []
        for panel, tiling in () if sheet is None else self.parts(sheet):
            units = sheet.units(panel)  # type: ignore[union-attr]
            for row in units.reshape(panel.rows, panel.columns).tolist():
                found += row if tiling is None else [*row, -1]
        return found

    def parts(self, sheet: Sheet) -> list[tuple[Panel, Tiling | None]]:
        """Each panel with its tiling; None for a picture as a whole."""
        return [
            (panel, self.tiling(*panel.box[2:]) if number % 2 else None) for number, panel in enumerate(sheet.panels)
        ]

    def _inside(self, places: Sequence[int], sheet: Sheet | None) -> int:
        return len(places)

    def beside(self, sheets: Sequence[Sheet | None]) -> Mapping[str, Tensor]:
        """Which row of what the projector gives stands at each image token of the text; −1: the end of a row."""
        laid = self._lay("tokens", 0, tuple(sheets))
        found: list[Tensor] = []
        for rows, sheet in zip(laid.rows, sheets, strict=True):
            if sheet is None:
                continue
            cells = torch.tensor(self._cells(sheet))
            found.append(torch.full_like(cells, -1))
            found[-1][cells >= 0] = rows[rows >= 0]
        return {"token_rows": torch.cat(found)} if found else {}

    def copies(self, inputs: Inputs, n: int) -> Inputs:
        many = super().copies(inputs, n)
        rows = {name: tensor.to(many.ids.device) for name, tensor in self.beside(many.sheets).items()}
        return replace(many, beside={**many.beside, **rows})

    def _lay(self, cells: str, leading: int, sheets: Sheets) -> Laid:
        rows: list[np.ndarray] = []
        units: list[np.ndarray] = []
        each, start = leading + math.prod(self.grid), 0
        for sheet in sheets:
            row, unit = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
            for panel, tiling in () if sheet is None else self.parts(sheet):
                if tiling is None:
                    row.append(start + np.arange(each))
                    unit += [np.full(leading, -1), sheet.units(panel)]  # type: ignore[union-attr]
                    start += each
                    continue
                y, x = np.divmod(np.arange(len(panel)), panel.columns)
                y, x = y + tiling.top, x + tiling.left
                tile = y // self.grid[0] * tiling.across + x // self.grid[1]
                held = start + tile * each + leading + y % self.grid[0] * self.grid[1] + x % self.grid[1]
                end = start + tiling.down * tiling.across * each
                rest = np.setdiff1d(np.arange(start, end if cells == "patches" else start), held)
                row += [held, rest]
                unit += [sheet.units(panel), np.full(len(rest), -1)]  # type: ignore[union-attr]
                start = end
            rows.append(np.concatenate(row))
            units.append(np.concatenate(unit))
        whose, unit_of = stacked(rows), stacked(units)
        kind = torch.where(unit_of >= 0, int(PositionKind.IMAGE), int(PositionKind.SPECIAL))
        return Laid(whose, kind.masked_fill(whose < 0, int(PositionKind.PAD)), unit_of, sheets)

    def placed(self, tokens: Tensor, beside: Mapping[str, Any]) -> Tensor:
        with_end = torch.cat([tokens.flatten(0, 1), self.library.model.image_newline[None].to(tokens)])
        return with_end[beside["token_rows"]]


def _tokens(whole: Panel, tiled: Panel) -> int:
    return len(whole) + len(tiled) + tiled.rows


def _fit(size: Size, rows: int, columns: int) -> tuple[int, int]:
    """The better of two sizes for a picture shows more of its pixels, and then wastes fewer."""
    high, wide = size
    scale = min(wide / columns, high / rows)
    shown = min(int(columns * scale) * int(rows * scale), rows * columns)
    return shown, shown - high * wide
