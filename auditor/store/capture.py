"""One batch through the network: rows, what stands at each of them, and the samples as a store keeps them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auditor.base.cores import PREPARING
from auditor.base.errors import AuditorError
from auditor.data.parts import MARK
from auditor.data.sample import PositionKind, Sample, with_pixels
from auditor.models.inputs import Inputs, sent
from auditor.models.inputs import Positions as Places
from auditor.models.model import Model, Run
from auditor.models.packing import packed
from auditor.models.tokens import time_string
from auditor.store.reader import Positions
from auditor.store.recipe import RecordConfig, context_of, groups_of
from auditor.store.samples import Panel, StoredSample, View

_PICTURE = "▢"
"""What stands for a picture in a sample's caption: no word, since features are named by words of captions."""


@dataclass(frozen=True)
class Encoded:
    """A batch ready for the network. For each sample its token strings, one a position (times for a sound; None: no
    token at all), and its thumbnail (None: no picture); `apart` has, by row group, thumbnails of those samples whose
    pictures lie otherwise there."""

    inputs: Inputs
    samples: tuple[Sample, ...]
    tokens: list[list[str] | None]
    thumbnails: list[bytes | None] = field(default_factory=list)
    apart: Mapping[str, list[bytes | None]] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Of its tensors, and of its pictures as they were decoded, which may be far larger."""
        decoded = (picture.array for sample in self.inputs.samples for picture in sample.pictures)
        return self.inputs.n_bytes + sum(pixels.nbytes for pixels in decoded if pixels is not None)


@dataclass(frozen=True)
class Captured:
    """The arguments of `StoreWriter.append_groups`: `rows[hook]` float32 or float16 [n, width], and where the rows of
    each group come from."""

    samples: list[StoredSample]
    rows: dict[str, np.ndarray]
    at: dict[str, Positions]

    @property
    def n_rows(self) -> int:
        """Of all groups."""
        return sum(map(len, self.at.values()))


def encode(model: Model, samples: Sequence[Sample], config: RecordConfig) -> Encoded:
    """`samples` as inputs; each picture is decoded once, for the network and for its thumbnail, which shows what the
    network sees of it: a heat map of patches lies right over it. Several pictures of a sample lie side by side."""
    return with_thumbnails(model, with_pictures(model, encode_inputs(model, samples, decoded(samples), config)), config)


def encoders(model: Model) -> int:
    """In how many batches at once texts and sounds may be prepared: a tokenizer serves one thread at a time."""
    return PREPARING if model.tokenizer is None else 1


def decoded(samples: Sequence[Sample]) -> list[Sample]:
    """The beginning of `encode`: `samples` with their pictures in memory."""
    return [with_pixels(sample) for sample in samples]


def encode_inputs(model: Model, samples: Sequence[Sample], seen: Sequence[Sample], config: RecordConfig) -> Encoded:
    """The part of `encode` that takes a tokenizer: inputs without pixels, not packed yet; of the `samples` as `decoded`
    gives them."""
    inputs = model.outlined(seen, config.context)
    return Encoded(inputs, tuple(samples), token_rows(model, inputs))


def with_pictures(model: Model, batch: Encoded) -> Encoded:
    """The batch with its pictures as the network takes them."""
    return replace(batch, inputs=model.pictured(batch.inputs))


def with_thumbnails(model: Model, batch: Encoded, config: RecordConfig) -> Encoded:
    """The rest of `encode`: a thumbnail takes as long as its picture."""
    pictures = [
        model.shown(batch.inputs, number, config.thumbnail, config.hooks) for number in range(len(batch.samples))
    ]
    thumbnails = [None if picture is None else _thumbnail(picture) for picture in pictures]
    groups = groups_of(model, config.hooks)
    apart = {group: _apart(model, batch.inputs, hooks, config) for group, hooks in groups.items() if len(groups) > 1}
    inputs = packed(batch.inputs, context_of(config, model)) if config.pack else batch.inputs
    inputs = inputs.pinned() if model.device.type == "cuda" else inputs
    return replace(batch, inputs=inputs, thumbnails=thumbnails, apart=apart)


def _apart(model: Model, inputs: Inputs, hooks: Sequence[str], config: RecordConfig) -> list[bytes | None]:
    """Of each sample a thumbnail for `hooks` alone, where that of all hook points has its pictures elsewhere."""
    found: list[bytes | None] = []
    for number in range(len(inputs.samples)):
        alike = model.sheet(inputs, number, hooks) == model.sheet(inputs, number, config.hooks)
        picture = None if alike else model.shown(inputs, number, config.thumbnail, hooks)
        found.append(None if picture is None else _thumbnail(picture))
    return found


def capture(model: Model, batch: Encoded, hooks: Sequence[str], config: RecordConfig) -> Captured:
    """Run the network as far as the deepest of `hooks` and take its rows, padding left out."""
    return launch(model, batch, hooks, config).captured()


@dataclass(frozen=True)
class Taken:
    """What a row group has of a batch. Its rows are those of `at` [n] in the flattened `kind` [B, P] and, of each hook
    point, `values` [B, P, width]; or, where a GPU has taken them out and may still be writing, `values` [n, width].
    `sample`, `unit` and `token` [n] are as in `Positions`."""

    at: np.ndarray
    sample: np.ndarray
    unit: np.ndarray
    token: np.ndarray
    kind: Tensor
    values: dict[str, Tensor]
    narrow: bool = False

    def positions(self) -> Positions:
        """Where its rows come from, once the values are there."""
        return Positions(self.sample, self.unit, self.kind.numpy().reshape(-1)[self.at], self.token)

    def rows(self) -> dict[str, np.ndarray]:
        """[n, width] of each hook point, once the values are there: float32, or float16 where a GPU made it so."""
        index = torch.from_numpy(self.at)
        found = {}
        for hook, values in self.values.items():
            if values.ndim == 3:
                values = values.flatten(0, 1).index_select(0, index)
            found[hook] = (values if self.narrow else values.float()).numpy()
        return found


@dataclass(frozen=True)
class Launched:
    """A batch that a GPU may still be busy with: what is known of it, and the values that come with `captured`."""

    samples: list[StoredSample]
    groups: dict[str, Taken]
    arrived: torch.cuda.Event | None

    @property
    def n_rows(self) -> int:
        return sum(len(taken.at) for taken in self.groups.values())

    @property
    def n_bytes(self) -> int:
        """Of the values as they are sent: with the padding, but where a GPU has left it out."""
        return sum(values.nbytes for taken in self.groups.values() for values in taken.values.values())

    def captured(self) -> Captured:
        """Its rows, once they are there. May be asked in another thread than the one that runs the network, and leaves
        little to do there: each call that lets other threads in holds up that one."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return Captured(
            samples=self.samples,
            rows={hook: rows for taken in self.groups.values() for hook, rows in taken.rows().items()},
            at={group: taken.positions() for group, taken in self.groups.items()},
        )


