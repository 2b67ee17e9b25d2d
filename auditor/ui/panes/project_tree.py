"""The project tree: artefacts by kind, and the card of the chosen one with its digest and how it came to be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QGuiApplication, QUndoCommand
from PySide6.QtWidgets import (
    QAbstractItemView,
    QSplitter,
    QTreeWidget,
    QTreeWidgetItem,
    QTreeWidgetItemIterator,
    QVBoxLayout,
    QWidget,
)

from auditor.project.catalogue import Artefact, RunRecord
from auditor.ui import theme
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, button, clear, heading, row, scrolled, tool
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, tooltip, visible

KINDS = {
    "model": ("Models", "brain"),
    "samples": ("Samples", "file-text"),
    "store": ("Stores", "database"),
    "dictionary": ("Dictionaries", "book-open"),
    "index": ("Indices", "list"),
    "result": ("Results", "chart-line"),
    "case": ("Cases", "briefcase"),
    "bundle": ("Bundles", "archive"),
}
# Kinds that can be evidence by themselves.
_SHOWN = ("store", "dictionary", "result")
_ID = Qt.ItemDataRole.UserRole


class ProjectTree(Pane):
    """Every artefact of the project; a choice here is a choice everywhere."""

    id, title, icon = "project", "Project", "folder"

    @classmethod
    def commands(cls, session: Session) -> tuple[Command, ...]:
        def pane() -> ProjectTree:
            found = session.open_pane("project")
            assert isinstance(found, ProjectTree)
            return found

        return (
            Command(id="artefact.rename", title="Rename artefact…", keys="F2", needs="artefact", menu="Edit",
                    icon="pencil", run=lambda: pane().rename()),
            Command(id="artefact.case", title="Add this artefact to the case", needs="artefact", menu="Case",
                    icon="pin", help="A result, a circuit, a store or a dictionary becomes evidence.",
                    run=lambda: pane().add_to_case()),
            Command(id="artefact.copy-digest", title="Copy digest", needs="artefact", menu="Edit", icon="copy",
                    run=lambda: pane().copy_digest()),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self.tree = QTreeWidget()
        self.tree.setHeaderHidden(True)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.tree.setIndentation(theme.px(14))
        self.tree.setIconSize(QSize(theme.px(16), theme.px(16)))
        self.tree.setAccessibleName("Artefacts of the project")
        self.tree.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.tree.currentItemChanged.connect(self._chosen)
        self.tree.itemChanged.connect(self._renamed)
        self._card = QVBoxLayout()
        self._card.setContentsMargins(*[theme.px(12)] * 4)
        self._card.setSpacing(theme.space("tight"))
        self._area = scrolled(box(self._card))
        split = QSplitter(Qt.Orientation.Vertical)
        split.addWidget(self.tree)
        split.addWidget(self._area)
        split.setSizes([theme.px(300), theme.px(220)])
        split.setChildrenCollapsible(False)
        session.artefact_selected.connect(self._show)
        theme.signals.changed.connect(self.refresh)
        return split

    def refresh(self) -> None:
        held = self.session.artefacts()
        if not held:
            self.empty("This project holds nothing yet.", "file.add-folder", hint="Begin with the folder of a model.")
            return
        self.tree.blockSignals(True)
        self.tree.clear()
        for kind, (title, icon) in KINDS.items():
            group = [artefact for artefact in held if artefact.kind == kind]
            if group:
                self._branch(title, icon, group)
        self.tree.blockSignals(False)
        self._show(self.session.artefact or "")
        self.ready()

    def rename(self) -> None:
        """Edit the chosen artefact's name in place."""
        item = self.tree.currentItem()
        if item is not None and item.data(0, _ID):
            if self.session.project is not None:
                self.session.project.must_write()
            self.tree.blockSignals(True)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
            self.tree.blockSignals(False)
            self.tree.editItem(item, 0)

    def copy_digest(self) -> None:
        """Put the chosen artefact's digest on the clipboard."""
        if self.session.artefact:
            QGuiApplication.clipboard().setText(self.session.find(self.session.artefact).digest)
            self.session.say("The digest is on the clipboard.")

    def add_to_case(self) -> None:
        """Offer the chosen artefact as evidence."""
        project, chosen = self.session.project, self.session.artefact
        if project is None or not chosen:
            return
        artefact = self.session.find(chosen)

        def fields() -> dict[str, object]:
            from auditor.tasks.pinning import evidence_of

            return evidence_of(project, artefact).evidence()

        self.session.read("project.evidence", fields, self.session.offer_evidence, self.session.error)

    def _branch(self, title: str, icon: str, group: list[Artefact]) -> None:
        top = QTreeWidgetItem([title])
        top.setFont(0, theme.font("table", bold=True))
        top.setForeground(0, theme.color("muted"))
        top.setFlags(Qt.ItemFlag.ItemIsEnabled)
        self.tree.addTopLevelItem(top)
        for artefact in group:
            item = QTreeWidgetItem([visible(artefact.name)])
            item.setIcon(0, theme.icon(icon, "muted"))
            item.setData(0, _ID, artefact.id)
            item.setToolTip(0, tooltip(f"{artefact.name}\n{artefact.path}"))
            top.addChild(item)
        top.setExpanded(True)

    def _chosen(self, item: QTreeWidgetItem | None) -> None:
        artefact = item.data(0, _ID) if item is not None else None
        if artefact:
            self.session.select_artefact(str(artefact))

    def _renamed(self, item: QTreeWidgetItem) -> None:
        artefact = next((a for a in self.session.artefacts() if a.id == item.data(0, _ID)), None)
        name = item.text(0).strip()
        if artefact is not None and name not in ("", visible(artefact.name)):
            self.session.undo.push(_Rename(self.session, artefact, name))

    def _show(self, artefact: str) -> None:
        held = {a.id: a for a in self.session.artefacts()}
        self._select(artefact)
        clear(self._card)
        self._area.setVisible(artefact in held)
        if artefact in held:
            runs = {r.id: r for r in self.session.project.runs()} if self.session.project else {}
            for widget in _card(held[artefact], runs.get(held[artefact].run or ""), self.copy_digest, self.add_to_case):
                self._card.addWidget(widget)
            self._card.addStretch(1)

    def _select(self, artefact: str) -> None:
        for item in self._items():
            if item.data(0, _ID) == artefact and self.tree.currentItem() is not item:
                self.tree.blockSignals(True)
                self.tree.setCurrentItem(item)
                self.tree.blockSignals(False)

    def _items(self) -> Iterator[QTreeWidgetItem]:
        walk = QTreeWidgetItemIterator(self.tree)
        while (item := walk.value()) is not None:
            yield item
            walk += 1


