"""Long texts cut to a network's context, and long sounds to what it hears at once."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.draw import Draw
from auditor.data.reading import Taken, sort
from auditor.data.sample import Sample
from auditor.data.samples import Samples
from auditor.data.tokenizing import encodings, taken_apart

_AT_ONCE = 256


class Pieces(Taken):
    """Samples ready to be run: those that fit as they are, the others in pieces.

    `tokens` is the count of tokens of each, without those that a tokenizer adds, and 0 for what has no text;
    `characters` that of its text. `drawn` is how many of the samples they are of, where not all are needed, else 0.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        super().__init__(samples)
        self.tokens, self.characters, self.drawn = array("i"), array("i"), 0

    def measured(self, sample: Sample, tokens: int) -> None:
        """Note the length of the one that was added last."""
        self.tokens.append(tokens)
        self.characters.append(len(sample.text or ""))

    def sort(self, keys: Sequence[int]) -> None:
        super().sort(keys)
        sort(self.tokens, keys)
        sort(self.characters, keys)


def chunks(
    samples: Sequence[Sample],
    tokenizer: Any,
    length: int,
    *,
    cut: bool = True,
    draw: Draw | None = None,
    reporter: Reporter | None = None,
) -> Pieces:
    """Texts of at most `length` tokens, one place of them kept for the begin token; of all samples, or of those that
    `draw` says, in the order of `samples`.

    A cut falls between words where it can, so that the pieces read as the same tokens; pieces are named ``id#n`` and
    keep group and labels. Samples with images pass as they are. With `cut` off nothing is cut, and the tokens are only
    counted. AuditorError if `length` leaves no room; Stop when cancelled.
    """
    if length < 2:
        raise AuditorError(f"A context of {length} tokens holds no text.", "Choose at least 2.")
    reporter, whole = reporter or Reporter(), len(samples)
    pieces, of, done, tokens = Pieces(samples), array("q"), 0, 0
    numbered = enumerate(samples) if draw is None else ((int(at), samples[int(at)]) for at in draw.numbers(whole))
    if whole > _AT_ONCE:
        reporter.started("Count the tokens", whole, "samples")
    while batch := list(islice(numbered, _AT_ONCE)):
        begun = len(pieces)
        texts = [(number, sample) for number, sample in batch if sample.text is not None and sample.image is None]
        with taken_apart():
            counted = _lengths(tokenizer, [sample.text or "" for _, sample in texts])
            counts = dict(zip((number for number, _ in texts), counted, strict=True))
            long = {number for number, count in counts.items() if cut and count >= length}
            offsets = _offsets(tokenizer, {number: sample.text or "" for number, sample in texts if number in long})
        for number, sample in batch:
            if number not in offsets:
                pieces.take(number)
                pieces.measured(sample, counts.get(number, 0))
                of.append(number)
                continue
            for part, (start, stop, count) in enumerate(_cuts(sample.text or "", offsets[number], length - 1), 1):
                text = (sample.text or "")[start:stop]
                piece = replace(sample, id=f"{sample.id}#{part}", text=text, group=sample.group or sample.id)
                pieces.put(piece)
                pieces.measured(piece, count)
                of.append(number)
        done, tokens = done + len(batch), tokens + sum(min(count, length) for count in pieces.tokens[begun:])
        enough = draw is not None and draw.enough(done, tokens)
        if whole > _AT_ONCE:
            reporter.step(done, done if enough else whole, unit="samples")
        if enough:
            break
    if draw is not None:
        pieces.sort(of)
        pieces.drawn = done if done < whole else 0
    return pieces


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


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    """How many tokens each text has."""
    if not texts:
        return []
    encoded = encodings(tokenizer, texts, special=False)
    if encoded is None:
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return list(map(len, encoded))


def _offsets(tokenizer: Any, texts: dict[int, str]) -> dict[int, list[tuple[int, int]]]:
    """By the number of each text, where its tokens start and end."""
    if not texts:
        return {}
    encoded = tokenizer([*texts.values()], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return dict(zip(texts, encoded["offset_mapping"], strict=True))


def _cuts(text: str, offsets: list[tuple[int, int]], length: int) -> Iterator[tuple[int, int, int]]:
    """Spans of characters, each of at most `length` tokens, and how many they are."""
    first, start = 0, 0
    while first < len(offsets):
        end = min(first + length, len(offsets))
        if end < len(offsets):
            end = _cut_before(text, offsets, first, end, length)
        # A space that a token's span leaves out belongs to the token after it.
        stop = offsets[end - 1][1] if end < len(offsets) else len(text)
        yield start, stop, end - first
        first, start = end, stop


def _cut_before(text: str, offsets: list[tuple[int, int]], first: int, end: int, length: int) -> int:
    """The last token not after `end` that starts a word, no more than a quarter back; else that starts a character."""
    earliest = max(end - length // 4, first + 1)
    # Several tokens may share one character; a cut between them would repeat it.
    whole = [token for token in range(end, first, -1) if offsets[token - 1][1] <= offsets[token][0]]
    words = (token for token in whole if token >= earliest and text[offsets[token - 1][1]].isspace())
    return next(words, whole[0] if whole else end)
