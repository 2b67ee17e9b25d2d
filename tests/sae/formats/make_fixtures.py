"""Makes the dictionaries that the tests of formats compare with, by the packages themselves.

    python tests/sae/formats/make_fixtures.py PEERS            all fixtures anew, below tests/sae/formats/fixtures
    python tests/sae/formats/make_fixtures.py PEERS --check    have the packages load dictionaries trained here

PEERS holds one environment per package (`auditor bench peers PEERS` makes them, with the versions of
tests/bench/peers.py). Each fixture is what the package saves, of random weights; beside it lies `NAME.expected` with
rows x, and the activations and the reconstruction that the package itself gives for them. `made.json` names versions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
ROOT = HERE.parents[2]
PEERS = {
    "sae-lens": "written_by_saelens",
    "sparsify": "written_by_sparsify",
    "dictionary-learning": "written_by_dictionary_learning",
}
CHECKED = FIXTURES / "loaded_by_peers.json"


def python_of(peers: Path, name: str) -> Path:
    """The interpreter of a peer's environment."""
    return peers / name / "bin" / "python"


def make(peers: Path) -> None:
    """Write every fixture anew."""
    versions = {}
    for name, module in PEERS.items():
        out = FIXTURES / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        versions[name] = run(python_of(peers, name), HERE / f"{module}.py", "make", out)
    (FIXTURES / "made.json").write_text(json.dumps(versions, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check(peers: Path, trained: Path) -> list[dict[str, object]]:
    """What each package says to the dictionaries in `trained`/PEER/NAME: the largest differences to our own figures in
    `trained`/PEER/NAME.expected, and the package's version."""
    found = []
    for name, module in PEERS.items():
        found += run(python_of(peers, name), HERE / f"{module}.py", "load", trained / name)
    return found


def run(python: Path, *command: object) -> Any:
    """The JSON on the last line that a package's script prints."""
    told = subprocess.run(
        [str(python), "-W", "ignore", *map(str, command)], capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if told.returncode:
        raise SystemExit(told.stderr)
    return json.loads(told.stdout.strip().splitlines()[-1])


def main() -> int:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if not given.check:
        make(given.peers)
        return 0
    sys.path.insert(0, str(ROOT))
    import tempfile

    from tests.sae.formats.trained import write_trained

    with tempfile.TemporaryDirectory() as folder:
        write_trained(Path(folder))
        rows = check(given.peers, Path(folder))
    CHECKED.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(CHECKED.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
