"""A network with named hook points: encode samples, run, record, edit."""

from __future__ import annotations

import contextlib
import copy
import difflib
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import PositionKind, Sample, with_pixels
from auditor.data.tokenizing import taken_apart
from auditor.models.adapters.adapter import Adapter
from auditor.models.aliases import HookPoints, Records
from auditor.models.chat import written
from auditor.models.edits import Edit, bound, exchanged
from auditor.models.hook_points import MAP, TOKENS, HookPoint, as_rows, in_order
from auditor.models.hooks import Reached, handing_on, hooked
from auditor.models.inputs import Inputs, Positions
from auditor.models.linearise import linear_parts_in_place
from auditor.models.observed import PLANE, SAMPLES, Seen, observe, point_of, small_samples
from auditor.models.overlay import Overlay
from auditor.models.pictures import Size
from auditor.models.placement import place, plan
from auditor.models.sheets import Box, Panel, Sheet
from auditor.models.sinks import sinks
from auditor.models.tokens import token_strings
from auditor.models.weights import left_over


@dataclass(frozen=True)
class Run:
    """What one run gave.

    `logits` [B, P, vocabulary] (at the positions of `inputs.predicted`) or [B, classes], None if the run stopped early
    or the network has no head. `records` holds a tensor for each recorded hook point with that point's axes, values
    before any edit there; with no rows (P = 0) for a vision hook point in a batch without images.
    """

    logits: Tensor | None
    records: dict[str, Tensor]
    model: Model
    inputs: Inputs

    def rows(self, name: str) -> Tensor:
        """[B, P, width]; maps are flattened row by row."""
        return as_rows(self.records[name])

    def positions(self, name: str) -> Positions:
        """What the rows of a recorded hook point stand for; attention sinks count as special."""
        found = self.model.positions(name, self.inputs, tuple(self.records[name].shape))
        special, pad = int(PositionKind.SPECIAL), int(PositionKind.PAD)
        ordinary = (found.kind != special) & (found.kind != pad)
        long = sinks(name, self.rows(name), ordinary, self.inputs.document)
        return replace(found, kind=found.kind.masked_fill(long, special))


