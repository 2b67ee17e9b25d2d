"""The store pane: what the recorded activations of the chosen store are, and a look at any row back to its sample."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QMenu, QSplitter, QStackedWidget, QWidget

from auditor.base.config import Config, read_config
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Artefact
from auditor.ui import theme
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.panes.store.checking import Checking
from auditor.ui.panes.store.counts import Counts
from auditor.ui.panes.store.dimensions import Dimensions
from auditor.ui.panes.store.look import RowLook
from auditor.ui.panes.store.made import Made
from auditor.ui.panes.store.source import Looked, Opened, looked, opened, row
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.choice import Choice
from auditor.ui.widgets.figures import Figure, Figures
from auditor.ui.widgets.plain_text import ElidedLabel

_FIGURES = ("rows", "width", "numbers", "on disk", "samples", "looked at")
_LEFT, _RIGHT = 500, 500
_WHOLE = 110  # above this text size the parts need more room than a small window has
_HIGH = 260


class StorePane(Pane):
    """Shows the store that is chosen, else the newest; computes off the GUI thread."""

    id, title, icon = "store", "Store", "database"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def pane() -> StorePane:
            found = session.open_pane("store")
            assert isinstance(found, StorePane)
            return found

        return (
            Command(id="store.show", title="Look at a store", needs="store", menu="View", icon="database", run=pane,
                    help="Norms, outlier and dead dimensions, tokens, and any row back to its sample."),
            Command(id="store.check", title="Check the store's bytes", needs="store", icon="shield-check",
                    run=lambda: pane().check()),
            Command(id="store.export", title="Export the store…", needs="store", icon="download",
                    run=lambda: pane().export()),
            Command(id="store.random", title="Look at a random row of the store", needs="store", icon="shuffle",
                    run=lambda: pane().show_row(-1)),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        from auditor.ui.panes.store.norms import Norms  # loads pyqtgraph

        self._artefact: Artefact | None = None
        self._opened: Opened | None = None
        self._looked: Looked | None = None
        run = session.commands.run
        self.name = ElidedLabel("", "pane")
        self.hook = Choice()
        self.hook.setAccessibleName("Hook point")
        self.hook.activated.connect(lambda _: self._look())
        self.check_button = controls.button("Check", lambda: run("store.check"), slim=True, icon="shield-check",
                                            tip="Compare every byte with what was recorded")  # fmt: skip
        self.export_button = controls.button("Export…", lambda: run("store.export"), slim=True, icon="download")
        self.train_button = controls.button("Train on this", lambda: session.attempt(self.train), primary=True,
                                            slim=True, icon="chart-line")  # fmt: skip
        self.figures = Figures(_FIGURES)
        self.checking = Checking()
        self.dimensions = Dimensions(session)
        self.dimensions.chosen.connect(self._colour)
        self.row = RowLook(session)
        self.row.wanted.connect(self.show_row)
        self.counts, self.norms, self.made = Counts(session), Norms(), Made()
        session.artefact_selected.connect(lambda _: self.refresh())
        if theme.scale() > _WHOLE:
            buttons = controls.row(self.check_button, self.export_button, self.train_button, None)
            head = controls.column(self.name, self.hook, buttons, self.figures, self.checking)
            whole = controls.column(head, self._pages(self.dimensions), gap="small", margin="medium")
            return controls.scrolled(controls.box(whole), tall=True)
        line = controls.row(self.name, self.hook, self.check_button, self.export_button, self.train_button)
        line.setStretch(0, 3)
        line.setStretch(1, 2)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(self.dimensions)
        split.addWidget(self._pages())
        split.setSizes([theme.px(_LEFT), theme.px(_RIGHT)])
        split.setChildrenCollapsible(False)
        whole = controls.column(line, self.figures, self.checking, split, gap="small", margin="medium")
        whole.setStretch(3, 1)
        return controls.box(whole)

    def _pages(self, first: QWidget | None = None) -> QWidget:
        """The pages and what chooses one; the dimensions are the first where they do not stand beside."""
        self.pages = QStackedWidget()
        shown: dict[str, QWidget] = {"row": self.row, "norms": self.norms, "tokens": self.counts}
        shown["how it was made"] = self.made
        if first is not None:
            shown = {"dimensions": first, **shown}
            self.pages.setMinimumHeight(theme.px(_HIGH))
        self._tabs = {}
        for name, widget in shown.items():
            self.pages.addWidget(widget)
            self._tabs[name] = controls.button(name.capitalize(), partial(self.show_page, name), slim=True)
            self._tabs[name].setCheckable(True)
        self._shown = shown
        self.show_page(next(iter(shown)) if first is not None else "row")
        whole = controls.column(controls.row(*self._tabs.values(), None, gap="tight"), self.pages, gap="small")
        whole.setStretch(1, 1)
        return controls.box(whole)

    def refresh(self) -> None:
        stores = self.session.artefacts("store")
        if not stores:
            self._forget()
            if self.session.project is None:
                self.empty("No project is open.", hint="Open one from the start page.")
            else:
                self.empty("Nothing is recorded yet.", "run.record",
                           "Activations of another program can be dropped here: they are imported.")
            return
        chosen = next((held for held in stores if held.id == self.session.artefact), None)
        kept = next((held for held in stores if self._artefact and held.id == self._artefact.id), None)
        artefact = chosen or kept or stores[-1]
        if self._artefact is None or artefact.id != self._artefact.id or self.state == "failed":
            self._open(artefact)
        self._artefact = artefact
        self.name.setText(artefact.name)

    def show_page(self, name: str) -> None:
        """Show “row”, “norms”, “tokens” or “how it was made”."""
        self.pages.setCurrentWidget(self._shown[name])
        for title, made in self._tabs.items():
            made.setChecked(title == name)

    def show_row(self, number: int) -> None:
        """Look at a row of the hook point, any one where it is −1."""
        held, facts = self._opened, self._looked
        if held is None or facts is None or not facts.facts.rows:
            return
        rows, hook, store = facts.facts.rows, facts.facts.hook, held.store
        wanted = number if number >= 0 else random.randrange(rows)
        self.show_page("row")
        self.session.read("store.row", lambda: row(store, hook, wanted), self.row.show_row, self.session.error)

    def check(self) -> None:
        """Compare every byte with its digest, in the background."""
        held, artefact = self._opened, self._artefact
        if held is None or artefact is None or self.checking.running:
            return
        store = held.store

        def work(reporter: Reporter) -> dict[str, Any]:
            store.check(reporter)
            return {}

        self.checking.follow(self.session.run(f"Check {artefact.name}", work))

    def export(self) -> None:
        """Ask for the form and the place, and write the hook point's rows there."""
        name = self._must().name
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        asked, endings = "Export the activations", "Activations (*.npy *.safetensors *.h5)"
        ask = QFileDialog.getSaveFileName
        menu.addAction("As .npy, .safetensors or .h5…",
                       lambda: self.export_to(ask(self, asked, f"{name}.safetensors", endings)[0]))  # fmt: skip
        menu.addAction("As a folder for SAELens…", lambda: self.export_to(ask(self, asked, name)[0], "saelens"))
        menu.popup(self.export_button.mapToGlobal(self.export_button.rect().bottomLeft()))

    def export_to(self, path: str, format: str = "own") -> None:
        """Write the hook point's rows to a file, whose ending chooses the form, or to a folder for SAELens."""
        artefact, hook = self._must(), str(self.hook.currentData())
        if not path:
            return

        def start(kind: type[Config]) -> None:
            config = read_config(kind, {"artefact": artefact.id, "out": path, "hook": hook, "format": format})
            live = self.session.run_task("export", config, f"Export {artefact.name}")
            live.done.connect(lambda told: self.session.say(f"Written: {told['written']}"))

        self.session.config_class("export", start)

    def train(self) -> None:
        """Go to the training with this store chosen."""
        self.session.select_artefact(self._must().id)
        self.session.commands.run("train.store")

    def _must(self) -> Artefact:
        if self._artefact is None:
            raise AuditorError("No store is chosen.", "Choose one in the project.")
        return self._artefact

    def _open(self, artefact: Artefact) -> None:
        self._opened = self._looked = None
        self.checking.forget()
        self.working(f"Opening “{artefact.name}”…")
        path = artefact.path
        self.read(lambda: opened(path), self._show, key="open")

    def _show(self, held: Opened) -> None:
        self._opened = held
        self.hook.clear()
        for hook, width in held.hooks.items():
            self.hook.add(hook, hook, f"  {width}")
        self.made.show_lines(held.made)
        if not held.store.n_rows:
            self.empty("This store holds no rows yet.", hint="It is not finished: go on with its recording.")
            return
        self._look()

    def _look(self) -> None:
        held, hook = self._opened, str(self.hook.currentData() or "")
        if held is not None and hook:
            self.working(f"Looking at {hook}…")
            store = held.store
            self.read(lambda: looked(store, hook), self._show_look, key="look")

    def _show_look(self, found: Looked) -> None:
        self._looked = found
        facts, held = found.facts, self._opened
        assert held is not None
        lost = held.rounding.get(facts.hook)
        some = numbers.share(facts.n / facts.rows) if facts.rows else ""
        hooks = f"{len(held.hooks)} hook points" if len(held.hooks) > 1 else ""
        self.figures.show_figures({
            "rows": Figure(numbers.count(facts.rows), "" if held.complete else "not finished",
                           tip="Rows of this hook point"),
            "width": Figure(numbers.count(facts.width), "dimensions"),
            "numbers": Figure(held.numbers, f"FVU {numbers.figure(lost)}" if lost is not None else "",
                              tip="How they are kept; FVU is what the rounding lost"),
            "on disk": Figure(numbers.size(held.bytes), hooks),
            "samples": Figure(numbers.count(found.contents.samples)),
            "looked at": Figure(numbers.count(facts.n), f"{some} of the rows" if some else "",
                                tip="Ordinary rows that the figures of dimensions are over; special ones are left out"),
        })  # fmt: skip
        self.dimensions.show_facts(facts)
        self.norms.show_lengths(found.lengths)
        self.counts.show_contents(found.contents)
        self.row.show_facts(facts)
        self.ready()
        self._first_row(facts.rows)

    def _first_row(self, rows: int) -> None:
        """A row from the middle, so that something is seen."""
        held, facts = self._opened, self._looked
        if held is not None and facts is not None and rows:
            store, hook, number = held.store, facts.facts.hook, rows // 2
            self.session.read("store.row", lambda: row(store, hook, number), self.row.show_row, self.session.error)

    def _colour(self, dimension: int) -> None:
        self.row.colour_by(dimension)
        self.show_page("row")

    def _forget(self) -> None:
        self._artefact = self._opened = self._looked = None
        self.checking.forget()
