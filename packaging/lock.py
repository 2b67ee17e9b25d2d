#!/usr/bin/env python3
"""Freeze pyproject's loose requirements to exact versions and hashes: `python packaging/lock.py` writes lock.txt.

Sample packages are taken for their files only, without the libraries that they ask for. torch's line allows two
builds: the CPU one where the index (or a folder of wheels) has it, and the index's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Made by packaging/lock.py for Python 3.11 on Linux x86-64. Do not edit.\n"


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    torch = next(line for line in project["dependencies"] if line.startswith("torch"))
    found = _resolve(["torch==2.13.0", *project["dependencies"], *extras["ui"], *extras["dev"]])
    found |= _resolve(extras["samples"], "--no-deps")
    found["torch"] = ("2.13.0", found["torch"][1] | _resolve([torch], "--no-deps", find_links="")["torch"][1])
    lines = [HEADER]
    for name in sorted(found, key=str.lower):
        version, hashes = found[name]
        lines.append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{h}" for h in sorted(hashes))]) + "\n")
    (ROOT / "packaging" / "lock.txt").write_text("".join(lines))


def _resolve(requirements: list[str], *flags: str, find_links: str | None = None) -> dict[str, tuple[str, set[str]]]:
    """Name to (version, hashes) of what pip would install into an empty environment."""
    environment = dict(os.environ)
    if find_links is not None:
        environment["PIP_FIND_LINKS"] = find_links
        environment["PIP_CONFIG_FILE"] = os.devnull
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), *flags, *requirements]
        subprocess.run(command, check=True, env=environment)
        installs = json.loads(report.read_text())["install"]
    return {
        item["metadata"]["name"]: (
            item["metadata"]["version"].split("+")[0],
            {item["download_info"]["archive_info"]["hashes"]["sha256"]},
        )
        for item in installs
    }


if __name__ == "__main__":
    main()
