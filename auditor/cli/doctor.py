"""`auditor doctor`: what this machine has for an audit, and what it lacks; or what a dictionary's convention is."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click

from auditor.base import offline, paths
from auditor.base.errors import AuditorError
from auditor.cli import console
from auditor.cli.options import given, parameters
from auditor.cli.parameters import json_option, open_or_create, project_option
from auditor.intake import converted
from auditor.project.project import environment
from auditor.tasks.doctor import DoctorConfig

_FACES = {"Noto Sans CJK": "Chinese, Japanese and Korean text", "Noto Color Emoji": "emoji in texts"}


@click.command("doctor", params=[*parameters(DoctorConfig), project_option(), json_option()])
def command(json: bool, project: str, **values: Any) -> int:
    """Say what this machine has for an audit: versions, device, fonts, sample models, the closed network.

    With --dictionary, examine that dictionary on recorded activations instead, as the import does: FVU and L0 of every
    plausible convention, with interval and n, and the verdict, which is kept beside the earlier ones. Exit code 1 where
    it is not right as it was read.
    """
    if values.get("dictionary"):
        return _examine(project, values, json)
    if given(values):
        raise AuditorError("No dictionary is named.", "Add --dictionary, or leave out the store and the hook point.")
    rows = [*_checks()]
    ok = all(row["ok"] for row in rows if row["needed"])
    if json:
        console.print_json({"ok": ok, "checks": rows, "environment": environment()})
    else:
        for row in rows:
            mark = "ok " if row["ok"] else ("BAD" if row["needed"] else "-- ")
            console.say(f"{mark}  {row['name']}: {row['detail']}")
    return 0 if ok else 1


def _examine(project: str, values: dict[str, Any], as_json: bool) -> int:
    from auditor.cli.main import show
    from auditor.tasks import run_task

    with open_or_create(project) as held, console.reporting(as_json) as reporter:
        return show(run_task("doctor", held, DoctorConfig(**given(values)), reporter), as_json)


def _checks() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []

    def add(name: str, ok: bool, detail: str, needed: bool = True) -> None:
        rows.append({"name": name, "ok": ok, "needed": needed, "detail": detail})

    for library, version in environment().items():
        add(library, version != "not installed", version)
    window = importlib.util.find_spec("PySide6") is not None
    add(
        "window", window, "PySide6 is installed" if window else "PySide6 is missing: only the command line works", False
    )
    add("device", True, _device())
    models = paths.sample_models()
    names = ("smollm2-135m", "efficientnet-lite0", "paired")
    lacking = [name for name in names if not (models / name / "config.json").exists()]
    told = f"not prepared: {', '.join(lacking)}; run packaging/bootstrap.py install" if lacking else "prepared"
    add("sample models", not lacking, told, False)
    add("converted weights", True, str(converted.kept()), False)
    free = shutil.disk_usage(Path.cwd()).free
    add("disk", free > 2e9, f"{free / 1e9:.1f} GB free here")
    for face, use in _FACES.items():
        found = _has_face(face)
        add(f"font {face}", found, "found" if found else f"missing: {use} shows as boxes", False)
    for level in offline.levels():
        add(f"air gap {level.number}, {level.name}", level.holds, level.detail, level.number < 3)
    return rows


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return f"{torch.cuda.get_device_name(0)}, {memory / 1e9:.0f} GB"
    return f"CPU, {torch.get_num_threads()} threads; no CUDA GPU"


def _has_face(face: str) -> bool:
    if shutil.which("fc-list") is None:
        return False
    return bool(subprocess.run(["fc-list", face], capture_output=True, text=True, check=False).stdout.strip())
