"""The feature's card: what one feature fires on in text and in images, its figures, and the way on from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QBoxLayout, QButtonGroup, QFrame, QPushButton, QStackedWidget, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.panes.examples import evidence
from auditor.ui.panes.examples.bars import Bar, Bars
from auditor.ui.panes.examples.edits import EditsPage
from auditor.ui.panes.examples.experiment import ExperimentPage
from auditor.ui.panes.examples.gallery import GROUPS, Gallery
from auditor.ui.panes.examples.head import Head
from auditor.ui.panes.examples.labelling import Write
from auditor.ui.panes.examples.source import Card, Shelf, Source, decode
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, tooltip

if TYPE_CHECKING:
    from auditor.features.examples import Example

_LOGITS = 6
_FIGURES = 126
_NEAR = 5
_HERE = 10
_PICTURES = 600
_SIDE_BY_SIDE = 150
_ACTIONS = (
    ("label", "Label", "pencil", "Label this feature (L)"),
    ("case", "Add to case", "pin", "Add to case (C)"),
    ("trace", "Trace", "circuit-board", "Trace the chosen example (T)"),
    ("test", "Test…", "flask-conical", "Ablate and test (A)"),
    ("like", "Like this", "copy", "Features like this one (M)"),
)


class Examples(Pane):
    """Shows the feature that is selected in the session, whichever pane selected it."""

    id, title, icon = "examples", "Feature", "microscope"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def act(name: str) -> Callable[[], None]:
            def run() -> None:
                pane = session.open_pane("examples")
                assert isinstance(pane, Examples)
                getattr(pane, name)()

            return run

        def command(id: str, title: str, keys: str, icon: str, name: str, help: str = "") -> Command:
            return Command(id=f"feature.{id}", title=title, keys=keys, needs="feature", menu="Edit", icon=icon,
                           help=help, run=act(name))  # fmt: skip

        return (
            command("label", "Label this feature…", "L", "pencil", "label"),
            command("note", "Write a note on this feature…", "N", "message-square-text", "note"),
            command("star", "Star this feature", "", "star", "star"),
            command("case", "Add this feature to the case", "C", "pin", "add_to_case"),
            command("trace", "Trace the chosen example", "T", "circuit-board", "trace",
                    "Takes the text of the chosen example as the prompt of a circuit."),
            command("test", "Test this feature…", "A", "flask-conical", "test",
                    "Ablates it in the running model, with a null of other features."),
            Command(id="experiment.edits", title="Edit the network…", needs="model", menu="Run", icon="scissors",
                    help="Ablate, scale, steer, patch, cut edges, freeze or change weights, beside controls.",
                    run=act("edit_network")),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self._shelf = Shelf()
        self._source: Source | None = None
        self._card: Card | None = None
        self._group = "top"
        self._example: Example | None = None
        self._pictures: dict[str, QImage] = {}
        self._make_head()
        self._make_body()
        page = controls.column(self._top, self._area, self._actions, gap="")
        page.setStretch(1, 1)
        self._card_page = controls.box(page)
        self.experiment = ExperimentPage(session)
        self._pages = QStackedWidget()
        self.experiment.closed.connect(self._leave_test)
        self.edits = EditsPage(session)
        self.edits.closed.connect(self._leave_edits)
        self.experiment.edits_wanted.connect(self.edit_network)
        for trial in (self.experiment.trial, self.edits.trial):
            trial.offered.connect(session.offer_evidence)
        for held in (self._card_page, self.experiment, self.edits):
            self._pages.addWidget(held)
        session.feature_selected.connect(self._selected)
        session.artefact_selected.connect(self._artefact)
        shelf = self._shelf
        self.destroyed.connect(lambda: shelf.close())
        return self._pages

    def _make_head(self) -> None:
        self.head = Head(self.session)
        self.head.written.connect(self._write)
        self._top = controls.box(controls.column(self.head, margin="small"))

    def _make_body(self) -> None:
        from auditor.ui.widgets.plots import HistogramPlot

        self.histogram = HistogramPlot("", "activation", "n")
        self.histogram.setFixedHeight(theme.px(_FIGURES))
        self.raised, self.lowered = Bars("Logits that it raises"), Bars("Logits that it lowers")
        self._logits = controls.box(controls.row(
            controls.column(PlainLabel("raises logits", "heading"), self.raised, None, gap="tight"),
            controls.column(PlainLabel("lowers logits", "heading"), self.lowered, None, gap="tight"), gap="medium",
        ))  # fmt: skip
        if theme.scale() > _SIDE_BY_SIDE:
            figures: QBoxLayout = controls.column(self.histogram, self._logits, gap="medium")
        else:
            figures = controls.row(self.histogram, self._logits, gap="medium")
            figures.setStretch(0, 5)
            figures.setStretch(1, 5)
        self.near = Bars("Nearest features by decoder cosine", "cosine", clickable=True)
        self.near.chosen.connect(self._go)
        near = controls.column(PlainLabel("nearest features (decoder cosine)", "heading"), self.near, gap="tight")
        self.gallery = Gallery()
        self.gallery.asked.connect(self._ask)
        self.gallery.picked.connect(self._pick)
        self._here_title = ElidedLabel("", "strong")
        self._here_told = PlainLabel("", "muted", wrap=True)
        self.here = Bars("Features at the chosen token or patch", clickable=True)
        self.here.chosen.connect(self._go)
        self._here_box: QFrame = controls.card(
            controls.box(controls.row(self._here_title, controls.tool("x", "Close", self._close_here))),
            self._here_told, self.here, gap="tight",
        )  # fmt: skip
        self._close_here()
        inside = controls.column(figures, self._segments(), self.gallery, near, None, gap="small", margin="small")
        inside.setContentsMargins(theme.px(8), 0, theme.px(8), theme.px(8))
        self._body = controls.box(inside)
        self._area = controls.scrolled(self._body, tall=True)
        run = self.session.commands.run
        self._actions = controls.box(Flow(
            *(controls.button(title, partial(run, f"feature.{command}"), icon=icon, tip=tip, slim=True)
              for command, title, icon, tip in _ACTIONS), gap="tight", margin="small",
        ))  # fmt: skip

    def _segments(self) -> QWidget:
        self._tabs: dict[str, QPushButton] = {}
        group = QButtonGroup(self)
        for name, (title, _, tip) in GROUPS.items():
            made = controls.button(title, partial(self.show_group, name), slim=True)
            made.setCheckable(True)
            made.setToolTip(tooltip(tip))
            group.addButton(made)
            self._tabs[name] = made
        self._tabs[self._group].setChecked(True)
        scale = (self.gallery.legend, self.gallery.eye)
        if theme.scale() > _SIDE_BY_SIDE:
            return controls.box(
                controls.column(controls.box(Flow(*self._tabs.values())), controls.row(*scale), gap="tight")
            )
        return controls.box(controls.row(*self._tabs.values(), *scale, gap="tight"))

    # states

    def refresh(self) -> None:
        session = self.session
        if session.project is None:
            self._drop()
            self.empty("No project is open.", hint="Open one from the start page.")
        elif self._pages.currentWidget() is self.edits:
            self.ready()
        elif session.feature is not None:
            if self._card is None or not self._shows(*session.feature):
                self._selected(*session.feature)
            else:
                self.ready()
        elif session.artefacts("index"):
            self.empty("No feature is chosen.", "feature.search", "Choose one in the table, or search for one.")
        else:
            self._drop()
            self.empty("The feature that you choose is shown here.", hint="None are indexed yet.")

    def _shows(self, dictionary: str, feature: int) -> bool:
        card = self._card
        return card is not None and (card.source.dictionary, card.feature.id) == (dictionary, feature)

    def _selected(self, dictionary: str, feature: int) -> None:
        project = self.session.project
        if project is None:
            return
        if self._card is None:
            self.working("Opening the feature…")
        shelf, preferred = self._shelf, self.session.artefact
        self.read(lambda: shelf.get(project, dictionary, preferred).card(feature), self._arrived, key="card")

    def _arrived(self, card: Card) -> None:
        if self.session.project is None:
            return
        same = self._card is not None and self._card.source is card.source and self._card.feature.id == card.feature.id
        if self._source is not card.source:
            self._pictures = {}
        self._source, self._card = card.source, card
        self.head.show_card(card)
        if not same or self.state != "ready":
            self._draw(card)
        self.ready()

    def _drop(self) -> None:
        """Let go of the index; it is closed after the reads that still use it."""
        if self._source is not None or self.session.reading:
            self.session.read("examples.close", self._shelf.close, lambda _: None)
        self._source = self._card = self._example = None
        self._pictures = {}
        self._pages.setCurrentIndex(0)

    def _artefact(self, artefact: str) -> None:
        """Another index of the same dictionary was chosen: show what that one says."""
        feature = self.session.feature
        chosen = any(held.id == artefact for held in self.session.artefacts("index"))
        if self._source is not None and feature is not None and chosen:
            self._selected(*feature)

    # drawing

    def _draw(self, card: Card) -> None:
        f = card.feature
        counts = {"text": f.histogram.text.tolist(), "image": f.histogram.image.tolist()}
        self.histogram.set_counts(f.histogram.edges, counts)
        for shown, logits in ((self.raised, f.top_logits), (self.lowered, f.bottom_logits)):
            shown.set_bars([Bar(token, value) for token, value in logits[:_LOGITS]])
        self._logits.setVisible(bool(f.top_logits))
        near = [Bar(label or "no label", cosine, other, str(other)) for other, label, cosine in card.near[:_NEAR]]
        self.near.set_bars(near)
        if self._pages.currentIndex() == 1:
            self.experiment.show_feature(card.source.dictionary, f.id)
        self.show_group(self._group)
        self._area.verticalScrollBar().setValue(0)

    def show_group(self, name: str) -> None:
        """Show the examples of a group: top, bands or miss."""
        self._group = name
        self._tabs[name].setChecked(True)
        card = self._card
        if card is None:
            return
        self._close_here()
        images = self.gallery.show_group(card.feature, name, card.feature.max_act)
        self.gallery.set_pictures(self._pictures)
        known = self._pictures
        if any(example.sample_id not in known for example in images):
            self.session.read("examples.pictures", lambda: decode(images, known), self._pictured)
        texts = card.feature.examples_of("text")
        first = self.gallery.texts[0].example if self.gallery.texts else texts[0] if texts else None
        self._pick(first, tell=False)

    def _pictured(self, found: dict[str, QImage]) -> None:
        if len(self._pictures) > _PICTURES:
            self._pictures = {}
        self._pictures = self._pictures | found
        self.gallery.set_pictures(self._pictures)

    def _pick(self, example: Example | None, *, tell: bool = True) -> None:
        self._example = example
        self.gallery.pick(example)
        if tell and example is not None:
            self.session.select_example(example)

    # features at one token or patch

    def _ask(self, example: Example, unit: int) -> None:
        source = self._source
        if source is None:
            return
        what = f"“{example.tokens[unit]}”" if example.kind == "text" else f"patch {unit + 1}"
        self._here_title.setText(f"Features at {what}")
        self._here_told.setText("Looking…")
        self._here_told.show()
        self.here.hide()
        self.gallery.place(self._here_box, example)
        self._here_box.show()
        self.session.read("examples.here", lambda: source.at_row(example, unit), self._found_here, self._not_here)

    def _found_here(self, fires: list[tuple[int, str, float]]) -> None:
        self.here.set_bars([Bar(label or "no label", value, number, str(number)) for number, label, value in
                            fires[:_HERE]])  # fmt: skip
        self.here.setVisible(bool(fires))
        more = f"The {_HERE} strongest of {len(fires)}." if len(fires) > _HERE else ""
        self._here_told.setText(more if fires else "No feature fires here.")
        self._here_told.setVisible(bool(self._here_told.text()))
        QTimer.singleShot(0, self._show_here)

    def _not_here(self, error: Exception) -> None:
        hint = error.hint if isinstance(error, AuditorError) else "This is a fault of the program."
        self._here_told.setText(f"{error.message if isinstance(error, AuditorError) else error} {hint}")

    def _close_here(self) -> None:
        self.gallery.take_back(self._here_box)

    def _show_here(self) -> None:
        self._area.ensureWidgetVisible(self._here_box, 0, theme.px(4))

    def _go(self, feature: int) -> None:
        if self._source is not None:
            self.session.select_feature(self._source.dictionary, feature)

    # what a person does

    def label(self) -> None:
        """Give the feature a label, in place."""
        self.head.begin("label")

    def note(self) -> None:
        self.head.begin("note")

    def star(self) -> None:
        card = self._need()
        self._write("star", "" if card.star else "★")

    def _write(self, kind: str, text: str) -> None:
        card = self._need()
        before = {"label": card.feature.label, "note": card.feature.note, "star": "★" if card.star else ""}[kind]
        if text == before:
            return
        if self.session.project is not None and not self.session.attempt(self.session.project.must_write):
            return
        digest = str(card.source.index.meta["dictionary"]["digest"])
        self.session.undo.push(Write(self.session, card.source.dictionary, digest, card.feature.id, kind, before, text))

    def add_to_case(self) -> None:
        """Offer the card, as it is shown, as evidence."""
        card, group = self._need(), self._group
        self._close_here()
        picture = evidence.picture_of(self.head, self._body)

        def made() -> dict[str, object]:
            return evidence.fields(card, group, evidence.png(picture))

        self.session.read("examples.evidence", made, self.session.offer_evidence)

    def trace(self) -> None:
        """Take the chosen text as the prompt, and go to the circuits."""
        from auditor.ui.panes import PANES

        example = self._example
        if example is None or example.kind != "text":
            raise AuditorError("This feature has no text example to trace.", "Choose a feature that fires on text.")
        self.session.set_prompt("".join(example.tokens).strip())
        if self.session.pane_of is not None and any(entry.id == "circuits" for entry in PANES):
            self.session.open_pane("circuits")
        else:
            self.session.say("The text of the example is the prompt now.")

    def test(self) -> None:
        """Show the page that ablates this feature."""
        card = self._need()
        self._pages.setCurrentWidget(self.experiment)
        self.experiment.show_feature(card.source.dictionary, card.feature.id)

    def edit_network(self) -> None:
        """Show the page that composes edits; it needs no feature."""
        self._pages.setCurrentWidget(self.edits)
        self.edits.open()
        self.ready()

    def _leave_edits(self) -> None:
        self._pages.setCurrentIndex(0)
        self.refresh()

    def _leave_test(self) -> None:
        self._pages.setCurrentIndex(0)

    def _need(self) -> Card:
        if self._card is None:
            raise AuditorError("No feature is chosen.", "Choose one in the table of features.")
        return self._card
