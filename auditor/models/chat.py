"""Conversations as the text that a model is shown, written by the chat template of its own folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from auditor.base.errors import AuditorError
from auditor.data.checked import Conversation, Template
from auditor.data.sample import Sample
from auditor.intake.chat import write_conversations


def template_of(tokenizer: Any, name: str) -> Template | None:
    """Writes conversations for the model called `name`; None where it has no tokenizer. AuditorError, once there is a
    conversation, where its folder holds no chat template."""
    if tokenizer is None:
        return None

    def write(conversations: Sequence[Conversation]) -> Sequence[str | AuditorError]:
        template = getattr(tokenizer, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if not isinstance(template, str):
            raise AuditorError(
                f"“{name}” has no chat template, so conversations cannot be given to it.",
                "Choose a model that was trained on conversations, or samples of text.",
            )
        tokens = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        return write_conversations(template, conversations, tokens)

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
        text = next(texts) if sample.messages is not None else sample.text
        if isinstance(text, AuditorError):
            raise AuditorError(f"“{sample.id}”: {text.message}", text.hint)
        found.append(replace(sample, text=text, messages=None))
    return found
