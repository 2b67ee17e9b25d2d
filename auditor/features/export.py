"""The feature table as CSV for a spreadsheet, with cells that a spreadsheet would run made harmless."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from auditor.base.cells import safe_cell
from auditor.base.files import write_atomic
from auditor.features.index import Index
from auditor.features.table import COLUMNS


def write_csv(index: Index, path: Path | str, features: Iterable[int] | None = None) -> int:
    """Write the rows of `features` (all, if not given) with both labels; returns how many. UTF-8 with a mark, so that
    spreadsheets read it as such; unknown figures (NaN) are empty cells."""
    chosen = range(index.n_features) if features is None else features
    human, automatic = index.human_labels(), index.auto_labels
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\r\n")
    names = [column.name for column in COLUMNS]
    rows.writerow([*names, "label", "automatic_label"])
    count = 0
    for i in chosen:
        values = [index.table[name][i].item() for name in names]
        figures = ["" if value != value else f"{value:.6g}" if isinstance(value, float) else value for value in values]
        rows.writerow([*figures, safe_cell(human.get(int(i), "")), safe_cell(automatic[int(i)])])
        count += 1
    write_atomic(path, out.getvalue().encode("utf-8-sig"))
    return count
