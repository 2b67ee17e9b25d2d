"""The options that run a verb as several processes: started here, by torchrun, or by a script for Slurm."""

from __future__ import annotations

import importlib
import os
import shlex
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from auditor.base.config import Config
from auditor.base.errors import AuditorError, Stop
from auditor.base.events import Cancelled, Done, Event, Failed, Partial
from auditor.base.paths import at_home
from auditor.base.reporter import Control, EventReporter, Reporter
from auditor.cli import console
from auditor.cli.options import written
from auditor.jobs.launch import BROKEN, launch
from auditor.jobs.slurm import write_script
from auditor.tasks import Task

if TYPE_CHECKING:
    from auditor.sae.distributed import Ranks
    from auditor.sae.distributed.group import Group

# Verbs that several processes can share; only of training are features shared.
SHARED = ("record", "train")
_NAMES = ("distributed", "processes", "nodes", "slurm", "shard_features")


@dataclass(frozen=True)
class Way:
    """How a verb is to run; `arguments` run it again in another process."""

    distributed: bool
    processes: int
    nodes: int
    slurm: str
    shard_features: bool
    arguments: list[str]

    @property
    def alone(self) -> bool:
        return not (self.distributed or self.processes or self.slurm)


def options(verb: str) -> list[click.Parameter]:
    """The parameters that `verb` has for this."""
    if verb not in SHARED:
        return []
    found: list[click.Parameter] = [
        click.Option(["--distributed"], is_flag=True, help="Be one of the processes that torchrun started."),
        click.Option(
            ["--processes"], type=click.IntRange(1, 1024), default=None,
            help="Start so many processes on this machine, one a GPU; with --slurm, on each machine.",
        ),
        click.Option(
            ["--nodes"], type=click.IntRange(1, 10_000), default=1, show_default=True, help="With --slurm: machines."
        ),
        click.Option(["--slurm"], default=None, help="Write a batch script for Slurm to this file, and run nothing."),
    ]
    if verb == "train":
        told = "Each process holds a share of the features, not of the batch: for a dictionary that outgrows one GPU."
        found.append(click.Option(["--shard-features"], is_flag=True, help=told))
    return found


def taken(verb: str, project: str, values: dict[str, Any]) -> Way:
    """The way that `values` ask for, taken out of them. AuditorError where they contradict one another."""
    own = {name: values.pop(name, None) for name in _NAMES}
    shard = bool(own["shard_features"])
    arguments = [verb, *written(values), f"--project={at_home(project).resolve()}", "--distributed"]
    arguments += ["--shard-features"] if shard else []
    way = Way(
        bool(own["distributed"]), own["processes"] or 0, own["nodes"] or 1, own["slurm"] or "", shard, arguments
    )
    if way.nodes > 1 and not way.slurm:
        raise AuditorError("--nodes is for a script.", "Add --slurm FILE, or start torchrun on each machine.")
    if shard and way.alone:
        raise AuditorError("Features are sharded over several processes.", "Add --processes N, or use torchrun.")
    return way


def script(way: Way) -> dict[str, Any]:
    """Write the script that `way` asks for."""
    path = write_script(at_home(way.slurm), way.arguments, way.nodes, way.processes or 1)
    return {"script": str(path), "submit with": f"sbatch {shlex.quote(str(path))}"}


def start(way: Way, reporter: Reporter) -> dict[str, Any]:
    """Start the processes that `way` asks for; the first one's result."""
    return launch(way.arguments, way.processes, reporter)


def take_part(verb: Task, config: Config, way: Way, work: Callable[[Reporter, Ranks], dict[str, Any]]) -> int:
    """Be one of several processes: the first does `work`, the others follow. Events go out as JSON lines; the exit code
    says how it ended, and whose fault it was."""
    with console.asked_to_stop() as control:
        if "AUDITOR_LAUNCHER" in os.environ:
            threading.Thread(target=_until_left, args=(control,), daemon=True).start()
        try:
            _take_part(verb, config, way, work, control)
            return 0
        except (Stop, KeyboardInterrupt):
            console.put_line(Cancelled())
            return 130
        except AuditorError as error:
            from auditor.sae.distributed.group import Broken

            console.put_line(Failed(message=error.message, hint=error.hint))
            return BROKEN if isinstance(error, Broken) else 2
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            console.put_line(Failed(message=text, hint="This is a fault of the program.", trace=traceback.format_exc()))
            return 1


def _take_part(
    verb: Task, config: Config, way: Way, work: Callable[[Reporter, Ranks], dict[str, Any]], control: Control
) -> None:
    from auditor.sae.distributed.group import join, launched

    if not launched():
        raise AuditorError(
            "--distributed is for a process that torchrun started.",
            "Start it with torchrun --nproc-per-node N -m auditor …, or say --processes N.",
        )
    group = join(str(getattr(config, "device", "auto")))
    try:
        ranks = _ranks(group, way)
        if ranks.leads:
            console.put_line(Done(result=work(EventReporter(console.Lines(), control), ranks)))
        else:
            follow = importlib.import_module(f"auditor.tasks.{verb.name}").follow
            follow(EventReporter(_full_disk_alone, control), ranks)
    finally:
        group.leave()


def _full_disk_alone(event: Event) -> None:
    """What one that follows tells: the first one may have nothing to write while this one waits for room."""
    if isinstance(event, Partial) and event.kind == "disk_full":
        console.put_line(event)


def _ranks(group: Group, way: Way) -> Ranks:
    if way.shard_features:
        from auditor.sae.distributed.shards import FeatureShards

        return FeatureShards(group)
    from auditor.sae.distributed.data import DataParallel

    return DataParallel(group)


def _until_left(control: Control) -> None:
    """The launcher closes the standard input of those it started to make them stop; so does its death."""
    while os.read(0, 1):
        pass
    control.cancel()
