"""The report as PDF, laid out by Typst with the shipped typefaces; equal cases give equal bytes."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from auditor.audit.case import Case
from auditor.audit.figures import figure_kind
from auditor.audit.report.html import needed_figures
from auditor.audit.report.view import view
from auditor.base.errors import AuditorError
from auditor.base.paths import resources


def render_pdf(case: Case, figures: Mapping[str, bytes] | None = None) -> bytes:
    """The report of `case` as PDF; its creation date is the case's claimed time.

    The content reaches Typst as JSON data and never as markup. Characters that the shipped typefaces lack are printed
    as ⟨U+XXXX⟩; the HTML report has them as they are.
    """
    return _compiled(case, figures, "pdf")[0]


def render_pages(case: Case, figures: Mapping[str, bytes] | None = None, dots_per_inch: float = 110) -> list[bytes]:
    """The pages of that PDF, one PNG each."""
    return _compiled(case, figures, "png", dots_per_inch)


def _compiled(
    case: Case, figures: Mapping[str, bytes] | None, form: Literal["pdf", "png"], ppi: float | None = None
) -> list[bytes]:  # fmt: skip
    import typst

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = {}
        for number, (name, data) in enumerate(sorted(needed_figures(case, figures or {}).items())):
            names[name] = f"figure-{number}.{figure_kind(data)}"
            (root / names[name]).write_bytes(data)
        content = {**view(case), "figures": names}
        (root / "content.json").write_text(json.dumps(_printable(content), ensure_ascii=False), encoding="utf-8")
        shutil.copyfile(resources() / "report" / "report.typ", root / "report.typ")
        try:
            made: Any = typst.compile(
                root / "report.typ",
                root=root,
                font_paths=[resources() / "fonts"],
                ignore_system_fonts=True,
                format=form,
                timestamp=_seconds(case.claimed_time),
                # A package could be fetched from outside; there is none to find in an empty folder.
                package_path=root / "packages",
                package_cache_path=root / "packages",
                ppi=ppi,
            )
        except typst.TypstError as error:
            raise AuditorError(
                f"The PDF could not be made: {error.message}.", "The HTML report is complete."
            ) from error
    return [made] if isinstance(made, bytes) else list(made)


def _seconds(claimed_time: str) -> int:
    try:
        moment = datetime.fromisoformat(claimed_time)
    except ValueError:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(int(aware.timestamp()), 0)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        covered = characters()
        return "".join(c if c == "\n" or ord(c) in covered else f"⟨U+{ord(c):04X}⟩" for c in value)
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value


@lru_cache
def characters() -> frozenset[int]:
    """Code points that each text face of the PDF has: what is in Inter or in JetBrains Mono."""
    covered: set[int] = set()
    for name in ("Inter-Regular.otf", "JetBrainsMono-Regular.ttf"):
        covered |= _cmap((resources() / "fonts" / name).read_bytes())
    return frozenset(covered)


def _cmap(font: bytes) -> set[int]:
    """The code points of a font's format 12 or format 4 character map (OpenType 1.9, cmap)."""
    for place in range(12, 12 + 16 * struct.unpack_from(">H", font, 4)[0], 16):
        tag, _, start, _ = struct.unpack_from(">4sIII", font, place)
        if tag == b"cmap":
            break
    subtables = [
        start + struct.unpack_from(">HHI", font, start + 4 + 8 * i)[2]
        for i in range(struct.unpack_from(">H", font, start + 2)[0])
    ]
    points: set[int] = set()
    for table in subtables:
        kind = struct.unpack_from(">H", font, table)[0]
        if kind == 12:
            for group in range(struct.unpack_from(">I", font, table + 12)[0]):
                first, last, _ = struct.unpack_from(">III", font, table + 16 + 12 * group)
                points.update(range(first, last + 1))
        elif kind == 4:
            count = struct.unpack_from(">H", font, table + 6)[0] // 2
            ends = struct.unpack_from(f">{count}H", font, table + 14)
            starts = struct.unpack_from(f">{count}H", font, table + 16 + 2 * count)
            for first, last in zip(starts, ends, strict=True):
                points.update(range(first, min(last, 0xFFFE) + 1))
    return points
