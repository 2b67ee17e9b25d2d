"""The project tree: artefacts by kind and what is unfinished, and the card of the chosen one."""

from __future__ import annotations

from collections.abc import Iterator

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

from auditor.project.catalogue import Artefact
from auditor.ui import theme
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.panes.project_tree.card import artefact_card
from auditor.ui.panes.project_tree.unfinished import Leftovers, unfinished_card
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, clear, scrolled
from auditor.ui.widgets.numbers import thin
from auditor.ui.widgets.plain_text import tooltip, visible

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
_ID = Qt.ItemDataRole.UserRole
_LEFT = Qt.ItemDataRole.UserRole + 1


class ProjectTree(Pane):
    """Every artefact of the project, and what was begun and is not finished; a choice of an artefact here is a choice
    everywhere."""

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
            Command(id="project.unfinished", title="Show what is unfinished", needs="project", menu="Run",
                    icon="history", help="Work that was stopped or killed: go on with it, or remove what it left.",
                    run=lambda: pane().show_unfinished()),
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
        self._left = ""
        self.leftovers = Leftovers(session, self)
        self.leftovers.changed.connect(self.refresh)
        self.leftovers.finished.connect(self._finished)
        session.artefact_selected.connect(self._show)
        theme.signals.changed.connect(self.refresh)
        return split

    def refresh(self) -> None:
        held = self.session.artefacts()
        if not held and not self.leftovers.held:
            self.empty("This project holds nothing yet.", "file.add-folder", hint="Begin with the folder of a model.")
            return
        self.tree.blockSignals(True)
        self.tree.clear()
        for kind, (title, icon) in KINDS.items():
            group = [artefact for artefact in held if artefact.kind == kind]
            self._branch(title, icon, [(_ID, one.id, one.name, f"{one.name}\n{one.path}") for one in group])
        left = self.leftovers.held
        told = [(_LEFT, one.name, one.name, f"{one.name}\n{one.work}: {thin(one.reached)}") for one in left]
        self._branch("Unfinished", "history", told)
        self.tree.blockSignals(False)
        if self._left in [one.name for one in left]:
            self._show_left(self._left)
        else:
            self._show_artefact(self.session.artefact or "")  # what goes on may be stopped, and come back in view
        self.ready()

    def show_unfinished(self) -> None:
        """Choose what was left last; says so where nothing is unfinished."""
        if self.leftovers.held:
            self._show_left(self.leftovers.held[-1].name)
        else:
            self.session.say("Nothing is unfinished.")

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

    def _branch(self, title: str, icon: str, group: list[tuple[int, str, str, str]]) -> None:
        """A heading with a line for each of `group`: role and value of what it stands for, name, what is said on hover;
        nothing where there is none."""
        if not group:
            return
        top = QTreeWidgetItem([title])
        top.setFont(0, theme.font("table", bold=True))
        top.setForeground(0, theme.color("muted"))
        top.setFlags(Qt.ItemFlag.ItemIsEnabled)
        self.tree.addTopLevelItem(top)
        for role, value, name, told in group:
            item = QTreeWidgetItem([visible(name)])
            item.setIcon(0, theme.icon(icon, "muted"))
            item.setData(0, role, value)
            item.setToolTip(0, tooltip(told))
            top.addChild(item)
        top.setExpanded(True)

    def _chosen(self, item: QTreeWidgetItem | None) -> None:
        artefact = item.data(0, _ID) if item is not None else None
        if artefact:
            self.session.select_artefact(str(artefact))
        elif item is not None and item.data(0, _LEFT):
            self._show_left(str(item.data(0, _LEFT)))

    def _renamed(self, item: QTreeWidgetItem) -> None:
        artefact = next((a for a in self.session.artefacts() if a.id == item.data(0, _ID)), None)
        name = item.text(0).strip()
        if artefact is not None and name not in ("", visible(artefact.name)):
            self.session.undo.push(_Rename(self.session, artefact, name))

    def _show(self, artefact: str) -> None:
        self._left = ""
        self._show_artefact(artefact)

    def _show_artefact(self, artefact: str) -> None:
        held = {a.id: a for a in self.session.artefacts()}
        self._select(_ID, artefact)
        parts: list[QWidget] = []
        if artefact in held:
            runs = {r.id: r for r in self.session.project.runs()} if self.session.project else {}
            run = runs.get(held[artefact].run or "")
            parts = artefact_card(held[artefact], run, self.copy_digest, self.add_to_case)
        self._fill(parts)

    def _show_left(self, name: str) -> None:
        one = next(one for one in self.leftovers.held if one.name == name)
        self._left = name
        self._select(_LEFT, name)
        names = {artefact.id: artefact.name for artefact in self.session.artefacts()}
        writable = self.session.has("writable")
        self._fill([unfinished_card(one, self.leftovers, names, writable=writable)])

    def _finished(self, name: str, artefact: str) -> None:
        """Show what it became, unless the person has gone on to something else."""
        if self._left == name:
            self.session.refresh()
            self.session.select_artefact(artefact)

    def _fill(self, parts: list[QWidget]) -> None:
        clear(self._card)
        self._area.setVisible(bool(parts))
        for part in parts:
            self._card.addWidget(part)
        self._card.addStretch(1)

    def _select(self, role: int, value: str) -> None:
        for item in self._items():
            if item.data(0, role) == value and self.tree.currentItem() is not item:
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