def launch(
    model: Model, batch: Encoded, hooks: Sequence[str], config: RecordConfig, *, narrow: bool = False
) -> Launched:
    """Send a batch through the network as far as the deepest of `hooks`, and what is recorded back, without waiting for
    a GPU: so that it has the next batch before it is done with this one. A GPU leaves padding out itself and, with
    `narrow`, makes rows that are to be stored as float16 so: that is less to send, and less to do for the thread that
    writes."""
    run = model.run(batch.inputs, record=list(hooks), logits=False)
    groups = groups_of(model, hooks)
    taken = {hook: run.rows(hook) for hook in hooks}
    kinds = [kinds_of(run, inside, config) for inside in groups.values()]
    places = {
        group: model.positions(inside[0], batch.inputs, tuple(run.records[inside[0]].shape))
        for group, inside in groups.items()
    }
    stands = {group: np.flatnonzero(found.kind.numpy() != int(PositionKind.PAD)) for group, found in places.items()}
    narrow = narrow and config.store_dtype == "float16" and _selects(model.device)
    if _selects(model.device):
        for group, inside in groups.items():
            index = sent(torch.from_numpy(stands[group]), model.device)
            taken |= {hook: _selected(taken[hook], index, narrow=narrow) for hook in inside}
    copied, arrived = _on_cpu([*kinds, *taken.values()], model.device)
    kind, values = dict(zip(groups, copied, strict=False)), dict(zip(taken, copied[len(groups) :], strict=True))
    found, views = dict[str, Taken](), dict[str, list[View]]()
    for group, inside in groups.items():
        positions, at = places[group], stands[group]
        ids, tokens = _said(model, batch, inside[0], positions)
        document = batch.inputs.document
        found[group] = Taken(
            at,
            at // max(positions.kind.shape[1], 1) if document is None else document.numpy().reshape(-1)[at],
            positions.unit.numpy().reshape(-1)[at],
            ids.numpy().reshape(-1)[at].astype(np.int32),
            kind[group],
            {hook: values[hook] for hook in inside},
            narrow,
        )
        views[group] = [_view(batch, number, group, positions, tokens[number]) for number in range(len(batch.samples))]
    samples = [_stored(batch, number, views) for number in range(len(batch.samples))]
    return Launched(samples, found, arrived)


def _said(model: Model, batch: Encoded, hook: str, positions: Places) -> tuple[Tensor, list[list[str] | None]]:
    """The token number of each position of `hook` [B, P], and what is read there of each sample."""
    stream = model.hook_points[hook].stream
    if stream == "target":
        return batch.inputs.predicted.ids, token_rows(model, batch.inputs.predicted)
    none = torch.full(positions.kind.shape, -1, dtype=torch.int64)
    if stream == "vision":
        return none, [None] * len(batch.samples)
    if stream == "sound":
        return none, [_times(batch.inputs, number, positions) for number in range(len(batch.samples))]
    if stream == "pooled":  # what is read at a whole text's one row is the text
        return none, [None if sample.text is None else [sample.text] for sample in batch.samples]
    return batch.inputs.ids, batch.tokens


