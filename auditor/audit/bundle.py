"""The bundle: one zip with the report, the case, its evidence and recipes, and a manifest of them all.

Layout (RO-Crate 1.1): report.html, report.pdf, case.json (the source of truth), findings.sarif, evidence/…, recipes/…,
log.jsonl where given, ro-crate-metadata.json, verify.py, manifest.json, signatures/…. The zip's exact form is told in
auditor.audit.verify. The same case and attachments give the same bytes, whatever the folder, time zone or locale.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from auditor.audit.case import Case, LogHead
from auditor.audit.crate import metadata
from auditor.audit.report import render_html, render_pdf
from auditor.audit.sarif import to_sarif
from auditor.audit.tables import to_csv
from auditor.audit.verify import (
    MANIFEST,
    MANIFEST_FORMAT,
    MAX_BYTES,
    Archive,
    Check,
    Member,
    Refused,
    check_log,
    check_names,
    directory,
    local_header,
    parse_manifest,
)
from auditor.base.digest import canonical_json, sha256_bytes, sha256_file
from auditor.base.errors import AuditorError
from auditor.base.files import partial

Attachments = Mapping[str, bytes | Path]
_PLACES = ("evidence/", "recipes/", "log.jsonl")
_Blocks = Callable[[], Iterable[bytes]]


def write(case: Case, attachments: Attachments, out: Path | str) -> Path:
    """Write the bundle of `case` to `out`, atomically and without a signature; returns its path.

    `attachments` maps names in the bundle to bytes or files: "evidence/E1.png" for the figure that evidence E1 names,
    any other "evidence/…" or "recipes/…", and "log.jsonl", whose head then stands in the case. AuditorError where a
    figure is missing or is not the one that was pinned, or a name is not allowed.
    """
    if "log.jsonl" in attachments:
        case = case.changed(log_head=_log_head(_bytes(attachments["log.jsonl"])))
    made = _made(case, attachments)
    if taken := sorted(made.keys() & attachments.keys()):
        raise AuditorError(f"“{taken[0]}” is made from the case.", "Give the attachment another name.")
    parts: dict[str, bytes | Path] = {**made, **_allowed(attachments)}
    try:
        check_names(parts)
    except Refused as refusal:
        raise AuditorError(f"The bundle cannot be written: {refusal}.", "Rename the attachment.") from refusal
    if sum(_size(part) for part in parts.values()) > MAX_BYTES:
        raise AuditorError("The bundle would be larger than 2 GiB.", "Leave out the largest attachments.")
    parts[MANIFEST] = canonical_json(
        {
            "format": MANIFEST_FORMAT,
            "files": [
                {"path": name, "sha256": _digest(parts[name]), "size": _size(parts[name])} for name in sorted(parts)
            ],
        }
    )
    with partial(out) as unfinished:
        _write_zip(unfinished, {name: _blocks(part) for name, part in parts.items()})
    return Path(out)


def add(path: Path | str, extra: Mapping[str, bytes]) -> None:
    """Write the bundle at `path` again with `extra` members added or replaced, atomically."""
    with partial(path) as unfinished, Archive(path) as archive:
        kept = {name: _members_blocks(archive, member) for name, member in archive.members.items()}
        _write_zip(unfinished, {**kept, **{name: _blocks(data) for name, data in extra.items()}})


def unpack(path: Path | str, folder: Path | str) -> Case:
    """Unpack a bundle into the new folder `folder` and give its case; AuditorError where the bundle is not whole.

    Names, sizes and form are checked before a byte is written; the zip holds nothing compressed and no link.
    """
    if Path(folder).exists():
        raise AuditorError(f"“{Path(folder).name}” exists already.", "Choose a folder that does not exist yet.")
    try:
        with partial(folder) as unfinished, Archive(path) as archive:
            for name, member in archive.members.items():
                target = unfinished / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as file:
                    file.writelines(archive.blocks(member))
            return Case.from_bytes(archive.read("case.json"), "the bundle's case.json")
    except Refused as refusal:
        raise AuditorError(f"The bundle cannot be unpacked: {refusal}.", "Ask its author for it again.") from refusal


def rerender(path: Path | str) -> list[Check]:
    """Make each report again from the bundle's case.json, and tell which are not what the case gives.

    A report made by another version of Auditor may differ and be honest; the case is what counts.
    """
    with Archive(path) as archive:
        case = Case.from_bytes(archive.read("case.json"), "the bundle's case.json")
        listed = parse_manifest(archive.read(MANIFEST))
        attachments = {name: archive.read(name, MAX_BYTES) for name in listed if name.startswith(_PLACES)}
        made = _made(case, attachments)
        return [
            Check(
                name, same := archive.read(name) == data, "as the case gives it" if same else "not what the case gives"
            )
            for name, data in sorted(made.items())
        ]


def figures_of(case: Case, attachments: Attachments) -> dict[str, bytes]:
    """File name → bytes of each figure that the evidence names, held against its digest."""
    figures = {}
    for piece in case.evidence:
        if piece.figure is None:
            continue
        if f"evidence/{piece.figure}" not in attachments:
            raise AuditorError(f"The figure “{piece.figure}” of {piece.id} is missing.", "Pin the evidence again.")
        data = _bytes(attachments[f"evidence/{piece.figure}"])
        if sha256_bytes(data) != piece.figure_digest:
            raise AuditorError(f"The figure “{piece.figure}” is not the one that {piece.id} pinned.", "Pin it again.")
        figures[piece.figure] = data
    return figures


def _made(case: Case, attachments: Attachments) -> dict[str, bytes]:
    figures = figures_of(case, attachments)
    made = {
        "case.json": case.to_bytes(),
        "report.html": render_html(case, figures).encode(),
        "report.pdf": render_pdf(case, figures),
        "findings.sarif": to_sarif(case),
        "verify.py": (files("auditor.audit") / "verify.py").read_bytes(),
    }
    for piece in case.evidence:
        recipe = {"recipe": piece.recipe.model_dump(mode="json"), "inputs": piece.inputs}
        made[f"recipes/{piece.id}.json"] = canonical_json(recipe)
        if piece.table is not None:
            made[f"evidence/{piece.id}.csv"] = to_csv(piece.table)
    made["ro-crate-metadata.json"] = metadata(case, sorted({*made, *attachments}))
    return made


def _allowed(attachments: Attachments) -> dict[str, bytes | Path]:
    for name in attachments:
        if not name.startswith(_PLACES):
            raise AuditorError(f"“{name}” has no place in a bundle.", "Attach files under evidence/ or recipes/.")
    return dict(attachments)


def _log_head(data: bytes) -> LogHead | None:
    try:
        count, digest = check_log(data)
    except Refused as refusal:
        raise AuditorError(
            f"The project's log does not hold: {refusal}.", "Open the project's log and look there."
        ) from refusal
    return LogHead(entries=count, digest=digest) if count else None


def _write_zip(path: Path, parts: Mapping[str, _Blocks]) -> None:
    members = []
    with open(path, "xb") as file:
        for name in sorted(parts):
            crc = size = 0
            for block in parts[name]():
                crc, size = zlib.crc32(block, crc), size + len(block)
            members.append(Member(name, crc, size))
            file.write(local_header(members[-1]))
            file.writelines(parts[name]())
        file.write(directory(members))
        file.flush()
        os.fsync(file.fileno())


def _blocks(part: bytes | Path) -> _Blocks:
    return (lambda: [part]) if isinstance(part, bytes) else (lambda: _file_blocks(part))


def _members_blocks(archive: Archive, member: Member) -> _Blocks:
    return lambda: archive.blocks(member)


def _file_blocks(path: Path) -> Iterable[bytes]:
    with open(path, "rb") as file:
        while block := file.read(2**20):
            yield block


def _bytes(part: bytes | Path) -> bytes:
    return part if isinstance(part, bytes) else part.read_bytes()


def _size(part: bytes | Path) -> int:
    return len(part) if isinstance(part, bytes) else part.stat().st_size


def _digest(part: bytes | Path) -> str:
    return sha256_bytes(part) if isinstance(part, bytes) else sha256_file(part)
