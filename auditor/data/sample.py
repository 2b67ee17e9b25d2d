"""One input to a network: a text, an image, both, or a sound, with the group and labels that an audit keeps with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from auditor.base.digest import digest_json, sha256_bytes
from auditor.data.audio import AudioRef
from auditor.data.image import ImageRef


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

    `group` names what must stay on one side of a split (a concept, a document). `labels` are plain values; the
    label ``caption`` is the description of an image that the network is not shown; the label ``target`` is what a
    network that reads one text and writes another is given to have written. `messages` are plain objects with ``role``
    and ``content`` (`auditor.data.messages`); `text` is None then.
    """

    id: str
    text: str | None = None
    image: ImageRef | None = None
    group: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)
    audio: AudioRef | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None

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
        return digest_json([self.id, self.text, image, self.group, dict(self.labels), *heard, *said])


def text_sample(text: str, id: str = "") -> Sample:
    """A sample of one text; without `id` it is named by its content."""
    return Sample(id=id or f"text-{sha256_bytes(text.encode('utf-8'))[:12]}", text=text)
