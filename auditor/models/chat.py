"""Conversations as the text that a model is shown, written by the chat template of its own folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.checked import Conversation, Template, Written, said, with_all
from auditor.data.sample import Sample
from auditor.intake.chat import write_conversations

MARKS = (
    "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>", "<image>", "<start_of_image>", "<image_soft_token>",
    "<|image|>", "<|image_1|>", "[IMG]", "<img>", "<IMG_CONTEXT>", "<|begin_of_image|><|image|><|end_of_image|>",
)  # fmt: skip
"""What the templates of families write where a picture stands."""
_PATTERN = re.compile("|".join(re.escape(mark) for mark in sorted(MARKS, key=len, reverse=True)))
# Characters that no text should hold (Unicode keeps them free for programs).
_SPELT, _ENDS = "\ue0f0", "\ue0f1"
_HIDDEN = re.compile(f"{_SPELT}([0-9]|10){_ENDS}")


def template_of(tokenizer: Any, name: str) -> Template | None:
    """Writes conversations for the model called `name`; None where it has no tokenizer. AuditorError, once there is a
    conversation, where its folder holds no chat template."""
    if tokenizer is None:
        return None

    def write(conversations: Sequence[Conversation]) -> Sequence[Written | AuditorError]:
        template = getattr(tokenizer, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if not isinstance(template, str):
            raise AuditorError(
                f"“{name}” has no chat template, so conversations cannot be given to it.",
                "Choose a model that was trained on conversations, or samples of text.",
            )
        tokens = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        asked = [[_asked(message) for message in talk] for talk in conversations]
        texts = write_conversations(template, asked, tokens)
        # Some templates take parts alone, and write nothing of a plain text.
        silent = [at for at, text in enumerate(texts) if not _says_all(text, asked[at])]
        in_parts = [[_in_parts(message) for message in asked[at]] for at in silent]
        for at, again in zip(silent, write_conversations(template, in_parts, tokens) if silent else [], strict=True):
            texts[at] = again if _says_all(again, asked[at]) else texts[at]
        return [text if isinstance(text, AuditorError) else _found(text) for text in texts]

    return write


def written(samples: Sequence[Sample], tokenizer: Any, name: str) -> list[Sample]:
    """`samples` with conversations as texts. AuditorError for one that the template does not write."""
    talks = [sample.messages for sample in samples if sample.messages is not None]
    template = template_of(tokenizer, name) if talks else None
    if template is None:
        return list(samples)
    texts = iter(template(talks))
    found = []
    for sample in samples:
        if sample.messages is None:
            found.append(sample)
            continue
        text = with_all(sample, next(texts))
        if isinstance(text, AuditorError):
            raise AuditorError(f"“{sample.id}”: {text.message}", text.hint)
        found.append(said(sample, text))
    return found


def _says_all(text: str | AuditorError, messages: Sequence[Mapping[str, Any]]) -> bool:
    contents = [message["content"] for message in messages if isinstance(message.get("content"), str)]
    return not isinstance(text, AuditorError) and all(content.strip() in text for content in contents)


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def _asked(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with all that spells the mark of a picture made unreadable, so that only pictures write such."""
    content = message.get("content")
    if isinstance(content, list):
        content = [{**part, "text": _hidden(part["text"])} if "text" in part else part for part in content]
    elif isinstance(content, str):
        content = _hidden(content)
    return {**message, "content": content}


def _hidden(text: str) -> str:
    return _PATTERN.sub(lambda found: f"{_SPELT}{MARKS.index(found[0])}{_ENDS}", text)


def _found(text: str) -> Written:
    """The text without the marks of its pictures, their places, and what was hidden as it was."""
    whole, places, last = "", [], 0
    for found in _PATTERN.finditer(text):
        whole += _shown(text[last : found.start()])
        places.append(len(whole))
        last = found.end()
    return Written(whole + _shown(text[last:]), tuple(places))


def _shown(text: str) -> str:
    return _HIDDEN.sub(lambda found: MARKS[int(found[1])], text)
