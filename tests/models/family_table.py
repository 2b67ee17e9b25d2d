"""docs/families.md, made by running the checks of `tests.models.checks` on the tiny networks of every family.

python -m tests.models.family_table [GROUP …]        (all groups where none is named)
python -m tests.models.family_table --real FOLDER …  (networks with trained weights: their table alone)
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.models.checks import CHECKS
from tests.models.real import real
from tests.models.tiny import GROUPS, Case, opened

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
ELSEWHERE = {
    "efficientnet-lite0": "EfficientNet-Lite0, real weights: tests/models/networks/test_efficientnet_lite.py",
    "auditor-paired": "Auditor's text+image model: tests/models/test_paired.py",
}
REAL = "Checked with real weights"
_ROW = re.compile(r"^\| ([^|]+?) \| `([^`]+)` \| ([^|]+?) \|", re.MULTILINE)


def held(case: Case) -> tuple[str, str]:
    """The model_type in config.json, and the hook points of the network in short: those of blocks once, with the number
    of blocks where not all have them."""
    sites: dict[str, list[str]] = {}
    for name in case.model.hook_points:
        match = re.fullmatch(r"(.*?)blocks\.\d+\.(\w+)", name)
        sites.setdefault(f"{match[1]}blocks.N.{match[2]}" if match else name, []).append(name)
    most = {start: max(len(v) for k, v in sites.items() if k.startswith(start)) for start in {_start(k) for k in sites}}
    told, before = [], ""
    for site, names in sites.items():
        start, last = _start(site), site[len(_start(site)) :]
        some = f" ({len(names)} of {most[start]} blocks)" if len(names) < most[start] and start else ""
        told.append((site if start != before else last) + some)
        before = start
    return case.source.config.model_type, ", ".join(told)


def _start(site: str) -> str:
    return site[: site.index("blocks.N.") + 9] if "blocks.N." in site else ""


def rows() -> dict[str, tuple[str, str]]:
    """Family → (model_type, hook points) as the document has them."""
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else ""
    return {match[1]: (match[2], match[3]) for match in _ROW.finditer(text)}


def outcome(case: Case, check: str) -> str:
    """✓ passed, – does not apply, ✗ failed."""
    if check in case.tiny.lacks:
        return "–"
    try:
        return "✓" if CHECKS[check](case) else "–"
    except Exception:
        return "✗"


def head() -> str:
    """What stands above the tables."""
    told = [
        "# Families of networks",
        "",
        "Made by `python -m tests.models.family_table`, which builds a tiny network of each family (random weights, "
        "real architecture), opens it from its folder and runs every check on it. Do not edit.",
        "",
        "✓ passed · – does not apply (why is said below the table) · ✗ failed",
        "",
        *(f"- **{name}**: {' '.join((check.__doc__ or '').split())}" for name, check in CHECKS.items()),
        "",
        "",
    ]
    return "\n".join(told)


def section(group: str) -> str:
    """The table of a group; runs every check on its networks."""
    names = list(CHECKS)
    told = [f"## {group}", "", f"| family | model_type | hook points | {' | '.join(names)} |"]
    told += ["|" + "---|" * (len(names) + 3)]
    for tiny in GROUPS[group]:
        case = opened(tiny)
        kind, points = held(case)
        marks = [outcome(case, name) for name in names]
        sys.stdout.write(f"{tiny.name:24s} {' '.join(marks)}\n")
        told.append(f"| {tiny.name} | `{kind}` | {points} | {' | '.join(marks)} |")
    return "\n".join([*told, "", *notes(group), "", ""])


def notes(group: str) -> list[str]:
    """Why checks do not apply, each reason once with the families that have it; then what else there is to say."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for tiny in GROUPS[group]:
        for check, reason in tiny.lacks.items():
            reasons.setdefault((check, reason), []).append(tiny.name)
    said = [f"- – at *{check}*: {reason} ({'; '.join(names)})." for (check, reason), names in reasons.items()]
    return said + [f"- {tiny.name}: {tiny.remark}." for tiny in GROUPS[group] if tiny.remark]


def trained(folders: Sequence[Path]) -> str:
    """The table of networks with trained weights; those of `folders` are checked anew, the others stay."""
    names, lines = list(CHECKS), _real_rows()
    why = {line for line in _section(REAL).splitlines() if line.startswith("- ")}
    for folder in folders:
        case = real(folder)
        marks = [outcome(case, name) for name in names]
        sys.stdout.write(f"{folder.name:24s} {' '.join(marks)}\n")
        count = sum(parameter.numel() for parameter in case.model.network.parameters()) / 1e6
        blocks = ", ".join(name.removeprefix("vision.") for name in case.blocks if not name.startswith("vision."))
        blocks = blocks or ", ".join(case.blocks)
        lines[folder.name] = f"| {folder.name} | {case.model.family} | {count:.1f} M | {blocks} | {' | '.join(marks)} |"
        why = {line for line in why if not line.startswith(f"- {folder.name}:")}
        why |= {f"- {folder.name}: – at *{check}*: {reason}." for check, reason in case.tiny.lacks.items()}
    told = [
        f"## {REAL}", "",
        "Made by `python -m tests.models.family_table --real FOLDER …` from sample models that `sample_data/models.py` "
        "prepares; the same checks, at the blocks named.", "",
        f"| folder | family | parameters | blocks | {' | '.join(names)} |", "|" + "---|" * (len(names) + 4),
        *lines.values(), "", *sorted(why), "", "",
    ]  # fmt: skip
    return "\n".join(told)


def _real_rows() -> dict[str, str]:
    """Lines of the table of networks with trained weights, by folder."""
    found = [line for line in _section(REAL).splitlines() if line.startswith("| ") and not line.startswith("| folder")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in found}


def _section(title: str) -> str:
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else ""
    return next((part for part in text.split("\n## ") if part.split("\n", 1)[0] == title), "")


def elsewhere() -> str:
    """The families whose checks are in files of their own."""
    told = ["## Checked elsewhere", "", *(f"- `{kind}`: {said}" for kind, said in ELSEWHERE.items()), ""]
    return "\n".join(told)


def document(groups: Sequence[str], folders: Sequence[Path] = ()) -> str:
    """The whole document, with the tables of `groups` and the lines of `folders` made anew and the others as they
    are."""
    before = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else ""
    held = {text.split("\n", 1)[0]: f"## {text}" for text in before.split("\n## ")[1:]}
    kept = {group: text.rstrip("\n") + "\n\n" for group, text in held.items() if group not in groups}
    tables = "".join(kept.get(group) or section(group) for group in GROUPS)
    return head() + tables + trained(folders) + elsewhere()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # networks this small only wait for a second thread
    if sys.argv[1:2] == ["--real"]:
        text = document([], [Path(folder) for folder in sys.argv[2:]])
    else:
        text = document(sys.argv[1:] or list(GROUPS))
    DOCUMENT.write_text(text, encoding="utf-8")
