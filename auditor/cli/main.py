"""The command line: `auditor VERB`; exit codes 0 fine, 1 a check failed, 2 wrong use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import auditor
from auditor.base.errors import AuditorError, Stop
from auditor.base.files import told
from auditor.base.reporter import Reporter
from auditor.cli import console, distributed, planning
from auditor.cli.options import given, parameters
from auditor.cli.parameters import json_option, open_or_create, project_option
from auditor.project import Project
from auditor.tasks import Task, run_task, tasks
from auditor.tasks.task import must_have_device

if TYPE_CHECKING:
    from auditor.sae.distributed import Ranks

# Verbs that are not recorded runs of a project: each module has a click command of the same name.
OWN = ("search", "case", "sign", "verify", "unfinished", "demo", "doctor", "bench", "window")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    as_json = "--json" in (arguments or ())
    try:
        return int(_app()(args=list(arguments or ()), prog_name="auditor", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        console.say(error.format_message())
        return 2
    except click.ClickException as error:
        console.print_error(f"{error.format_message()}", "Add --help to see what it takes.", as_json)
        return 2
    except AuditorError as error:
        console.print_error(error.message, error.hint, as_json, error.kept)
        return 2
    except OSError as error:
        told_of = told(error, Path(str(error.filename or ".")))
        if not isinstance(told_of, AuditorError):
            raise
        console.print_error(told_of.message, told_of.hint, as_json)
        return 2
    except (Stop, KeyboardInterrupt, click.Abort) as error:
        words = [word.partition("=")[0] for word in arguments or ()]
        goes_on = "--go-on" in words or words[:1] in (["record"], ["train"])
        hint = "The same command goes on from what was kept." if goes_on else ""
        console.print_error("Stopped.", hint, as_json, error.kept if isinstance(error, Stop) else None)
        return 130


class _Verbs(click.Group):
    """Makes a verb's command when it is asked for: the settings of some verbs lie beside heavy engines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb.name for verb in tasks() if verb.name not in OWN] + list(OWN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OWN:
            found: click.Command = importlib.import_module(f"auditor.cli.{cmd_name}").command
            return found
        verb = next((verb for verb in tasks() if verb.name == cmd_name), None)
        return None if verb is None else _command(verb)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [(name, self.get_command(ctx, name)) for name in OWN]
        rows = [(verb.name, verb.title) for verb in tasks() if verb.name not in OWN]
        rows += [(name, command.get_short_help_str(80)) for name, command in own if command is not None]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


def _app() -> click.Group:
    app = _Verbs(
        "auditor",
        help="Offline interpretability audits of neural networks. Without a verb, the window opens.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.params.append(click.Option(["--version"], is_flag=True, is_eager=True, callback=_version, expose_value=False))
    return app


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        console.say(auditor.__version__)
        context.exit(0)


def _command(verb: Task) -> click.Command:
    def callback(project: str, json: bool, **values: Any) -> int:
        only_plan = values.pop("only_plan", False)
        way = distributed.taken(verb.name, project, values)
        config = verb.read(given(values))
        if not way.slurm:  # a script is for other machines
            must_have_device(config)

        def work(reporter: Reporter, ranks: Ranks | None = None) -> dict[str, Any]:
            with open_or_create(project) as held:
                return described(held, lambda: run_task(verb.name, held, config, reporter, ranks))

        if only_plan:
            with console.reporting(json) as reporter, open_or_create(project) as held:
                return show(planning.planned(held, config, reporter), json)
        if way.distributed:
            return distributed.take_part(verb, config, way, work)
        if way.slurm:
            return show(distributed.script(way), json)
        with console.reporting(json) as reporter:
            result = distributed.start(way, reporter) if way.processes else work(reporter)
        return show(result, json)

    shared = [*planning.options(verb.name), *distributed.options(verb.name), project_option(), json_option()]
    return click.Command(
        verb.name,
        params=[*parameters(verb.config_class()), *shared],
        callback=callback,
        help=verb.help if verb.help.startswith(verb.title) else f"{verb.title}. {verb.help}",
    )


def described(project: Project, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` gives, or has kept where it ends early, with what it made as facts in place of ids."""

    def facts(result: dict[str, Any]) -> dict[str, Any]:
        return result | {"artefacts": [describe_artefact(project, ref) for ref in result["artefacts"]]}

    try:
        return facts(work())
    except (AuditorError, Stop) as error:
        error.kept = error.kept and facts(error.kept)
        raise


def describe_artefact(project: Project, ref: str) -> dict[str, str]:
    artefact = project.find(ref)
    return {
        "id": artefact.id,
        "kind": artefact.kind,
        "name": artefact.name,
        "path": str(artefact.path),
        "digest": artefact.digest,
    }


def show(result: dict[str, Any], as_json: bool) -> int:
    """Print a verb's result; 1 where it says that a check failed, else 0."""
    if as_json:
        console.print_json(result)
    else:
        _print(result)
    return 0 if result.get("ok", True) else 1


def _print(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if name in ("run", "ok"):
            continue
        if name == "artefacts":
            for artefact in value:
                console.say(
                    f"{artefact['kind']}: {artefact['name']}  {artefact['path']}  sha256 {artefact['digest'][:16]}"
                )
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            console.say(f"{name.replace('_', ' ')}:")
            console.table(value)
        elif isinstance(value, dict):
            tables = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
            plain = {k: v for k, v in value.items() if not isinstance(v, list)}
            console.say(f"{name.replace('_', ' ')}: " + ", ".join(f"{k} {console.figure(v)}" for k, v in plain.items()))
            for rows in tables:
                console.table(rows)
        elif value not in (None, "", [], ()):
            console.say(f"{name.replace('_', ' ')}: {console.figure(value)}")
