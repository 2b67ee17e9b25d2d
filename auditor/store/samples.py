"""A sample as a store keeps it: enough to show where any row comes from without the data set it was recorded from."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError

Panel = tuple[int, int, int, int, int]
_RECORD_LIMIT = 64 << 20
_MOST_PATCHES = 4096  # a side


@dataclass(frozen=True)
class View:
    """A sample as one row group has it: a string for each of its rows, and the grid of its patches.

    Where the grid is that of a sheet with several pictures, or parts of one (`auditor.models.sheets`), `panels` has for
    each its picture's number from 0, and the row, the column, the rows and the columns of the grid that it takes.
    `image` is a thumbnail over which this grid lies, where the sample's own shows the pictures in other places.
    """

    tokens: Sequence[str] | None = None
    grid: tuple[int, int] | None = None
    panels: tuple[Panel, ...] = ()
    image: bytes | None = None


@dataclass(frozen=True)
class StoredSample:
    """One text, image or captioned image. `tokens` has one string a row; `image` is a WebP or PNG thumbnail, of all
    pictures side by side where there are several.

    `grid` is (rows, columns) of patches, and `panels` as in `View`. Whoever writes a store of several row groups gives
    these by group in `views`.
    `first_row`, `n_rows` and `batch` are filled in by the store.
    """

    id: str
    group: str = ""
    text: str | None = None
    caption: str | None = None
    tokens: Sequence[str] | None = None
    image: bytes | None = None
    grid: tuple[int, int] | None = None
    panels: tuple[Panel, ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    first_row: int = -1
    n_rows: int = 0
    batch: int = -1

    def place(self, unit: int) -> tuple[int, int, int] | None:
        """Of the patch with that number its picture, counted from 0, and its row and column there; None where there is
        no grid, or no picture in that cell of it."""
        if self.grid is None or not 0 <= unit < self.grid[0] * self.grid[1]:
            return None
        y, x = divmod(unit, self.grid[1])
        for picture, top, left, rows, columns in self.panels or ((0, 0, 0, *self.grid),):
            if top <= y < top + rows and left <= x < left + columns:
                return picture, y - top, x - left
        return None


def pack(sample: StoredSample, batch: int) -> bytes:
    """The compressed record of `sample`, less its image."""
    return packed([sample], batch)[0]


def packed(samples: Sequence[StoredSample], batch: int) -> list[bytes]:
    """The compressed record of each sample of a batch, less its image."""
    # First all that is Python's, then all that is not: a thread that keeps a GPU busy is held up once.
    written = [_written(sample, batch) for sample in samples]
    return [zlib.compress(record, 6) for record in written]


def _written(sample: StoredSample, batch: int) -> bytes:
    record: dict[str, object] = {
        "id": sample.id,
        "group": sample.group,
        "text": sample.text,
        "caption": sample.caption,
        **_viewed(View(sample.tokens, sample.grid, sample.panels)),
        "labels": {str(name): str(value) for name, value in sample.labels.items()},
        "batch": batch,
    }
    if sample.views:
        record["views"] = {group: _viewed(view) for group, view in sample.views.items()}
    return _bounded(_encoded(record))


def _viewed(view: View) -> dict[str, object]:
    return {
        "tokens": None if view.tokens is None else list(view.tokens),
        "grid": None if view.grid is None else [int(side) for side in view.grid],
        **({"panels": [list(panel) for panel in view.panels]} if view.panels else {}),
        **({"image": base64.b64encode(view.image).decode()} if view.image else {}),
    }


def _encoded(record: Mapping[str, object]) -> bytes:
    """Canonical JSON; a lone surrogate (text that was never valid Unicode) becomes the replacement character."""
    try:
        return canonical_json(record)
    except UnicodeEncodeError:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "replace")


def _bounded(data: bytes) -> bytes:
    if len(data) > _RECORD_LIMIT:
        raise AuditorError("A sample of over 64 MiB of text cannot be stored.", "Cut it into shorter samples.")
    return data


def unpack(record: bytes, image: bytes, first_row: int, n_rows: int, where: str, group: str = "") -> StoredSample:
    """The sample of a compressed `record`, as the row group `group` has it; AuditorError names `where` when it is
    damaged."""
    try:
        inflater = zlib.decompressobj()
        data = json.loads(inflater.decompress(record, _RECORD_LIMIT).decode("utf-8"))
        view = data["views"][group] if group else data
        tokens, grid = view["tokens"], view["grid"]
        if grid is not None and not all(0 <= int(side) <= _MOST_PATCHES for side in grid):
            raise ValueError("a grid that no picture has")
        panels = [tuple(int(number) for number in panel) for panel in view.get("panels", [])]
        if any(len(panel) != 5 or not all(0 <= number <= _MOST_PATCHES for number in panel) for panel in panels):
            raise ValueError("a panel that no sheet has")
        image = base64.b64decode(view.get("image", ""), validate=True) or image
        return StoredSample(
            id=str(data["id"]),
            group=str(data["group"]),
            text=None if data["text"] is None else str(data["text"]),
            caption=None if data["caption"] is None else str(data["caption"]),
            tokens=None if tokens is None else [str(token) for token in tokens],
            image=image or None,
            grid=None if grid is None else (int(grid[0]), int(grid[1])),
            panels=tuple((a, b, c, d, e) for a, b, c, d, e in panels),
            labels={str(name): str(value) for name, value in data["labels"].items()},
            first_row=first_row,
            n_rows=n_rows,
            batch=int(data["batch"]),
        )
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
            OverflowError) as error:  # fmt: skip
        raise AuditorError(
            f"{where} is damaged ({type(error).__name__}).", "Check the store, or record it again."
        ) from None


def joined(parts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """`parts` one after the other as uint8 [bytes], and where each ends as int64 [len(parts)]."""
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts), dtype=np.uint8), ends
