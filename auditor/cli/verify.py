"""`auditor verify BUNDLE`: whether a bundle is as it was signed; loads neither torch nor Qt."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.audit import verify
from auditor.base.errors import AuditorError
from auditor.cli import console
from auditor.cli.parameters import json_option


@click.command("verify", params=[json_option()])
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--author", multiple=True, help="Fingerprint of a key that is trusted as an author's.")
@click.option("--reviewer", multiple=True, help="Fingerprint of a key that is trusted as a reviewer's.")
def command(bundle: Path, author: tuple[str, ...], reviewer: tuple[str, ...], json: bool) -> int:
    """Say whether BUNDLE (a zip file or its unpacked folder) is as it was signed. Exit code 1 where it is not."""
    if not bundle.exists():
        raise AuditorError(f"“{bundle}” does not exist.", "Check the path.")
    trusted = {role: keys for role, keys in (("author", author), ("reviewer", reviewer)) if keys}
    verdict = verify(bundle, trusted or None)
    if json:
        checks = [{"name": c.name, "ok": c.ok, "detail": c.detail, "note": c.note} for c in verdict.checks]
        signers = [{"role": s.role, "name": s.name, "fingerprint": s.fingerprint} for s in verdict.signers]
        console.print_json({"ok": verdict.ok, "checks": checks, "signers": signers})
    else:
        console.say(str(verdict))
    return 0 if verdict.ok else 1
