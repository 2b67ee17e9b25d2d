"""Makes a verb's command-line parameters from its config class."""

from __future__ import annotations

import types
import typing
from typing import Any

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from auditor.base.config import Config, describe


def parameters(kind: type[Config]) -> list[click.Parameter]:
    """One argument or option for each field, in the order of the class."""
    return [_parameter(name, info, name in kind.arguments) for name, info in kind.model_fields.items()]


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What the person gave, without what was left out, so that the config's own defaults hold."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if _set(value)}


def written(values: dict[str, Any]) -> list[str]:
    """The options that give these values again."""
    found: list[str] = []
    for name, value in given(values).items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{dashed}" if value else f"--no-{dashed}")
        else:
            found += [f"--{dashed}={item}" for item in (value if isinstance(value, list) else [value])]
    return found


def _set(value: Any) -> bool:
    return value is not None and value != ()


def _parameter(name: str, info: FieldInfo, positional: bool) -> click.Parameter:
    facts = describe(info)
    base, many = _type(info.annotation)
    kind = click.Choice(facts["choices"]) if facts["choices"] else _click_type(base)
    if positional:
        return click.Argument([name], type=kind, required=info.is_required(), nargs=-1 if many else 1)
    return click.Option(
        _flags(name, base),
        type=None if base is bool else kind,
        default=None,
        multiple=many,
        required=info.is_required(),
        help=_help(info, facts),
    )


def _flags(name: str, base: type) -> list[str]:
    dashed = name.replace("_", "-")
    return [f"--{dashed}/--no-{dashed}", name] if base is bool else [f"--{dashed}", name]


def _help(info: FieldInfo, facts: dict[str, Any]) -> str:
    default = info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined
    shown = default not in (PydanticUndefined, None, "", (), [])
    tail = [facts["unit"], f"default {default}" if shown else ""]
    told = ", ".join(part for part in tail if part)
    text = f"{facts['title']}. {facts['help']}" if facts["help"] else facts["title"]
    return f"{text} [{told}]" if told else text


def _type(annotation: Any) -> tuple[type, bool]:
    """The plain type of a field, and whether it holds many of it."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        return _type(inner[0])
    if origin in (list, tuple):
        return _type(typing.get_args(annotation)[0])[0], True
    return (annotation if annotation in (int, float, bool) else str), False


def _click_type(base: type) -> click.ParamType[Any]:
    if base is int:
        return click.INT
    return click.FLOAT if base is float else click.STRING
