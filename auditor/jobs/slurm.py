"""A batch script for Slurm that runs a verb on several machines; it is written, never submitted."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic
from auditor.base.paths import resources


def write_script(path: Path, arguments: Sequence[str], nodes: int, gpus: int) -> Path:
    """Write the script that runs `auditor ARGUMENTS` on `nodes` machines with `gpus` processes each, one a GPU.

    AuditorError where the file exists already or cannot be written.
    """
    if path.exists():
        raise AuditorError(f"“{path.name}” exists already.", "Choose another name for the script.")
    template = (resources() / "slurm" / "torchrun.sh").read_text("utf-8")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-") or "auditor"
    values = {
        "NAME": name, "NODES": str(nodes), "GPUS": str(gpus), "FOLDER": shlex.quote(os.getcwd()),
        "PYTHON": shlex.quote(sys.executable), "COMMAND": shlex.join(["-m", "auditor", *arguments]),
    }  # fmt: skip
    # One pass, so that what a value holds is never taken for a placeholder.
    write_atomic(path, re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], template).encode("utf-8"))
    return path
