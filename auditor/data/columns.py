"""Which column of a table is the text, the image, the conversation, the group and the label: as asked, else guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.messages import is_conversation
from auditor.data.parts import is_data, is_parts
from auditor.intake import wav
from auditor.intake.images import ENDINGS

ROLES = ("text", "messages", "image", "label", "group")
OPTIONS = {"text": "field", **{role: f"{role}_field" for role in ROLES[1:]}}
"""The option behind a file's name that chooses the column of a role."""

_TEXTS = ("text", "content", "body", "document", "sentence", "caption", "prompt", "question", "article", "code")
_MESSAGES = ("messages", "conversations", "conversation", "chat", "dialog")
_IMAGES = ("file", "image", "images", "img", "picture", "file_name", "image_path", "path")
_PARTS = ("parts", "content", "interleaved", "segments")
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")


@dataclass(frozen=True)
class Columns:
    """The column of each role, "" where there is none; `guessed` are the roles that nobody asked for; `names` are all
    columns that the first rows have, `unread` those of other files' bytes, which can be no labels."""

    text: str = ""
    messages: str = ""
    image: str = ""
    label: str = ""
    group: str = ""
    guessed: frozenset[str] = frozenset()
    names: tuple[str, ...] = field(default=(), compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)

    def told(self) -> dict[str, str]:
        """Role to column, with what was guessed; and what is not read."""
        chosen = {role: str(getattr(self, role)) for role in ROLES if getattr(self, role)}
        told = {role: f"{name} (guessed)" if role in self.guessed else name for role, name in chosen.items()}
        return told | ({"unread": f"{_listed(self.unread)} (pictures or other bytes)"} if self.unread else {})


def columns_of(head: Sequence[Mapping[str, Any]], asked: Mapping[str, str], file: str) -> Columns:
    """The columns of a table from its first rows; `asked` has the column of a role where the person chose it.

    AuditorError for a column that is not there, where no column can be a text, an image or a conversation, or without
    rows.
    """
    if not head:
        raise AuditorError(f"“{file}” has no rows.", "Check the file.")
    names = tuple(name for name in dict.fromkeys(name for row in head for name in row) if name)
    chosen = {role: name for role, name in asked.items() if name}
    for role, name in chosen.items():
        if name not in names:
            raise AuditorError(
                f"“{file}” has no column “{name}”.",
                f"Its columns are {_listed(names)}; name one, as in {file}?{OPTIONS[role]}=body.",
            )
    found = {**chosen}
    if "image" not in found:
        found["image"] = _first(names, _IMAGES, lambda name: any(is_media(row.get(name)) for row in head))
    if not {"messages", "text"} & chosen.keys():
        found["messages"] = _first(names, _MESSAGES, lambda name: any(is_conversation(row.get(name)) for row in head))
    if "text" not in found and not {"messages"} & chosen.keys():
        # Where all rows are conversations, the other columns are labels.
        others = [row for row in head if not found.get("messages") or row.get(found["messages"]) is None]
        parts = _first(names, _PARTS, lambda name: any(is_parts(row.get(name)) for row in others))
        if not parts and found["image"] and any(_beside(row, found["image"]) for row in others):
            parts = "texts"
        found["text"] = parts or _text(others, names, set(found.values()), bool(found.get("image")))
    if "group" not in found:
        usual = ("group", "concept") if found.get("image") else ("group",)
        found["group"] = next((name for name in usual if name in names), "")
    if not any(found.get(role) for role in ("text", "messages", "image")):
        raise AuditorError(
            f"No column of “{file}” can be a text, an image or a conversation.",
            f"It has {_listed(names)}; name one, as in {file}?field=body.",
        )
    guessed = frozenset(role for role, name in found.items() if name and role not in chosen and name != role)
    taken = {name for name in found.values() if name}
    unread = tuple(name for name in names if name not in taken and any(holds_bytes(row.get(name)) for row in head))
    return Columns(**{role: found.get(role, "") for role in ROLES}, guessed=guessed, names=names, unread=unread)


def is_media(value: Any) -> bool:
    """Whether a value is an image or a sound: a file's bytes, an object that holds them, a path, a ``data:``
    address, or a list of such."""
    if isinstance(value, bytes):
        return value.startswith(_STARTS)
    if isinstance(value, str):
        return is_data(value) or value.lower().endswith(ENDINGS + wav.ENDINGS)
    if isinstance(value, list):  # with nothing where a text stands (OBELICS)
        held = [item for item in value if item is not None]
        return bool(held) and all(is_media(item) for item in held)
    return isinstance(value, dict) and any(is_media(value.get(name)) for name in ("bytes", "path"))


def holds_bytes(value: Any) -> bool:
    """Whether a value is bytes, or has some in it."""
    if isinstance(value, dict | list):
        return any(map(holds_bytes, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bytes)


def _beside(row: Mapping[str, Any], images: str) -> bool:
    """Whether a row holds texts beside its images, in two lists of one length with nothing in one where the other has
    something."""
    texts, pictures = row.get("texts"), row.get(images)
    if not isinstance(texts, list) or not isinstance(pictures, list) or len(texts) != len(pictures):
        return False
    return None in texts and all(text is None or isinstance(text, str) for text in texts)


def _first(names: Sequence[str], usual: Sequence[str], fits: Any) -> str:
    known = [name for name in usual if name in names]
    return next((name for name in [*known, *(n for n in names if n not in known)] if fits(name)), "")


def _text(head: Sequence[Mapping[str, Any]], names: Sequence[str], taken: set[str], beside_image: bool) -> str:
    """The usual name, else the longest on average; beside an image it is its caption, which only a name can tell."""
    texts = Counter(name for row in head for name in names if isinstance(row.get(name), str) and name not in taken)
    usual = (*(("caption",) if beside_image else ()), *_TEXTS)
    known = next((name for name in usual if texts[name]), "")
    if known or beside_image:
        return known
    free = [name for name in names if texts[name] and name != "id"]
    return max(free, key=lambda name: sum(len(row.get(name) or "") for row in head if _is_text(row, name)), default="")


def _is_text(row: Mapping[str, Any], name: str) -> bool:
    return isinstance(row.get(name), str)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"
