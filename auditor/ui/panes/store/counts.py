"""What stands at the rows: how many by kind, group and label, and the most frequent tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter, QWidget

from auditor.ui import theme
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.plain_text import PlainLabel, token_text

if TYPE_CHECKING:
    from auditor.store.facts import Contents

_ROW = np.dtype([("what", "U40"), ("value", "U200"), ("rows", np.int64), ("share", np.float64)])
_TOKEN = np.dtype([("token", "U200"), ("id", np.int64), ("count", np.int64), ("share", np.float64)])


class Counts(QWidget):
    """Two tables: rows by what they are, and tokens by how often they come."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.told_groups, self.told_tokens = PlainLabel("", "small", wrap=True), PlainLabel("", "small", wrap=True)
        self.groups = BigTable(
            (
                Column("what", "by", left=True, width=84),
                Column("value", "value", left=True, width=120),
                Column("rows", "rows", bar=True, reach=1, width=96),
                Column("share", "share", text=numbers.short_share, width=72),
            ),
            session.read,
        )
        self.groups.setAccessibleName("Rows by kind, group and label")
        self.tokens = BigTable(
            (
                Column("token", "token", text=lambda token: f"“{token_text(str(token))}”", left=True, width=120),
                Column("id", "id", text=str, width=64),
                Column("count", "count", bar=True, reach=1, width=96),
                Column("share", "share", text=numbers.short_share, width=72),
            ),
            session.read,
        )
        self.tokens.setAccessibleName("Most frequent tokens")
        upper = controls.column(self.told_groups, self.groups, gap="tight")
        lower = controls.column(self.told_tokens, self.tokens, gap="tight")
        for part in (upper, lower):
            part.setStretch(1, 1)
        split = QSplitter(Qt.Orientation.Vertical)
        split.addWidget(controls.box(upper))
        split.addWidget(controls.box(lower))
        split.setSizes([theme.px(180), theme.px(220)])
        split.setChildrenCollapsible(False)
        self.setLayout(controls.column(split))

    def show_contents(self, held: Contents) -> None:
        """Write what was counted, over how many."""
        lines = [("kind", kind, rows, rows / max(held.rows, 1)) for kind, rows in held.kinds.items()]
        # Groups may be as many as samples.
        by = {**{f"label {name}": counts for name, counts in held.labels.items()}, "group": held.groups}
        for what, counts in by.items():
            total = max(sum(held.groups.values()), 1)
            if list(counts) not in ([""], []):
                lines += [(what, value or "none", rows, rows / total) for value, rows in counts.items()]
        self.groups.set_rows(np.array(lines, _ROW))
        some = "all" if held.n_samples == held.samples else numbers.count(held.n_samples)
        grouped = f"; groups and labels over {some} of {numbers.count(held.samples)} samples" if len(by) > 0 else ""
        self.told_groups.setText(f"Kinds over all {numbers.count(held.rows)} rows{grouped}")
        n = max(held.n_tokens, 1)
        self.tokens.set_rows(np.array([(text, i, count, count / n) for i, text, count in held.tokens], _TOKEN))
        self.told_tokens.setText(
            f"{numbers.count(held.distinct)} different tokens among the {numbers.count(held.n_tokens)} looked at; the "
            f"{numbers.count(len(held.tokens))} most frequent" if held.n_tokens else "No token ids are kept."
        )  # fmt: skip
