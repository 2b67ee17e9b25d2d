"""Chat templates from anywhere: Jinja programs, run in the jailed child and there in Jinja's sandbox.

What a template is given is what transformers gives it, but for the clock: the same conversation must give the same text
on every day.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEMPLATE_BYTES = 1 << 20
DAY = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
"""What a template that asks for the date is told."""


def write_conversations(
    template: str, conversations: Sequence[Sequence[Mapping[str, Any]]], tokens: Mapping[str, str]
) -> list[str | AuditorError]:
    """The text of each conversation, or why there is none. `tokens` are the tokenizer's special tokens by their names.

    AuditorError where the template is no program, or never ends.
    """
    from auditor.intake.jail import shared_jails

    if len(template.encode("utf-8", "replace")) > MAX_TEMPLATE_BYTES:
        raise AuditorError("The model's chat template is longer than 1 MiB.", "Ask for the model's folder again.")
    asked = [[dict(message) for message in conversation] for conversation in conversations]
    try:
        answers = shared_jails().call("auditor.intake.chat:write", template, asked, dict(tokens))
    except AuditorError as error:
        raise AuditorError(f"The model's chat template cannot be run: {error.message}", error.hint) from error
    hint = "Correct the conversation, or leave it out."
    return [text if fine else AuditorError(f"the model's chat template says: {text}", hint) for fine, text in answers]


def write(template: str, conversations: list[Any], tokens: dict[str, str]) -> list[Any]:
    """[whether it went well, text or reason] for each conversation; runs in the child."""
    from jinja2 import TemplateError

    try:
        program = _environment().from_string(template)
    except TemplateError as error:
        raise AuditorError(f"it is no sound template ({_short(error)}).", "Ask for the model's folder again.") from None
    written: list[Any] = []
    for messages in conversations:
        try:
            text = program.render(messages=messages, add_generation_prompt=False, tools=None, documents=None, **tokens)
            written.append([True, text])
        except Exception as error:  # a template can raise whatever its expressions do
            written.append([False, _short(error)])
    return written


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what a model says, for training; here it is only written."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: object) -> None:
        raise TemplateError(str(message))

    def as_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **how)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = as_json
    made.globals |= {"raise_exception": refuse, "strftime_now": DAY.strftime}
    return made


def _short(error: Exception) -> str:
    return f"{str(error)[:200] or type(error).__name__}"
