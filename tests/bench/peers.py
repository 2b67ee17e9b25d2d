"""Makes one environment per peer that the benches compare with: python tests/bench/peers.py DIR [name …]."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

PEERS = {
    "sae-lens": "sae-lens==6.54.12",
    "sparsify": "eai-sparsify==1.3.3",
    "dictionary-learning": "dictionary-learning==0.1.0",
    "transformer-lens": "transformer-lens==4.3.0",
    "nnsight": "nnsight==0.8.1",
}
TORCH = "torch==2.13.0"


def python_of(folder: Path, name: str) -> Path:
    """The interpreter of the peer's environment."""
    bin_folder = "Scripts" if sys.platform == "win32" else "bin"
    return folder / name / bin_folder / ("python.exe" if sys.platform == "win32" else "python")


def make(folder: Path, name: str) -> Path:
    """Make the peer's environment unless it is there; give its interpreter."""
    python = python_of(folder, name)
    done = folder / name / "installed"
    if not done.exists():
        venv.create(folder / name, with_pip=True, clear=True)
        # torch first and by itself: what follows must not choose another build of it.
        for packages in ([TORCH], [PEERS[name], TORCH]):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        # Beside a CPU torch, the CUDA build of torchvision that some peers pull in breaks transformers.
        subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        done.touch()
    return python


def main(argv: Sequence[str] | None = None) -> int:
    """Make the environments named, or all; print where they are."""
    parser = argparse.ArgumentParser(prog="auditor bench peers", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=", ".join(PEERS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    made = {name: str(make(given.folder.resolve(), name)) for name in given.names or PEERS}
    print(json.dumps(made) if given.json else "\n".join(f"{name:20s} {path}" for name, path in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
