"""The recording pane: a model with its hook points, samples with a look at them, what it will take, and the start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from PySide6.QtCore import Qt
from PySide6.QtGui import QCursor, QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QFileDialog, QMenu, QWidget

from auditor.base.config import Config
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Artefact
from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.commands import Command
from auditor.ui.forms import Form
from auditor.ui.pane import Pane
from auditor.ui.panes.recording.hooks import HookTree
from auditor.ui.panes.recording.look import Look, look
from auditor.ui.panes.recording.planner import Planner, free_of
from auditor.ui.panes.recording.preview import Preview
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.drops import Drops
from auditor.ui.widgets.folding import Folding
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

if TYPE_CHECKING:
    from auditor.store.plan import Plan

_FILES = (
    "Samples (*.txt *.md *.jsonl *.gz *.csv *.tsv *.parquet *.py *.zip *.png *.jpg *.jpeg *.webp *.wav);;All files (*)"
)
_PARTS, _LEAST = (300, 290, 400), 190

# Where what was taken in is looked at.
_SHOWN = {"model": "recording", "adapter": "recording", "samples": "recording", "store": "store"}
_PLAN = "recording.plan"
_STOPPED = (
    "Stopped. Rows that were written are kept: Record goes on from them with the same settings, and so does "
    "“Unfinished” in the project."
)
_LARGE, _HIGH = 125, 300  # above this text size they need so many pixels of the design, more than a small window has


class Recording(Pane):
    """Chooses what is recorded, says what it will take, and starts it."""

    id, title, icon = "recording", "Record", "database"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def pane() -> Recording:
            found = session.open_pane("recording")
            assert isinstance(found, Recording)
            return found

        return (
            Command(id="run.record", title="Record activations…", needs="writable", menu="Run", icon="database",
                    run=pane),
            Command(id="open.model", title="Open a model folder…", needs="writable", menu="File", icon="brain",
                    run=lambda: pane().choose_model()),
            Command(id="open.samples", title="Open samples…", needs="writable", menu="File", icon="file-text",
                    run=lambda: pane().choose_samples()),
            Command(id="record.plan", title="Plan the recording", needs="model", icon="gauge",
                    run=lambda: pane().plan()),
            Command(id="record.cancel_plan", title="Cancel the plan of the recording", needs="model",
                    run=lambda: pane().cancel_plan()),
            Command(id="record.start", title="Start the recording", needs="model", run=lambda: pane().start()),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self._drops = Drops()
        self.setAcceptDrops(True)
        session.path_offered.connect(self.take)
        self.form: Form | None = None
        self._looked_at: tuple[str, Path | None] = ("", None)
        self._look: Look | None = None
        self._opening: LiveJob | None = None
        self._live: LiveJob | None = None
        self._recorded = ""
        self._values: dict[str, Any] = {}
        run = session.commands.run
        self.hooks = HookTree()
        self.tree = self.hooks.tree
        self.hooks.ticked.connect(self._ticked)
        self._model_name = ElidedLabel("", "strong", mode=Qt.TextElideMode.ElideMiddle)
        self._samples_name = ElidedLabel("", "strong", mode=Qt.TextElideMode.ElideMiddle)
        self._model_note = PlainLabel("", "small", wrap=True)
        self._model_note.hide()
        self.preview = Preview()
        self.preview.cut_chosen.connect(self._cut)
        self.preview.column_chosen.connect(self._option)
        self.planner = Planner(
            lambda: run("record.plan"), lambda: run("record.cancel_plan"), lambda: run("record.start")
        )
        self.planner.train_button.clicked.connect(lambda: run("run.train"))
        self.planner.look_button.clicked.connect(self._look_at_it)
        self.planner.pin_button.clicked.connect(self._pin)
        self._waits = PlainLabel("Loading the settings…", "muted")
        self._holder = controls.box(controls.column(self._waits, gap=""))
        open_model = controls.button("Open…", lambda: run("open.model"), icon="brain", slim=True,
                                     tip="Open a model folder")  # fmt: skip
        open_model.setAccessibleName("Open a model folder")
        self._open_samples = controls.button("Open…", lambda: run("open.samples"), icon="file-text", slim=True,
                                             tip="Open samples: a file or a folder")  # fmt: skip
        self._open_samples.setAccessibleName("Open samples")
        self.parts = Folding(
            {
                "Hook points": _part(self._model_name, open_model, self._of_model()),
                "Samples": _part(self._samples_name, self._open_samples, self.preview),
                "Settings": self._settings(),
            },
            _PARTS, _LEAST,
        )  # fmt: skip
        session.config_class("record", self._make_form)
        if theme.scale() <= _LARGE:
            return self.parts
        self.parts.setMinimumHeight(theme.px(_HIGH))
        return controls.scrolled(self.parts, tall=True)

    def _of_model(self) -> QWidget:
        whole = controls.column(self._model_note, self.hooks, gap="small")
        whole.setStretch(1, 1)
        return controls.box(whole)

    def _settings(self) -> QWidget:
        inside = controls.box(controls.column(self._holder, None, gap=""))
        inside.setContentsMargins(0, 0, theme.space("small"), 0)
        area = controls.scrolled(inside, tall=True)
        area.setAccessibleName("Settings of the recording")
        whole = controls.column(self.planner, controls.line(), area, gap="small", margin="medium")
        whole.setStretch(2, 1)
        return controls.box(whole)

    def refresh(self) -> None:
        if self.session.project is None:
            self.empty("No project is open.", hint="Open one from the start page.")
        elif not self.session.artefacts("model") and self._opening is not None and self._opening.live:
            self.working(f"{self._opening.title}…", stop=self._opening.stop)
        elif not self.session.artefacts("model"):
            self.empty("No model is open yet.", "open.model", "Choose the folder of a local model, or drop it here.")
        else:
            self.ready()
            self._show_model()
            self._show_samples()

    # the form

    def _make_form(self, kind: type[Config]) -> None:
        self.form = Form(kind, self.session)
        self.form.changed.connect(self._edited)
        layout = self._holder.layout()
        assert layout is not None
        self._waits.hide()
        layout.addWidget(self.form)
        self.form.set_all(self._values)

    def kept(self) -> dict[str, Any]:
        return {"values": self.form.values() if self.form is not None else self._values, "live": self._live}

    def keep(self, kept: dict[str, Any]) -> None:
        self._values = kept["values"]
        if self.form is not None:
            self.form.set_all(self._values)
        if kept["live"] is not None and kept["live"].live:
            self._follow(kept["live"])

    def _edited(self) -> None:
        project = self.session.project
        if _PLAN in self.session.reading:  # it would tell of other settings
            self.session.drop(_PLAN)
            self.planner.measuring(False)
        self.planner.forget()
        if project is not None:
            self.session.read("recording.free", partial(free_of, project.folder), self.planner.show_free)
        self._show_model()
        self._show_samples()

    def _chosen(self, field: str) -> tuple[Artefact | None, str]:
        """The model or samples that the form names, else the newest, and the options behind the name."""
        held = self.session.artefacts(field)
        ref = str((self.form.values().get(field) if self.form is not None else "") or "")
        name, _, options = ref.partition("?")
        found = next((a for a in reversed(held) if name in (a.id, a.name)), held[-1] if held else None)
        return found, options

    def _look_at_it(self) -> None:
        """At what was just recorded."""
        self.session.select_artefact(self._recorded or self.session.artefacts("store")[-1].id)
        self.session.commands.run("store.show")

    def _pin(self) -> None:
        """What was just recorded to the case."""
        self.session.select_artefact(self._recorded or self.session.artefacts("store")[-1].id)
        self.session.commands.run("artefact.case")

    # opening

    def choose_model(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a model's folder", str(Path.home()))
        if folder:
            self.open_model(Path(folder))

    def open_model(self, folder: Path) -> None:
        """Take a folder into the project if it is a model's; else say so, and not what it lacks as samples."""
        from auditor.intake.overlay import is_overlay
        from auditor.tasks.open import recognise

        def go_on(found: tuple[str, bool]) -> None:
            kind, adapter = found
            if adapter:
                self._open_adapter(folder)
                return
            if kind == "model":
                self.open_path(folder)
                return
            self.session.error(AuditorError(
                f"“{folder.name}” is not the folder of a model.",
                "Such a folder holds config.json and weights as safetensors, or GGUF weights.",
            ))  # fmt: skip

        self.session.read("recording.kind", lambda: (recognise(folder), is_overlay(folder)), go_on)

    def _open_adapter(self, folder: Path) -> None:
        """An adapter needs the model that it lies over."""
        base = QFileDialog.getExistingDirectory(self, f"Open the base model of {folder.name}", str(folder.parent))
        if base:
            self.open_path(folder, base)

    def choose_samples(self) -> None:
        """Ask for a file, or for a folder of pictures, sounds, texts or code."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        asked, home = "Open samples", str(Path.home())
        menu.addAction("A file…", lambda: self._open_chosen(QFileDialog.getOpenFileName(self, asked, home, _FILES)[0]))
        menu.addAction("A folder…", lambda: self._open_chosen(QFileDialog.getExistingDirectory(self, asked, home)))
        under = self._open_samples
        menu.popup(under.mapToGlobal(under.rect().bottomLeft()) if under.isVisible() else QCursor.pos())

    def _open_chosen(self, chosen: str) -> None:
        if chosen:
            self.take(Path(chosen))

    def take(self, path: Path) -> None:
        """Take whatever it is into the project and show where it went: a model or samples here, a store where stores
        are looked at; another program's files in the form that imports them; an adapter needs its base."""

        def kind_of() -> str:
            from auditor.intake.overlay import is_overlay
            from auditor.tasks.open import ToImport, recognise

            try:
                return "adapter" if is_overlay(path) else recognise(path)
            except ToImport:
                return "import"

        def go_on(kind: str) -> None:
            if kind == "import":
                self.session.offer_verb("import", {"path": str(path)})
                return
            if kind in _SHOWN:
                self.session.open_pane(_SHOWN[kind])
            if kind == "adapter":
                self._open_adapter(path)
            else:
                self.open_path(path)

        # Each path has a key of its own: of one key only the newest is done.
        self.session.read(f"recording.take {path}", kind_of, go_on)

    def open_path(self, path: Path, base: str = "") -> None:
        """Take a model, an adapter over its `base`, or samples into the project, in the background."""
        from auditor.tasks.open import OpenConfig

        live = self.session.run_task("open", OpenConfig(path=str(path), base=base), f"Open {path.name}")
        self._opening = live
        live.done.connect(self._take)
        live.ended.connect(self.refresh)
        self.refresh()

    def _take(self, result: dict[str, Any]) -> None:
        """What was opened here is meant to be recorded here."""
        kind, made = str(result.get("kind", "")), result.get("artefacts") or ()
        if self.form is not None and kind in ("model", "samples") and made:
            self.session.refresh()
            self.form.set(kind, str(made[0]))
        elif made:
            self.session.select_artefact(str(made[0]))

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._drops.enter(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        for path in self._drops.take(event):
            event.acceptProposedAction()
            self.take(path)

    # the model's tree

    def _show_model(self) -> None:
        artefact, _ = self._chosen("model")
        if artefact is None:
            return
        self._model_name.setText(f"{artefact.name}  ({artefact.meta.get('family', 'model')})")
        note = str(artefact.meta.get("note", ""))
        self._model_note.setText(note)
        self._model_note.setVisible(bool(note))
        wanted = self.form.values().get("hooks") or () if self.form is not None else ()
        self.hooks.show_points(artefact.meta.get("hook_points", []), wanted)

    def _ticked(self, names: list[str], on: bool) -> None:
        if self.form is None:
            return
        wanted = self.hooks.spread_out(self.form.values().get("hooks") or ())
        others = [hook for hook in wanted if hook not in names]
        self.form.set("hooks", tuple([*others, *names] if on else others))

    # samples

    def _show_samples(self) -> None:
        artefact, options = self._chosen("samples")
        if artefact is None:
            self._samples_name.setText("Samples")
            self.preview.show_cut(None)
            self.preview.columns.show_columns(None)
            self.preview.say("None are open yet. Choose a text file, a folder of images or a list of captioned images, "
                             "or drop it here.")  # fmt: skip
            return
        self._samples_name.setText(artefact.name)
        usual = _usual_cut(artefact.path)
        self.preview.show_cut(dict(parse_qsl(options)).get("by", usual) if usual else None)
        spec = f"{artefact.path}?{options}" if options else str(artefact.path)
        model, _ = self._chosen("model")
        folder = model.path if model is not None else None
        if (spec, folder) == self._looked_at:
            if self._look is not None and self._look.tokens:
                self._show_look(self._look)  # the context may be another
            return
        self._looked_at, self._look = (spec, folder), None
        self.preview.say("Opening the samples…")
        self.session.read("recording.preview", lambda: look(spec, folder), self._show_look, self.preview.fail)

    def _cut(self, by: str) -> None:
        artefact, _ = self._chosen("samples")
        if artefact is not None:
            self._option("by", "" if by == _usual_cut(artefact.path) else by)

    def _option(self, name: str, value: str) -> None:
        """Put an option behind the name of the samples, or take it away where `value` is empty."""
        artefact, options = self._chosen("samples")
        if artefact is None or self.form is None:
            return
        held = {**dict(parse_qsl(options, keep_blank_values=True)), name: value}
        kept = urlencode({key: text for key, text in held.items() if text})
        alike = [held for held in self.session.artefacts("samples") if held.name == artefact.name]
        name = artefact.name if len(alike) == 1 and "?" not in artefact.name else artefact.id
        self.form.set("samples", f"{name}?{kept}" if kept else artefact.id)

    def _show_look(self, found: Look) -> None:
        self._look = found
        context = self.form.values().get("context") if self.form is not None else None
        model, _ = self._chosen("model")
        reads = model.meta.get("modalities") if model is not None else None
        unread = found.unread_by(reads) if reads else ""
        self.preview.show_look(found, context if isinstance(context, int) else 0, unread)

    # planning and starting

    def _config(self) -> Config:
        if self.form is None:
            raise AuditorError("The form is still being loaded.", "Wait a moment and try again.")
        if not self.session.artefacts("samples"):
            raise AuditorError("There is nothing to record yet.", "Open samples first: texts, images or both.")
        return self.form.value()

    def plan(self) -> None:
        """Measure a few batches in the background and say what the whole would take."""
        config, project = self._config(), self.session.project
        assert project is not None
        self.planner.measuring(True)

        def measure(reporter: Reporter) -> Plan:
            from auditor.store.recipe import RecordConfig
            from auditor.tasks.record import plan_of

            assert isinstance(config, RecordConfig)
            return plan_of(project, config, reporter)

        self.session.measure(_PLAN, measure, self.planner.show_plan, self._unplanned)

    def cancel_plan(self) -> None:
        """Stop measuring. The batch that runs comes to its end unseen."""
        if _PLAN in self.session.reading:
            self.session.drop(_PLAN)
            self.planner.measuring(False)
            self.planner.tell("The plan was cancelled.")

    def _unplanned(self, error: Exception) -> None:
        self.planner.measuring(False)
        self.planner.tell(f"It could not be measured. {error}", "bad")
        self.session.error(error)

    def start(self) -> None:
        """Record with the form's settings."""
        config, model, samples = self._config(), self._chosen("model")[0], self._chosen("samples")[0]
        title = f"Record {model.name} on {samples.name}" if model and samples else ""
        self._follow(self.session.run_task("record", config, title))

    def _follow(self, live: LiveJob) -> None:
        self._live = live
        self.planner.recording(True)
        live.changed.connect(self._going)
        live.done.connect(self._done)
        live.ended.connect(self._ended)

    def _going(self) -> None:
        if self._live is not None and self._live.live:
            self.planner.going(self._live.state, self._live.note)

    def _done(self, result: dict[str, Any]) -> None:
        self._recorded = str((result.get("artefacts") or ("",))[0])
        self.planner.recorded(result)

    def _ended(self) -> None:
        live = self._live
        self.planner.recording(False)
        if live is None:
            return
        if live.outcome == "failed":
            self.planner.tell(f"It was not recorded. {live.error()}", "bad")
        elif live.outcome == "cancelled":
            self.planner.tell(_STOPPED)


def _usual_cut(path: Path) -> str:
    """What a file of text is cut by where nobody says it; "" for what is no such file."""
    from auditor.data.text import CODE, PROSE

    ending = path.suffix.lower()[1:]
    return "paragraph" if ending in PROSE else "file" if ending in CODE else ""


def _part(name: ElidedLabel, button: QWidget, content: QWidget) -> QWidget:
    whole = controls.column(controls.row(name, button), content, gap="small", margin="medium")
    whole.setStretch(1, 1)
    return controls.box(whole)
