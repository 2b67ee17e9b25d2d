"""`auditor sign BUNDLE`: adds the author's or the reviewer's signature."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.base.errors import AuditorError
from auditor.cli import console
from auditor.cli.parameters import json_option


@click.command("sign", params=[json_option()])
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Your key, a PEM file.")
@click.option("--new-key", is_flag=True, help="Make the key file first; it must not exist.")
@click.option("--role", type=click.Choice(["author", "reviewer"]), default="author", show_default=True)
@click.option("--name", default="", help="Your name, as the signature states it.")
@click.option("--organisation", default="", help="Your organisation, as the signature states it.")
@click.option("--ask-passphrase", is_flag=True, help="Ask for the passphrase of the key.")
def command(
    bundle: Path, key: Path, new_key: bool, role: str, name: str, organisation: str, ask_passphrase: bool, json: bool
) -> int:
    """Sign BUNDLE with an Ed25519 key over its manifest's exact bytes."""
    from auditor.audit import signing

    passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=new_key) if ask_passphrase else ""
    if new_key:
        signing.generate_key(key, passphrase)
    chosen: signing.Role = "author" if role == "author" else "reviewer"
    held = signing.load_key(key, passphrase)
    try:
        fingerprint = signing.sign(bundle, held, chosen, name=name, organisation=organisation)
    except AuditorError:
        if new_key:
            key.unlink()  # it has signed nothing, and would be in the way of the next attempt
        raise
    if json:
        console.print_json({"bundle": str(bundle), "role": role, "fingerprint": fingerprint})
    else:
        console.say(f"{bundle.name} is signed by the {role}; the key's fingerprint is {fingerprint}")
    if signing.exposed(key):
        console.warn(f"Others on this machine can read “{key.name}”; type: chmod 600 {key}")
    return 0
