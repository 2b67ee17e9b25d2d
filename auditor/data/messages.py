"""Conversations: the forms in which data sets keep them, brought to objects with a role and a content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auditor.data.plain_json import plain_json

MOST = 10_000
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
_TEXT = ("text", "input_text", "output_text")


def is_conversation(value: Any) -> bool:
    """Whether a value has the form of a list of messages."""
    return isinstance(value, list) and bool(value) and all(_role(item) is not None for item in value)


def messages_of(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Messages from a list of ``role``/``content`` or ``from``/``value`` objects, or from the JSON text of one.

    A content in parts is joined if all parts are texts. ValueError says what is wrong.
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


def as_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation for a person to read; what a network is shown is made by its own template."""
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in messages)


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


def _content(content: Any, number: int) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if all(part.get("type") in _TEXT and isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
        raise ValueError(f"has more than text in message {number}, and no conversation with images can be recorded")
    raise ValueError(f"has no text in message {number}")
