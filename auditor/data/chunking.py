"""Long texts cut, and short ones packed, to a network's context; long sounds cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.data.samples import Samples

JOIN = "\n\n"


def chunks(samples: Sequence[Sample], tokenizer: Any, length: int, *, pack: bool = False, name: str = "") -> Samples:
    """Texts of at most `length` tokens, one place of them kept for the begin token.

    A cut falls between words where it can, so that the pieces read as the same tokens; pieces are named ``id#n`` and
    keep group and labels. With `pack`, texts that follow one another are joined by an empty line while they fit.
    Samples with images pass as they are. AuditorError if `length` leaves no room.
    """
    if length < 2:
        raise AuditorError(f"A context of {length} tokens holds no text.", "Choose at least 2.")
    pieces = [piece for sample in samples for piece in _pieces(sample, tokenizer, length - 1)]
    result = _packed(pieces, tokenizer, length - 1) if pack else pieces
    return Samples(name or getattr(samples, "name", "samples"), result)


def sounds_in_pieces(samples: Sequence[Sample], seconds: float) -> Samples:
    """Sounds of at most so many seconds; pieces are named ``id#n``, keep group and labels; others pass as they are."""
    pieces = [piece for sample in samples for piece in _heard_in_turn(sample, seconds)]
    return Samples(getattr(samples, "name", "samples"), pieces)


def _heard_in_turn(sample: Sample, seconds: float) -> Iterator[Sample]:
    parts = [] if sample.audio is None else sample.audio.pieces(seconds)
    if len(parts) < 2:
        yield sample
        return
    for number, part in enumerate(parts, 1):
        labels = dict(sample.labels) | {"seconds": f"{part.seconds:.2f}"}
        yield replace(sample, id=f"{sample.id}#{number}", group=sample.group or sample.id, labels=labels, audio=part)


def _pieces(sample: Sample, tokenizer: Any, length: int) -> Iterator[Sample]:
    if sample.text is None or sample.image is not None:
        yield sample
        return
    encoded = tokenizer(sample.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    if len(offsets) <= length:
        yield sample
        return
    for number, (start, stop) in enumerate(_cuts(sample.text, offsets, length), 1):
        yield replace(sample, id=f"{sample.id}#{number}", text=sample.text[start:stop], group=sample.group or sample.id)


def _cuts(text: str, offsets: list[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    """Spans of characters, each of at most `length` tokens."""
    first, start = 0, 0
    while first < len(offsets):
        end = min(first + length, len(offsets))
        if end < len(offsets):
            end = _cut_before(text, offsets, first, end, length)
        # A space that a token's span leaves out belongs to the token after it.
        stop = offsets[end - 1][1] if end < len(offsets) else len(text)
        yield start, stop
        first, start = end, stop


def _cut_before(text: str, offsets: list[tuple[int, int]], first: int, end: int, length: int) -> int:
    """The last token not after `end` that starts a word, no more than a quarter back; else that starts a character."""
    earliest = max(end - length // 4, first + 1)
    # Several tokens may share one character; a cut between them would repeat it.
    whole = [token for token in range(end, first, -1) if offsets[token - 1][1] <= offsets[token][0]]
    words = (token for token in whole if token >= earliest and text[offsets[token - 1][1]].isspace())
    return next(words, whole[0] if whole else end)


def _packed(pieces: Sequence[Sample], tokenizer: Any, length: int) -> Iterator[Sample]:
    if not pieces:
        return
    texts = [piece.text or "" for piece in pieces]
    counts = _counts(texts, tokenizer)
    # Behind an empty line a text may start with other tokens than alone.
    behind = _counts([JOIN + text for text in texts], tokenizer)
    held: list[Sample] = []
    used = 0
    for piece, count, joined_count in zip(pieces, counts, behind, strict=True):
        alone = piece.image is not None
        if held and (alone or used + joined_count > length):
            yield _joined(held)
            held, used = [], 0
        if alone:
            yield piece
            continue
        used += joined_count if held else count
        held.append(piece)
    if held:
        yield _joined(held)


def _counts(texts: Sequence[str], tokenizer: Any) -> list[int]:
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]


def _joined(pieces: list[Sample]) -> Sample:
    if len(pieces) == 1:
        return pieces[0]
    text = JOIN.join(piece.text or "" for piece in pieces)
    return Sample(id=f"{pieces[0].id}+{len(pieces) - 1}", text=text, group=pieces[0].group, labels=pieces[0].labels)
