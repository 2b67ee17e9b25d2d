"""The training pane: settings of a dictionary, live curves of its run and of those before it, and the finished ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QFileDialog, QMenu, QSplitter, QStackedWidget, QWidget

from auditor.base.config import Config, read_config
from auditor.base.errors import AuditorError
from auditor.project import Artefact
from auditor.sae.train_config import ARCHS
from auditor.ui import theme
from auditor.ui.bridge import LiveJob, while_alive
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.panes.training.evaluating import Evaluating
from auditor.ui.panes.training.facts import estimates, is_shared
from auditor.ui.panes.training.finished import Finished
from auditor.ui.panes.training.followed import Followed
from auditor.ui.panes.training.kept import Kept, read_kept
from auditor.ui.panes.training.planner import Planner, measured
from auditor.ui.panes.training.run_strip import RunStrip
from auditor.ui.panes.training.settings import Settings
from auditor.ui.panes.training.sheet import Sheet
from auditor.ui.panes.training.to_features import ToFeatures
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers

_OVERLAID = 3
_PLAN = "training.plan"
_STREAMED = "Train says before its first step what it needs, and stops where that does not fit."
_DRAW_MS = 150
_LEFT, _RIGHT = 316, 704
_CURVES_HIGH, _TABLE_HIGH = 440, 150

_WHOLE = 110  # above this text size the parts need more room than a small window has


class Training(Pane):
    """Trains dictionaries in the background; the window stays free meanwhile."""

    id, title, icon = "training", "Train", "chart-line"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def pane() -> Training:
            found = session.open_pane("training")
            assert isinstance(found, Training)
            return found

        return (
            Command(id="run.train", title="Train a dictionary…", needs="store", menu="Run", icon="chart-line",
                    run=pane),
            Command(id="train.store", title="Train on the chosen store", needs="store", icon="chart-line",
                    run=lambda: pane().train_on()),
            Command(id="train.plan", title="Plan the training", needs="store", icon="gauge",
                    run=lambda: pane().plan()),
            Command(id="train.cancel_plan", title="Cancel the plan of the training", needs="store",
                    run=lambda: pane().cancel_plan()),
            Command(id="train.start", title="Start training", needs="writable", run=lambda: pane().start()),
            Command(id="train.fine-tune", title="Fine-tune the chosen dictionary", needs="dictionary",
                    icon="sliders-horizontal", run=lambda: pane().fine_tune()),
            Command(id="train.compare", title="Compare the chosen dictionaries", needs="dictionary", icon="scale",
                    run=lambda: pane().compare()),
            Command(id="train.evaluate", title="Evaluate the chosen dictionaries…", needs="dictionary", icon="gauge",
                    run=lambda: pane().evaluate()),
            Command(id="train.index", title="Show the features of the chosen dictionary", needs="dictionary",
                    icon="list", run=lambda: pane().show_features()),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        from auditor.ui.panes.training.curves import Curves  # loads pyqtgraph

        self._followed: list[Followed] = []
        self._runs = 0
        self._undrawn: set[Followed] = set()
        self._drawing = QTimer(self)
        self._drawing.setSingleShot(True)
        self._drawing.timeout.connect(self._draw_all)
        self._made: dict[int, list[str]] = {}
        self._asked: dict[int, Config] = {}
        self._artefacts: list[Artefact] = []
        self._kept: dict[str, Kept] = {}
        self._awaited = ""
        self._stores: list[str] = []
        run = session.commands.run
        self.settings = Settings(session)
        self.form = self.settings.form
        self.settings.changed.connect(self._edited)
        self.planner = Planner(
            lambda: run("train.plan"), lambda: run("train.cancel_plan"), lambda: run("train.start"),
            lambda: session.attempt(lambda: self.show_features(self._awaited)),
            lambda: run("run.record"),
        )  # fmt: skip
        self.strip = RunStrip()
        self.curves = Curves()
        self.plots = self.curves.plots
        self.sheet = Sheet(self._match)
        self.evaluating = Evaluating(session, self._pin)
        self.finished = Finished(
            lambda: run("train.fine-tune"), lambda: run("train.compare"), lambda: run("artefact.case"), self._bring,
            lambda: run("run.doctor"),
        )
        self.table = self.finished.table
        self.finished.chosen.connect(self._choose)
        self.finished.evaluation_wanted.connect(lambda: run("train.evaluate"))
        # Once it is made it is shown, unless the person has gone on to something else.
        self.to_features = ToFeatures(session, self.isVisible, self)
        self.to_features.indexing.connect(self.finished.indexing)
        self.finished.index_wanted.connect(lambda ref: session.attempt(lambda: self.show_features(ref)))
        session.artefact_selected.connect(self._selected)
        left, right = self._left(), self._right()
        session.job_started.connect(self._follow)
        for live in session.jobs:
            self._follow(live)
        if theme.scale() > _WHOLE:
            self.pages.insertWidget(0, left)
            self.show_page("settings")
            return controls.scrolled(right)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(left)
        split.addWidget(right)
        split.setStretchFactor(0, 1)
        split.setStretchFactor(1, 3)
        split.setSizes([theme.px(_LEFT), theme.px(_RIGHT)])
        split.setChildrenCollapsible(False)
        return split

    def _left(self) -> QWidget:
        if theme.scale() > _WHOLE:
            whole = controls.box(controls.column(self.planner, controls.line(), self.settings, None, gap="small"))
            whole.setContentsMargins(0, 0, theme.space("small"), 0)
            self._side: QWidget = controls.scrolled(whole, tall=True)
            return self._side
        inside = controls.box(controls.column(self.settings, None, gap=""))
        inside.setContentsMargins(0, 0, theme.space("small"), 0)
        area = controls.scrolled(inside, tall=True)
        left = controls.column(self.planner, controls.line(), area, gap="small", margin="medium")
        left.setStretch(2, 1)
        self._side = controls.box(left)
        return self._side

    def _right(self) -> QWidget:
        """The curves or the details, and the finished dictionaries below."""
        self.pages = QStackedWidget()
        self.pages.addWidget(self.curves)
        self.pages.addWidget(self.sheet)
        self.pages.addWidget(self.evaluating)
        self._shown = {"settings": self._side, "curves": self.curves, "details": self.sheet,
                       "evaluation": self.evaluating}  # fmt: skip
        self._tabs = {name: controls.button(name.capitalize(), partial(self.show_page, name), slim=True)
                      for name in self._shown}  # fmt: skip
        for made in self._tabs.values():
            made.setCheckable(True)
        self.settings_button = controls.tool("sliders-horizontal", "Hide or show the settings", checkable=True)
        self.settings_button.setChecked(True)
        (self.settings_button if theme.scale() > _WHOLE else self._tabs["settings"]).hide()
        self.settings_button.toggled.connect(self._side.setVisible)
        head = controls.row(*self._tabs.values(), None, *self.curves.switches, self.settings_button, gap="tight")
        upper = controls.column(head, self.strip, self.pages, gap="tight")
        upper.setStretch(2, 1)
        right = QSplitter(Qt.Orientation.Vertical)
        right.addWidget(controls.box(upper))
        right.addWidget(self.finished)
        right.setStretchFactor(0, 1)
        right.setSizes([theme.px(_CURVES_HIGH), theme.px(_TABLE_HIGH)])
        right.setChildrenCollapsible(False)
        self.show_page("curves")
        return controls.box(controls.column(right, margin="medium"))

    def kept(self) -> dict[str, Any]:
        return {"values": self.form.values()}

    def keep(self, kept: dict[str, Any]) -> None:
        self.form.set_all(kept["values"])

    def refresh(self) -> None:
        if self.session.project is None:
            self._forget()
            self.empty("No project is open.", hint="Open one from the start page.")
            return
        stores = self.session.artefacts("store")
        self._artefacts = self.session.artefacts("dictionary")[::-1]
        streams = bool(self.session.artefacts("model") and self.session.artefacts("samples"))
        if not stores and not self._artefacts and not streams:
            self.empty("Nothing is recorded yet.", "run.record", "A dictionary learns from recorded activations.")
            return
        self.finished.show_artefacts(self._artefacts, set(self.to_features.indices()))
        if not self.finished.chosen_artefacts():
            self.finished.choose(self.session.artefact or "")
        self._read_kept()
        if stores:
            self.planner.with_store()
            if self._stores != [store.id for store in stores]:
                self._stores = [store.id for store in stores]
                self._describe(keep=True)
        else:
            self.planner.without_store(stream=streams)
        self.ready()

    def show_page(self, name: str) -> None:
        """Show the “curves”, the “details” of what is chosen or its “evaluation”; the “settings” where the text is
        large, else they stand beside."""
        if name == "evaluation":
            self.evaluating.load()
        if self.pages.indexOf(self._shown[name]) >= 0:
            self.pages.setCurrentWidget(self._shown[name])
        else:
            self.settings_button.setChecked(True)
        self.finished.setVisible(self.pages.currentWidget() is not self._side)
        for title, made in self._tabs.items():
            made.setChecked(self.pages.currentWidget() is self._shown[title])
        for switch in self.curves.switches:
            switch.setVisible(self.pages.currentWidget() is self.curves)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        for held in self._followed:
            self._draw(held)

    # planning and starting

    def start(self) -> None:
        """Train with the form's settings."""
        config = self.settings.value()
        live = self.session.run_task("train", config, f"Train {config.arch} {numbers.count(config.d_sae)}")
        self._asked[live.id] = config
        self.planner.training()
        live.partial.connect(while_alive(self._hear))
        live.done.connect(while_alive(self._trained, live))
        live.ended.connect(while_alive(self._ended, live))
        self.show_page("curves")

    def train_on(self) -> None:
        """Fill in the store that is chosen in the project, else the newest."""
        stores = {held.id: held for held in self.session.artefacts("store")}
        chosen = stores.get(self.session.artefact or "") or list(stores.values())[-1]
        self.form.set("store", chosen.id)
        self.show_page("settings")
        self.planner.tell(f"Train learns a dictionary of “{chosen.name}”.")

    def plan(self) -> None:
        """Try a few steps in the background and say what the whole would take."""
        config, project = self.settings.value(), self.session.project
        assert project is not None
        if config.model:
            raise AuditorError("What streams from a model is not tried beforehand.", _STREAMED)
        self.planner.measuring(True)
        self.session.measure(_PLAN, lambda _: measured(project, config), self.planner.show_plan, self._unplanned)

    def cancel_plan(self) -> None:
        """Stop waiting for the plan. The steps that it tries come to their end unseen."""
        if _PLAN in self.session.reading:
            self.session.drop(_PLAN)
            self.planner.measuring(False)
            self.planner.tell("The plan was cancelled.")

    def _unplanned(self, error: Exception) -> None:
        self.planner.measuring(False)
        self.planner.tell("It could not be measured; the reason is said below.", "bad")
        self.session.error(error)

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "planned":
            self.planner.show_planned(estimates({f"planned_{name}": value for name, value in data.items()}))

    def _trained(self, live: LiveJob, result: dict[str, Any]) -> None:
        made = [str(held) for held in result.get("artefacts") or ()]
        self._made[live.id] = made
        self._awaited = made[0] if made else ""
        self.planner.trained(result)

    def _ended(self, live: LiveJob) -> None:
        if live.outcome == "failed":
            self.planner.tell("It was not trained; the reason is said below.", "bad")
        elif live.outcome == "cancelled":
            self.planner.tell("Stopped. Train goes on with the same settings; so does “Unfinished” in the project.")

    def _edited(self) -> None:
        if _PLAN in self.session.reading:  # it would tell of other settings
            self.session.drop(_PLAN)
            self.planner.measuring(False)
        self._describe()

    def _describe(self, *, keep: bool = False) -> None:
        """What the run will take, as far as the form alone tells it; `keep` leaves the sentence below it."""
        values = self.form.values()
        stores = self.session.artefacts("store")
        ref = values.get("store") or (stores[-1].id if stores else "")
        store = next((a for a in stores if ref in (a.id, a.name)), None)
        if store is None:
            return
        if values.get("model"):
            self.planner.streams(_STREAMED)
            return
        held = store.meta.get("hook_points")
        widths = dict(held) if isinstance(held, Mapping) else {}
        width = int(widths.get(values.get("hook")) or next(iter(widths.values()), 0))
        seen = int(values.get("steps") or 0) * int(values.get("batch_size") or 0)
        weights = 4 * (2 * width + 1) * int(values.get("d_sae") or 0) if width else 0
        self.planner.forget(seen, int(store.meta.get("rows", 0)), weights, keep=keep)

    # curves

    def _follow(self, live: LiveJob) -> None:
        if live.title.startswith("Train "):
            config = self.form.values()
            self._runs += 1
            held = Followed(live, self._runs, int(config.get("dead_after") or 0))
            self._followed.append(held)
            self.strip.follow(live)
            live.changed.connect(while_alive(self._draw, held))
            self._draw(held)

    def _draw(self, held: Followed) -> None:
        """Draw what has come, now or as soon as the last drawing is long enough ago: curves are no film."""
        if held in self._followed and self.isVisible():
            self._undrawn.add(held)
            if not self._drawing.isActive():
                self._draw_all()

    def _draw_all(self) -> None:
        if self._undrawn:
            for held in self._undrawn:
                held.draw(self.curves)
            self._undrawn.clear()
            self._drawing.start(_DRAW_MS)

    def _read_kept(self) -> None:
        """Read what the newest dictionaries and the chosen ones keep in their files."""
        shown = self._overlaid()
        missing = {artefact.id: artefact.path for artefact in shown if artefact.id not in self._kept}
        if not missing:
            self._show_past()
            return
        self.read(lambda: {ref: read_kept(path) for ref, path in missing.items()}, self._take_kept, key="kept")

    def _take_kept(self, found: dict[str, Kept]) -> None:
        self._kept |= found
        self._show_past()

    def _overlaid(self) -> list[Artefact]:
        chosen = self.finished.chosen_artefacts()
        newest = [artefact for artefact in self._artefacts[:_OVERLAID] if artefact not in chosen]
        return [*chosen, *newest]

    def _show_past(self) -> None:
        """The curves of finished dictionaries; they take the place of the live ones, and their colours."""
        past = {self._name(a): self._kept[a.id] for a in reversed(self._overlaid()) if a.id in self._kept}
        for held in self._followed:
            if held.live.outcome == "done":
                self._succeed(held)
        done = [held.live for held in self._followed if held.live.outcome == "done"]
        self._followed = [held for held in self._followed if held.live not in done and not self._went_on(held, done)]
        self._undrawn &= set(self._followed)
        live = [name for held in self._followed for name in held.names()]
        self.curves.keep([*live, *past])
        for name, kept in past.items():
            if kept.curve:
                self.curves.draw(name, kept.curve, finished=True)
                self.curves.draw_spliced(name, kept.spliced, finished=True)
                self.curves.draw_density(
                    name, kept.density, finished=True, dead_after=int(kept.settings.get("dead_after") or 0)
                )
        self._show_chosen()

    def _succeed(self, held: Followed) -> None:
        made = self._made.get(held.live.id, [])
        by_id = {artefact.id: artefact for artefact in self._artefacts}
        for name, ref in zip(held.names(), made, strict=False):
            if ref in by_id:
                self.curves.succeed(name, self._name(by_id[ref]))
        if made and made[0] in by_id:
            meta = by_id[made[0]].meta
            self.planner.show_truth(estimates(meta), held.live.seconds_spent, shared=is_shared(meta))

    def _went_on(self, held: Followed, done: Sequence[LiveJob]) -> bool:
        """Whether one of these ended what `held` began before it was stopped: then its curves hold all of it."""
        asked = self._asked.get(held.live.id)
        return not held.live.live and asked is not None and any(self._asked.get(live.id) == asked for live in done)

    def _name(self, artefact: Artefact) -> str:
        """What its curve is called: its name, with its digest where another has the same."""
        same = sum(other.name == artefact.name for other in self._artefacts)
        return artefact.name if same < 2 else f"{artefact.name} {artefact.digest[:6]}"

    def _forget(self) -> None:
        self._followed = [held for held in self._followed if held.live.live]
        self._undrawn.clear()
        self._kept.clear()
        self._stores = []
        self.curves.keep(())
        self.strip.forget()
        self.finished.show_artefacts((), set())
        self.sheet.show_dictionaries(())
        self.evaluating.forget()

    # what is chosen

    def _choose(self) -> None:
        chosen = self.finished.chosen_artefacts()
        if len(chosen) == 1:
            self.session.select_artefact(chosen[0].id)
        self._read_kept()

    def _selected(self, artefact: str) -> None:
        """A dictionary that is chosen elsewhere is chosen here too."""
        chosen = [held.id for held in self.finished.chosen_artefacts()]
        if artefact not in chosen and any(held.id == artefact for held in self._artefacts):
            self.finished.choose(artefact)
            self._read_kept()

    def _show_chosen(self) -> None:
        chosen = self.finished.chosen_artefacts()
        self.sheet.show_dictionaries([(a, self._kept[a.id]) for a in chosen if a.id in self._kept])
        self.evaluating.show_dictionaries(chosen)

    def compare(self) -> None:
        """Show what differs between the chosen dictionaries."""
        if len(self.finished.chosen_artefacts()) < 2:
            raise AuditorError("One dictionary alone cannot be compared.", "Choose two in the table: hold Ctrl down.")
        self.show_page("details")

    def evaluate(self) -> None:
        """Offer the measures of what the features of the chosen dictionaries are good for."""
        self.show_page("evaluation")

    def _pin(self, result: str) -> None:
        self.session.select_artefact(result)
        self.session.commands.run("artefact.case")

    def fine_tune(self) -> None:
        """Fill in the settings that train the chosen dictionary on."""
        dictionary = self._chosen()
        if dictionary.meta.get("arch", "topk") not in ARCHS:
            raise AuditorError(f"Dictionaries of the kind “{dictionary.meta['arch']}” cannot be trained on here.")
        path, stores = dictionary.path, self.session.artefacts("store")

        def fill(kept: Kept) -> None:
            self.show_page("settings")
            self.settings.fine_tune(dictionary, kept, stores)
            self.planner.tell(f"Train goes on from “{dictionary.name}”. A lower learning rate changes it less.")

        self.session.read("training.tune", lambda: read_kept(path), fill, self.session.error)

    def _chosen(self) -> Artefact:
        chosen = self.finished.chosen_artefacts()
        if len(chosen) != 1:
            raise AuditorError("No single dictionary is chosen.", "Choose one in the table of finished dictionaries.")
        return chosen[0]

    def _match(self, first: str, second: str) -> None:
        def start(kind: type[Config]) -> None:
            live = self.session.run_task("compare", read_config(kind, {"dictionaries": [first, second]}))
            live.done.connect(self.sheet.show_match)
            live.ended.connect(while_alive(self._matched, live))

        self.session.config_class("compare", start)

    def _matched(self, live: LiveJob) -> None:
        if live.outcome != "done":
            self.sheet.unmatched()

    def show_features(self, dictionary: str = "") -> None:
        """Open the chosen dictionary's index; where there is none yet, make it first."""
        self.to_features.go(dictionary or self._chosen().id)

    # bringing one in

    def _bring(self) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        asked = "Choose a dictionary"
        menu.addAction("A folder…", lambda: self.bring_in(QFileDialog.getExistingDirectory(self, asked)))
        menu.addAction("A file…", lambda: self.bring_in(QFileDialog.getOpenFileName(self, asked)[0]))
        menu.popup(self.finished.import_button.mapToGlobal(self.finished.import_button.rect().bottomLeft()))

    def bring_in(self, path: str) -> None:
        """Import what another tool trained."""
        def start(kind: type[Config]) -> None:
            self.session.run_task("import", read_config(kind, {"path": path}), "Import a dictionary")

        if path:
            self.session.config_class("import", start)
