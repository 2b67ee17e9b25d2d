"""The dimensions of a hook point: a sortable table with a bar for each norm, and which are outliers or dead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.store.facts import Facts

_ROLES = {"outlier": "warn", "dead": "bad"}
_NAMED = 6


class Dimensions(QWidget):
    """Shows them by falling norm, outliers first, the dead last; `chosen` carries the one that is chosen."""

    chosen = Signal(int)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.told = PlainLabel(wrap=True)
        self.table = BigTable(
            (
                Column("dimension", "dim.", text=str, width=48, tip="Number of the dimension"),
                Column("what", "", left=True, width=60, role=lambda what: _ROLES.get(str(what), ""),
                       tip="outlier: RMS of over 6 times the median; dead: the same number in every row"),
                Column("rms", "RMS", bar=True, reach=1, width=84, tip="Root mean square over ordinary rows looked at"),
                Column("times", "× median", width=60, tip="RMS over the median RMS of all dimensions"),
                Column("mean", "mean", text=_short, width=60, tip="Mean over the ordinary rows looked at"),
                Column("std", "std", text=_short, width=60, tip="Standard deviation over the ordinary rows looked at"),
                Column("largest", "max |x|", width=60, tip="Largest magnitude of an ordinary row looked at"),
            ),
            session.read,
        )  # fmt: skip
        self.table.setAccessibleName("Dimensions of the hook point")
        self.table.row_selected.connect(self.chosen.emit)
        whole = controls.column(controls.heading("Dimensions"), self.told, self.table, gap="tight")
        whole.setStretch(2, 1)
        self.setLayout(whole)

    def show_facts(self, facts: Facts) -> None:
        """Show those of a hook point."""
        held = facts.dimensions
        order = np.lexsort((-held["rms"], held["what"] == "dead", held["what"] != "outlier"))
        self.table.set_rows(held, order)
        self.told.setText(sentence(facts))


def sentence(facts: Facts) -> str:
    """How many stand out or say nothing, over how many rows."""
    outliers, dead = facts.of("outlier"), facts.of("dead")
    some = ", ".join(str(number) for number in outliers[:_NAMED]) + (", …" if len(outliers) > _NAMED else "")
    first = f"{len(outliers)} outlier{'' if len(outliers) == 1 else 's'}{f' ({some})' if outliers else ''}"
    among = numbers.count(facts.width)
    return f"{first}, {numbers.count(len(dead))} dead of {among}, over {numbers.count(facts.n)} ordinary rows"


def _short(value: float) -> str:
    return numbers.short(float(value))
