"""How many rows samples with pictures will give, told from their texts and the sizes of their pictures, so that a small
recording looks at no more of them than it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from auditor.data.image import ImageRef
from auditor.data.sample import PositionKind, Sample
from auditor.models.hook_points import HookPoint
from auditor.models.model import Model
from auditor.models.pictures import Size


class Needed:
    """Rows of `kinds` (none: of any) that samples have at `hooks`, one of each row group, with texts of at most
    `context` tokens.

    Where the inputs do not tell how many rows a picture has, a grey one of its size is run: one of each size, or two in
    all where those have as many, which is so of a network that reads all at one size.
    """

    def __init__(self, model: Model, hooks: Sequence[str], context: int, kinds: Sequence[PositionKind] = ()) -> None:
        self._model, self._context = model, context
        self._points = [model.hook_points[hook] for hook in hooks]
        self._kinds = [int(kind) for kind in kinds or PositionKind if kind != PositionKind.PAD]
        self._shapes: dict[str, dict[Size, tuple[int, ...]]] = {}

    def rows(self, sample: Sample, sizes: Sequence[Size]) -> int:
        """Of a sample whose pictures have so many rows and columns of pixels; of a text that is longer than the
        context, those of its beginning."""
        blank = _blank(sample, sizes)
        inputs, count = self._model.outlined([blank], self._context), 0
        for point in self._points:
            places = self._model.told(point.name, inputs)
            if places is None and sizes:
                places = self._model.positions(point.name, inputs, self._shape(point, sizes[0]))
            count += 0 if places is None else int(np.isin(places.kind.numpy(), self._kinds).sum())
        return count

    def _shape(self, point: HookPoint, size: Size) -> tuple[int, ...]:
        """Of the hook point's tensor, of one picture of that size."""
        known = self._shapes.setdefault(point.name, {})
        if size not in known:
            if len(known) > 1 and len(set(known.values())) == 1:
                return next(iter(known.values()))
            run = self._model.run([_blank(Sample("grey"), [size])], record=[point.name], logits=False)
            known[size] = tuple(run.records[point.name].shape)
        return known[size]


def _blank(sample: Sample, sizes: Sequence[Size]) -> Sample:
    """The sample with grey pictures of these sizes, which take no memory."""
    if not sizes:
        return sample
    first, *more = (ImageRef(array=np.broadcast_to(np.uint8(127), (*size, 3))) for size in sizes)
    return replace(sample, image=first, more=tuple(more))
