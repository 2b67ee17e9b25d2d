"""Language models that read pictures' tokens among their text: what their families have in common.

The forward pass is the library's own, from token numbers and what its tower makes of the pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, check_lengths, head_weight
from auditor.models.adapters.llama import llama_blocks
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Site
from auditor.models.inputs import Inputs, Positions, Row, padded, text_row
from auditor.models.marks import MARK, around_pictures
from auditor.models.pictures import Size
from auditor.models.sheets import Box, Panel, Sheet
from auditor.models.tokens import load_tokenizer, special_ids, spelt
from auditor.models.unpacked import nothing_packed
from auditor.models.weights import load_transformers

Sheets = tuple[Sheet | None, ...]


@dataclass(frozen=True)
class Laid:
    """`rows`, `kind` and `unit` int64 [B, P]: which rows of a module are whose, and what they stand for."""

    rows: Tensor
    kind: Tensor
    unit: Tensor
    sheets: Sheets


class ImageTextAdapter(TextAdapter):
    """Pictures stand where the sample has them in its text (see `auditor.data.sample.Sample`), any number of them.

    `max_tokens` counts the begin token and the text with its marks around a picture, never what stands between a
    picture's first token and its last; nothing is cut before the last picture's end.
    """

    modalities = frozenset({"text", "image"})
    language: ClassVar[str] = "model.language_model."
    """Below which the language model's modules are named."""
    connector: ClassVar[str]
    """The module that makes image tokens of what the vision tower gives."""
    inner: ClassVar[tuple[str, str] | None] = None
    """Of a connector that is a small MLP, its linear layers before and after the activation function."""

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.library, self.dtype = network, network, dtype
        self.whole, self.config = network.config, getattr(network.config, "text_config", None) or network.config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        self.image_id = self.image_number()
        self.prepares(facts)
        # Every hook point of a batch asks.
        self._laid = lru_cache(maxsize=16)(self._lay)

    def image_number(self) -> int:
        """Of the token that stands for a picture in the text."""
        return int(self.whole.image_token_id)

    @abstractmethod
    def prepares(self, facts: ModelFacts) -> None:
        """Take from the folder how pictures are prepared."""

    @abstractmethod
    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        """The cells of tokens over a picture of so many pixels. AuditorError where it cannot be read."""

    @abstractmethod
    def prepare(self, pixels: Pixels) -> Tensor:
        """A picture as the tower takes it: the first axis counts its parts, or its patches."""

    def prepare_all(self, pictures: Sequence[Pixels]) -> list[Tensor]:
        """Those of a sample, each as `prepare` does it."""
        return [self.prepare(pixels) for pixels in pictures]

    @abstractmethod
    def vision_points(self) -> list[HookPoint]:
        """Hook points of the vision tower."""

    @property
    def joined(self) -> int:
        """Patches of the tower along a side that become one token."""
        return 1

    @property
    def leading(self) -> int:
        """Tokens that a panel has before its cells."""
        return 0

    def ranks(self, panel: Panel, cells: str) -> NDArray[np.int64]:
        """Of each of a panel's `cells` (patches or tokens), row by row, its place among the rows that the tower's
        modules have for it."""
        return panel.ranks()

    def room(self, panel: Panel, cells: str, most: int) -> int:
        """How many rows the tower's modules have for a panel's `cells`, where the largest of the batch has `most`."""
        return len(panel)

    def image_token_point(self) -> HookPoint:
        return HookPoint(
            "image_tokens", self.d_model, TOKENS, self.connector, 0, "output", "vision", leading=self.leading,
            cells="tokens",
        )  # fmt: skip

    def projector_points(self, name: str = "projector", at: str = "") -> list[HookPoint]:
        """Hook points inside the connector (or another such module `at`), whose output is `image_tokens`."""
        if self.inner is None:
            return []
        first, last = (f"{at or self.connector}.{layer}" for layer in self.inner)
        width = int(self.network.get_submodule(first).out_features)  # type: ignore[arg-type]
        token = replace(self.image_token_point(), width=width)
        return [
            replace(token, name=f"{name}.mlp_pre", module=first),
            replace(token, name=f"{name}.mlp_hidden", module=last, tensor="input"),
        ]

    def around(self) -> tuple[str, str]:
        """What the library's processor writes before and after a picture's tokens."""
        return "", ""

    def marks(self) -> Sequence[str]:
        """What says in a sample's text that a picture stands there."""
        start, end = self.around()
        name = self._name(self.image_id)
        return [f"{start}{name}{end}", MARK] if name else [MARK]

    def behind(self) -> str:
        """What it writes behind the last picture, or before a text without one."""
        return ""

    def spelled(self, panels: Sequence[Panel]) -> str:
        """What the library's processor writes for a picture."""
        start, end = self.around()
        return f"{start}{self._name(self.image_id) * sum(self.leading + len(panel) for panel in panels)}{end}"

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        """What else the network's forward pass is given."""
        return {}

    def features(self, inputs: Inputs) -> Any:
        """What the library makes of all pictures before it puts them among the text; `pooler_output` holds their
        tokens in the order of the text."""
        assert inputs.pixels is not None
        return self.library.model.get_image_features(inputs.pixels.to(self.dtype))

    def table(self) -> Blocks:
        # After image tokens have taken their places: what enters the first block.
        return replace(llama_blocks(self.language), embed=Site(f"{self.language}layers.0", "input"))

    def hook_points(self) -> list[HookPoint]:
        points = [*self.vision_points(), *self.projector_points(), self.image_token_point()]
        return [*points, *super().hook_points()]

    def seen(self, rows: int, columns: int) -> Box:
        return self.panels(rows, columns)[-1].box

    def must_fit(self, sample: Sample, sizes: Sequence[Size]) -> None:
        panels = [panel for size in sizes for panel in self.panels(*size)]
        count, longest = sum(self.leading + len(panel) for panel in panels), self.longest()
        if longest is not None and count > longest:
            raise AuditorError(
                f"“{sample.id}” has {len(sizes):,} pictures of {count:,} tokens in all; the model reads at most "
                f"{longest:,}.",
                "Take fewer or smaller pictures.",
            )

    def must_reach(self, sample: Sample, sizes: Sequence[Size], max_tokens: int) -> None:
        sheet = self._sheet(sizes)
        (ids,) = self._numbers([self.written(sample, sheet)])
        places = self._places(ids, sample, len(self._cells(sheet)))
        inside = self._inside(places, sheet)
        before = places[-1] + 1 - inside if places else 0
        if before > max_tokens:
            raise AuditorError(
                f"“{sample.id}” has {before:,} tokens of text before its last picture, where nothing is cut; the "
                f"context is {max_tokens:,}.",
                "Choose a longer context, or shorter texts.",
            )
        longest = self.longest()
        if longest is not None and before + inside > longest:
            raise AuditorError(
                f"“{sample.id}” has {before:,} tokens of text before its last picture and {inside:,} of pictures; the "
                f"model reads at most {longest:,}.",
                "Take shorter texts, or fewer or smaller pictures.",
            )

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        sheets = [self._sheet([image.load().shape for image in sample.pictures]) for sample in samples]
        texts = [self.written(sample, sheet) for sample, sheet in zip(samples, sheets, strict=True)]
        special = special_ids(self.tokenizer) if self.tokenizer is not None else frozenset()
        rows = [
            self._row(ids, sample, sheet, special, max_tokens)
            for ids, sample, sheet in zip(self._numbers(texts), samples, sheets, strict=True)
        ]
        check_lengths([row.ids for row in rows], self.longest())
        grid = next((sheet.grid for sheet in sheets if sheet is not None), None)
        return replace(padded(rows, samples, None, grid), sheets=tuple(sheets), beside=self.beside(sheets))

    def pictured(self, inputs: Inputs) -> Inputs:
        pictures = [[image.load() for image in sample.pictures] for sample in inputs.samples]
        prepared = [parts for each in pictures for parts in self.prepare_all(each)]
        return replace(inputs, pixels=self.together(prepared)) if prepared else inputs

    def together(self, prepared: Sequence[Tensor]) -> Tensor:
        """What `prepare` made of all pictures of a batch, as the tower takes it."""
        return torch.cat(list(prepared))

    def beside(self, sheets: Sequence[Sheet | None]) -> Mapping[str, Tensor]:
        """Further arguments that come from where the pictures lie."""
        return {}

    def written(self, sample: Sample, sheet: Sheet | None) -> list[str]:
        """The sample's text as the library's processor writes it, with its pictures' tokens; every second piece is one
        that only spells the token of a picture."""
        name = self._name(self.image_id)
        between = around_pictures(sample, self.marks())
        panels = () if sheet is None else sheet.panels
        each = [[panel for panel in panels if panel.picture == number] for number in range(len(between) - 1)]
        pieces = ["" if each else self.behind()]
        for number, text in enumerate(between):
            if number:
                pieces[-1] += self.spelled(each[number - 1]) + (self.behind() if number == len(each) else "")
            plain, *others = text.split(name) if name else [text]
            pieces[-1] += plain
            for other in others:
                pieces += [name, other]
        return pieces

    def _sheet(self, shapes: Sequence[tuple[int, ...]]) -> Sheet | None:
        panels = [
            replace(panel, picture=number)
            for number, shape in enumerate(shapes)
            for panel in self.panels(shape[0], shape[1])
        ]
        return Sheet.of(panels) if panels else None

    def _name(self, number: int) -> str:
        """A token's own text; "" without a tokenizer, or where it knows no such token, which is told elsewhere."""
        known = self.tokenizer is not None and 0 <= number < len(self.tokenizer)
        return (self.tokenizer.convert_ids_to_tokens(number) or "") if known else ""

    def _numbers(self, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Token numbers of what `written` gives."""
        found = self.numbers([text[0] for text in texts], None)
        for ids, (_, *others) in zip(found, texts, strict=True):
            for number, other in enumerate(others):
                ids += self._plain(other) if number % 2 else spelt(self.tokenizer, other, self.image_id)
        return found

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _row(
        self, ids: list[int], sample: Sample, sheet: Sheet | None, special: frozenset[int], max_tokens: int | None
    ) -> Row:
        cells = self._cells(sheet)
        places = self._places(ids, sample, len(cells))
        if max_tokens is not None:
            most, longest = max_tokens + self._inside(places, sheet), self.longest()
            most = most if longest is None else min(most, longest)
            ids = ids[: max(most, places[-1] + 1 if places else 0)]
        row = text_row(ids, special | {self.image_id})
        for place, unit in zip(places, cells, strict=True):
            row.ids[place], row.unit[place] = -1, unit
            row.kind[place] = int(PositionKind.SPECIAL if unit < 0 else PositionKind.IMAGE)
        return row

    def _places(self, ids: Sequence[int], sample: Sample, count: int) -> list[int]:
        """Where in the text image tokens stand. AuditorError unless they are so many."""
        places = [place for place, token in enumerate(ids) if token == self.image_id]
        if len(places) != count:
            raise AuditorError(
                f"The text of sample “{sample.id}” came out with {len(places)} image tokens in the place of {count}.",
                "The model's tokenizer does not know its image token: copy the folder from its source again.",
            )
        return places

    def _cells(self, sheet: Sheet | None) -> list[int]:
        """The number on the sheet of each image token in the order of the text, −1 for those before a panel's cells."""
        found: list[int] = []
        for panel in () if sheet is None else sheet.panels:
            found += [-1] * self.leading + sheet.units(panel)[np.argsort(panel.ranks())].tolist()  # type: ignore[union-attr]
        return found

    def _inside(self, places: Sequence[int], sheet: Sheet | None) -> int:
        """How many positions stand from a picture's first token to its last, over all pictures."""
        ends: dict[int, tuple[int, int]] = {}
        first = 0
        for panel in () if sheet is None else sheet.panels:
            last = first + self.leading + len(panel) - 1
            ends[panel.picture] = (ends.get(panel.picture, (places[first], 0))[0], places[last])
            first = last + 1
        return sum(stop - start + 1 for start, stop in ends.values())

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        if point.stream != "vision" or not any(inputs.sheets):
            return None
        found = self._laid(point.cells, point.leading, inputs.sheets)
        device = inputs.kind.device
        positions = Positions(
            found.kind.to(device, torch.uint8), found.unit.to(device, torch.int32), None, found.sheets
        )
        grid = next(sheet.grid for sheet in found.sheets if sheet is not None)
        return found.rows.to(device), replace(positions, grid=grid)

    def _lay(self, cells: str, leading: int, sheets: Sheets) -> Laid:
        finer = tuple(sheet and sheet.finer(self.joined if cells == "patches" else 1) for sheet in sheets)
        before = np.full(leading, -1)
        most = max((len(panel) for sheet in finer if sheet is not None for panel in sheet.panels), default=0)
        rows, units, start = [], [], 0
        for sheet in finer:
            row, own = [before[:0]], [before[:0]]
            for panel in () if sheet is None else sheet.panels:
                row += [start + np.arange(leading), start + leading + self.ranks(panel, cells)]
                own += [before, sheet.units(panel)]  # type: ignore[union-attr]
                start += leading + self.room(panel, cells, most)
            rows.append(np.concatenate(row))
            units.append(np.concatenate(own))
        whose, cell = stacked(rows), stacked(units)
        kind = torch.where(cell >= 0, int(PositionKind.IMAGE), int(PositionKind.SPECIAL))
        return Laid(whose, kind.masked_fill(whose < 0, int(PositionKind.PAD)), cell, finer)

    def filled(self, inputs: Inputs) -> Tensor:
        """Token numbers int64 [B, P], with those of the tokens that stand for pictures."""
        return inputs.ids.masked_fill((inputs.ids < 0) & inputs.mask, self.image_id).clamp(min=0)

    def forward(self, inputs: Inputs) -> Tensor:
        ids = self.filled(inputs)
        arguments = self.arguments(inputs)
        if inputs.pixels is not None:
            arguments["mm_encoder_outputs"] = {"image": self.features(inputs)}
        mask = inputs.mask.to(torch.int64)
        with nothing_packed(inputs.ragged if inputs.sound is None else None):  # the tower of sounds has its own padding
            logits: Tensor = self.library(input_ids=ids, attention_mask=mask, use_cache=False, **arguments).logits
        return logits

    def unembed(self) -> Tensor | None:
        return head_weight(self.network, "lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{self.language}norm")


class LookedAtAdapter(ImageTextAdapter):
    """Pictures are looked at by blocks of their own, and stand in the text as one token each."""

    def must_fit(self, sample: Sample, sizes: Sequence[Size]) -> None:
        """Any number of pictures: each is one token."""

    def _cells(self, sheet: Sheet | None) -> list[int]:
        return [-1] * (0 if sheet is None else len(sheet.panels))

    def _inside(self, places: Sequence[int], sheet: Sheet | None) -> int:
        return len(places)


def stacked(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    """int64 [B, longest], −1 after the end of each."""
    return nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=-1)
