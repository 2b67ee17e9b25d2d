"""The features pane: every feature of an index in one table, searched live, and what fires on a text or an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QBoxLayout, QMenu, QStackedWidget, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.commands import Command, Hit
from auditor.ui.pane import Pane
from auditor.ui.panes.features.fires_box import FiresBox
from auditor.ui.panes.features.index_form import IndexForm
from auditor.ui.panes.features.search_bar import SearchBar
from auditor.ui.panes.features.source import Answer, Fired, LabelFinder, Opened, Shelf, run_fires, search
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.choice import Choice
from auditor.ui.widgets.drops import Drops
from auditor.ui.widgets.plain_text import PlainLabel, visible

_HITS = 12
_ONE_LINE = 125
_COLUMNS = (
    Column("id", "id", str, width=48, tip="Number of the feature in its dictionary"),
    Column("label", "label", width=150, tip="Given by a person, else the words of its strongest texts"),
    Column("activation", "here", numbers.short, bar=True, width=60, tip="Largest activation on what was run"),
    Column("density", "density", numbers.short_share, width=66, tip="Share of recorded tokens on which it fires"),
    Column("image_share", "image", numbers.short_share, width=60,
           tip="Share of its summed activation on image tokens"),
    Column("agreement", "agr", numbers.short, width=52,
           tip="Agreement: cosine between the words of its texts and of its images' captions"),
    Column("max_act", "max", numbers.short, bar=True, width=56, tip="Largest activation in the store"),
    Column("modality", "fires on", width=62, tip="text, image, both, or none"),
)  # fmt: skip
_ASIDE = ("image_share", "agreement")
_STEPS = (
    ("model", "There are no features yet. Begin with a model.", "open.model",
     "Then record its activations, train a dictionary on them, and index its features."),
    ("store", "There are no features yet. Next, record activations of the model.", "run.record",
     "Then train a dictionary on them, and index its features."),
    ("dictionary", "There are no features yet. Next, train a dictionary on what was recorded.", "run.train",
     "Then index its features."),
)  # fmt: skip


class Features(Pane):
    """Chooses an index, searches it and selects features."""

    id, title, icon = "features", "Features", "list"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def pane() -> Features:
            found = session.open_pane("features")
            assert isinstance(found, Features)
            return found

        return (
            Command(id="run.index", title="Index the features…", needs="dictionary", menu="Run", icon="list",
                    run=lambda: pane().open_form()),
            Command(id="feature.search", title="Search the features", keys="Ctrl+F", needs="index", menu="Edit",
                    icon="search", run=lambda: pane().focus_search()),
            Command(id="feature.fires", title="What fires on…", keys="W", needs="index", menu="Edit", icon="zap",
                    help="Run a text or an image through the model and list the features that fire.",
                    run=lambda: pane().open_fires()),
            Command(id="feature.search-case", title="Add this search to the case", needs="index", menu="Case",
                    icon="pin",
                    help="The query, how many features it finds, and the first of them become evidence.",
                    run=lambda: pane().add_to_case()),
            Command(id="feature.like", title="Features like this one", keys="M", needs="feature", menu="Edit",
                    icon="copy", run=lambda: pane().like()),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self._shelf = Shelf()
        self._opened: Opened | None = None
        self._wanted = ""
        self._job: LiveJob | None = None
        self._answer: Answer | None = None
        self._fired: Fired | None = None
        self._at = -1
        self._finder = LabelFinder(())
        self._drops = Drops()
        self.setAcceptDrops(True)
        self._make_parts()
        shelf = self._shelf
        self.destroyed.connect(lambda: shelf.close())
        session.feature_selected.connect(self._selected)
        session.artefact_selected.connect(self._artefact)
        session.undo.indexChanged.connect(self._read_labels)
        session.commands.add_provider("Features", self._hits)
        return self._pages

    def _make_parts(self) -> None:
        self.choice = Choice()
        self.choice.setAccessibleName("Index")
        self.choice.activated.connect(lambda at: self.session.select_artefact(str(self.choice.itemData(at))))
        self.bar = SearchBar()
        self.bar.changed.connect(self._search)
        self.fires = FiresBox()
        self.fires.hide()
        self.fires.asked.connect(self._ask)
        self.fires.closed.connect(self.close_fires)
        self.fires.position_chosen.connect(self._choose_position)
        self._here = controls.button("", lambda: self._choose_position(-1), icon="x")
        self._here.hide()
        self.table = BigTable(_COLUMNS, offload=self.session.read)
        self.table.setAccessibleName("Features")
        self._show_activation(False)
        self.table.row_selected.connect(self._row)
        self.table.row_activated.connect(lambda row: self._row(row, show=True))
        self.table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.table.customContextMenuRequested.connect(self._menu)
        self._nothing = PlainLabel("No feature fits this search. Take a condition away.", "muted", wrap=True)
        self._nothing.hide()
        run = self.session.commands.run
        self._fires_button = controls.button("What fires on…", lambda: run("feature.fires"), icon="zap")
        new = controls.tool("plus", "Index the features…", lambda: run("run.index"))
        pin = controls.tool("pin", "Add this search to the case", lambda: run("feature.search-case"))
        if theme.scale() > _ONE_LINE:
            head: QBoxLayout = controls.column(self.choice, controls.row(self._fires_button, new, pin, None))
        else:
            head = controls.row(self.choice, new, pin, self._fires_button)
            head.setStretch(0, 1)
        parts = (head, self.bar, self.fires, controls.row(self._here, None), self._nothing, self.table)
        page = controls.column(*parts, margin="small")
        page.setStretch(parts.index(self.table), 1)
        main = controls.box(page)
        self.form = IndexForm(self.session)
        self.form.started.connect(self._started)
        self.form.closed.connect(self.close_form)
        self._pages = QStackedWidget()
        self._pages.addWidget(main)
        self._pages.addWidget(self.form)

    # states

    def refresh(self) -> None:
        held = self.session.artefacts("index")
        if self.session.project is None:
            self._drop()
            self.empty("No project is open.", hint="Open one from the start page.")
        elif self._pages.currentWidget() is self.form:
            self.ready()
        elif not held:
            self._drop()
            if self._job is not None and self._job.live:
                self._follow()
            else:
                self.empty(*self._next_step())
        else:
            self._list(held[-1].id)

    def _next_step(self) -> tuple[str, str, str]:
        """What lacks before features can be shown, the command that makes it, and why."""
        for kind, sentence, command, hint in _STEPS:
            if not self.session.artefacts(kind):
                return sentence, command, hint
        return ("No features are indexed yet.", "run.index",
                "An index gathers the examples and figures of every feature of a dictionary.")  # fmt: skip

    def _list(self, newest: str) -> None:
        held = self.session.artefacts("index")
        ids = [artefact.id for artefact in held]
        if self._wanted not in ids:
            self._wanted = self.session.artefact if self.session.artefact in ids else newest
        self.choice.clear()
        for artefact in reversed(held):
            features = artefact.meta.get("features")
            told = f"  ·  {numbers.count(int(features))}" if features else ""
            self.choice.add(visible(artefact.name), artefact.id, told)
        self.choice.setCurrentIndex(self.choice.findData(self._wanted))
        if self._opened is not None and self._opened.artefact == self._wanted:
            self.ready()
        else:
            self._open()

    def _open(self) -> None:
        project, wanted = self.session.project, self._wanted
        if project is None:
            return
        self._drop()
        self.working("Opening the index…")
        shelf = self._shelf
        self.read(lambda: shelf.open(project, wanted), self._arrived, key="open")

    def _arrived(self, opened: Opened) -> None:
        if opened.artefact != self._wanted or self.session.project is None:
            return
        self._opened = opened
        self._finder = LabelFinder(opened.labels)
        self.table.set_rows(opened.rows)
        self._show_activation(False)
        self._answer = None
        self.ready()
        self._show_rows()
        if self.bar.text:
            self._search(self.bar.text)
        if self.session.feature is not None:
            self._selected(*self.session.feature)

    def _drop(self) -> None:
        """Let go of the open index; it is closed after the reads that still use it."""
        if self._opened is not None or self.session.reading:
            self.session.read("features.close", self._shelf.close, lambda _: None)
        self._opened = self._answer = self._fired = None
        self._at = -1
        self._finder = LabelFinder(())
        self.fires.clear()
        self.table.set_rows(np.zeros(0, self.table.model().array.dtype))  # type: ignore[attr-defined]

    def _artefact(self, artefact: str) -> None:
        if artefact != self._wanted and any(a.id == artefact for a in self.session.artefacts("index")):
            self._wanted = artefact
            self.refresh()

    # searching

    def focus_search(self) -> None:
        """Put the cursor into the search line."""
        self.bar.edit.setFocus()
        self.bar.edit.selectAll()

    def like(self, feature: int = -1) -> None:
        """Order the features by how close their decoder direction lies to this one's."""
        if feature < 0 and self.session.feature is not None:
            feature = self.session.feature[1]
        if feature >= 0:
            self.bar.set_text(f"like:{feature}")

    def _search(self, text: str) -> None:
        opened = self._opened
        if opened is None:
            return
        if not text.strip():
            self._found(Answer(np.arange(len(opened.rows))))
            return
        self.session.read("features.search", lambda: search(opened.index, text), self._found, self.session.error)

    def _found(self, answer: Answer) -> None:
        self.bar.show_answer(answer)
        if answer.error is None:
            self._answer = answer
            if answer.ordered:
                self.table.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
            self._show_rows()

    def _show_rows(self) -> None:
        """Show what the search found and, where something was run, only what fires on it."""
        opened = self._opened
        if opened is None:
            return
        ids = np.arange(len(opened.rows)) if self._answer is None else self._answer.ids
        fired = self._firing()
        if fired is not None:
            ids = fired[np.isin(fired, ids)]
        self.table.set_order(ids)
        header = self.table.horizontalHeader()
        if header.sortIndicatorSection() >= 0:
            self.table.sort(header.sortIndicatorSection(), header.sortIndicatorOrder())
        self.bar.show_count(len(ids), len(opened.rows))
        self._nothing.setVisible(not len(ids))

    def add_to_case(self) -> None:
        """Offer what the search finds as evidence."""
        opened, query, ids = self._opened, self.bar.text, [int(i) for i in self.table.order]
        if opened is None:
            return

        def fields() -> dict[str, object]:
            from auditor.tasks.pinning import search_result

            return search_result(opened.index, query, ids).evidence()

        self.session.read("features.evidence", fields, self.session.offer_evidence, self.session.error)

    # what fires

    def open_fires(self) -> None:
        """Show the box for a text or an image."""
        self.close_form()
        self.fires.show()
        self._fires_button.hide()
        self.fires.edit.setFocus()

    def close_fires(self) -> None:
        """Put the box away and show all features again."""
        self.fires.clear()
        self.fires.hide()
        self._fires_button.show()
        self._fired = None
        self._choose_position(-1)
        self._show_activation(False)

    def fire(self, text: str = "", image: Path | None = None) -> None:
        """Run a text or an image and show only what fires."""
        self.open_fires()
        if text:
            self.fires.edit.setPlainText(text)
        if image is not None:
            self.fires.set_image(image)
        else:
            self._ask()

    def _ask(self) -> None:
        project, opened = self.session.project, self._opened
        if project is None or opened is None:
            return
        text, image, order = self.fires.text, self.fires.image, self.fires.order
        if not text.strip() and image is None:
            self.fires.failed(AuditorError("There is nothing to run.", "Type a text or choose an image."))
            return
        self.fires.working()
        self.session.read(
            "features.fires", lambda: run_fires(project, opened.artefact, text, image, order), self._fired_here,
            self.fires.failed,
        )  # fmt: skip

    def _fired_here(self, fired: Fired) -> None:
        opened = self._opened
        if opened is None or self.fires.isHidden():
            return
        self._fired, self._at = fired, -1
        self._here.hide()
        self.fires.show_fired(fired)
        opened.rows["activation"] = np.nan
        for fire in fired.fires:
            opened.rows["activation"][fire.feature] = fire.activation
        self._show_activation(True)
        self.table.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self._show_rows()
        if len(self.table.order):
            self._row(int(self.table.order[0]))

    def _show_activation(self, on: bool) -> None:
        """Where something was run, its activation takes the room of figures that matter less then; where nothing
        fires on images, the figures of images give theirs to the labels."""
        images = self._opened is not None and bool(np.nansum(self._opened.rows["image_share"]))
        for number, column in enumerate(_COLUMNS):
            if column.field == "activation":
                self.table.setColumnHidden(number, not on)
            elif column.field in _ASIDE:
                self.table.setColumnHidden(number, on or not images)

    def _firing(self) -> NDArray[np.int64] | None:
        if self._fired is None:
            return None
        found = self._fired.fires
        ids = [fire.feature for fire in found] if self._at < 0 else [feature for feature, _ in found.at(self._at)]
        return np.array(ids, dtype=np.int64)

    def _choose_position(self, position: int) -> None:
        self._at = position
        self._here.setText(f"only at “{visible(self.fires.token_at(position))}”")
        self._here.setVisible(position >= 0)
        self._show_rows()
        self._colour()

    def _colour(self) -> None:
        feature = self.session.feature
        mine = feature is not None and self._opened is not None and feature[0] == self._opened.dictionary
        self.fires.colour(feature[1] if mine and feature is not None else -1, self._at)

    # selection

    def _row(self, row: int, *, show: bool = False) -> None:
        if self._opened is not None:
            self.session.select_feature(self._opened.dictionary, row)
            if show and self.session.pane_of is not None:
                self.session.open_pane("examples")

    def _selected(self, dictionary: str, feature: int) -> None:
        if self._opened is None or self._opened.dictionary != dictionary:
            return
        if self.table.selected != feature:
            self.table.select(feature)
        self._colour()

    def _read_labels(self, _: int = 0) -> None:
        opened = self._opened
        if opened is not None:
            self.session.read("features.labels", lambda: (opened, opened.index.labels), self._relabel)

    def _relabel(self, told: tuple[Opened, Sequence[str]]) -> None:
        opened, labels = told
        if opened is self._opened:
            opened.rows["label"] = labels
            self._finder = LabelFinder(labels)
            self.table.viewport().update()

    def _hits(self, query: str) -> Iterable[Hit]:
        opened = self._opened
        if opened is None or not query:
            return
        for feature in self._finder.find(query, _HITS):
            label = opened.rows["label"][feature] or "no label"
            yield Hit(f"{feature}  {visible(str(label))}", self._goer(opened.dictionary, feature), "feature", "list")

    def _goer(self, dictionary: str, feature: int) -> Callable[[], None]:
        def go() -> None:
            self.session.select_feature(dictionary, feature)
            if self.session.pane_of is not None:
                self.session.open_pane("examples")

        return go

    def _menu(self, place: QPoint) -> None:
        index = self.table.indexAt(place)
        if not index.isValid():
            return
        feature = int(self.table.order[index.row()])
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction("Features like this one", lambda: self.like(feature))
        for name in ("feature.label", "feature.case"):
            if any(command.id == name for command in self.session.commands.all()):
                menu.addAction(self.session.commands.get(name).title, self._runner(name, feature))
        menu.popup(self.table.viewport().mapToGlobal(place))

    def _runner(self, name: str, feature: int) -> Callable[[], None]:
        def run() -> None:
            self._row(feature)
            self.session.commands.run(name)

        return run

    # a new index

    def open_form(self) -> None:
        """Show the settings of an index."""
        self.form.load()
        self._pages.setCurrentWidget(self.form)
        self.ready()

    def close_form(self) -> None:
        """Go back to the table, or to what to do without one."""
        if self._pages.currentIndex():
            self._pages.setCurrentIndex(0)
            self.refresh()

    def _started(self, live: LiveJob) -> None:
        self._job = live
        live.changed.connect(self._follow)
        live.done.connect(self._indexed)
        live.ended.connect(self.refresh)
        self.close_form()

    def _follow(self) -> None:
        live = self._job
        if live is not None and live.live and self._opened is None and not self.session.artefacts("index"):
            self.working(f"Indexing: {live.note or live.title}", live.done_units, live.total, live.stop)

    def _indexed(self, result: dict[str, object]) -> None:
        made = result.get("artefacts")
        if isinstance(made, list) and made:
            self._wanted = str(made[0])

    # dropping an image

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._opened is not None and self._drops.enter(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        paths = self._drops.take(event)
        if paths:
            event.acceptProposedAction()
            self.fire(image=paths[0])
