"""Activation chunks of Llamascopium (Language-Model-SAEs): safetensors, one folder a hook point.

Layout (its `ActivationWriter` and `CachedActivationLoader`): `<cache>/<hook point>/chunk-00000000.safetensors`, or
`shard-0-chunk-00000000.safetensors` where several machines wrote; `activation` [samples, context, width] and `tokens`
[samples, context], newer ones `mask` (0 for tokens that are not learned from, here special) and `attention_mask` (0 for
padding, here left out) of the same shape. Beside it `chunk-….meta.json`, a list with what is known of each sample. The
chunks of all hook points hold the same samples. Chunks of the ending .pt are pickles and are not read.

Its target `activations-1d` writes `activation` [positions, width] and `tokens` [positions]: positions of any texts in
any order, without those that mark structure. What stood around one is not known, so that each is a sample of its own
here, and no text is made of its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.intake.arrays import BFLOAT16, ArrayFacts, ArrayFile, open_arrays
from auditor.intake.weights import leads_out, own_of
from auditor.store.formats.source import Piece, Source, widened
from auditor.store.layout import KINDS
from auditor.store.samples import StoredSample

TITLE = "Llamascopium chunks"
_NAME = re.compile(r"(?:shard-(\d{1,9})-)?chunk-(\d{1,12})\.(safetensors|pt)")
_BESIDE = ("tokens", "mask", "attention_mask")
_META_LIMIT = 256 << 20
_APART = "These chunks hold positions without the texts that they stood in, so each is a sample of its own."
_MOST_LABELS, _LONGEST = 20, 500


def recognise(path: Path) -> bool:
    """Whether `path` is the folder of one hook point, or holds such folders."""
    return path.is_dir() and bool(_hook_folders(path))


class Chunks(Source):
    """The samples of all chunks, with all hook points that lie side by side."""

    title = TITLE

    def __init__(self, path: Path) -> None:
        self.path = path
        folders = _hook_folders(path)
        chunks = {hook: _chunks(folder) for hook, folder in folders.items()}
        first, names = next((hook, [file.name for file in files]) for hook, files in chunks.items())
        for hook, files in chunks.items():
            if [file.name for file in files] != names:
                raise AuditorError(f"“{hook}” has other chunks than “{first}”.", "Copy the whole folder again.")
        self._files = {hook: [open_arrays(file) for file in files] for hook, files in chunks.items()}
        shapes = [_shape(file) for file in self._files[first]]
        self._sample_starts = np.cumsum([0] + [samples for samples, _, _ in shapes])
        contexts = np.repeat([context for _, context, _ in shapes], [samples for samples, _, _ in shapes])
        self.row_starts = np.concatenate([[0], np.cumsum(contexts, dtype=np.int64)])
        self.hook_points, kinds = {}, set()
        for hook, opened in self._files.items():
            widths = {_shape(file)[2] for file in opened}
            if len(widths) > 1 or [_shape(file)[:2] for file in opened] != [shape[:2] for shape in shapes]:
                raise AuditorError(f"The chunks of “{hook}” have shapes that differ.", "Cache the activations again.")
            self.hook_points[hook] = widths.pop()
            kinds |= {file.find("activation").dtype for file in opened}
        self.dtype = {frozenset({BFLOAT16}): BFLOAT16, frozenset({"<f2"}): "float16"}.get(frozenset(kinds), "float32")
        self._first, self.told = first, {}
        self.note = _APART if contexts.max() == 1 else ""
        self._meta: tuple[int, list[Any]] = (-1, [])

    def files(self) -> Mapping[str, Path]:
        found = {f"{hook}/{file.path.name}": file.path for hook, files in self._files.items() for file in files}
        return found | {f"{name}:meta": path for name, file in found.items() if (path := _meta_of(file)).is_file()}

    def piece(self, first: int, last: int) -> Piece:
        pieces = []
        for chunk, start in enumerate(self._sample_starts[:-1]):
            begin, end = max(first, int(start)), min(last, int(self._sample_starts[chunk + 1]))
            if begin < end:
                pieces.append(self._of_chunk(chunk, begin - int(start), end - int(start), begin - first))
        return pieces[0] if len(pieces) == 1 else _together(pieces)

    def _of_chunk(self, chunk: int, begin: int, end: int, before: int) -> Piece:
        rows = {}
        for hook, files in self._files.items():
            facts = files[chunk].find("activation")
            held = files[chunk].read("activation", begin, end).reshape(-1, self.hook_points[hook])
            rows[hook] = widened(held, facts.dtype == BFLOAT16)
        file = self._files[self._first][chunk]
        tokens = file.read("tokens", begin, end).reshape(end - begin, -1)
        for hook, files in self._files.items():
            if hook != self._first and (files[chunk].read("tokens", begin, end).reshape(tokens.shape) != tokens).any():
                raise AuditorError(f"{file.path.name} of “{hook}” holds other tokens.", "Cache the activations again.")
        kind = np.full(tokens.shape, KINDS["text"])
        for name, code in (("mask", "special"), ("attention_mask", "pad")):
            if any(facts.path == name for facts in file.datasets):
                kind[file.read(name, begin, end).reshape(tokens.shape) == 0] = KINDS[code]
        samples, context = tokens.shape
        numbers = [int(self._sample_starts[chunk]) + number for number in range(begin, end)]
        if self._meta[0] != chunk:
            self._meta = chunk, _meta(_meta_of(file.path))
        meta = self._meta[1]
        return Piece(
            [_sample(number, meta[at] if at < len(meta) else None) for at, number in enumerate(numbers, begin)],
            rows,
            sample=np.repeat(np.arange(before, before + samples), context),
            unit=np.tile(np.arange(context), samples),
            kind=kind.reshape(-1),
            token=np.clip(tokens.astype(np.int64).reshape(-1), -1, 2**31 - 1),
        )


def _together(pieces: list[Piece]) -> Piece:
    columns = {
        name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("sample", "unit", "kind", "token")
    }
    rows = {hook: np.concatenate([piece.rows[hook] for piece in pieces]) for hook in pieces[0].rows}
    return Piece([sample for piece in pieces for sample in piece.samples], rows, **columns)


def _hook_folders(path: Path) -> dict[str, Path]:
    """Hook point → folder: of `path` itself, or of what it holds."""
    try:
        if any(_NAME.fullmatch(item.name) for item in path.iterdir()):
            return {path.name: path}
        inside = sorted(item for item in path.iterdir() if item.is_dir() and not item.is_symlink())
        return {item.name: item for item in inside if any(_NAME.fullmatch(file.name) for file in item.iterdir())}
    except OSError:
        return {}


def _chunks(folder: Path) -> list[Path]:
    named = [(match, item) for item in folder.iterdir() if (match := _NAME.fullmatch(item.name))]
    if any(match[3] == "pt" for match, _ in named):
        raise AuditorError(
            f"“{folder.name}” holds chunks of the ending .pt, which are pickles.", "Write them as safetensors."
        )
    if led := next((item for _, item in named if leads_out(item, own_of(folder))), None):
        raise AuditorError(f"“{led.name}” is a link that leads out of “{folder.name}”.", "Copy the file itself.")
    return [item for _, item in sorted(named, key=lambda one: (int(one[0][1] or 0), int(one[0][2])))]


def _shape(file: ArrayFile) -> tuple[int, int, int]:
    """Samples, context and width of a chunk. AuditorError unless it holds what it should."""
    held = {facts.path: facts for facts in file.datasets}
    activation = held.get("activation")
    if activation is None or not activation.is_float or len(activation.shape) not in (2, 3) or 0 in activation.shape:
        raise _wrong(file, "activation")
    for name in _BESIDE:
        facts = held.get(name)
        if (facts is not None or name == "tokens") and not _beside(facts, activation):
            raise _wrong(file, name)
    samples, width = activation.shape[0], activation.shape[-1]
    return samples, activation.shape[1] if len(activation.shape) == 3 else 1, width


def _beside(facts: ArrayFacts | None, activation: ArrayFacts) -> bool:
    return facts is not None and facts.is_int and facts.shape == activation.shape[:-1]


def _wrong(file: ArrayFile, what: str) -> AuditorError:
    return AuditorError(
        f"“{file.path.name}” in “{file.path.parent.name}” is no chunk of activations: “{what}” is missing or of "
        "another shape.",
        "Choose the folder that Llamascopium wrote.",
    )


def _meta_of(chunk: Path) -> Path:
    return chunk.with_name(f"{chunk.stem}.meta.json")


def _meta(path: Path) -> list[Any]:
    if not path.is_file():
        return []
    try:
        if path.stat().st_size > _META_LIMIT:
            raise ValueError("too large")
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AuditorError(f"{path.name} of “{path.parent.name}” cannot be read.", "Copy it again.") from error
    return held if isinstance(held, list) else []


def _sample(number: int, meta: Any) -> StoredSample:
    facts = meta if isinstance(meta, dict) else {}
    plain = {str(name)[:80]: str(held) for name, held in facts.items() if isinstance(held, str | int | float)}
    text = plain.pop("text", None)
    labels = {name: plain[name][:_LONGEST] for name in list(plain)[:_MOST_LABELS]}
    return StoredSample(f"sample {number}", group=labels.get("dataset_name", ""), text=text, labels=labels)
