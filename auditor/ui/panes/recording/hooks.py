"""The hook points of a model as a tree with ticks: found by a word, told with their width and axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHeaderView, QLineEdit, QTreeWidget, QTreeWidgetItem, QTreeWidgetItemIterator, QWidget

from auditor.base.patterns import is_pattern, matches
from auditor.ui import theme
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import PlainLabel, tooltip, visible

_NAME, _PATTERN = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1
_NAMED = 4
_WITH_AXES, _WITH_WIDTH = 240, 180
_FIRST, _LAST = "batch × ", " × channel"


class HookTree(QWidget):
    """`ticked` carries names of hook points and whether they are to be recorded."""

    ticked = Signal(list, bool)

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[str, ...] = ()
        self._patterns: frozenset[str] = frozenset()
        self.word = QLineEdit()
        self.word.setPlaceholderText("Find: resid_post, or blocks.*.z")
        self.word.setAccessibleName("Find a hook point")
        self.word.setClearButtonEnabled(True)
        self.word.setAcceptDrops(False)
        self.word.textChanged.connect(lambda _: self._narrow())
        self.all_button = controls.button("Tick all", self._tick_found, slim=True)
        self.tree = QTreeWidget()
        self.tree.setHeaderLabels(["Hook point", "Width", "Per"])
        self.tree.setUniformRowHeights(True)
        self.tree.setIndentation(theme.px(14))
        self.tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.tree.setAccessibleName("Hook points of the model")
        self.tree.itemChanged.connect(self._changed)
        header = self.tree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self._none = PlainLabel("", "warn", wrap=True)
        self._none.hide()
        self._told = PlainLabel("", "small", wrap=True)
        line = controls.row(self.word, self.all_button)
        line.setStretch(0, 1)
        whole = controls.column(line, self._none, self.tree, self._told, gap="small")
        whole.setStretch(2, 1)
        self.setLayout(whole)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Names come first: where there is little room, what a row stands for is left out, then the width."""
        super().resizeEvent(event)
        self.tree.setColumnHidden(2, self.width() < theme.px(_WITH_AXES))
        self.tree.setColumnHidden(1, self.width() < theme.px(_WITH_WIDTH))

    def show_points(self, points: Sequence[Mapping[str, Any]], wanted: Iterable[str]) -> None:
        """List the points of a model, those in `wanted` ticked; what is open in the tree stays open."""
        names = tuple(str(point["hook"]) for point in points)
        changed, self._shown = names != self._shown, names
        self._patterns = frozenset(str(point["hook"]) for point in points if not point["width"])
        chosen = set(self.spread_out(wanted))
        self.tree.blockSignals(True)
        if changed:
            self._fill(points, chosen)
        for item in self._points():
            name = item.data(0, _NAME)
            item.setCheckState(0, Qt.CheckState.Checked if name in chosen else Qt.CheckState.Unchecked)
        self.tree.blockSignals(False)
        known = [name for name in names if name in chosen]
        others = sorted(chosen.difference(names))
        self._told.set_role("warn" if others else "small")
        told = [f"{numbers.count(len(known))} chosen: {_some(known)}"] if known else []
        if others:
            told.append(f"Not in this list: {_some(others)} (another name, or none of this model)")
        elif not known:
            middle = any(name.endswith(".resid_post") for name in names)
            told.append("None chosen: the residual stream after the middle block is recorded." if middle
                        else "None chosen yet.")  # fmt: skip
        self._told.setText(". ".join(told))
        self._told.setToolTip(tooltip(", ".join([*known, *others])))
        self._tell_found()

    def spread_out(self, names: Iterable[str]) -> list[str]:
        """`names`, with those of the tree that blocks.*.z and its like stand for in its place; of blocks.0.* what a
        store can keep."""
        found = [[one for one in self._shown if matches(name, one)] if is_pattern(name) else [] for name in names]
        found = [[one for one in some if one not in self._patterns] or some for some in found]
        return list(dict.fromkeys(one for name, some in zip(names, found, strict=True) for one in some or [name]))

    def _fill(self, points: Sequence[Mapping[str, Any]], chosen: set[str]) -> None:
        self.tree.clear()
        groups: dict[str, QTreeWidgetItem] = {}
        tops: list[QTreeWidgetItem] = []
        axes = {str(point.get("axes", "")): ("", "") for point in points}
        for told in axes:
            axes[told] = (visible(told).removeprefix(_FIRST).removesuffix(_LAST), tooltip(told))
        for point in points:
            name = str(point["hook"])
            head, _, last = name.rpartition(".")
            if head and head not in groups:
                groups[head] = QTreeWidgetItem([visible(head)])
                groups[head].setFlags(Qt.ItemFlag.ItemIsEnabled)
                tops.append(groups[head])
            short, whole = axes[str(point.get("axes", ""))]
            item = QTreeWidgetItem([visible(last), numbers.count(int(point["width"])), short])
            item.setData(0, _NAME, name)
            item.setData(0, _PATTERN, not point["width"])
            item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            item.setToolTip(0, tooltip(name))
            if heads := int(point.get("heads", 0)):
                item.setToolTip(1, f"{numbers.count(heads)} heads of {numbers.count(int(point['width']) // heads)}")
            item.setToolTip(2, whole)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(0, Qt.CheckState.Unchecked)
            if head:
                groups[head].addChild(item)
            else:
                tops.append(item)
        self.tree.addTopLevelItems(tops)  # at once: thousands one by one hold the window up
        opened = {name.rpartition(".")[0] for name in chosen}
        for head, group in groups.items():
            group.setFirstColumnSpanned(True)
            group.setExpanded(head in opened)
        self._narrow()

    def _narrow(self) -> None:
        """Show only the points whose name holds the word, or that a pattern such as blocks.*.z stands for, with their
        groups open."""
        word = self.word.text().strip()
        pattern, lower = is_pattern(word), word.lower()

        def fits(name: str) -> bool:
            return matches(word, name) if pattern else lower in name.lower()

        tops = _below(self.tree.invisibleRootItem())
        for top in tops:
            below = _below(top)
            for item in below:
                item.setHidden(not fits(str(item.data(0, _NAME))))
            own = fits(str(top.data(0, _NAME) or top.text(0))) and not (pattern and below)
            top.setHidden(not own and all(item.isHidden() for item in below))
            if word and below:
                top.setExpanded(not top.isHidden())
        self._none.setText(f"No hook point of this model is called “{word}”, or has it in its name.")
        self._none.setVisible(bool(word) and all(top.isHidden() for top in tops))
        self._tell_found()

    def _found(self) -> list[QTreeWidgetItem]:
        """What the word finds, but for attention patterns, which no store keeps."""
        found = [item for item in self._points() if not item.isHidden() and not item.data(0, _PATTERN)]
        return found if self.word.text().strip() else []

    def _tell_found(self) -> None:
        found = self._found()
        self.all_button.setVisible(bool(found))
        done = all(item.checkState(0) == Qt.CheckState.Checked for item in found)
        self.all_button.setText(f"{'Untick' if done else 'Tick'} all {numbers.count(len(found))}")

    def _tick_found(self) -> None:
        found = self._found()
        on = any(item.checkState(0) != Qt.CheckState.Checked for item in found)
        self.ticked.emit([item.data(0, _NAME) for item in found], on)

    def _changed(self, item: QTreeWidgetItem, _: int) -> None:
        name = item.data(0, _NAME)
        if name:
            self.ticked.emit([name], item.checkState(0) == Qt.CheckState.Checked)

    def _points(self) -> Iterator[QTreeWidgetItem]:
        walk = QTreeWidgetItemIterator(self.tree)
        while (item := walk.value()) is not None:
            if item.data(0, _NAME):
                yield item
            walk += 1


def _some(names: Sequence[str]) -> str:
    """The first of many."""
    more = len(names) - _NAMED if len(names) > _NAMED + 1 else 0
    return ", ".join(names[: len(names) - more]) + (f" and {numbers.count(more)} more" if more else "")


def _below(item: QTreeWidgetItem) -> list[QTreeWidgetItem]:
    return [child for row in range(item.childCount()) if (child := item.child(row)) is not None]