def _selects(device: torch.device) -> bool:
    """Whether rows are taken out before they are sent: on a CPU, the thread that writes does it beside the network."""
    return device.type == "cuda"


def _selected(values: Tensor, index: Tensor, *, narrow: bool) -> Tensor:
    """The rows `index` [n] of `values` [B, P, width] on their device, as float16 if they are to be `narrow`."""
    rows = values.flatten(0, 1)
    if len(index) < len(rows):
        rows = rows.index_select(0, index.to(rows.device))
    return rows.to(torch.float16) if narrow else rows


def _on_cpu(tensors: Sequence[Tensor], device: torch.device) -> tuple[list[Tensor], torch.cuda.Event | None]:
    """`tensors` on the CPU, and the event after which they hold their values."""
    if device.type != "cuda":
        return list(tensors), None
    # Only page-locked memory is written while the program goes on.
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(device))
    return copies, arrived


def kinds_of(run: Run, hooks: Sequence[str], config: RecordConfig) -> Tensor:
    """What stands at each position of all `hooks`, uint8 [B, P]: special where it is an attention sink at any of them,
    or where the settings leave the first position out of training. AuditorError where their positions are others."""
    kind = run.positions(hooks[0]).kind
    for hook in hooks[1:]:
        deeper = run.positions(hook).kind
        if deeper.shape != kind.shape:
            raise AuditorError(
                f"“{hooks[0]}” and “{hook}” have other positions, {kind.shape[1]} and {deeper.shape[1]} a sample.",
                "Choose hook points that divide a picture alike, or one of them alone.",
            )
        kind = torch.where(deeper == int(PositionKind.SPECIAL), deeper, kind)
    if config.skip_first and run.model.hook_points[hooks[0]].stream == "text" and kind.shape[1]:
        place = run.inputs.place
        first = torch.arange(kind.shape[1], device=kind.device) == 0 if place is None else place == 0
        kind = kind.masked_fill(first & (kind == int(PositionKind.TEXT)), int(PositionKind.SPECIAL))
    return kind


def token_rows(model: Model, inputs: Inputs) -> list[list[str] | None]:
    """For each sample a string a position: of its token, or the time of its frame in the file; None: neither."""
    # Padding is on the right. Lists, since each call of torch lets other threads in, which holds up the network's.
    rows = [row[:count] for row, count in zip(inputs.ids.tolist(), inputs.mask.sum(1).tolist(), strict=True)]
    found: list[list[str] | None] = []
    for number, row in enumerate(rows):
        said = model.token_strings(row) if max(row, default=-1) >= 0 else None
        times = _times(inputs, number, inputs)
        if said is not None and times is not None:  # sounds among text
            said = [one or other for one, other in zip(said, times, strict=True)]
        found.append(times if said is None else said)
    return found


def _times(inputs: Inputs, number: int, positions: Places | Inputs) -> list[str] | None:
    audio, seconds = inputs.samples[number].audio, inputs.frame_seconds
    if audio is None or not seconds:
        return None
    begin, held = audio.start / audio.facts.rate, positions.kind[number] != int(PositionKind.PAD)
    heard = positions.kind[number] == int(PositionKind.AUDIO)
    frames = positions.unit[number].masked_fill(~heard, -1)[held]
    return ["" if frame < 0 else time_string(begin + frame * seconds) for frame in frames.tolist()]


def _view(batch: Encoded, number: int, group: str, places: Places, tokens: list[str] | None) -> View:
    """A sample as a row group has it."""
    if batch.samples[number].image is None:
        return View(tokens)
    grid, panels = _grid(places, number)
    apart = batch.apart[group][number] if group in batch.apart and grid is not None else None
    return View(tokens, grid, panels, apart)


def _stored(batch: Encoded, number: int, groups: Mapping[str, Sequence[View]]) -> StoredSample:
    sample, views = batch.samples[number], {group: views[number] for group, views in groups.items()}
    first = next(iter(views.values()))
    said = sample.marked.replace(MARK, _PICTURE) if sample.text and sample.image is not None else None
    caption = sample.labels.get("caption") or said
    return StoredSample(
        id=sample.id,
        group=sample.group,
        text=sample.text,
        caption=None if caption is None else str(caption),
        tokens=first.tokens,
        image=batch.thumbnails[number],
        grid=first.grid,
        panels=first.panels,
        views=views if len(views) > 1 else {},
        labels={name: value for name, value in sample.told.items() if name != "caption"},
    )


def _grid(places: Places, number: int) -> tuple[tuple[int, int] | None, tuple[Panel, ...]]:
    """The grid of a sample's patches, and what lies where on it, if that is more than one picture."""
    sheet = places.sheets[number] if places.sheets else None
    if sheet is None or len(sheet.panels) == 1:
        return places.grid_of(number), ()
    return sheet.grid, tuple((one.picture, one.top, one.left, one.rows, one.columns) for one in sheet.panels)


def _thumbnail(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=80, method=4)
    return buffer.getvalue()
