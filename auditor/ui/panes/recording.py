"""The recording pane: a model with its hook points, samples with a look at them, what it will take, and the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QPixmap
from PySide6.QtWidgets import QFileDialog, QLabel, QSplitter, QTreeWidget, QTreeWidgetItem, QWidget

from auditor.base.config import Config
from auditor.base.errors import AuditorError
from auditor.ui.commands import Command
from auditor.ui.forms import Form
from auditor.ui.pane import Pane
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, visible

if TYPE_CHECKING:
    from auditor.store.plan import Plan

_SHOWN = 6
_NAME = Qt.ItemDataRole.UserRole


@dataclass(frozen=True)
class _Preview:
    """Facts of a set of samples, and the first few of them: (text, PNG bytes or None)."""

    count: int
    images: int
    first: list[tuple[str, bytes | None]]


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
            Command(id="record.plan", title="Plan the recording", needs="model", run=lambda: pane().plan()),
            Command(id="record.start", title="Start the recording", needs="model", run=lambda: pane().start()),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self.setAcceptDrops(True)
        self.form: Form | None = None
        self._filling = False
        run = session.commands.run
        self.tree = QTreeWidget()
        self.tree.setHeaderLabels(["Hook point", "Width", "Axes"])
        self.tree.setUniformRowHeights(True)
        self.tree.setAccessibleName("Hook points of the model")
        self.tree.itemChanged.connect(self._ticked)
        self._model_name = ElidedLabel("", "strong")
        model_bar = controls.row(
            self._model_name, None, controls.button("Open a model…", lambda: run("open.model"), icon="brain")
        )
        left = controls.box(controls.column(model_bar, self.tree))
        self._samples_name = ElidedLabel("", "strong")
        samples_bar = controls.row(
            self._samples_name, None, controls.button("Open samples…", lambda: run("open.samples"), icon="file-text")
        )
        self._preview = controls.column(gap="small")
        self._holder = controls.box(controls.column(gap=""))
        self._plan = PlainLabel("", wrap=True)
        self._buttons = controls.row(
            controls.button("Plan", lambda: run("record.plan"), icon="gauge"),
            controls.button("Record", lambda: run("record.start"), primary=True, icon="play"),
            None,
        )
        right = controls.box(
            controls.column(
                controls.box(samples_bar), controls.box(self._preview), controls.line(), self._holder,
                self._plan, controls.box(self._buttons), None, gap="medium",
            )
        )  # fmt: skip
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(left)
        split.addWidget(controls.scrolled(right))
        split.setStretchFactor(0, 1)
        split.setStretchFactor(1, 1)
        split.setChildrenCollapsible(False)
        session.config_class("record", self._make_form)
        return controls.box(controls.column(split, margin="medium"))

    def refresh(self) -> None:
        if self.session.project is None:
            self.empty("No project is open.", hint="Open one from the start page.")
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
        layout.addWidget(self.form)
        self._edited()

    def _edited(self) -> None:
        self._plan.setText("")
        self._show_model()
        self._show_samples()

    def _chosen(self, field: str, kind: str) -> Any:
        held = self.session.artefacts(kind)
        ref = self.form.values().get(field) if self.form is not None else None
        return next((a for a in held if ref in (a.id, a.name)), held[-1] if held else None)

    # opening

    def choose_model(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a model's folder", str(Path.home()))
        if folder:
            self.open_path(Path(folder))

    def choose_samples(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(
            self, "Open samples", str(Path.home()), "Samples (*.txt *.jsonl *.gz *.csv *.zip);;All files (*)"
        )
        if chosen:
            self.open_path(Path(chosen))

    def open_path(self, path: Path) -> None:
        """Take a model or samples into the project, in the background."""
        from auditor.tasks.open import OpenConfig

        self.session.run_task("open", OpenConfig(path=str(path)), f"Open {path.name}")

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        for url in event.mimeData().urls():
            if url.isLocalFile():
                self.open_path(Path(url.toLocalFile()))

    # the model's tree

    def _show_model(self) -> None:
        artefact = self._chosen("model", "model")
        if artefact is None:
            return
        self._model_name.setText(f"{artefact.name}  ({artefact.meta.get('family', 'model')})")
        wanted = set(self.form.values().get("hooks") or ()) if self.form is not None else set()
        self._filling = True
        self.tree.clear()
        groups: dict[str, QTreeWidgetItem] = {}
        for point in artefact.meta.get("hook_points", []):
            name = str(point["hook"])
            head, _, last = name.rpartition(".")
            parent = groups.get(head)
            if head and parent is None:
                parent = groups[head] = QTreeWidgetItem(self.tree, [visible(head)])
                parent.setFlags(Qt.ItemFlag.ItemIsEnabled)
            cells = [visible(last), numbers.count(int(point["width"])), visible(str(point["axes"]))]
            item = QTreeWidgetItem(parent, cells) if parent is not None else QTreeWidgetItem(self.tree, cells)
            item.setData(0, _NAME, name)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(0, Qt.CheckState.Checked if name in wanted else Qt.CheckState.Unchecked)
            if name in wanted and parent is not None:
                parent.setExpanded(True)
        self.tree.resizeColumnToContents(0)
        self._filling = False

    def _ticked(self, item: QTreeWidgetItem, _: int) -> None:
        name = item.data(0, _NAME)
        if self._filling or self.form is None or not name:
            return
        wanted = [hook for hook in self.form.values().get("hooks") or () if hook != name]
        if item.checkState(0) == Qt.CheckState.Checked:
            wanted.append(name)
        self.form.blockSignals(True)
        self.form.set("hooks", tuple(wanted))
        self.form.blockSignals(False)
        self._plan.setText("")

    # samples

    def _show_samples(self) -> None:
        artefact = self._chosen("samples", "samples")
        if artefact is None:
            self._samples_name.setText("No samples are open yet")
            return
        path = artefact.path
        self._samples_name.setText(artefact.name)

        def look() -> _Preview:
            from auditor.data import open_samples

            samples = open_samples(path)
            step = max(1, len(samples) // _SHOWN)
            picked = [samples[at] for at in range(0, len(samples), step)][:_SHOWN]
            first = [(s.text or s.group, s.image.thumbnail(64) if s.image else None) for s in picked]
            return _Preview(len(samples), sum(s.image is not None for s in samples), first)

        self.read(look, self._show_preview, key="preview")

    def _show_preview(self, preview: _Preview) -> None:
        while (held := self._preview.takeAt(0)) is not None:
            widget = held.widget()
            if widget is not None:
                widget.deleteLater()
        images = f", {numbers.count(preview.images)} with an image" if preview.images else ""
        self._preview.addWidget(PlainLabel(f"{numbers.count(preview.count)} samples{images}", "muted"))
        for text, png in preview.first:
            parts: list[QWidget] = [ElidedLabel(text.replace("\n", " ")[:300])]
            if png is not None:
                pixmap = QPixmap()
                pixmap.loadFromData(png, "PNG")
                shown = QLabel()
                shown.setPixmap(pixmap.scaledToHeight(32, Qt.TransformationMode.SmoothTransformation))
                shown.setFixedWidth(40)
                parts.insert(0, shown)
            self._preview.addWidget(controls.box(controls.row(*parts)))

    # planning and starting

    def _config(self) -> Config:
        if self.form is None:
            raise AuditorError("The form is still being loaded.", "Wait a moment and try again.")
        return self.form.value()

    def plan(self) -> None:
        """Measure a few batches in the background and say what the whole would take."""
        config, project = self._config(), self.session.project
        assert project is not None
        self._plan.setText("Measuring a few batches…")

        def measure() -> Plan:
            from auditor.data import open_samples
            from auditor.store.plan import plan
            from auditor.store.recipe import RecordConfig
            from auditor.tasks.opening import model_at

            assert isinstance(config, RecordConfig)
            model = model_at(project.find(config.model, "model").path, config.dtype)
            samples = open_samples(project.find(config.samples, "samples").path)
            return plan(config, model, samples, project.folder)

        self.session.read("recording.plan", measure, self._planned, self._unplanned)

    def _planned(self, plan: Plan) -> None:
        verdict = "It fits." if plan.fits else "It does not fit: record fewer positions or hook points."
        self._plan.setText(
            f"About {numbers.count(plan.rows)} positions, {numbers.size(plan.bytes)} on disk "
            f"({numbers.size(plan.free_bytes)} free), {numbers.duration(60 * plan.minutes)}. {verdict}"
        )

    def _unplanned(self, error: Exception) -> None:
        self._plan.setText("")
        self.session.error(error)

    def start(self) -> None:
        """Record with the form's settings."""
        self.session.run_task("record", self._config())
