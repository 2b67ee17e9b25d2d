"""The visible list of panes, and how to write one.

How to write a pane
===================
1. Make `auditor/ui/panes/NAME.py` (or a folder NAME/ whose `__init__.py` holds the class), a subclass of
   `auditor.ui.pane.Pane` (which stands outside this package, since panes do not know one another). It may import
   `auditor.ui.{pane,session,commands,theme,forms,widgets.*}` and the light rooms (`base`, `project`, `audit`) at the
   top; torch, h5py, pyqtgraph and the engines (`models`, `store`, `sae`, `features`, `analysis`) only inside
   functions that run off the GUI thread. Panes never import one another: they meet in the session.

       class Features(Pane):
           id, title, icon = "features", "Features", "list"

           @classmethod
           def commands(cls, session):                  # known before the pane exists: menu, key, Ctrl+K
               return [Command(id="feature.label", title="Label this feature…", keys="L", needs="feature",
                               menu="Edit", icon="tag", run=lambda: session.open_pane("features").label())]

           def build(self, session):                    # once; make widgets, connect signals, compute nothing
               self.table = BigTable([Column("id", "id"), Column("density", "density", bar=True)])
               self.table.row_selected.connect(self._chosen)
               session.feature_selected.connect(self._show)
               return self.table

           def refresh(self):                           # project or catalogue changed: choose a state
               found = self.session.artefacts("index")
               if not found:
                   self.empty("No features are indexed yet.", command="run.index")
                   return
               self.working("Opening the index…")
               path = found[-1].path
               def open_it():                           # in the read thread
                   from auditor.features import open_index
                   return open_index(path)
               self.read(open_it, self._opened, key="open")

           def _opened(self, index):                    # in the GUI thread again
               self.table.set_rows(index.table)
               self.ready()

2. Add one `PaneEntry` below; `places` says in which layouts it stands and where (left, centre, right, bottom). What
   lies at the bottom is `low`: its states are one line each, and it is as high as `room` says, until a person drags it.
3. `tests/ui/panes/test_NAME.py` with the `session` and `qtbot` fixtures of `tests/ui/conftest.py`; look at it with
   `tests/ui/pictures.py` (`picture(pane, "features")` writes build/pictures/features-{light,dark}.png).

What there is
=============
session   .project .artefacts(kind) .find(ref) .refresh() · .feature (dictionary id, number) .artefact .example .prompt
          · .select_feature(dictionary_id, n) .select_artefact(id) .select_example(x) .set_prompt(text) and the signals
          feature_selected artefact_selected example_selected prompt_changed · .run_task(verb, config) → LiveJob
          (signals changed partial(kind, data) done(result) failed(error) ended; .metrics[figure] = (steps, values))
          · .read(key, function, then) · .config_class(verb, then), since loading a Config may load torch
          · .error(exception) .say(sentence) .set_status("case", text)
          · .offer_evidence({...}) for “Add to case” · .open_pane(id) · .undo (a QUndoStack)
pane      .empty(sentence, command=id) .working(sentence) .failed(error) .ready() .read(function, then, key)
theme     color(role) font(role, bold=, mono=) space("small") px(n) series(i) lut("sequential"|"diverging")
          heat(value, low, high) text_on(colour) pixmap(icon) set_icon(button, icon) · signals.changed
widgets   plain_text: PlainLabel(text, role) ElidedLabel visible() tooltip() · empty_state: StatePanel · big_table:
          BigTable(columns, session.read) Column · token_view: TokenView · patch_view: PatchView
          · plots: LinePlot HistogramPlot · density_plot: DensityPlot · plot_key: PlotKey (colours and names of curves,
          switches them) · controls: button()
          tool() card() row() column() heading() scrolled() · numbers: figure() share() count() short() … (short for
          narrow columns) · choice: Choice (a combo box of long names) · figures: Figures (what something takes,
          against what is free) · drops: Drops
forms     Form(ConfigClass, session) → .value()

Roles of labels: muted small strong pane page mono heading good warn bad. Buttons: `controls.button(text, act,
primary=True)`. Foreign strings (tokens, labels, captions, names) go only into PlainLabel, ElidedLabel, TokenView,
BigTable, or through `visible` and `tooltip`. Nothing modal. Every button is a verb; sentence case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.ui.pane import Pane

LAYOUTS = {"explore": "Explore", "train": "Record & train", "circuit": "Circuit", "case": "Case"}
AREAS = ("left", "centre", "right", "bottom")


@dataclass(frozen=True)
class PaneEntry:
    """Where a pane's class is and where it stands; the module is imported when it is first needed."""

    id: str
    title: str
    where: str
    places: dict[str, str] = field(default_factory=dict)

    def load(self) -> type[Pane]:
        """The pane's class."""
        module, name = self.where.split(":")
        found: type[Pane] = getattr(import_module(module), name)
        return found


PANES = (
    PaneEntry(
        "project", "Project", "auditor.ui.panes.project_tree:ProjectTree",
        {"explore": "left", "train": "left", "circuit": "left", "case": "left"},
    ),
    PaneEntry("features", "Features", "auditor.ui.panes.features:Features", {"explore": "centre"}),
    PaneEntry("examples", "Feature", "auditor.ui.panes.examples:Examples", {"explore": "right"}),
    PaneEntry("recording", "Record", "auditor.ui.panes.recording:Recording", {"train": "centre"}),
    PaneEntry("training", "Train", "auditor.ui.panes.training:Training", {"train": "centre"}),
    PaneEntry("store", "Store", "auditor.ui.panes.store:StorePane", {"train": "centre"}),
    PaneEntry("circuits", "Circuit", "auditor.ui.panes.circuits:Circuits", {"circuit": "centre"}),
    PaneEntry("case", "Case", "auditor.ui.panes.case:CasePane", {"case": "centre"}),
    PaneEntry("verb", "Run a verb", "auditor.ui.panes.verb:Verb"),
    PaneEntry(
        "jobs", "Jobs", "auditor.ui.panes.jobs:Jobs",
        {"explore": "bottom", "train": "bottom", "circuit": "bottom", "case": "bottom"},
    ),
)  # fmt: skip
