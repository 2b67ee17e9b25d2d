"""Where pictures stand in a text: at the places that a sample names, else where its text says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from auditor.data.parts import MARK
from auditor.data.sample import Sample

__all__ = ["MARK", "around_pictures"]


def around_pictures(sample: Sample, marks: Sequence[str] = (MARK,)) -> list[str]:
    """The texts before, between and after a sample's pictures, one more than there are pictures.

    Without places of their own, pictures stand at the first of the `marks` in the text, as many as there are pictures;
    where the text has fewer, the first pictures stand before it. A mark beyond that is text like any other.
    """
    text, count = sample.text or "", len(sample.pictures)
    if sample.places:
        spans = [(place, place) for place in sample.places]
    else:
        pattern = re.compile("|".join(re.escape(mark) for mark in sorted(set(marks), key=len, reverse=True)))
        spans = [found.span() for found in pattern.finditer(text)][:count]
        spans = [(0, 0)] * (count - len(spans)) + spans
    ends = [(0, 0), *spans, (len(text), len(text))]
    return [text[start:stop] for (_, start), (stop, _) in pairwise(ends)]
