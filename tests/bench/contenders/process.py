"""A contender's process, seen from the bench."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any


class Failed(Exception):
    """A contender that ended, and its last word."""


class Contender:
    """A trainer (or what else `script` is) in an interpreter of its own, to be asked once it is `ready`. `python` names
    the interpreter and, where they lie elsewhere, the folder of its packages; `folder` takes what it writes to stderr.
    """

    def __init__(
        self, name: str, python: list[str], spec: dict[str, Any], folder: Path, script: str = "sae_contenders.py"
    ) -> None:
        self.name: str = name
        self.blocks: list[list[float]] = []
        self.cpu: list[float] = []
        environment = {**os.environ, "OMP_NUM_THREADS": str(spec["threads"])}
        if len(python) > 1:
            environment["PYTHONPATH"] = python[1]
        self.log = folder / f"{name}.log"
        command = [python[0], str(Path(__file__).resolve().parents[1] / script), name, json.dumps(spec)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.facts: dict[str, Any] = {}

    def ready(self) -> None:
        """Wait until it can train; `facts` then tell its version and more. Raises Failed with its last word."""
        try:
            self.facts = self._answer()
        except Failed:
            self.close()
            raise

    def ask(self, line: str) -> dict[str, Any]:
        """Its answer to one line."""
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failed(self._last_word()) from error
        return self._answer()

    def train(self, steps: int) -> None:
        """Let it train one block."""
        found = self.ask(str(steps))
        self.blocks.append(found["wall_ms"])
        self.cpu += found["cpu_ms"]

    def close(self) -> None:
        """End it."""
        try:
            self.process.stdin.close()
        except OSError:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self._last_word())
        return json.loads(line)

    def _last_word(self) -> str:
        code = self.process.wait()
        said = [line for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return f"ended with {code}: {said[-1].strip() if said else 'said nothing'}"
