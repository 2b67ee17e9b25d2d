"""The finished dictionaries: their table, and what can be done with one or two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QWidget

from auditor.project import Artefact
from auditor.ui import theme
from auditor.ui.panes.training.runs import COLUMNS, INDEX, INDEXING, OPEN, empty_columns, rows_of
from auditor.ui.widgets import controls
from auditor.ui.widgets.big_table import BigTable
from auditor.ui.widgets.plain_text import PlainLabel

_NONE = "Trained and imported dictionaries are listed here, with their figures beside simple baselines."
_TABLE_HIGH = 96


class Finished(QWidget):
    """`chosen` tells that other rows are chosen; `index_wanted` the id of a dictionary whose features are to be
    shown; `evaluation_wanted` that the chosen ones are to be evaluated."""

    chosen = Signal()
    evaluation_wanted = Signal()
    index_wanted = Signal(str)

    def __init__(
        self, fine_tune: Callable[[], object], compare: Callable[[], object], pin: Callable[[], object],
        bring: Callable[[], object], doctor: Callable[[], object],
    ) -> None:  # fmt: skip
        super().__init__()
        self._artefacts: list[Artefact] = []
        self._indexing: set[str] = set()
        self._indexed: set[str] = set()
        self.table = BigTable(COLUMNS, many=True)
        self.table.setAccessibleName("Finished dictionaries")
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.table.setMinimumHeight(theme.px(_TABLE_HIGH))
        self.table.rows_chosen.connect(self._changed)
        self.table.link_clicked.connect(lambda row, _: self._want(row))
        self.table.row_activated.connect(self._want)
        self.index_button = controls.button(
            INDEX, lambda: self._want(self.table.selected), slim=True, icon="list",
            tip="Gather the features' examples and figures, or open them where that was done (Enter)",
        )  # fmt: skip
        self.tune_button = controls.button("Fine-tune", fine_tune, slim=True, icon="sliders-horizontal",
                                           tip="Fill in the settings that train this dictionary on")  # fmt: skip
        self.compare_button = controls.button("Compare", compare, slim=True, icon="scale",
                                              tip="Figures, curves and settings of the chosen dictionaries side by "
                                                  "side: choose two with Ctrl held down")  # fmt: skip
        self.evaluate_button = controls.tool(
            "gauge", "Evaluate…: what the features of the chosen dictionaries are good for, beside baselines",
            self.evaluation_wanted.emit,
        )  # fmt: skip
        self.pin_button = controls.tool(
            "pin", "Add to case: the chosen dictionary with its figures and baselines", pin
        )
        self.doctor_button = controls.tool("activity", "Run the doctor again…", doctor)
        self.import_button = controls.button("Import…", bring, slim=True, icon="download",
                                             tip="Bring in a dictionary that another tool trained")  # fmt: skip
        self._none = PlainLabel(_NONE, "muted", wrap=True)
        self._none.setAlignment(Qt.AlignmentFlag.AlignTop)
        head = controls.row(
            PlainLabel("Finished", "heading"), None, self.index_button, self.tune_button, self.compare_button,
            self.evaluate_button, self.pin_button, self.doctor_button, self.import_button, gap="tight",
        )  # fmt: skip
        whole = controls.column(head, self._none, self.table, gap="tight")
        whole.setStretch(2, 1)
        self.setLayout(whole)
        self._mark()

    def show_artefacts(self, dictionaries: Sequence[Artefact], indexed: set[str]) -> None:
        """List these, newest first; `indexed` are the ids of those with an index. What was chosen stays chosen."""
        kept = [artefact.id for artefact in self.chosen_artefacts()]
        self._artefacts, self._indexed = list(dictionaries), indexed
        order = self.table.horizontalHeader().sortIndicatorSection(), self.table.horizontalHeader().sortIndicatorOrder()
        self.table.blockSignals(True)
        rows = rows_of(self._artefacts, self._steps())
        hidden = empty_columns(rows)
        for at in range(len(COLUMNS)):
            self.table.setColumnHidden(at, at in hidden)
        self.table.set_rows(rows)
        if order[0] >= 0:
            self.table.horizontalHeader().setSortIndicator(*order)
        ids = [artefact.id for artefact in self._artefacts]
        self.table.choose([ids.index(held) for held in kept if held in ids])
        self.table.blockSignals(False)
        self.table.setVisible(bool(ids))
        self._none.setVisible(not ids)
        self._mark()

    def chosen_artefacts(self) -> list[Artefact]:
        """The chosen dictionaries in the order on screen."""
        return [self._artefacts[row] for row in self.table.chosen if row < len(self._artefacts)]

    def choose(self, *ids: str) -> None:
        """Choose dictionaries by id."""
        held = [artefact.id for artefact in self._artefacts]
        self.table.choose([held.index(one) for one in ids if one in held])

    def indexing(self, dictionary: str, on: bool) -> None:
        """Say in the dictionary's row that its index is being made."""
        (self._indexing.add if on else self._indexing.discard)(dictionary)
        self.show_artefacts(self._artefacts, self._indexed)

    def _steps(self) -> dict[str, str]:
        """What a click does next, by id."""
        return {a.id: INDEXING if a.id in self._indexing else OPEN if a.id in self._indexed else INDEX
                for a in self._artefacts}  # fmt: skip

    def _want(self, row: int) -> None:
        if 0 <= row < len(self._artefacts) and self._artefacts[row].id not in self._indexing:
            self.index_wanted.emit(self._artefacts[row].id)

    def _changed(self) -> None:
        self._mark()
        self.chosen.emit()

    def _mark(self) -> None:
        """Grey what cannot be done with what is chosen."""
        chosen = self.chosen_artefacts()
        one = len(chosen) == 1
        for made in (self.index_button, self.tune_button, self.pin_button, self.doctor_button):
            made.setEnabled(one)
        self.compare_button.setEnabled(len(chosen) > 1)
        self.evaluate_button.setEnabled(bool(chosen))
        self.index_button.setText("Features" if one and chosen[0].id in self._indexed else INDEX)
        if one and chosen[0].id in self._indexing:
            self.index_button.setEnabled(False)
