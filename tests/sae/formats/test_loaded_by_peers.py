"""Dictionaries trained here are loaded by the packages whose formats they are exported to, with the same figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.sae.formats.make_fixtures import CHECKED, PEERS, check, python_of
from tests.sae.formats.trained import TRAINED, transcoders, write_trained

# The folder that `auditor bench peers` made.
ENVIRONMENTS = Path(os.environ.get("AUDITOR_PEERS", "peers"))
VERSIONS = {"sae-lens": "6.54.12", "eai-sparsify": "1.3.3", "dictionary-learning": "0.1.0"}


def same_figures(rows: list[dict[str, object]]) -> None:
    """What the packages gave, for every dictionary and package, is ours to 1e-5."""
    wanted = {(peer, arch) for arch, peers in TRAINED.items() for peer in peers}
    wanted |= {(peer, name) for name, (peer, _) in transcoders().items()}
    assert {(str(row["peer"]).removeprefix("eai-"), row["name"]) for row in rows} == wanted
    for row in rows:
        assert row["version"] == VERSIONS[str(row["peer"])]
        assert float(str(row["acts_difference"])) < 1e-5 and float(str(row["out_difference"])) < 1e-5, row


def test_that_the_packages_gave_our_figures_when_they_were_last_asked():
    same_figures(json.loads(CHECKED.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.skipif(
    not all(python_of(ENVIRONMENTS, name).exists() for name in PEERS), reason="AUDITOR_PEERS names no environments"
)
def test_that_the_packages_give_our_figures_for_what_is_trained_and_exported_now(tmp_path):
    write_trained(tmp_path)
    same_figures(check(ENVIRONMENTS, tmp_path))
