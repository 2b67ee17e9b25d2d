"""What of a set of samples is run: without what cannot be read, and without repeats if the person wants that."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any

from auditor.base.cores import PREPARING
from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.draw import Draw
from auditor.data.image import ImageRef
from auditor.data.reading import Taken
from auditor.data.sample import Sample
from auditor.data.samples import Samples
from auditor.data.skipped import Skips, Unreadable

Conversation = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Written:
    """A conversation as the text that a network is shown, and where in it the conversation's pictures stand."""

    text: str
    places: tuple[int, ...] = ()


Template = Callable[[Sequence[Conversation]], Sequence[Written | AuditorError]]
"""Conversations written, or the reason why one cannot be."""
Fits = Callable[[Sample, Sequence[tuple[int, int]]], None]
"""AuditorError where a network cannot read the pictures of a sample, which have so many rows and columns of pixels."""

RowsOf = Callable[[Sample, Sequence[tuple[int, int]]], int]
"""How many rows a network gives for a sample with pictures of so many rows and columns of pixels."""

Seen = Sequence[tuple[str, int, int]]

_AT_ONCE = 64
# Where not all are needed, few are looked at beyond what is.
_AT_ONCE_DRAWN = 16


def checked(
    samples: Sequence[Sample],
    template: Template | None = None,
    *,
    unique: bool = False,
    strict: bool = False,
    decode: bool = True,
    fits: Fits | None = None,
    reporter: Reporter | None = None,
    draw: Draw | None = None,
    rows: RowsOf | None = None,
) -> Samples:
    """`samples` without those that cannot be read, or whose pictures do not fit, which are added to `skips`;
    conversations as texts by `template`. With `draw`, of only as many as it says, by the `rows` of those that stay; the
    others are neither looked at nor counted, and the order is that of `samples`.

    With `unique` only the first of equal samples stays: equal in the text (in Unicode's composed form, line ends of one
    kind, without space around it) and in the pixels. With `strict`, and where nothing can be read, AuditorError. For
    this every image is decoded once, in the jail, unless `decode` is off; texts are passed over only with `unique`. In
    memory are 8 bytes a sample, and some 100 more with `unique`.
    """
    whole = samples if isinstance(samples, Samples) else Samples(str(getattr(samples, "name", "samples")), samples)
    if not unique and whole.modalities <= ({"text"} if decode else {"text", "image", "audio"}):
        return whole
    reporter = reporter or Reporter()
    skips = Skips(whole.skips.count, list(whole.skips.first))
    taken, of, keys, done, given = Taken(whole), array("q"), set[bytes](), 0, 0
    reporter.started("Check the samples", len(whole), "samples")
    numbered = enumerate(whole) if draw is None else ((int(at), whole[int(at)]) for at in draw.numbers(len(whole)))
    size = _AT_ONCE if draw is None else _AT_ONCE_DRAWN
    with ThreadPoolExecutor(PREPARING, thread_name_prefix="check") as pool:
        while batch := list(islice(numbered, size)):
            written = _written([sample for _, sample in batch], template)
            pictures = [sample.pictures if decode else () for _, sample in batch]
            seen = (pool.map if any(pictures) else map)(partial(_looked, unique or fits is not None), pictures)
            for (number, sample), found, facts in zip(batch, written, seen, strict=True):
                try:
                    key = _key(sample, found, facts, unique, fits) if decode or isinstance(found, AuditorError) else b""
                except AuditorError as error:
                    if strict:
                        raise
                    skips.add(error)
                    continue
                if key and key in keys:
                    skips.repeats += 1
                    continue
                if key:
                    keys.add(key)
                if isinstance(found, Written):
                    taken.put(said(sample, found), number if sample.image is not None else -1)
                else:
                    taken.take(number)
                of.append(number)
                if rows is not None and not isinstance(facts, AuditorError):
                    read = said(sample, found) if isinstance(found, Written) else sample
                    given += rows(read, [(high, wide) for _, high, wide in facts])
            done += len(batch)
            enough = draw is not None and draw.enough(done, given)
            reporter.step(done, done if enough else len(whole), unit="samples")
            if enough:
                break
    if not len(taken):
        raise skips.of_all(whole.name)
    if draw is not None:
        taken.sort(of)
    return Samples(whole.name, taken, skips=skips, columns=whole.columns, drawn=done if draw is not None else 0)


def sifted(
    samples: Sequence[Sample], template: Template | None = None, fits: Fits | None = None
) -> tuple[list[Sample], Skips]:
    """Of a few samples those that can be read, conversations written where there is a `template`; and the others."""
    kept, skips = [], Skips()
    texts = _written(samples, template) if template is not None else [None] * len(samples)
    for sample, found in zip(samples, texts, strict=True):
        try:
            _key(sample, found, _looked(fits is not None, sample.pictures), False, fits)
        except AuditorError as error:
            skips.add(error)
            continue
        kept.append(said(sample, found) if isinstance(found, Written) else sample)
    return kept, skips


def said(sample: Sample, written: Written) -> Sample:
    """The sample with its conversation as a text."""
    return replace(sample, text=written.text, messages=None, places=written.places)


def _written(samples: Sequence[Sample], template: Template | None) -> Sequence[Written | AuditorError | None]:
    """For each sample the text of its conversation; None where it has none."""
    talks = [sample.messages for sample in samples if sample.messages is not None]
    if not talks:
        return [None] * len(samples)
    if template is None:
        raise AuditorError("These samples are conversations, and this model reads no text.", "Choose a language model.")
    texts = iter(template(talks))
    return [None if sample.messages is None else with_all(sample, next(texts)) for sample in samples]


def with_all(sample: Sample, written: Written | AuditorError) -> Written | AuditorError:
    """A written conversation, or the reason why it is none: not all pictures of the sample are in it."""
    if isinstance(written, AuditorError) or len(written.places) == len(sample.pictures):
        return written
    return AuditorError(
        f"the model's chat template writes {len(written.places)} of its {len(sample.pictures)} pictures.",
        "Choose a model whose template takes pictures.",
    )


def _looked(needed: bool, pictures: Sequence[ImageRef]) -> Seen | AuditorError:
    """Digest, rows and columns of each picture, if they are `needed` or it must be decoded to know that it can be."""
    try:
        return [image.facts() for image in pictures if needed or image.array is None]
    except AuditorError as error:
        return error


def _key(
    sample: Sample,
    written: Written | AuditorError | None,
    seen: Seen | AuditorError,
    unique: bool,
    fits: Fits | None = None,
) -> bytes:
    """What equal samples have in common, 16 bytes; b"" unless `unique`. AuditorError for one that cannot be read."""
    if isinstance(written, AuditorError):
        raise Unreadable(f"“{sample.id}”: {written.message}", written.hint)
    if isinstance(seen, AuditorError):
        raise seen
    sound = ""
    if fits is not None and seen:
        try:
            read = said(sample, written) if written is not None else sample
            fits(read, [(rows, columns) for _, rows, columns in seen])
        except AuditorError as error:
            raise Unreadable(error.message, error.hint) from None
    pixels = " ".join(digest for digest, _, _ in seen)
    if sample.audio is not None:
        # The header is checked; in a WAV file nothing behind it can be broken.
        sound = sample.audio.digest if unique else str(sample.audio.seconds)
    if not unique:
        return b""
    text = written.text if written is not None else sample.text or ""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").strip()
    return sha256(canonical_json([text, pixels, sound, str(sample.labels.get("target", ""))])).digest()[:16]
