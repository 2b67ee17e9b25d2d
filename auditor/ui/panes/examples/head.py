"""The head of a feature's card: number, label with rename in place, star, note, way back and forward, and figures."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QBoxLayout, QLineEdit, QStackedWidget, QWidget

from auditor.ui import theme
from auditor.ui.panes.examples.source import Card
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.numbers import count, figure, share
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_ONE_LINE = 125


class Head(QWidget):
    """`written` carries (kind, text): a label, note or star that the person gave."""

    written = Signal(str, str)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._card: Card | None = None
        self._kind = "label"
        self.number = PlainLabel("", "pane")
        self.label = ElidedLabel("", "pane")
        self.automatic = PlainLabel("automatic")
        self.automatic.setObjectName("chip")
        self.automatic.setFixedHeight(theme.px(22))
        self.automatic.set_tip("Made from the words of its strongest texts; nobody has checked it.")
        self.edit = QLineEdit()
        self.edit.setMaxLength(4000)
        self.edit.installEventFilter(self)
        self.edit.returnPressed.connect(self._take)
        self._star = controls.tool("star", "Star this feature", self._mark, checkable=True)
        self._back = controls.tool("arrow-left", "Back (Alt+Left)", session.back)
        self._forward = controls.tool("arrow-right", "Forward (Alt+Right)", session.forward)
        self._line = QStackedWidget()
        shown = controls.row(self.label, self.automatic)
        shown.setContentsMargins(0, 0, 0, 0)
        self._line.addWidget(controls.box(shown))
        self._line.addWidget(self.edit)
        self._line.setFixedHeight(theme.px(30))
        tools = (
            controls.tool("pencil", "Label this feature (L)", lambda: self.begin("label")),
            controls.tool("message-square-text", "Write a note (N)", lambda: self.begin("note")),
            self._star, self._back, self._forward,
        )  # fmt: skip
        self.note = PlainLabel("", "muted", wrap=True, selectable=True)
        self.note.hide()
        facts = Flow(gap="medium")
        self._values: dict[str, PlainLabel] = {}
        for name in ("density", "image", "agreement", "max", "fires on"):
            held = PlainLabel("", "strong")
            self._values[name] = held
            facts.addWidget(controls.box(controls.column(PlainLabel(name, "heading"), held, gap="")))
        self._facts = controls.box(facts)
        line = controls.row(self.number, self._line, gap="tight")
        line.setStretch(1, 1)
        if theme.scale() > _ONE_LINE:
            head: QBoxLayout = controls.column(line, controls.row(*tools, None, gap="tight"), gap="tight")
        else:
            head = line
            for tool in tools:
                line.addWidget(tool)
        self.setLayout(controls.column(head, self.note, self._facts, gap="tight"))
        session.history_changed.connect(self._travelled)
        self._travelled()

    def show_card(self, card: Card) -> None:
        """Show the head of this feature."""
        self._card = card
        feature = card.feature
        self._end()
        self.number.setText(str(feature.id))
        self.label.setText(feature.label or feature.auto_label or "no label")
        self.label.set_role("pane" if feature.label else "muted")
        self.automatic.setVisible(bool(feature.auto_label) and not feature.labelled)
        self.note.setText(feature.note)
        self.note.setVisible(bool(feature.note))
        self._star.setChecked(card.star)
        theme.set_icon(self._star, "star", "accent" if card.star else "text")
        for name, (text, tip) in _figures(card).items():
            self._values[name].setText(text)
            self._values[name].set_tip(tip)
        self._facts.updateGeometry()

    def begin(self, kind: str) -> None:
        """Write a label or a note in place; Enter takes it, Escape leaves."""
        if self._card is None:
            return
        self._kind = kind
        feature = self._card.feature
        self.edit.setText(feature.label if kind == "label" else feature.note)
        self.edit.setPlaceholderText(feature.auto_label or "a label" if kind == "label" else "a note")
        self.edit.setAccessibleName(f"{kind.capitalize()} of feature {feature.id}")
        self._line.setCurrentIndex(1)
        self.edit.setFocus()
        self.edit.selectAll()

    @property
    def editing(self) -> bool:
        return self._line.currentIndex() == 1

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        escape = isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape
        if watched is self.edit and escape and event.type() == QEvent.Type.KeyPress:
            self._end()
            return True
        return False

    def _take(self) -> None:
        if self.editing and self._card is not None:
            self._end()
            self.written.emit(self._kind, self.edit.text().strip())

    def _mark(self) -> None:
        if self._card is not None:
            self.written.emit("star", "" if self._card.star else "★")

    def _end(self) -> None:
        self._line.setCurrentIndex(0)

    def _travelled(self) -> None:
        self._back.setEnabled(self._session.can_go_back)
        self._forward.setEnabled(self._session.can_go_forward)


def _figures(card: Card) -> dict[str, tuple[str, str]]:
    """Each figure as it is written, and what hover says of it: unit, n, interval and null."""
    f, told = card.feature, card.meanings
    fires = f"{count(f.fires_text)} text tokens and {count(f.fires_image)} image tokens"
    known = f.agreement == f.agreement
    half = max(f.agreement_high - f.agreement, f.agreement - f.agreement_low)
    null = f"null {figure(f.agreement_null)}" if f.agreement_null == f.agreement_null else ""
    agreement = f"{figure(f.agreement)} ± {figure(half)}  {null}" if known else "–"
    interval = (
        f"\n95 % [{figure(f.agreement_low)}, {figure(f.agreement_high)}]\n"
        f"null (images of other features): mean {figure(f.agreement_null)}, p {figure(f.agreement_p)}"
        if known else "\nIt takes texts and captioned images to compare."
    )  # fmt: skip
    return {
        "density": (share(f.density), f"{told['density']}\ntext {share(f.density_text)}, image "
                                      f"{share(f.density_image)}\nn = {fires}"),
        "image": (share(f.image_share), f"{told['image_share']}\nshare of its firings {share(f.image_fires)}\n"
                                        f"balance, free of the store's mixture: {figure(f.image_balance)}\n"
                                        f"n = {fires}"),
        "agreement": (agreement, told["agreement"] + interval),
        "max": (figure(f.max_act), f"{told['max_act']}\ntext {figure(f.max_text)}, image {figure(f.max_image)}\n"
                                   f"mean where it fires {figure(f.mean_act)}"),
        "fires on": (f.modality, f"{fires}\nboth: at least 5 firings on each, and an activation of a quarter of "
                                 "its largest"),
    }  # fmt: skip
