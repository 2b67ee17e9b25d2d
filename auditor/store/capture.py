"""One batch through the network: rows, what stands at each of them, and the samples as a store keeps them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auditor.data.image import ImageRef
from auditor.data.sample import PositionKind, Sample
from auditor.models.inputs import Inputs, Positions
from auditor.models.model import Model, Run
from auditor.models.tokens import time_string
from auditor.store.recipe import RecordConfig
from auditor.store.samples import StoredSample


@dataclass(frozen=True)
class Encoded:
    """A batch ready for the network. For each sample its token strings, one a position (times for a sound; None: no
    token at all), and its thumbnail (None: no picture)."""

    inputs: Inputs
    samples: tuple[Sample, ...]
    tokens: list[list[str] | None]
    thumbnails: list[bytes | None]


@dataclass(frozen=True)
class Captured:
    """The arguments of `StoreWriter.append`: `rows[hook]` float [n, width], columns [n]."""

    samples: list[StoredSample]
    rows: dict[str, np.ndarray]
    sample: np.ndarray
    unit: np.ndarray
    kind: np.ndarray
    token: np.ndarray


def encode(model: Model, samples: Sequence[Sample], config: RecordConfig) -> Encoded:
    """`samples` as inputs; each picture is decoded once, for the network and for its thumbnail."""
    decoded = [s if s.image is None else replace(s, image=ImageRef.of(s.image.load())) for s in samples]
    thumbnails = [None if s.image is None else _thumbnail(s.image.load(), config.thumbnail) for s in decoded]
    inputs = model.encode(decoded, config.context)
    return Encoded(inputs, tuple(samples), token_rows(model, inputs), thumbnails)


def capture(model: Model, batch: Encoded, hooks: Sequence[str], config: RecordConfig) -> Captured:
    """Run the network as far as the deepest of `hooks` and take its rows, padding left out."""
    return launch(model, batch, hooks, config).captured()


@dataclass(frozen=True)
class Launched:
    """A batch that a GPU may still be busy with: where its rows are is known, the values come with `captured`."""

    batch: Encoded
    positions: Positions
    mask: Tensor
    ids: Tensor
    tokens: list[list[str] | None]
    kind: Tensor
    rows: dict[str, Tensor]
    arrived: torch.cuda.Event | None

    @property
    def n_rows(self) -> int:
        return int(self.mask.sum())

    def captured(self) -> Captured:
        """Its rows, once they are there. May be asked in another thread than the one that runs the network."""
        if self.arrived is not None:
            self.arrived.synchronize()
        batch, mask, positions = self.batch, self.mask, self.positions
        return Captured(
            samples=[_stored(batch, n, positions.grid, tokens) for n, tokens in enumerate(self.tokens)],
            rows={hook: rows[mask].to(torch.float32).numpy() for hook, rows in self.rows.items()},
            sample=mask.nonzero()[:, 0].numpy(),
            unit=positions.unit[mask].numpy(),
            kind=self.kind[mask].numpy(),
            token=self.ids[mask].to(torch.int32).numpy(),
        )


def launch(model: Model, batch: Encoded, hooks: Sequence[str], config: RecordConfig) -> Launched:
    """Send a batch through the network as far as the deepest of `hooks`, and what is recorded back, without waiting for
    a GPU: so that it has the next batch before it is done with this one."""
    run = model.run(batch.inputs, record=list(hooks), logits=False)
    positions = model.positions(hooks[0], batch.inputs, tuple(run.records[hooks[0]].shape))
    mask, stream = positions.kind != int(PositionKind.PAD), model.hook_points[hooks[0]].stream
    ids, tokens = batch.inputs.ids, batch.tokens
    if stream == "target":
        ids, tokens = batch.inputs.predicted.ids, token_rows(model, batch.inputs.predicted)
    elif stream == "vision":
        ids, tokens = torch.full(mask.shape, -1, dtype=torch.int64), [None] * len(batch.samples)
    taken = {hook: run.rows(hook) for hook in hooks}
    (kind, *rows), arrived = _on_cpu([kinds_of(run, hooks, config), *taken.values()], model.device)
    return Launched(
        batch=batch,
        positions=positions,
        mask=mask,
        ids=ids,
        tokens=tokens,
        kind=kind,
        rows=dict(zip(taken, rows, strict=True)),
        arrived=arrived,
    )


def _on_cpu(tensors: Sequence[Tensor], device: torch.device) -> tuple[list[Tensor], torch.cuda.Event | None]:
    """`tensors` on the CPU, and the event after which they hold their values."""
    if device.type != "cuda":
        return list(tensors), None
    # Only page-locked memory is written while the program goes on.
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return copies, arrived


def kinds_of(run: Run, hooks: Sequence[str], config: RecordConfig) -> Tensor:
    """What stands at each position of all `hooks`, uint8 [B, P]: special where it is an attention sink at any of them,
    or where the settings leave the first position out of training."""
    kind = run.positions(hooks[0]).kind
    for hook in hooks[1:]:
        deeper = run.positions(hook).kind
        kind = torch.where(deeper == int(PositionKind.SPECIAL), deeper, kind)
    if config.skip_first and run.model.hook_points[hooks[0]].stream == "text" and kind.shape[1]:
        kind = kind.clone()
        kind[:, 0] = kind[:, 0].masked_fill(kind[:, 0] == int(PositionKind.TEXT), int(PositionKind.SPECIAL))
    return kind


def token_rows(model: Model, inputs: Inputs) -> list[list[str] | None]:
    """For each sample a string a position: of its token, or the time of its frame of sound; None: neither."""
    return [
        model.token_strings(ids[mask]) if bool((ids >= 0).any()) else _times(unit[mask], inputs.frame_seconds)
        for ids, unit, mask in zip(inputs.ids, inputs.unit, inputs.mask, strict=True)
    ]


def _times(frames: Tensor, seconds: float) -> list[str] | None:
    return [time_string(frame, seconds) for frame in frames.tolist()] if seconds else None


def _stored(batch: Encoded, number: int, grid: tuple[int, int] | None, tokens: list[str] | None) -> StoredSample:
    sample = batch.samples[number]
    caption = sample.labels.get("caption") or (sample.text if sample.image is not None else None)
    return StoredSample(
        id=sample.id,
        group=sample.group,
        text=sample.text,
        caption=None if caption is None else str(caption),
        tokens=tokens,
        image=batch.thumbnails[number],
        grid=grid if sample.image is not None else None,
        labels={name: str(value) for name, value in sample.labels.items() if name != "caption"},
    )


def _thumbnail(pixels: np.ndarray, side: int) -> bytes:
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=80, method=4)
    return buffer.getvalue()
