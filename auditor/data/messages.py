"""Conversations: the forms in which data sets keep them, brought to objects with a role and a content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auditor.data.parts import Picture, apart, parts_of
from auditor.data.plain_json import plain_json

MOST = 10_000
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}


def is_conversation(value: Any) -> bool:
    """Whether a value has the form of a list of messages."""
    return isinstance(value, list) and bool(value) and all(_role(item) is not None for item in value)


def messages_of(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Messages from a list of ``role``/``content`` or ``from``/``value`` objects, or from the JSON text of one.

    A content in parts is joined if all parts are texts; else it is a list of ``{"type": "text", "text": …}`` and
    ``{"type": "image"}``, whose pictures `pictures_in` gives. ValueError says what is wrong.
    """
    if isinstance(value, str):
        try:
            value = plain_json(value)
        except ValueError:
            raise ValueError("is not a list of messages") from None
    if not isinstance(value, list) or not value:
        raise ValueError("is not a list of messages")
    if len(value) > MOST:
        raise ValueError(f"has {len(value):,} messages; at most {MOST:,} are read")
    return tuple(_message(item, number) for number, item in enumerate(value, 1))


def pictures_in(value: Any) -> list[Picture]:
    """The pictures in a list of messages that `messages_of` reads, in order."""
    value = plain_json(value) if isinstance(value, str) else value
    contents = [item.get("content", item.get("value")) for item in value]
    lists = [parts_of(content) for content in contents if isinstance(content, list)]
    return [part for parts in lists for part in parts if isinstance(part, Picture)]


def with_pictures(messages: Sequence[Mapping[str, Any]], mark: str, count: int) -> tuple[Mapping[str, Any], ...]:
    """The messages with `count` pictures at the first marks of their texts; those that have no mark stand first in the
    first message of the user."""
    left, found = count, []
    for message in messages:
        content = message["content"]
        held = content.count(mark) if isinstance(content, str) else 0
        if held and left:
            content = _written(apart(content, mark, left))
        left -= min(held, left)
        found.append({**message, "content": content})
    if left:
        first = next((at for at, message in enumerate(found) if message["role"] == "user"), 0)
        content = found[first]["content"]
        content = content if isinstance(content, list) else _written([content] if content else [])
        found[first] = {**found[first], "content": [{"type": "image"}] * left + content}
    return tuple(found)


def as_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation for a person to read; what a network is shown is made by its own template."""
    return "\n".join(f"{message['role']}: {_readable(message.get('content'))}" for message in messages)


def _readable(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return "".join(str(part.get("text", "<image>")) for part in parts)


def _message(item: Any, number: int) -> dict[str, Any]:
    role = _role(item)
    if role is None:
        raise ValueError(f"has no role in message {number}")
    kept = {str(name): value for name, value in item.items() if name not in ("from", "value") and value is not None}
    content = item.get("content", item.get("value"))
    return {**kept, "role": _ROLES.get(role, role), "content": _content(content, number)}


def _role(item: Any) -> str | None:
    if not isinstance(item, dict) or not ({"content", "value"} & item.keys()):
        return None
    role = item.get("role", item.get("from"))
    return role if isinstance(role, str) else None


def _content(content: Any, number: int) -> str | list[dict[str, str]] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"has no text in message {number}")
    try:
        parts = parts_of(content)
    except ValueError:
        raise ValueError(f"has more than texts and pictures in message {number}") from None
    if any(isinstance(part, Picture) for part in parts):
        return _written(parts)
    return "".join(part for part in parts if isinstance(part, str))


def _written(parts: Sequence[str | Picture]) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
