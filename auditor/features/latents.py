"""Latents that delphi cached, as an index: which features fire at which tokens, without a dictionary or activations.

Layout (delphi 0.1.3, `LatentCache.save_splits` and `save_config`): `<hook point>/<first>_<last>.safetensors` with
`locations` uint16 or uint32 [N, 3] (sequence, token, latent less `first`), `activations` float16 [N], of which those
within 1e-5 of zero were dropped, and `tokens` [sequences, context]; `<hook point>/config.json` with the model's name.
Or (`LatentCache.save`) one `<hook point>.safetensors` of all latents, float32, which does not say how many there are:
those up to the last one that fires.
What is below zero is left out, as an index shows what fires. There are no decoder directions, so no nearest features
and no effects on the logits. `hookpoint_firing_counts.pt` is a pickle and not read.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor import __version__
from auditor.base.digest import digest_files, digest_json
from auditor.base.errors import AuditorError
from auditor.base.files import partial
from auditor.base.reporter import Reporter
from auditor.features.build import BuildConfig, write_all
from auditor.features.codes import grouped
from auditor.features.corpus import read_corpus
from auditor.features.decoder import LogitEffects
from auditor.features.examples import IMAGE, TEXT
from auditor.features.index import Index, open_index
from auditor.features.writer import IndexWriter
from auditor.intake.arrays import ArrayFile, array_names, open_arrays
from auditor.intake.weights import leads_out, own_of
from auditor.store.formats.source import Vocabulary
from auditor.store.layout import KINDS, Manifest
from auditor.store.reader import Store
from auditor.store.samples import StoredSample
from auditor.store.shards import Runs

_NAME = re.compile(r"(\d{1,9})_(\d{1,9})\.safetensors")
_AT_ONCE = 1 << 20
_MOST_FEATURES = 1 << 24
_CONFIG_BYTES = 1 << 20
_TOLD = ("model_name", "dataset_repo", "dataset_split", "dataset_name", "cache_ctx_len", "n_tokens")


def latents_in(path: Path) -> dict[str, Path]:
    """Hook point → folder of its latents, or the file of all, at or right below `path`; empty where there are none."""
    if path.is_file():
        return {path.stem: path} if _is_whole(path) else {}
    if _splits(path):
        return {path.name: path}
    inside = sorted(item for item in path.iterdir() if not item.is_symlink()) if path.is_dir() else []
    found = {item.name: item for item in inside if item.is_dir() and _splits(item)}
    return found or {item.stem: item for item in inside if _is_whole(item)}


def index_latents(
    folder: Path,
    out: Path,
    vocabulary: Vocabulary | None = None,
    reporter: Reporter | None = None,
    config: BuildConfig | None = None,
) -> Index:
    """Build the index of the latents in `folder`, or of the file of all, into the new folder `out` and open it.

    Without a `vocabulary` tokens are shown by their numbers. AuditorError where a file is damaged, contradicts itself
    or the others, or was cached without its tokens.
    """
    reporter, config = reporter or Reporter(), config or BuildConfig()
    cached = _Cached(folder)
    store = cached.tokens(vocabulary)
    with partial(out) as unfinished:
        unfinished.mkdir()
        scratch = unfinished / "scratch"
        scratch.mkdir()
        reporter.started("Index the latents", cached.n_entries, "activations")
        corpus = read_corpus(store, None, reporter)
        counts, types, negative = _scratch(cached, corpus.kinds, scratch, reporter)
        codes = grouped(scratch, counts, corpus.kinds, *types, reporter)
        n, k = cached.n_features, config.neighbours
        near, cosines = np.full((n, k), -1, np.int32), np.full((n, k), np.nan, np.float16)
        meta = _meta(config, cached, store, corpus.kinds, len(corpus.samples), negative)
        with IndexWriter(unfinished) as writer:
            write_all(config, writer, store, None, corpus, codes, near, cosines, LogitEffects(n, 0), meta, reporter)
        del codes
        shutil.rmtree(scratch)
    return open_index(out)


class _Cached:
    """The split files of one hook point, checked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hook = folder, folder.stem if folder.is_file() else folder.name
        self.splits = _whole(folder) if folder.is_file() else [
            (first, last, open_arrays(path)) for first, last, path in _splits(folder)
        ]  # fmt: skip
        expected = 0
        for first, last, file in self.splits:
            if leads_out(file.path, own_of(folder)):
                raise AuditorError(f"“{file.path.name}” is a link that leads out of “{folder.name}”.", "Copy the file.")
            if first != expected or last < first or last >= _MOST_FEATURES:
                raise AuditorError(f"“{folder.name}” lacks the latents from {expected} on.", "Copy the whole folder.")
            expected = last + 1
            _check(file)
        self.n_features = expected
        self.n_entries = sum(file.find("activations").shape[0] for *_, file in self.splits)
        self._with_tokens = next((f for *_, f in self.splits if any(a.path == "tokens" for a in f.datasets)), None)
        if self._with_tokens is None:
            raise AuditorError(f"The latents of “{folder.name}” were cached without their tokens.",
                               "Cache them with save_tokens.")  # fmt: skip
        self.sequences, self.context = self._with_tokens.find("tokens").shape
        self.digest = digest_json(digest_files(folder))
        self.told = _config(folder)

    def tokens(self, vocabulary: Vocabulary | None) -> Store:
        """The tokens as a store without activations."""
        assert self._with_tokens is not None
        part = _Tokens(self._with_tokens, self.sequences, self.context, vocabulary)
        facts = Manifest(complete=True, dtype="float16", hook_points={"tokens": 1}, shard_bytes=0, rows=part.n_rows,
                         samples=part.n_samples, meta={})  # fmt: skip
        return Store(self.folder, facts, [part], digest_of=lambda: self.digest)

    def entries(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Latents, rows and activations, some at a time; of one file by rising row."""
        for first, last, file in self.splits:
            before = -1
            count = file.find("activations").shape[0]
            for start in range(0, count, _AT_ONCE):
                stop = min(start + _AT_ONCE, count)
                at = file.read("locations", start, stop).astype(np.int64)
                values = file.read("activations", start, stop).astype(np.float32)
                rows = at[:, 0] * self.context + at[:, 1]
                sound = at.min() >= 0 and at[:, 0].max() < self.sequences and at[:, 1].max() < self.context
                if not np.isfinite(values).all():
                    raise AuditorError(
                        f"“{file.path.name}” of “{self.hook}” holds a latent that is no finite number.",
                        "Cache the latents again.",
                    )
                if not sound or at[:, 2].max() > last - first:
                    raise AuditorError(f"“{file.path.name}” of “{self.hook}” names places that are not there.",
                                       "Copy it again.")  # fmt: skip
                if rows[0] < before or (np.diff(rows) < 0).any():
                    raise AuditorError(f"“{file.path.name}” of “{self.hook}” is not in the order of its tokens.",
                                       "Cache the latents again.")  # fmt: skip
                before = int(rows[-1])
                yield at[:, 2] + first, rows, values


class _Tokens:
    """The cached tokens as a `auditor.store.shards.RowPart` without activations."""

    def __init__(self, file: ArrayFile, sequences: int, context: int, vocabulary: Vocabulary | None) -> None:
        self._file, self._context, self._vocabulary = file, context, vocabulary
        self.n_rows, self.n_samples = sequences * context, sequences

    def read(self, name: str, runs: Runs, out: np.ndarray) -> None:
        done = 0
        for start, stop in runs:
            piece = out[done : (done := done + stop - start)]
            rows = np.arange(start, stop)
            if name == "sample":
                piece[...] = rows // self._context
            elif name == "unit":
                piece[...] = rows % self._context
            else:
                ids = self._ids(start, stop)
                special = list(self._vocabulary.special) if self._vocabulary else []
                kind = np.where(np.isin(ids, special), KINDS["special"], KINDS["text"])
                piece[...] = ids if name == "token" else kind

    def sample(self, number: int) -> StoredSample:
        first = number * self._context
        tokens = None
        if self._vocabulary is not None:
            tokens = self._vocabulary.strings(self._ids(first, first + self._context).tolist())
        return StoredSample(f"sequence {number}", tokens=tokens, first_row=first, n_rows=self._context)

    def _ids(self, start: int, stop: int) -> NDArray[np.int64]:
        first, last = start // self._context, -(-stop // self._context)
        found = self._file.read("tokens", first, last).reshape(-1)[start - first * self._context :][: stop - start]
        return np.clip(found.astype(np.int64), 0, 2**31 - 1)


def _scratch(
    cached: _Cached, kinds: NDArray[np.uint8], folder: Path, reporter: Reporter
) -> tuple[NDArray[np.int64], tuple[np.dtype[Any], np.dtype[Any]], int]:
    """What fires at ordinary tokens as the files that `grouped` reads; counts by feature, number types, and how many
    activations below zero were left out."""
    row_type = np.dtype(np.uint32 if len(kinds) < 1 << 32 else np.uint64)
    id_type = np.dtype(np.uint16 if cached.n_features <= 1 << 16 else np.uint32)
    counts, negative, done = np.zeros(cached.n_features, np.int64), 0, 0
    with open(folder / "ids", "xb") as ids, open(folder / "rows", "xb") as rows, open(folder / "values", "xb") as out:
        for latents, at, values in cached.entries():
            negative += int((values < 0).sum())
            keep = (values > 0) & ((kinds[at] == TEXT) | (kinds[at] == IMAGE))
            counts += np.bincount(latents[keep], minlength=cached.n_features)
            ids.write(latents[keep].astype(id_type).tobytes())
            rows.write(at[keep].astype(row_type).tobytes())
            out.write(values[keep].tobytes())
            done += len(values)
            reporter.step(done, cached.n_entries, "reading the latents", "activations")
    return counts, (row_type, id_type), negative


def _meta(
    config: BuildConfig, cached: _Cached, store: Store, kinds: NDArray[np.uint8], samples: int, negative: int
) -> dict[str, Any]:
    settings = config.model_dump(exclude={"store", "dictionary", "model", "hook"})
    return {
        "n_features": cached.n_features, "bins": config.bins, "window": config.window, "hook": cached.hook,
        "config": settings, "rows": {"text": int((kinds == TEXT).sum()), "image": 0}, "samples": samples,
        "skip_first": False, "store": {"name": store.name, "digest": cached.digest},
        "dictionary": {"digest": cached.digest, "arch": "delphi", "d_in": 0}, "model": None,
        "latents": {"program": "delphi", "below_zero_left_out": negative, **cached.told}, "auditor": __version__,
    }  # fmt: skip


def _splits(folder: Path) -> list[tuple[int, int, Path]]:
    try:
        named = [(match, item) for item in folder.iterdir() if (match := _NAME.fullmatch(item.name))]
    except OSError:
        return []
    return sorted((int(match[1]), int(match[2]), item) for match, item in named)


def _is_whole(path: Path) -> bool:
    """Whether a file holds all latents of a hook point."""
    try:
        return path.suffix == ".safetensors" and path.is_file() and {"locations", "activations"} <= {*array_names(path)}
    except AuditorError:
        return False


def _whole(path: Path) -> list[tuple[int, int, ArrayFile]]:
    file = open_arrays(path)
    _check(file)
    count, last = file.find("locations").shape[0], 0
    for start in range(0, count, _AT_ONCE):
        last = max(last, int(file.read("locations", start, min(start + _AT_ONCE, count))[:, 2].max()))
    return [(0, last, file)]


def _check(file: ArrayFile) -> None:
    held = {facts.path: facts for facts in file.datasets}
    locations, activations, tokens = (held.get(name) for name in ("locations", "activations", "tokens"))
    sound = locations is not None and locations.is_int and activations is not None and activations.is_float
    sound = sound and activations is not None and len(activations.shape) == 1 and activations.dtype != "bfloat16"
    sound = sound and locations is not None and locations.shape == (*(activations.shape if activations else ()), 3)
    if not sound or (tokens is not None and (not tokens.is_int or len(tokens.shape) != 2 or 0 in tokens.shape)):
        raise AuditorError(f"“{file.path.name}” holds no latents as delphi caches them.", "Choose another folder.")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        held = json.loads(path.read_bytes()) if path.is_file() and path.stat().st_size <= _CONFIG_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    held = held if isinstance(held, dict) else {}
    return {name: held[name] for name in _TOLD if isinstance(held.get(name), str | int)}
