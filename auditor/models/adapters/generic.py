"""Any network that transformers builds by itself: hook points are its modules, under the network's own names."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.library import known
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter
from auditor.models.hook_points import MAP, TOKENS, HookPoint, to_axes
from auditor.models.hooks import Reached
from auditor.models.inputs import Inputs, image_row, padded, text_row
from auditor.models.observed import SAMPLES, Patches, observe, patches, point_of, small_samples
from auditor.models.pictures import VIT, Size, picture_rule
from auditor.models.processors import joined, load_processor, with_images
from auditor.models.sheets import Grid
from auditor.models.tokens import load_tokenizer
from auditor.models.weights import load_transformers

_POSITIONS = 9
_PADDED = ("ids", "mask", "kind", "unit")
# What rounding may change of a text that stands beside a longer one.
_STAYS = 1e-3
_FED = {"input_ids": "text", "pixel_values": "image"}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class GenericAdapter(TextAdapter):
    """Text goes in as token numbers, a picture as pixels; where pictures stand among the text as tokens, the library's
    own processor places them, and without one that works here the text alone is read.

    Hook points are the outputs of modules: of the text, one row a position; of a picture, token rows or maps. What the
    network wants and what comes out of each module is found by one small run.
    """

    family = "generic"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        import transformers

        classes = known(facts.model_type)
        assert classes is not None
        named = [name for name in facts.architectures if name in classes.networks] or list(classes.networks)
        offered = [name for name in named if hasattr(transformers, name) and hasattr(transformers, classes.config)]
        if not offered:
            raise AuditorError(
                f"The installed transformers knows of “{facts.model_type}”, but offers no network of it.",
                "Open the whole model that this is a part of.",
            )
        self.name, self.architecture, self.dtype = facts.name, offered[0], dtype
        self.model_type = facts.model_type
        kind: Any = getattr(transformers, self.architecture)
        self.wanted = inspect.signature(kind.forward).parameters
        reads = self._reads(kind)
        network: Any = load_transformers(facts, classes.config, (self.architecture,), dtype)
        self.network, self.config = network, network.config
        self.left_out, self.image_id = "", _joins(self.config) if reads == {"text", "image"} else None
        self.processor = load_processor(facts.folder) if self.image_id is not None else None
        if self.image_id is not None and self.processor is None:
            reads = frozenset({"text"})
            self.left_out = "Its pictures are left out: the folder has no processor for them that works here."
        self.modalities = reads
        self.causal = "text" in reads and not self.config.is_encoder_decoder and _writes(self.architecture)
        self.tokenizer = load_tokenizer(facts.folder) if "text" in reads else None
        if "image" in reads and self.processor is None:
            self.rule = picture_rule(facts.folder, VIT, _square(self.config))
        text = getattr(self.config, "text_config", None) or self.config
        self.vocabulary = int(getattr(text, "vocab_size", 0) or 2)
        self._grids: dict[str, Grid] = {}
        self.unplaced = 0
        self._points: list[HookPoint] = []
        self._points = self._found()
        self.takes_padding = "text" not in self.modalities or self.processor is not None or self._keeps_padding_out()
        stack = max((m for m in network.modules() if isinstance(m, nn.ModuleList)), key=len, default=())
        self.n_layers = int(getattr(text, "num_hidden_layers", 0) or len(stack))
        self.d_model = int(getattr(text, "hidden_size", 0) or _commonest(self._points))

    def notes(self) -> list[str]:
        """Sentences about what is thinner here than with an adapter."""
        told = f"Auditor has no adapter for “{self.model_type}”: hook points have the network's own names."
        alone = "It runs only texts of one length together: padding would change what it computes."
        unplaced = (
            f"At {self.unplaced} hook points it cannot be told which rows are a picture's patches and which are not (a "
            "class token): all are recorded as patches."
        )
        more = (self.left_out, "" if self.takes_padding else alone, unplaced if self.unplaced else "")
        return [told, *filter(None, more)]

    def hook_points(self) -> list[HookPoint]:
        return self._points

    def grid_of(self, point: HookPoint) -> Grid | None:
        return self._grids.get(point.module)

    def longest(self) -> int | None:
        text = getattr(self.config, "text_config", None) or self.config
        longest = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
        return longest if longest is not None and longest > 0 else None  # XLNet says −1

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        if self.processor is not None:
            return self._joined(samples, max_tokens)
        for sample in samples:
            lacking = [kind for kind in sorted(self.modalities) if getattr(sample, kind) is None]
            if lacking:
                raise AuditorError(
                    f"Sample “{sample.id}” has no {lacking[0]}, and this model reads "
                    f"{' and '.join(f'{kind}s' for kind in sorted(self.modalities))}.",
                    "Leave this sample out, or choose another model.",
                )
        if "text" not in self.modalities:
            return padded([image_row(0) for _ in samples], samples, None, None)
        inputs = super().encode(samples, max_tokens)
        if not self.takes_padding and not bool(inputs.mask.all()):
            raise AuditorError(
                f"“{self.name}” ({self.architecture}) has no way to keep padding out of what it computes, so texts of "
                "different lengths cannot be run together.",
                "Run one text at a time, as with a batch size of 1.",
            )
        return inputs

    def pictured(self, inputs: Inputs) -> Inputs:
        read = self.processor is None and "image" in self.modalities
        return replace(inputs, pixels=self.rule.batch(inputs.samples)) if read else inputs

    def must_take(self, rows: int, columns: int) -> None:
        if "image" in self.modalities:
            self.rule.must_take(rows, columns)

    def must_fit(self, sample: Sample, sizes: Sequence[Size]) -> None:
        if self.processor is None:  # else any number, as the library's processor has it
            super().must_fit(sample, sizes)

    def _joined(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        seen = {sample.image is not None for sample in samples}
        if seen == {False}:
            return super().encode(samples, max_tokens)
        if len(seen) > 1:
            raise AuditorError(
                "This model's pictures are fed by the library's own processor, which takes no batch in which only some "
                "samples have one.",
                "Record them apart.",
            )
        assert self.image_id is not None
        return joined(self.processor, samples, self.image_id, tuple(self.wanted), max_tokens)

    def forward(self, inputs: Inputs) -> Tensor | None:
        fed: dict[str, Any] = {}
        if "text" in self.modalities:
            image_id = self.image_id
            fed["input_ids"] = inputs.ids.clamp(min=0) if image_id is None else with_images(inputs, image_id)
            if "attention_mask" in self.wanted:
                fed["attention_mask"] = inputs.mask.to(torch.int64)
            if "decoder_input_ids" in self.wanted:
                fed["decoder_input_ids"] = self._shifted(fed["input_ids"])
        for name, value in inputs.beside.items():
            fed[name] = value.to(self.dtype) if value.is_floating_point() else value
        if inputs.pixels is not None:
            fed["pixel_values"] = inputs.pixels.to(self.dtype)
        if "use_cache" in self.wanted:
            fed["use_cache"] = False
        output = self._ran(fed, inputs.ids.device)
        for name in ("logits", "logits_per_image"):
            if isinstance(logits := getattr(output, name, None), Tensor):
                return logits
        return None

    def _ran(self, fed: dict[str, Any], device: torch.device) -> Any:
        """What the network gives; where it draws numbers as it runs (ViLT draws patches), the same in every run.
        AuditorError where the library's own code cannot run it on this: some networks take texts of some lengths
        alone."""
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(0)
                return self.network(**fed)
        except (AuditorError, Reached, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            _, *inside = traceback.walk_tb(error.__traceback__)
            ours = any(frame.f_globals["__name__"].startswith("auditor.") for frame, _ in inside)
            if ours or not self._points:  # a hook's or an edit's own fault; or it is being tried
                raise
            raise AuditorError(
                f"“{self.name}” ({self.architecture}) cannot be run on this: {_first_line(error)}.",
                "Try texts or pictures of another length or size.",
            ) from error

    def _reads(self, kind: Any) -> frozenset[str]:
        """What a network of this class is fed. AuditorError if there is nothing that it could be fed."""
        said, main = kind.input_modalities, kind.main_input_name
        reads = {said} if isinstance(said, str) else set(said)
        # Some classes name their main input alone, and are said to read text by default.
        can = frozenset(what for name, what in _FED.items() if name in self.wanted and (what in reads or name == main))
        must = [name for name, p in self.wanted.items() if p.default is p.empty and p.kind in _NAMED]
        foreign = [name for name in (*must, main) if isinstance(name, str) and name not in (*_FED, "self")]
        if foreign or not can:
            raise AuditorError(
                f"“{self.name}” ({self.architecture}) reads {foreign[0] if foreign else ' and '.join(sorted(reads))}, "
                "which only an adapter could feed, and Auditor has none for this family.",
                "Open a network that reads texts or images.",
            )
        return can

    def _shifted(self, ids: Tensor) -> Tensor:
        """A decoder reads the same text, one position later, after its begin token."""
        begin = getattr(self.config, "decoder_start_token_id", None)
        first = torch.full_like(ids[:, :1], int(begin or 0))
        return torch.cat([first, ids[:, :-1]], dim=1)

    def _found(self) -> list[HookPoint]:
        try:
            inputs = self._small()
            seen = observe(self.network, lambda: self.forward(inputs))
        except Exception as error:
            if self.processor is not None:
                self.processor, self.modalities = None, frozenset({"text"})
                self.left_out = "Its pictures are left out: they could not be fed as the folder's processor says."
                return self._found()
            raise AuditorError(
                f"“{self.name}” ({self.architecture}) could not be run on a small input: {_first_line(error)}.",
                "Without an adapter only networks that read token numbers, pixels or both can be opened.",
            ) from error
        positions = inputs.ids.shape[1]
        points = [
            point
            for one in sorted(seen.values(), key=lambda one: one.order)
            if one.tensor == "output" and (point := point_of(one, one.path, positions, self.modalities)) is not None
        ]
        if not points:
            raise AuditorError(
                f"“{self.name}” ({self.architecture}) has no module whose output can be recorded.",
                "It gives no rows of numbers for positions of a text or of a picture.",
            )
        shapes = {one.path: one.shape for one in seen.values() if one.tensor == "output"}
        return self._with_places(points, shapes, inputs)

    def _with_places(
        self, points: list[HookPoint], shapes: Mapping[str, tuple[int, ...]], inputs: Inputs
    ) -> list[HookPoint]:
        """The hook points, those over rows of a picture with what stands before and after its patches."""
        rows = {point.module: shapes[point.module][1] for point in points if _of_picture(point)}
        found: dict[int, Patches] = {}
        pixels = inputs.beside.get("pixel_values") if inputs.pixels is None else inputs.pixels
        if pixels is not None and pixels.ndim == 4 and len(pixels) == SAMPLES:
            shallowest = {count: path for path, count in reversed(rows.items())}
            sides = [shapes[point.module][2:] for point in points if point.axes == MAP]
            maps = {(rows, columns) for rows, columns in sides}
            found = patches(
                self.network, shallowest, lambda other: self.forward(_with_pixels(inputs, other)), pixels,
                _told(self.config, pixels), maps,
            )  # fmt: skip
        placed = []
        for point in points:
            known = found.get(rows.get(point.module, 0))
            if known is not None:
                point = replace(point, leading=known.leading, trailing=known.trailing)
                self._grids |= {} if known.grid is None else {point.module: known.grid}
            placed.append(point)
        self.unplaced = sum(count not in found for count in rows.values())
        return placed

    def _keeps_padding_out(self) -> bool:
        """Whether a text beside a longer one has the values that it has alone, at the deepest of its hook points."""
        deepest = next((point for point in reversed(self._points) if point.stream == "text"), None)
        if deepest is None:
            return True
        together = self._small()
        length = int(together.mask[1].sum())
        alone = replace(together, **{name: getattr(together, name)[[1, 1], :length] for name in _PADDED})
        try:
            wanted, found = (self._rows_at(deepest, inputs)[1, :length].float() for inputs in (alone, together))
        except Exception:  # it runs at some lengths alone
            return False
        error = float((found - wanted).norm() / wanted.norm().clamp(min=1e-9))
        return error <= max(_STAYS, 8 * torch.finfo(self.dtype).eps)

    def _rows_at(self, point: HookPoint, inputs: Inputs) -> Tensor:
        """[B, P, width] at a hook point of the text."""
        seen: list[Tensor] = []
        module = self.network.get_submodule(point.module)
        handle = module.register_forward_hook(
            lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            with torch.no_grad():
                self.forward(inputs)
        finally:
            handle.remove()
        return to_axes(point, seen[0], len(inputs.ids))

    def _small(self) -> Inputs:
        """A small input of all that is read; of texts it has the numbers, for which no tokenizer is needed."""
        if self.processor is not None:
            return self._joined(small_samples(self.modalities), None)
        positions = _POSITIONS if "text" in self.modalities else 0
        ids = [(7 * place + 3) % self.vocabulary for place in range(positions)]
        samples = [Sample(id=f"small {number}") for number in range(SAMPLES)]
        side = (self.rule.expects or (224, 224)) if "image" in self.modalities else None
        pixels = None if side is None else torch.full((SAMPLES, 3, *side), 0.1)
        # One row is shorter, so that padding is tried too.
        rows = [text_row(ids[: len(ids) - 2 * number], frozenset()) for number in range(SAMPLES)]
        return padded(rows, samples, pixels, None)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _writes(architecture: str) -> bool:
    """Whether a class of this name goes on with a text."""
    return any(part in architecture for part in ("CausalLM", "LMHead", "ConditionalGeneration", "MultimodalLM"))


def _joins(config: Any) -> int | None:
    """The number of a picture's tokens, where they stand among those of the text."""
    found = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((int(number) for number in found if number is not None), None)


def _square(config: Any) -> tuple[int, int] | None:
    """The one size of pictures that a config names."""
    parts = (getattr(config, name, None) for name in ("vision_config", "image_config"))
    size = getattr(next((part for part in parts if part is not None), config), "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


def _with_pixels(inputs: Inputs, pixels: Tensor) -> Inputs:
    if inputs.pixels is None:
        return replace(inputs, beside={**inputs.beside, "pixel_values": pixels})
    return replace(inputs, pixels=pixels)


def _of_picture(point: HookPoint) -> bool:
    return point.stream == "vision" and point.axes == TOKENS


def _told(config: Any, pixels: Tensor) -> Grid | None:
    """Rows and columns of patches by the size that a config names."""
    parts = (getattr(config, name, None) for name in ("vision_config", "image_config"))
    side = getattr(next((part for part in parts if part is not None), config), "patch_size", None)
    if isinstance(side, int) and side > 0:
        return pixels.shape[-2] // side, pixels.shape[-1] // side
    return None


def _commonest(points: Sequence[HookPoint]) -> int:
    widths = [point.width for point in points]
    return max(set(widths), key=widths.count)