class _Rename(QUndoCommand):
    def __init__(self, session: Session, artefact: Artefact, name: str) -> None:
        super().__init__(f"rename {visible(artefact.name)}")
        self._session, self._artefact, self._name = session, artefact, name

    def redo(self) -> None:
        self._call(self._name)

    def undo(self) -> None:
        self._call(self._artefact.name)

    def _call(self, name: str) -> None:
        if self._session.project is not None:
            self._session.project.catalogue.rename(self._artefact.id, name)
            self._session.refresh()


def _card(
    artefact: Artefact, run: RunRecord | None, copy: Callable[[], None], pin: Callable[[], None]
) -> list[QWidget]:
    """What is known of an artefact: place, digest, facts, and the run that made it."""
    name = PlainLabel(artefact.name, "strong", wrap=True, selectable=True)
    digest = ElidedLabel(artefact.digest, "mono", mode=Qt.TextElideMode.ElideMiddle)
    copy_button = tool("copy", "Copy digest", copy)
    parts: list[QWidget] = [
        name,
        _fact("kind", artefact.kind),
        _fact("made", artefact.created.replace("T", " ").replace("+00:00", " UTC")),
        _fact("at", str(artefact.path)),
        heading("SHA-256"),
        box(row(digest, copy_button)),
    ]
    if artefact.kind in _SHOWN:
        parts.insert(1, box(row(button("Add to case", pin, icon="pin", slim=True), None)))
    if "note" in artefact.meta:
        parts.append(PlainLabel(str(artefact.meta["note"]), "small", wrap=True))
    for key, value in artefact.meta.items():
        if key == "note":
            continue
        parts.append(_fact(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    if run is None:
        parts.append(PlainLabel("Brought in, not made by a run here.", "small", wrap=True))
        return parts
    parts += [heading("How it was made"), _fact("verb", f"{run.verb} ({run.status})"), _fact("run", run.id)]
    parts += [_fact(f"from {key}", value[:16]) for key, value in run.inputs.items()]
    parts += [_fact(key, json.dumps(value, ensure_ascii=False)) for key, value in run.config.items()]
    parts += [_fact(key, value) for key, value in run.environment.items()]
    return parts


def _fact(name: str, value: str) -> QWidget:
    label = PlainLabel(name, "small")
    label.setFixedWidth(theme.px(64))
    held = ElidedLabel(value, mode=Qt.TextElideMode.ElideMiddle)
    return box(row(label, held))
