"""Tables as CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io

from auditor.audit.evidence import Table
from auditor.base.cells import safe_cell


def to_csv(table: Table) -> bytes:
    """UTF-8 CSV, RFC 4180; a text cell that a spreadsheet would compute gets a ' in front, numbers stay numbers."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_cell(name) for name in table.columns])
    writer.writerows([[_cell(cell) for cell in row] for row in table.rows])
    return text.getvalue().encode("utf-8")


def _cell(value: str | float | int | None) -> str | float | int | None:
    return safe_cell(value) if isinstance(value, str) else value
