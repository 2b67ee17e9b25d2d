"""The circuits pane: from a prompt to the features that led to its next token, and what breaking a node does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, Qt
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QResizeEvent
from PySide6.QtWidgets import QFileDialog, QSplitter, QWidget

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Artefact
from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.panes.circuits import source
from auditor.ui.panes.circuits.bar import PICTURES, GraphBar, PromptBar
from auditor.ui.panes.circuits.detail import Detail
from auditor.ui.panes.circuits.source import OpenGraph, Pruned
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.empty_state import StatePanel
from auditor.ui.widgets.graph_canvas import GraphCanvas
from auditor.ui.widgets.plain_text import ElidedLabel

if TYPE_CHECKING:
    from auditor.analysis.circuits.ablation import NodeEffect

EXAMPLE = "The capital of France is"
_SIDE_BY_SIDE = 760


class Circuits(Pane):
    """Traces a prompt, prunes its graph live, and ablates nodes in the real network."""

    id, title, icon = "circuits", "Circuit", "waypoints"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def pane() -> Circuits:
            found = session.open_pane("circuits")
            assert isinstance(found, Circuits)
            return found

        return (
            Command(id="trace.prompt", title="Trace the circuit", keys="Ctrl+T", needs="dictionary", menu="Run",
                    icon="waypoints", run=lambda: pane().trace_selection(),
                    help="Of the prompt; without one, of the chosen feature's strongest text."),
            Command(id="circuit.case", title="Add the circuit to the case", needs="result", menu="Case", icon="pin",
                    run=lambda: pane().add_to_case()),
            Command(id="circuit.export", title="Export the circuit…", needs="result", icon="download",
                    run=lambda: pane().export()),
            Command(id="circuit.ablate", title="Ablate the chosen nodes", needs="result", icon="scissors",
                    run=lambda: pane().ablate()),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self._opened: OpenGraph | None = None
        self._pruned: Pruned | None = None
        self._chosen = ""
        self._loading = ""
        self._live: LiveJob | None = None
        self._ablating: LiveJob | None = None
        self._effect: NodeEffect | None = None
        self._effect_figure = b""
        self.prompt = PromptBar()
        self.prompt.asked.connect(self.trace)
        self.prompt.stopped.connect(self._stop)
        self._status = ElidedLabel("", "muted")
        self._status.hide()
        self.bar = GraphBar(
            controls.tool("download", "Export the circuit as JSON or SVG", self.export),
            controls.button("Add to case", self.add_to_case, icon="pin", tip="Key C on the canvas"),
        )
        self.bar.graph_chosen.connect(self._choose)
        self.bar.pruning_changed.connect(self._prune)
        self.canvas = GraphCanvas()
        self.canvas.selection_changed.connect(self._select)
        self.canvas.offered.connect(self.add_to_case)
        self.detail = Detail()
        self.detail.node_wanted.connect(self._go_to)
        self.detail.feature_wanted.connect(self._show_feature)
        self.detail.ablation_wanted.connect(self.ablate)
        self.detail.ablation_offered.connect(self._offer_ablation)
        self._split = QSplitter(Qt.Orientation.Horizontal)
        self._split.addWidget(self.canvas)
        self._split.addWidget(self.detail)
        self._split.setStretchFactor(0, 1)
        self._split.setChildrenCollapsible(False)
        self.area = StatePanel()
        self.area.set_content(controls.box(controls.column(self.bar, self._split)))
        self.setAcceptDrops(True)
        session.prompt_changed.connect(self._take_prompt)
        session.feature_selected.connect(lambda *_: self._mark())
        session.artefact_selected.connect(self._artefact_selected)
        self.prompt.edit.setText(session.prompt)
        self._turn()
        return controls.box(controls.column(self.prompt, self._status, self.area, margin="medium"))

    # what is shown

    def refresh(self) -> None:
        session = self.session
        if session.project is None:
            self._forget()
            self.empty("No project is open.", hint="Open one from the start page.")
            return
        graphs = self._graphs()
        if not session.artefacts("dictionary") and not graphs:
            self._forget()
            self.empty("No dictionary is trained yet.", "run.train",
                       "A circuit is drawn between the features of a dictionary of the residual stream.")  # fmt: skip
            return
        self.prompt.set_models(session.artefacts("model"))
        self.ready()
        if not graphs:
            self._forget()
            self.area.empty(
                "Type a prompt above to see which features lead to its next token.", f"Trace “{EXAMPLE}”",
                self._trace_example, "Tracing takes seconds to minutes, by length and dictionary.",
            )  # fmt: skip
            return
        wanted = next((a for a in graphs if a.id == self._chosen), graphs[-1])
        self.bar.set_graphs(graphs, wanted.id)
        if self._opened is None or self._opened.artefact.id != wanted.id:
            self._open(wanted)

    def _graphs(self) -> list[Artefact]:
        return [a for a in self.session.artefacts("result") if a.meta.get("graph")]

    def _forget(self) -> None:
        self._opened = self._pruned = self._effect = None
        self._chosen = self._loading = ""

    def _choose(self, artefact: str) -> None:
        self._chosen = artefact
        self.refresh()

    def _artefact_selected(self, artefact: str) -> None:
        if any(a.id == artefact for a in self._graphs()):
            self._choose(artefact)

    def _open(self, artefact: Artefact) -> None:
        project = self.session.project
        if project is None or self._loading == artefact.id:
            return
        self._loading = artefact.id
        self.area.working("Opening the circuit…")
        nodes, edges = self.bar.nodes.value, self.bar.edges.value

        def work() -> tuple[OpenGraph, Pruned]:
            opened = source.open_graph(project, artefact)
            return opened, source.prune(opened, nodes, edges)

        self.session.read("circuits.open", work, self._show, self._open_failed)

    def _open_failed(self, error: Exception) -> None:
        self._loading = ""
        self._opened = None
        self.area.failed(error, "Try again", self.refresh)

    def _show(self, found: tuple[OpenGraph, Pruned]) -> None:
        self._opened, pruned = found
        self._loading, self._chosen = "", self._opened.artefact.id
        self._effect = None
        self.canvas.select([])
        self.detail.clear()
        meta = self._opened.artefact.meta
        self.prompt.choose_model(str(meta.get("model", "")), str(meta.get("adapter", "on")))
        if not self.prompt.edit.isModified():  # what a person has typed and not traced yet stays
            self.prompt.edit.setText(str(meta.get("prompt", self._opened.graph.prompt)))
            project, image = self.session.project, str(meta.get("image", ""))
            self.prompt.set_image(project.folder / image if project is not None and image else None)
        self.bar.show_output(self._opened)
        self.area.ready()
        self._show_pruned(pruned, keep_view=False)

    # pruning

    def _prune(self) -> None:
        opened = self._opened
        if opened is None:
            return
        nodes, edges = self.bar.nodes.value, self.bar.edges.value
        self.read(lambda: source.prune(opened, nodes, edges), partial(self._pruned_again, opened), key="prune")

    def _pruned_again(self, opened: OpenGraph, pruned: Pruned) -> None:
        if opened is self._opened:
            self._show_pruned(pruned, keep_view=True)

    def _show_pruned(self, pruned: Pruned, *, keep_view: bool) -> None:
        assert self._opened is not None
        self._pruned = pruned
        self.canvas.set_drawing(pruned.drawing, keep_view=keep_view)
        self.bar.show_figures(self._opened, pruned)
        self.detail.set_leading(pruned.leading)
        self._mark()
        if self.canvas.selected and keep_view:
            self._select(self.canvas.selected)

    # tracing

    def trace_selection(self) -> None:
        """Trace the shared prompt; without one the chosen feature's strongest text; without either ask for a prompt."""
        session, project = self.session, self.session.project
        if session.prompt:
            self.prompt.edit.setText(session.prompt)
            self.trace()
        elif session.feature is not None and project is not None:
            dictionary, feature = session.feature

            def traced(prompt: str) -> None:
                self.prompt.edit.setText(prompt)
                self.trace()

            key = "circuits.example"
            session.read(key, lambda: source.example_prompt(project, dictionary, feature), traced, self._ask)
        else:
            self.prompt.edit.setFocus()

    def _ask(self, error: Exception) -> None:
        self.session.error(error)
        self.prompt.edit.setFocus()

    def _trace_example(self) -> None:
        self.prompt.edit.setText(EXAMPLE)
        self.trace()

    def trace(self) -> None:
        """Trace what the prompt line holds, on the lane that runs in order."""
        self.session.attempt(self._start)

    def _start(self) -> None:
        from auditor.tasks.trace import TraceConfig

        text, image = self.prompt.edit.text(), self.prompt.image
        if not text.strip() and image is None:
            raise AuditorError("There is no prompt to trace.", "Type one into the prompt line.")
        if self._live is not None:
            return
        project = self.session.project
        if image is not None and project is not None and image.is_relative_to(project.folder):
            image = image.relative_to(project.folder)
        config = TraceConfig(
            prompt=text, image=str(image) if image is not None else "", model=self.prompt.model,
            adapter=self.prompt.adapter,
        )  # fmt: skip
        live = self.session.run_task("trace", config, f"Trace “{text[:40]}”" if text else "Trace an image")
        self._live = live
        self.session.set_prompt(text)
        live.changed.connect(self._progress)
        live.done.connect(self._traced)
        live.ended.connect(self._trace_ended)
        self.prompt.set_running(True)
        self._progress()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _progress(self) -> None:
        live = self._live
        if live is None:
            return
        waits = live.state == "waiting"
        done = f" {live.done_units} of {live.total} {live.unit}" if live.total else ""
        self._status.setText(f"{live.title}: waits for the job before it." if waits else f"{live.title}…{done}")
        self._status.show()
        if self._opened is None and self.state == "ready":
            self.area.working(self._status.text(), live.done_units, live.total, self._stop)

    def _traced(self, result: dict[str, Any]) -> None:
        made = [str(i) for i in result.get("artefacts", [])]
        self._chosen = made[-1] if made else ""

    def _trace_ended(self) -> None:
        self._live = None
        self._status.hide()
        self.prompt.set_running(False)

    def _take_prompt(self, prompt: str) -> None:
        self.prompt.edit.setText(prompt)

    # the chosen nodes

    def _select(self, ids: list[str]) -> None:
        opened, pruned = self._opened, self._pruned
        if opened is None or pruned is None:
            return
        self._effect = None
        self._turn()
        if not ids:
            self.detail.clear()
            return
        facts = [source.facts_of(opened, pruned.graph, i) for i in ids]
        if len(ids) > 1:
            self.detail.show_several(facts)
            return
        self.detail.show_node(facts[0])
        dictionary, feature, project = facts[0].dictionary, facts[0].feature, self.session.project
        if feature is not None and dictionary and project is not None:
            self.session.read(
                "circuits.examples", lambda: source.examples_of(project, dictionary, feature),
                partial(self._show_examples, ids[0]),
            )  # fmt: skip

    def _show_examples(self, node: str, found: source.FeatureExamples | None) -> None:
        if self.canvas.selected == [node]:
            self.detail.show_examples(found)

    def _go_to(self, node: str) -> None:
        self.canvas.select([node])
        self.canvas.setFocus()

    def _show_feature(self) -> None:
        opened = self._opened
        if opened is None or not self.canvas.selected:
            return
        node = opened.graph.node(self.canvas.selected[-1])
        if node.feature is not None and node.hook in opened.dictionaries:
            self.session.select_feature(opened.dictionaries[node.hook], node.feature)

    def _mark(self) -> None:
        """Frame the nodes of the feature that is chosen anywhere."""
        opened, pruned, chosen = self._opened, self._pruned, self.session.feature
        if opened is None or pruned is None:
            return
        same = [n.id for n in pruned.graph.nodes if chosen == (opened.dictionaries.get(n.hook, ""), n.feature)]
        self.canvas.set_marked(same)

    # breaking

    def ablate(self) -> None:
        """Remove the chosen nodes in the network, on the lane that runs in order, and show predicted beside true."""
        opened, project, ids = self._opened, self.session.project, list(self.canvas.selected)
        if opened is None or project is None or not ids or self._ablating is not None:
            return
        named = source.title(opened.graph.node(ids[0])) if len(ids) == 1 else f"{len(ids)} nodes"

        def work(_: Reporter) -> dict[str, Any]:
            return asdict(source.ablate(project, opened, ids))

        live = self.session.run(f"Ablate {named[:60]}", work)
        self._ablating = live
        self.detail.ablate.setEnabled(False)
        live.changed.connect(self._ablation_moves)
        live.done.connect(partial(self._ablated, opened, ids))
        live.failed.connect(partial(self._ablation_failed, ids))
        live.ended.connect(self._ablation_ended)
        self._ablation_moves()

    def _ablation_moves(self) -> None:
        live = self._ablating
        if live is not None and not live.outcome:
            waits = live.state == "waiting" and any(job.live and job is not live for job in self.session.jobs)
            self.detail.say("Waits for the job before it." if waits else f"{live.title}: running the network…")

    def _ablation_ended(self) -> None:
        live, self._ablating = self._ablating, None
        self.detail.ablate.setEnabled(True)
        if live is not None and live.outcome == "cancelled":
            self.detail.say("")

    def _ablated(self, opened: OpenGraph, ids: list[str], result: dict[str, Any]) -> None:
        from auditor.analysis.circuits.ablation import NodeEffect

        if opened is self._opened and self.canvas.selected == ids:
            self._effect, self._effect_figure = NodeEffect(**result), self._png()
            self.detail.show_effect(self._effect, source.doubt(opened, self._effect))

    def _ablation_failed(self, ids: list[str], error: Exception) -> None:
        if self.canvas.selected == ids:
            told = f"{error.message} {error.hint}" if isinstance(error, AuditorError) else "The ablation failed."
            self.detail.say(told, bad=True)

    def _png(self) -> bytes:
        """The canvas as it stands."""
        held = QByteArray()
        buffer = QBuffer(held)
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        self.canvas.grab().save(buffer, "PNG")
        return bytes(held.data())

    # handing on

    def add_to_case(self) -> None:
        """Offer the circuit, with its scores and drawing, to the open case."""
        opened, project = self._opened, self.session.project
        if opened is None or project is None:
            return

        def fields() -> dict[str, Any]:
            from auditor.tasks.result import result_of

            return result_of(project, opened.artefact).evidence()

        self.session.read("circuits.evidence", fields, self.session.offer_evidence)

    def _offer_ablation(self) -> None:
        opened, project, effect, png = self._opened, self.session.project, self._effect, self._effect_figure
        if opened is None or project is None or effect is None:
            return
        self.session.read(
            "circuits.evidence", lambda: source.effect_evidence(project, opened, effect, png),
            self.session.offer_evidence,
        )  # fmt: skip

    def export(self) -> None:
        """Ask where, and write Neuronpedia's JSON or an SVG."""
        if self._opened is None:
            return
        kinds = "Neuronpedia JSON (*.json);;Drawing (*.svg)"
        options = QFileDialog.Option.DontConfirmOverwrite
        chosen, kind = QFileDialog.getSaveFileName(self, "Export the circuit", "circuit.json", kinds, options=options)
        if chosen:
            path = Path(chosen)
            if path.suffix not in (".json", ".svg"):
                path = path.with_name(path.name + (".svg" if "svg" in kind else ".json"))
            self.export_to(path)

    def export_to(self, path: Path) -> None:
        """Write the whole graph as JSON, or its strongest part as SVG."""
        from auditor.tasks.export import ExportConfig

        if self._opened is not None:
            config = ExportConfig(artefact=self._opened.artefact.id, out=str(path))
            self.session.attempt(lambda: self.session.run_task("export", config, f"Export {path.name}"))

    # the window

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._turn()

    def _turn(self) -> None:
        """The panel stands beside the canvas where there is room, else below it while a node is chosen."""
        wide = self.width() >= _SIDE_BY_SIDE
        self.detail.setVisible(wide or bool(self.canvas.selected))
        wanted = Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical
        if self._split.orientation() != wanted or self._split.sizes()[1] == 0:
            self._split.setOrientation(wanted)
            if wide:
                whole, panel = self.width(), max(theme.px(310), min(theme.px(420), self.width() // 4))
            else:
                whole, panel = self._split.height() or 400, theme.px(150)
            self._split.setSizes([max(180, whole - panel), panel])

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self.state == "ready" and self.prompt.takes_image and _picture_of(event) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        found = _picture_of(event)
        if found is not None:
            self.prompt.set_image(found)
            event.acceptProposedAction()


def _picture_of(event: QDropEvent) -> Path | None:
    """The picture file that is dragged."""
    for url in event.mimeData().urls():
        if url.isLocalFile() and Path(url.toLocalFile()).suffix.lower() in PICTURES:
            return Path(url.toLocalFile())
    return None
