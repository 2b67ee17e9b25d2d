"""What a network is fed: samples as padded token numbers, pixels and sound, with what stands at each position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from auditor.data.sample import PositionKind, Sample
from auditor.models.sheets import Grid as Grid
from auditor.models.sheets import Sheet


@dataclass(frozen=True)
class Positions:
    """What the rows of a hook point stand for.

    `kind` uint8 [B, P] (a `PositionKind`); `unit` int32 [B, P]: token number in its text, patch number row by row in
    its image, or frame number in its sound, −1 for special tokens and padding; `grid`: rows and columns of patches of
    an image, if any. Where samples have sheets of their own (`auditor.models.sheets`), a patch number is that of a
    cell on the sample's sheet, and `grid` the first sample's; `sheets` [B] has them all.
    """

    kind: Tensor
    unit: Tensor
    grid: Grid | None
    sheets: tuple[Sheet | None, ...] = ()

    def grid_of(self, number: int) -> Grid | None:
        """Rows and columns of patches of the sample with that number in the batch."""
        if not self.sheets:
            return self.grid
        sheet = self.sheets[number]
        return None if sheet is None else sheet.grid


_TENSORS = ("ids", "mask", "kind", "unit", "pixels", "sound", "document", "place")


@dataclass(frozen=True)
class Inputs:
    """An encoded batch, padded on the right.

    `ids` int64 [B, P], −1 at positions of images and sounds and at padding; `mask` bool [B, P], False at padding;
    `kind` and `unit` as in `Positions`; `pixels` float32 [B, 3, H, W] if any sample has an image (zeros in the rows of
    the others, whose result nothing reads), or, with `sheets`, those of all pictures in turn, as the family takes them;
    `grid` of the image tokens, of the first sample that has some. P is 0 where the network reads only images.
    `sound` float32 [B, mel bands, T] are log-mel spectra, of which a position has `frame_seconds`. `target` is the
    sequence of a decoder that reads this one: the logits, and the hook points of the stream ``target``, are at its
    positions. In a packed batch (`auditor.models.packing`) `document` int64 [B, P] says which text a position belongs
    to, −1 at padding, and `place` which position it is there. `beside` are further arguments of a network. `sheets` [B]
    say where the pictures of each sample lie, None for one without, for families that read any number of them.
    `ragged`: whether any position is padding, which need not be asked of a GPU.
    """

    ids: Tensor
    mask: Tensor
    kind: Tensor
    unit: Tensor
    pixels: Tensor | None
    grid: Grid | None
    samples: tuple[Sample, ...]
    sound: Tensor | None = None
    frame_seconds: float = 0.0
    target: Inputs | None = None
    document: Tensor | None = None
    place: Tensor | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    sheets: tuple[Sheet | None, ...] = ()
    ragged: bool | None = None

    def to(self, device: torch.device | str) -> Inputs:
        """The same batch on `device`."""
        target = torch.device(device)
        return self if self.ids.device == target else self._each(lambda tensor: sent(tensor, target))

    def pinned(self) -> Inputs:
        """The same batch in page-locked memory, which a GPU takes it from: so that `to` need not copy it there while
        the GPU waits."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        held = {name: getattr(self, name) for name in _TENSORS}
        changed: dict[str, Any] = {name: None if tensor is None else change(tensor) for name, tensor in held.items()}
        changed["beside"] = {name: change(tensor) for name, tensor in self.beside.items()}
        return replace(self, **changed, target=None if self.target is None else self.target._each(change))

    def copies(self, n: int) -> Inputs:
        """A batch of n times these samples, in turn; ask `Model.copies`, which knows what else a family counts on."""

        def again(tensor: Tensor) -> Tensor:  # a batch of one needs no memory of its own
            return tensor.expand(n, *tensor.shape[1:]) if len(tensor) == 1 else torch.cat([tensor] * n)

        target = None if self.target is None else self.target.copies(n)
        return replace(self._each(again), samples=self.samples * n, sheets=self.sheets * n, target=target)

    @property
    def n_bytes(self) -> int:
        """Of all tensors, less the decoder's."""
        held = (getattr(self, name) for name in _TENSORS)
        return sum(tensor.nbytes for tensor in (*held, *self.beside.values()) if tensor is not None)

    @property
    def predicted(self) -> Inputs:
        """The sequence whose next tokens the logits tell: the decoder's, where there is one."""
        return self.target or self

    @property
    def has_image(self) -> Tensor:
        """bool [B]: which rows hold an image."""
        return sent(torch.tensor([sample.image is not None for sample in self.samples]), self.ids.device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`; to a GPU from page-locked memory, since a plain copy waits until all that came before is done."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Row:
    """One encoded sample before padding: token numbers, kinds and units of its positions."""

    ids: list[int]
    kind: list[int]
    unit: list[int]


def text_row(ids: Sequence[int], special: frozenset[int]) -> Row:
    """Token numbers of a text, its special tokens marked and left out of the count."""
    kinds, units, count = [], [], 0
    for token in ids:
        is_special = token in special
        kinds.append(int(PositionKind.SPECIAL if is_special else PositionKind.TEXT))
        units.append(-1 if is_special else count)
        count += not is_special
    return Row(list(ids), kinds, units)


def image_row(count: int) -> Row:
    """The positions of one image's tokens."""
    return Row([-1] * count, [int(PositionKind.IMAGE)] * count, list(range(count)))


def sound_row(count: int, length: int) -> Row:
    """The positions of a sound of `count` frames, padded to `length`."""
    rest = length - count
    kinds = [int(PositionKind.AUDIO)] * count + [int(PositionKind.PAD)] * rest
    return Row([-1] * length, kinds, [*range(count), *[-1] * rest])


def laid_sounds(samples: Sequence[Sample], counts: Tensor, each: int, step: int) -> tuple[Tensor, Positions]:
    """Where rows of sounds that lie in turn, `each` rows a sound, belong: row numbers int64 [B, P], −1 where there is
    none, and the positions. `counts` [sounds] rows of each are of it, `step` frames apart."""
    held, device = [sample.audio is not None for sample in samples], counts.device
    whose = torch.tensor([sum(held[:number]) if has else -1 for number, has in enumerate(held)], device=device)
    place = torch.arange(int(counts.max()), device=device)
    inside = (whose >= 0)[:, None] & (place < counts[whose.clamp(min=0)][:, None])
    rows = (whose[:, None] * each + place).masked_fill(~inside, -1)
    unit = (place * step).expand_as(rows).masked_fill(~inside, -1).to(torch.int32)
    kind = torch.where(inside, int(PositionKind.AUDIO), int(PositionKind.PAD)).to(torch.uint8)
    return rows, Positions(kind, unit, None)


def joined(*rows: Row) -> Row:
    """Rows one after the other; texts are counted on, so that they read as one text."""
    ids: list[int] = []
    kinds: list[int] = []
    units: list[int] = []
    for row in rows:
        start = sum(kind == PositionKind.TEXT for kind in kinds)
        ids += row.ids
        kinds += row.kind
        units += [
            unit + start if kind == PositionKind.TEXT else unit for unit, kind in zip(row.unit, row.kind, strict=True)
        ]
    return Row(ids, kinds, units)


def padded(rows: Sequence[Row], samples: Sequence[Sample], pixels: Tensor | None, grid: Grid | None) -> Inputs:
    """Rows of any lengths as one batch."""
    longest = max((len(row.ids) for row in rows), default=0)

    def stack(lists: list[list[int]], fill: int, dtype: torch.dtype) -> Tensor:
        filled = [values + [fill] * (longest - len(values)) for values in lists]
        return torch.tensor(filled, dtype=dtype).reshape(len(rows), longest)

    kind = stack([row.kind for row in rows], int(PositionKind.PAD), torch.uint8)
    mask = kind != int(PositionKind.PAD)
    return Inputs(
        ids=stack([row.ids for row in rows], -1, torch.int64),
        mask=mask,
        kind=kind,
        unit=stack([row.unit for row in rows], -1, torch.int32),
        pixels=pixels,
        grid=grid,
        samples=tuple(samples),
        ragged=not bool(mask.all()),
    )
