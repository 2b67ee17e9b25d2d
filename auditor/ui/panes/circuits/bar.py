"""The top of the circuits pane: prompt line, models, graphs, two pruning sliders, and the figures that stay in view."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QGridLayout, QLineEdit, QSizePolicy, QSlider, QWidget

from auditor.project import Artefact
from auditor.ui import theme
from auditor.ui.panes.circuits.source import OpenGraph, Pruned, per_cent
from auditor.ui.widgets import controls
from auditor.ui.widgets.graph_drawing import seen
from auditor.ui.widgets.numbers import count, figure, share
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, visible

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NODES, EDGES = 0.80, 0.98
_NARROW = 700
_PARTS = 24
_OFF = "?adapter=off"
_ONE_LINE, _TWO_LINES = (6, 6, 3, 3, 3, 3), (12, 12, 6, 6, 6, 6)
_FIGURES = (
    ("replacement", "replacement", "Share of influence that reaches the outputs from the inputs instead of from error "
     "nodes; 1 is best. Whole graph → shown part"),
    ("completeness", "completeness", "Share of incoming weight that does not come from error nodes, by influence; 1 is "
     "best. Whole graph → shown part"),
    ("errors", "through errors", "Share of influence carried by error nodes: what the dictionaries do not explain. "
     "Whole graph → shown part"),
    ("cut", "influence cut", "Share of all node influence that lies in the nodes that are not shown"),
)  # fmt: skip


class PromptBar(QWidget):
    """Where a prompt is typed and traced. `asked` comes with Enter or the button; `stopped` while a trace runs."""

    asked = Signal()
    stopped = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.image: Path | None = None
        self.edit = QLineEdit()
        self.edit.setPlaceholderText("Prompt whose next token is to be explained, such as: The capital of France is")
        self.edit.setAccessibleName("Prompt")
        self.edit.returnPressed.connect(self.asked)
        self.models = QComboBox()
        self.models.setAccessibleName("Model")
        self.models.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.models.setMinimumContentsLength(12)
        self.models.currentIndexChanged.connect(lambda _: self._offer_image())
        self._takes: dict[str, bool] = {}
        self.picture = controls.tool("image", "Put an image before the text", self._browse)
        self._image_name = ElidedLabel("", "muted")
        self._without = controls.tool("x", "Trace without the image", lambda: self.set_image(None))
        self._image_row = controls.box(
            controls.row(self._image_name, self._without, gap="tight")
        )  # fmt: skip
        self._image_row.setToolTip("The image that stands before the text")
        self._image_row.setFixedWidth(theme.px(170))
        self._image_row.hide()
        self.trace = controls.button("Trace", self.asked.emit, primary=True, icon="waypoints")
        self.stop = controls.button("Stop", self.stopped.emit)
        self.stop.hide()
        self.setLayout(controls.row(self.picture, self._image_row, self.edit, self.models, self.trace, self.stop))
        for before, after in pairwise((self.edit, self.models, self.trace, self.stop, self.picture, self._without)):
            QWidget.setTabOrder(before, after)  # whoever comes here by keyboard is in the prompt first
        self._offer_image()

    @property
    def model(self) -> str:
        """Id of the chosen model."""
        return str(self.models.currentData() or "").removesuffix(_OFF)

    @property
    def adapter(self) -> str:
        """Whether an adapter that lies over it acts: on or off."""
        return "off" if str(self.models.currentData() or "").endswith(_OFF) else "on"

    def set_models(self, found: list[Artefact]) -> None:
        """Offer the models that read text; the newest unless another was chosen."""
        held = self.models.currentData()
        texts = [a for a in found if "text" in a.meta.get("modalities", ["text"])]
        self._takes = {a.id: "image" in a.meta.get("modalities", []) for a in texts}
        self.models.blockSignals(True)
        self.models.clear()
        for artefact in texts:
            self.models.addItem(visible(artefact.name), artefact.id)
            if artefact.meta.get("adapter"):
                self.models.addItem(visible(f"{artefact.name}, adapter off"), f"{artefact.id}{_OFF}")
        at = self.models.findData(held)
        self.models.setCurrentIndex(at if at >= 0 else self.models.findData(texts[-1].id if texts else ""))
        self.models.blockSignals(False)
        self._offer_image()

    def choose_model(self, artefact: str, adapter: str = "on") -> None:
        at = self.models.findData(f"{artefact}{_OFF}" if adapter == "off" else artefact)
        if at >= 0:
            self.models.setCurrentIndex(at)

    def set_image(self, path: Path | None) -> None:
        """Put an image before the text, or take it away."""
        self.image = path
        self._image_name.setText(path.name if path is not None else "")
        self._image_row.setVisible(path is not None)

    @property
    def takes_image(self) -> bool:
        return self._takes.get(self.model, False)

    def set_running(self, running: bool) -> None:
        self.trace.setVisible(not running)
        self.stop.setVisible(running)

    def _offer_image(self) -> None:
        self.picture.setVisible(self.takes_image)
        if not self.takes_image:
            self.set_image(None)

    def _browse(self) -> None:
        kinds = " ".join(f"*{end}" for end in PICTURES)
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose an image", "", f"Images ({kinds})")
        if chosen:
            self.set_image(Path(chosen))


class GraphBar(QWidget):
    """Which graph is shown, what it put out, how it is pruned, and its figures. `pruning_changed` is live."""

    graph_chosen = Signal(str)
    pruning_changed = Signal()

    def __init__(self, *tools: QWidget) -> None:
        super().__init__()
        self.graphs = QComboBox()
        self.graphs.setAccessibleName("Circuit")
        self.graphs.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.graphs.setMinimumContentsLength(16)
        self.graphs.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.graphs.activated.connect(lambda at: self.graph_chosen.emit(str(self.graphs.itemData(at))))
        self.output = PlainLabel("", "strong")
        self.others = ElidedLabel("", "muted")
        self.nodes = _Slider("nodes", 10, NODES, "Share of node influence to show", self.pruning_changed.emit)
        self.edges = _Slider("edges", 20, EDGES, "Share of edge influence to show", self.pruning_changed.emit)
        self._values: dict[str, PlainLabel] = {"nodes": self.nodes.shown, "edges": self.edges.shown}
        self._cells: list[QWidget] = [self.nodes, self.edges]
        for name, word, tip in _FIGURES:
            value = PlainLabel("–")
            value.set_tip(tip)
            label = PlainLabel(word, "small")
            label.set_tip(tip)
            self._values[name] = value
            self._cells.append(controls.box(controls.column(label, value, gap="")))
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(theme.space("tight"))
        self._across: tuple[int, ...] = ()
        line = controls.row(self.graphs, PlainLabel("→", "muted"), self.output, self.others, *tools)
        line.setStretch(0, 3)
        line.setStretch(3, 2)
        self.setLayout(controls.column(line, self._grid))
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._arrange(_ONE_LINE)

    def set_graphs(self, found: list[Artefact], chosen: str) -> None:
        self.graphs.clear()
        for artefact in reversed(found):
            image = artefact.meta.get("image")
            behind = f"  (after the image {Path(str(image)).name})" if image else ""
            self.graphs.addItem(visible(artefact.name + behind), artefact.id)
        self.graphs.setCurrentIndex(self.graphs.findData(chosen))

    def show_output(self, opened: OpenGraph) -> None:
        outputs = opened.outputs
        told = [f"{seen(token)} {per_cent(prob)}" for token, prob in outputs]
        self.output.setText(told[0] if told else "")
        self.others.setText("   ".join(told[1:6]))

    def show_figures(self, opened: OpenGraph, pruned: Pruned) -> None:
        """The figures of the whole graph, and of what is shown."""
        whole, part = opened.scores, pruned.scores
        told = {
            "replacement": f"{_two(whole.replacement)} → {_two(part.replacement)}",
            "completeness": f"{_two(whole.completeness)} → {_two(part.completeness)}",
            "errors": f"{per_cent(whole.error_share)} → {per_cent(part.error_share)}",
            "nodes": f"{count(pruned.nodes)} of {count(len(opened.graph.nodes))}",
            "edges": f"{count(pruned.edges)} of {count(opened.edges)}",
            "cut": share(pruned.cut),
        }
        for name, text in told.items():
            self._values[name].setText(text)

    def figures(self) -> dict[str, str]:
        """What the figures say, by name."""
        return {name: label.text() for name, label in self._values.items()}

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange(_ONE_LINE if self.width() >= theme.px(_NARROW) else _TWO_LINES)

    def _arrange(self, spans: tuple[int, ...]) -> None:
        """Lay the cells out in lines of `_PARTS` columns, each cell as many wide as `spans` says."""
        if spans == self._across:
            return
        self._across = spans
        at = 0
        for cell, span in zip(self._cells, spans, strict=True):
            self._grid.addWidget(cell, at // _PARTS, at % _PARTS, 1, span)
            at += span
        for column in range(_PARTS):
            self._grid.setColumnStretch(column, 1)


class _Slider(QWidget):
    """A share of influence from `lowest` per cent to all, with its value beside it."""

    def __init__(self, name: str, lowest: int, value: float, tip: str, act: Callable[[], object]) -> None:
        super().__init__()
        self.bar = QSlider(Qt.Orientation.Horizontal)
        self.bar.setRange(lowest, 100)
        self.bar.setValue(round(100 * value))
        self.bar.setAccessibleName(f"{name}: {tip}")
        self.bar.setMinimumSize(theme.px(60), theme.px(22))
        self._number = PlainLabel(f"{value:.2f}", "strong")
        self.shown = PlainLabel("", "small")
        title = PlainLabel(name, "small")
        for part in (title, self._number, self.shown):
            part.set_tip(tip)
        head = controls.row(title, self._number, None, self.shown)
        whole = controls.column(head, self.bar, gap="")
        whole.setContentsMargins(0, 0, theme.space("large"), 0)
        self.setLayout(whole)
        self.bar.valueChanged.connect(lambda at: self._number.setText(f"{at / 100:.2f}"))
        self.bar.valueChanged.connect(lambda _: act())

    @property
    def value(self) -> float:
        return self.bar.value() / 100


def _two(value: float) -> str:
    return f"{value:.2f}" if value == value else figure(value)
