"""One input to a network: a text, images, both, or a sound, with the group and labels that an audit keeps with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import Any

from auditor.base.digest import digest_json, sha256_bytes
from auditor.data.audio import AudioRef
from auditor.data.image import ImageRef
from auditor.data.parts import MARK


class PositionKind(IntEnum):
    """What stands at a position of an encoded sample."""

    PAD = 0
    TEXT = 1
    IMAGE = 2
    SPECIAL = 3
    """A token that marks structure (begin, end, class), or an attention sink (`auditor.models.sinks`): it is recorded,
    but no dictionary is trained on it."""
    AUDIO = 4
    """A frame of sound."""


ORDINARY = ("text", "image", "audio")
"""Names of the kinds that stand for what a sample says or shows: dictionaries learn from these."""


@dataclass(frozen=True)
class Sample:
    """A text, an image, both, or a sound; or a conversation, which becomes a text by a model's own template.

    `more` are the images after the first. Each stands in the text at its offset in `places` (characters, rising, one an
    image); without `places` where the text says ``<image>``, in turn, and those beyond that stand before the text.
    `group` names what must stay on one side of a split (a concept, a document). `labels` are plain values; the
    label ``caption`` is the description of an image that the network is not shown; the label ``target`` is what a
    network that reads one text and writes another is given to have written. `messages` are plain objects with ``role``
    and ``content`` (`auditor.data.messages`); `text` is None then, and images stand where the content has them.
    """

    id: str
    text: str | None = None
    image: ImageRef | None = None
    group: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)
    audio: AudioRef | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    more: tuple[ImageRef, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def pictures(self) -> tuple[ImageRef, ...]:
        """All of its images, in order."""
        return () if self.image is None else (self.image, *self.more)

    @property
    def marked(self) -> str:
        """The text for a person to read, with ``<image>`` at the places of its images."""
        ends = [0, *self.places, len(self.text or "")]
        return MARK.join((self.text or "")[start:stop] for start, stop in pairwise(ends))

    @property
    def told(self) -> dict[str, str]:
        """Its labels as text; one without a value (null, or not a number) is none."""
        return {name: str(value) for name, value in self.labels.items() if value is not None and value == value}

    @property
    def modalities(self) -> frozenset[str]:
        """Which of ``text``, ``conversation``, ``image`` and ``audio`` it has."""
        held = {"text": self.text, "conversation": self.messages, "image": self.image, "audio": self.audio}
        return frozenset(kind for kind, value in held.items() if value is not None)

    @property
    def digest(self) -> str:
        """SHA-256 over everything in the sample, pixels and sound included."""
        image = None if self.image is None else self.image.digest
        heard = [] if self.audio is None else [self.audio.digest]
        said = [] if self.messages is None else [[dict(message) for message in self.messages]]
        seen = [[picture.digest for picture in self.more], list(self.places)] if self.more or self.places else []
        return digest_json([self.id, self.text, image, self.group, dict(self.labels), *heard, *said, *seen])


def with_pixels(sample: Sample) -> Sample:
    """The sample with its pictures decoded, so that what looks at them several times reads each file once."""
    if all(picture.array is not None for picture in sample.pictures):
        return sample
    first, *more = (ImageRef.of(picture.load()) for picture in sample.pictures)
    return replace(sample, image=first, more=tuple(more))


def text_sample(text: str, id: str = "") -> Sample:
    """A sample of one text; without `id` it is named by its content."""
    return Sample(id=id or f"text-{sha256_bytes(text.encode('utf-8'))[:12]}", text=text)