class Model:
    """A network opened by `auditor.models.open_model`.

    `hook_points` are ordered by depth. `unembed` [d_model, vocabulary] and `final_norm` exist where logits are read off
    the normed residual stream (`readout`), `norm_gain` [d_model] where that norm multiplies each channel.
    `longest_text` is how many tokens it reads at once, None if any number; `longest_sound` how many seconds it hears at
    once, None if it hears nothing. `until` is the deepest hook point
    that it was opened for, None if it is whole; `read_since` the moment (of `time.time`) before which none of its files
    was read. Runs of several threads wait for one another.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        adapter: Adapter,
        device: torch.device,
        *,
        dtype: str = "float32",
        most_bytes: int | None = None,
        overlay: Overlay | None = None,
        laid: tuple[Path, Path] | None = None,
        until: str | None = None,
        read_since: float = 0.0,
    ) -> None:
        self.read_since = read_since
        self.path, self.name, self.device, self.dtype = path, name, device, dtype
        self.family, self.modalities = adapter.family, adapter.modalities
        self.network: nn.Module = adapter.network
        self.notes = (*adapter.notes(), *left_over(self.network))
        self.placement = plan(self.network, device, most_bytes)
        self.brought = place(self.network, self.placement)
        self.overlay = overlay
        self.laid, self.until = laid, until
        self.tokenizer: Any = adapter.tokenizer
        self.n_layers, self.d_model = adapter.n_layers, adapter.d_model
        self.longest_text, self.longest_sound = adapter.longest(), adapter.longest_sound
        self.hook_points = HookPoints(
            in_order(adapter.hook_points()), self.network, self._own_point, normed_after=adapter.normed_after
        )
        whole = until is None
        self.unembed, self.final_norm = (adapter.unembed(), adapter.final_norm()) if whole else (None, None)
        self.norm_gain = adapter.norm_gain() if whole else None
        self._adapter = adapter
        self._lock = threading.RLock()
        self._linear = threading.local()
        self._given = threading.local()
        # A recording asks for every token of every sample.
        self._strings: dict[int, str] = {}
        self._bare = threading.local()
        self._adapter_on = True

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of each of the model's files by its name."""
        return self._hashed[0]

    @property
    def digest(self) -> str:
        """SHA-256 over the folder's files, and over those of the folders that it names; over an adapter and its
        base, or over the base alone where the adapter is off."""
        return self._hashed[1] if self._adapter_on else str(self.parts["base"]["digest"])

    @cached_property
    def _hashed(self) -> tuple[dict[str, str], str]:
        from auditor.models.loading import hashed

        return hashed(self.path, self.laid)

    @property
    def adapter_on(self) -> bool:
        """Whether an adapter that lies over it acts; true of a model that is whole."""
        return self._adapter_on

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Of an adapter laid over a base: name and digest of both, and whether the adapter is `on`; empty for a model
        that is whole."""
        if self.laid is None:
            return {}
        from auditor.models.loading import digest_of

        found: dict[str, dict[str, Any]] = {
            part: {"name": place.name, "digest": digest_of(self.files, f"{part}/", place)}
            for part, place in zip(("adapter", "base"), self.laid, strict=True)
        }
        found["adapter"]["on"] = self._adapter_on
        return found

    def encode(self, samples: Sequence[Sample], max_tokens: int | None = None) -> Inputs:
        """One batch, padded on the right; text longer than `max_tokens` (begin token counted), or then longer than the
        network reads, is cut there; where there are none, the latter is an AuditorError. Conversations are written by
        the model's own template."""
        return self.pictured(self.outlined(samples, max_tokens))

    def outlined(self, samples: Sequence[Sample], max_tokens: int | None = None) -> Inputs:
        """What `encode` does with its tokenizer, in one thread at a time: all but what is made of pictures, of which
        only the sizes are asked, so that they may be blank."""
        if not samples:
            raise AuditorError("There are no samples to encode.", "Choose at least one sample.")
        samples = [with_pixels(sample) for sample in samples]
        for sample in samples:
            if sample.more:
                self.must_fit(sample, [_size(picture.load()) for picture in sample.pictures])
        if max_tokens is not None:
            max_tokens = min(max_tokens, self.longest_text or max_tokens)
        with taken_apart():
            inputs = self._adapter.encode(written(samples, self.tokenizer, self.name), max_tokens)
        self._must_know(inputs)
        return inputs

    def copies(self, inputs: Inputs, n: int) -> Inputs:
        """A batch of n equal rows, of a batch of one sample, which is neither read nor taken apart again."""
        return self._adapter.copies(inputs, n)

    def pictured(self, inputs: Inputs) -> Inputs:
        """The rest of `encode`, for any number of threads at once: pixels as the network takes them."""
        return self._adapter.pictured(inputs)

    def _must_know(self, inputs: Inputs) -> None:
        """AuditorError where the tokenizer has more tokens than the network, and gave one of them."""
        table = None
        with contextlib.suppress(NotImplementedError, AttributeError):  # of networks that read no text
            table = self.network.get_input_embeddings()  # type: ignore[operator]
        words = inputs.ids  # a picture's places may have a number of no token
        if any(sample.image is not None for sample in inputs.samples):
            words = words[inputs.kind != int(PositionKind.IMAGE)]
        if not isinstance(table, nn.Embedding) or not words.numel():
            return
        known = table.num_embeddings + int(getattr(table, "num_additional_embeddings", 0))
        if int(words.max()) >= known:
            raise AuditorError(
                f"The tokenizer of “{self.name}” gave token {int(words.max())}, and the network has {known}.",
                "They are not of one model: copy its folder again.",
            )

    def run(
        self,
        inputs: Inputs | str | Sequence[Sample | str],
        record: Sequence[str] = (),
        edits: Sequence[Edit] = (),
        *,
        grad: bool = False,
        logits: bool = True,
    ) -> Run:
        """Run the network on an encoded batch, or on a text or samples, which are encoded first.

        With `grad`, the shallowest recorded hook points are leaves of the gradient graph and `torch.autograd.grad`
        reaches every recorded tensor. Without `logits`, the run ends after the deepest hook point asked for.
        AuditorError for an unknown hook point, or one that lies behind what the model was opened for.
        """
        batch = (inputs if isinstance(inputs, Inputs) else self.encode(_as_samples(inputs))).to(self.device)
        record = [point.name for point in self._points(record)]
        for edit in edits:
            if edit.hook:
                edit.hook = self._points([edit.hook])[0].name
        edits = bound(edits, self, batch)
        points = self._points([*record, *(edit.hook for edit in edits if edit.hook)])
        self._must_be_there(points, logits)
        stop = None if logits or not points else points[-1].name
        laid = {point.name: self._adapter.laid(point, batch) for point in points}
        whose = {name: found[0] for name, found in laid.items() if found is not None}
        read = {point.name: self._adapter.laid(self.hook_points[point.keys], batch) for point in points if point.keys}
        keys = {name: found[0] for name, found in read.items() if found is not None}
        size = len(batch.samples)
        result: Tensor | None = None
        given = getattr(self._given, "hook", None)
        if given is not None and (left_out := self._adapter.before(given)):
            self._deeper_than(given, points)
            batch = replace(batch, pixels=None)
        else:
            left_out = []
        with (
            self._lock,
            torch.set_grad_enabled(grad),
            self._linear_parts(),
            self._with_overlay(),
            handing_on(self.network, left_out),
            hooked(
                self.network, points, record, edits, batch=size, grad=grad, stop_at=stop, whose=whose, keys=keys
            ) as seen,
            exchanged(edits, self),
            contextlib.suppress(Reached),
        ):
            if logits or points:
                result = self._adapter.forward(batch)
        records, reached = seen
        self._must_be_reached([point for point in points if point.name not in reached], batch)
        for name in record:
            if name not in records:
                records[name] = self._absent(name, batch)
        return Run(result if logits else None, Records(self.hook_points, records), self, batch)

    def _must_be_there(self, points: Sequence[HookPoint], logits: bool) -> None:
        if self.until is None:
            return
        deepest = self.hook_points[self.until].depth
        behind = [point.name for point in points if point.depth > deepest]
        if logits or behind:
            raise AuditorError(
                f"“{self.name}” was opened as far as “{self.until}”, and {behind[0] if behind else 'its logits'} lie "
                "behind it.",
                "Open the whole model.",
            )

    def _must_be_reached(self, points: Sequence[HookPoint], inputs: Inputs) -> None:
        """AuditorError where the network has not come to a hook point of what it was given."""
        for point in points:
            pictured = self.until is not None and point.stream == "vision" and inputs.pixels is not None
            if pictured or (point.stream == "text" and inputs.ids.shape[1]):
                raise AuditorError(
                    f"“{self.name}” computes what it was given without coming to “{point.name}”.",
                    "Choose another hook point; none was recorded or edited.",
                )

    def readout(self, normed: Tensor) -> Tensor:
        """Logits […, vocabulary] of rows of `final_norm`: their product with `unembed`, and the bias or soft cap that
        some families have after it. Only where there is an `unembed`."""
        return self._adapter.readout(normed)

    def beyond(self, hook: str) -> str:
        """Why what is read after `hook` of the residual stream comes not through it alone, as the end of a sentence; ""
        where it does: of several streams side by side one, or keys and values that later blocks read."""
        return self._adapter.beyond(hook)

    def scaled(self, hook: str) -> float:
        """What a unit written to the residual stream at `hook` is when it comes to the last norm: not 1 where blocks
        multiply what they write (Granite) or the stream (Gemma 4)."""
        return self._adapter.scaled(hook)

    @contextlib.contextmanager
    def linearised(self) -> Iterator[None]:
        """Runs of this thread inside the block have unchanged values and linear gradients (`auditor.models.linearise`).

        AuditorError for a family that lacks it.
        """
        if not self._adapter.linear_parts():
            raise AuditorError(
                f"Linearised runs are not available for the {self.family} family.",
                "Use a model of a family that docs/families.md lists as linearised, such as Llama.",
            )
        before = getattr(self._linear, "on", False)
        self._linear.on = True
        try:
            yield
        finally:
            self._linear.on = before

    @contextlib.contextmanager
    def without_overlay(self) -> Iterator[None]:
        """Runs of this thread inside the block are those of the base, bit for bit, as if no adapter lay over it."""
        before = getattr(self._bare, "on", False)
        self._bare.on = True
        try:
            yield
        finally:
            self._bare.on = before

    def switched(self, adapter: str) -> Model:
        """This model with the adapter that lies over it “on”, or “off”: the base, whose digest it then has, in the same
        memory. AuditorError for a model without one that is to be off."""
        if adapter == "on" or not self._adapter_on:
            return self
        if self.overlay is None:
            raise AuditorError(
                f"No adapter lies over “{self.name}” that could be switched off.", "Choose on, or open an adapter."
            )
        base = copy.copy(self)
        base._adapter_on, base.name = False, f"{self.name}-off"
        return base

    @contextlib.contextmanager
    def given(self, hook: str) -> Iterator[None]:
        """Runs of this thread inside the block leave out what only serves the values at `hook`, where the family knows
        what that is: each must put them there itself, by an edit of all rows. AuditorError for an edit or a record of
        something shallower."""
        before = getattr(self._given, "hook", None)
        self._given.hook = self._points([hook])[0].name
        try:
            yield
        finally:
            self._given.hook = before

    def seen(self, rows: int, columns: int) -> Box:
        """The part that the network sees of a picture of so many pixels, over which the grids of its patches lie."""
        return self._adapter.seen(rows, columns)

    def shown(self, inputs: Inputs, number: int, side: int, hooks: Sequence[str] = ()) -> Pixels | None:
        """What the network sees of the pictures of a sample of the batch, side by side if there are several, of about
        `side` pixels each; None for a sample without any. The grids of patches or tokens at `hooks` lie right over
        it."""
        sample = inputs.samples[number]
        if sample.image is None:
            return None
        pictures = [picture.load() for picture in sample.pictures]
        sheet = self.sheet(inputs, number, hooks)
        if sheet is None:
            sheet = Sheet.of([Panel(0, self.seen(*_size(pictures[0])), 1, 1)])
        return sheet.drawn(pictures, side)

    def sheet(self, inputs: Inputs, number: int, hooks: Sequence[str] = ()) -> Sheet | None:
        """Where the pictures of a sample of the batch lie as `shown` shows them; None for one that is read whole."""
        return self._adapter.sheet_of(inputs, number, self._points(hooks))

    def must_fit(self, sample: Sample, sizes: Sequence[Size], max_tokens: int | None = None) -> None:
        """AuditorError where the network cannot read the pictures of a sample, which have so many rows and columns of
        pixels: too many of them, one of a shape that it does not take, or the last behind more than `max_tokens` of
        text, which is never cut before its pictures."""
        self._adapter.must_fit(sample, sizes)
        if max_tokens is not None and sizes:
            with taken_apart():
                self._adapter.must_reach(sample, sizes, max_tokens)

    def token_strings(self, ids: Iterable[int] | Tensor) -> list[str]:
        """A readable string for each token number, a leading space kept; "" at image positions and padding."""
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        known = self._strings
        try:
            return list(map(known.__getitem__, numbers))
        except KeyError:
            new = sorted(set(numbers).difference(known))
        known.update(zip(new, token_strings(self.tokenizer, new), strict=True))
        return list(map(known.__getitem__, numbers))

    def told(self, hook: str, inputs: Inputs) -> Positions | None:
        """`positions` where a batch tells them without being run, even one that is only `outlined`; else None."""
        point = self._points([hook])[0]
        if point.stream in ("text", "target"):
            sequence = inputs.predicted if point.stream == "target" else inputs
            return Positions(sequence.kind, sequence.unit, sequence.grid, sequence.sheets)
        laid = self._adapter.laid(point, inputs)
        return None if laid is None else laid[1]

    def positions(self, hook: str, inputs: Inputs, shape: tuple[int, ...]) -> Positions:
        """What the rows of `hook` stand for, whose recorded tensor has `shape`."""
        if (told := self.told(hook, inputs)) is not None:
            return told
        point = self._points([hook])[0]
        if shape[0] != len(inputs.samples):
            raise AuditorError(
                f"“{hook}” of “{self.name}” has rows for each picture apart, and a sample here has several.",
                "Choose a hook point of the text, or samples of one picture.",
            )
        count = 1
        for size in shape[1:-1]:
            count *= size
        grid = (shape[1], shape[2]) if point.axes == MAP else self._adapter.grid_of(point)
        unit = torch.arange(count, dtype=torch.int32, device=inputs.kind.device) - point.leading
        unit = unit.masked_fill(unit >= count - point.leading - point.trailing, -1)
        kind = torch.where(unit >= 0, int(PositionKind.IMAGE), int(PositionKind.SPECIAL)).to(torch.uint8)
        seen = inputs.has_image[:, None]
        # Plain numbers: a tensor of one would be sent to the GPU, which is waited for.
        kinds = torch.where(seen, kind, int(PositionKind.PAD))
        units = torch.where(seen, unit.clamp(min=-1), -1)
        return Positions(kinds, units, grid)

    def _deeper_than(self, hook: str, points: Sequence[HookPoint]) -> None:
        for point in points:
            if point.depth < self.hook_points[hook].depth:
                raise AuditorError(
                    f"“{point.name}” is not computed where “{hook}” is given.", "Choose a deeper hook point."
                )

    def _points(self, names: Iterable[str]) -> list[HookPoint]:
        found = []
        for name in dict.fromkeys(names):
            if name not in self.hook_points:
                close = difflib.get_close_matches(name, self.hook_points, 3)
                hint = f"Did you mean {', '.join(close)}?" if close else "See the model's list of hook points."
                raise AuditorError(f"“{self.name}” has no hook point “{name}”.", hint)
            found.append(self.hook_points[name])
        return sorted(found, key=lambda point: point.depth)

    def _own_point(self, name: str) -> HookPoint | None:
        """The hook point of a module that is none of the listed ones: its output, or with ``.input`` what it is given.
        Widths and the place in the order of the run are those of one small run."""
        path = name.removesuffix(".input")
        try:
            self.network.get_submodule(path)
        except AttributeError:
            return None
        if self.modalities == {"audio"}:  # there is no small sound to run
            return None
        seen = self._modules.get((path, "output" if path == name else "input"))
        if seen is None:
            return None
        small = self._small
        pictures = len(small.pixels) if small.sheets and small.pixels is not None else SAMPLES
        found = point_of(seen, name, small.ids.shape[1], self.modalities, pictures)
        if found is None:
            return None
        if found.stream == "vision" and (small.sheets or found.axes == TOKENS):
            like = self._listed_with(math.prod(seen.shape[2:] if found.axes == MAP else seen.shape[1:-1]))
            if small.sheets and (like is None or found.axes == PLANE):
                return None
            if like is not None:
                found = replace(found, axes=TOKENS, leading=like.leading, trailing=like.trailing, cells=like.cells)
        before = [
            point.depth
            for point in self.hook_points.values()
            if (one := self._modules.get((point.module, point.tensor))) is not None and one.order < seen.order
        ]
        # Between its neighbours: an order of its own among those that follow the same listed point.
        return replace(found, depth=max(before, default=-1) + (seen.order + 1) / (len(self._modules) + 2))

    def _listed_with(self, rows: int) -> HookPoint | None:
        """A listed hook point with so many rows a picture: it knows what stands before the first patch and after the
        last."""
        for point in self.hook_points.values():
            one = self._modules.get((point.module, point.tensor)) if point.stream == "vision" else None
            if one is not None and len(one.shape) == 3 and one.shape[1] == rows:
                return point
        return None

    @cached_property
    def _small(self) -> Inputs:
        return self.encode(small_samples(self.modalities))

    @cached_property
    def _modules(self) -> dict[tuple[str, str], Seen]:
        with self._lock:
            return observe(self.network, lambda: self._adapter.forward(self._small.to(self.device)))

    @contextlib.contextmanager
    def _with_overlay(self) -> Iterator[None]:
        """The adapter acts in this run, unless this thread left it out; entered with the lock held."""
        if self.overlay is None:
            yield
            return
        self.overlay.on = self._adapter_on and not getattr(self._bare, "on", False)
        try:
            yield
        finally:
            self.overlay.on = True

    def _absent(self, name: str, inputs: Inputs) -> Tensor:
        """No rows: the hook point lies in a part of the network that this batch did not reach."""
        point = self.hook_points[name]
        axes = [0] * (len(point.axes) - 2)
        return torch.zeros(len(inputs.samples), *axes, point.width, device=self.device)

    def _linear_parts(self) -> contextlib.AbstractContextManager[None]:
        if getattr(self._linear, "on", False):
            return linear_parts_in_place(self.network, self._adapter.linear_parts())
        return contextlib.nullcontext()


def _size(pixels: Any) -> Size:
    return int(pixels.shape[0]), int(pixels.shape[1])


def _as_samples(given: str | Sequence[Sample | str]) -> list[Sample]:
    each = [given] if isinstance(given, str) else given
    return [Sample(id=str(n), text=item) if isinstance(item, str) else item for n, item in enumerate(each)]
