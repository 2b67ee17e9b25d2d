"""`auditor bench`: measures this program against its peers and its own promises, from a checkout."""

from __future__ import annotations

import subprocess
import sys

import click

from auditor.base import paths
from auditor.base.errors import AuditorError


@click.command("bench", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("what", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(what: str | None, arguments: tuple[str, ...]) -> int:
    """Measure this program, beside its peers where it has some.

    sae: training against peers, which `peers` installs. dictionaries: what each architecture finds of known directions.
    input: training from a store. record: against the bare forward pass. window: how long it takes to answer.
    """
    folder = paths.root() / "tests" / "bench"
    found = [*sorted(folder.glob("bench_*.py")), *folder.glob("peers.py"), *folder.glob("tune_step.py")]
    there = {path.stem.removeprefix("bench_"): path for path in found}
    if what not in there:
        asked = f"There is no benchmark “{what}”." if what else "Which benchmark?"
        names = ", ".join(there) or "none: they come with a checkout, not with an installed package"
        raise AuditorError(asked, f"There are: {names}.")
    return subprocess.call([sys.executable, str(there[what]), *arguments], cwd=paths.root())
