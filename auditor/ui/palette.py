"""Ctrl+K: one field that finds every command, artefact, feature and page of help."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QEvent, QModelIndex, QObject, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QFrame,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from auditor.ui import theme
from auditor.ui.commands import Hit
from auditor.ui.session import Session
from auditor.ui.widgets.controls import column
from auditor.ui.widgets.plain_text import PlainLabel, visible

_HIT = Qt.ItemDataRole.UserRole
_SHOWN = 9


class Palette(QFrame):
    """A frame over the window: type, choose with the arrows, Enter does it, Escape leaves."""

    def __init__(self, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("palette")
        self._session = session
        self._before: QWidget | None = None
        self.field = QLineEdit()
        self.field.setPlaceholderText("Search features, artefacts, commands, help")
        self.field.setAccessibleName("Search everything")
        self.list = QListWidget()
        self.list.setItemDelegate(_Line(self.list))
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._none = PlainLabel("Nothing is called that.", "muted")
        self._none.setContentsMargins(theme.px(8), theme.px(4), 0, theme.px(8))
        self.setLayout(column(self.field, self.list, self._none, gap="tight", margin="small"))
        self.field.textChanged.connect(self._fill)
        self.field.installEventFilter(self)
        self.list.itemClicked.connect(self._take)
        parent.installEventFilter(self)
        self.hide()

    def open(self, text: str = "") -> None:
        """Show it over the window with `text` in the field."""
        self._before = self.window().focusWidget()
        self.field.setText(text)
        self._fill(text)
        self.show()
        self.raise_()
        self.field.setFocus()
        self.field.selectAll()

    def close_palette(self) -> None:
        """Hide it and give the focus back."""
        self.hide()
        if self._before is not None and self._before.isVisible():
            self._before.setFocus()

    def titles(self) -> list[str]:
        """What is listed, top first."""
        items = [self.list.item(number) for number in range(self.list.count())]
        return [str(item.text()) for item in items if item.data(_HIT) is not None]

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.parent() and event.type() == QEvent.Type.Resize:
            self._place()
        elif watched is self.field and event.type() == QEvent.Type.FocusOut and self.isVisible():
            self.hide()
        elif watched is self.field and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            return self._key(event)
        return False

    def _key(self, event: QKeyEvent) -> bool:
        match event.key():
            case Qt.Key.Key_Escape:
                self.close_palette()
            case Qt.Key.Key_Return | Qt.Key.Key_Enter:
                item = self.list.currentItem()
                if item is not None:
                    self._take(item)
            case Qt.Key.Key_Down | Qt.Key.Key_Up:
                self._step(1 if event.key() == Qt.Key.Key_Down else -1)
            case _:
                return False
        return True

    def _step(self, way: int) -> None:
        row = self.list.currentRow() + way
        while 0 <= row < self.list.count():
            if self.list.item(row).data(_HIT) is not None:
                self.list.setCurrentRow(row)
                return
            row += way

    def _take(self, item: QListWidgetItem) -> None:
        hit = item.data(_HIT)
        if isinstance(hit, Hit):
            self.close_palette()
            try:
                hit.run()
            except Exception as error:
                self._session.error(error)

    def _fill(self, query: str) -> None:
        self.list.clear()
        for title, hits in self._session.commands.search(query.strip()):
            head = QListWidgetItem(title)
            head.setFlags(Qt.ItemFlag.NoItemFlags)
            self.list.addItem(head)
            for hit in hits:
                item = QListWidgetItem(visible(hit.title))
                item.setData(_HIT, hit)
                self.list.addItem(item)
        self._none.setVisible(self.list.count() == 0)
        self.list.setVisible(self.list.count() > 0)
        self._step(1)
        self._place()

    def _place(self) -> None:
        parent = self.parentWidget()
        assert parent is not None
        width = min(theme.px(620), parent.width() - 40)
        lines = min(_SHOWN + 2, self.list.count()) * theme.px(28)
        self.list.setFixedHeight(lines + theme.px(10))
        height = self.sizeHint().height()
        self.setGeometry(QRect((parent.width() - width) // 2, theme.px(6), width, height))


class _Line(QStyledItemDelegate):
    """A line of the palette: icon, title, and the key or kind at the right; headings are small and grey."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(100, theme.px(28))

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        hit: Any = index.data(_HIT)
        area = option.rect
        painter.save()
        if not isinstance(hit, Hit):
            painter.setFont(theme.font("small", bold=True))
            painter.setPen(theme.color("muted"))
            painter.drawText(area.adjusted(theme.px(8), 0, 0, -2), Qt.AlignmentFlag.AlignBottom, str(index.data()))
            painter.restore()
            return
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        if chosen:
            painter.setBrush(theme.color("selection"))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.drawRoundedRect(area, 4, 4)
        ink = theme.color("on_selection" if chosen else "text")
        if hit.icon:
            side = theme.px(16)
            picture = theme.pixmap(hit.icon, "on_selection" if chosen else "muted", 16, 2.0)
            painter.drawPixmap(QRect(area.left() + theme.px(8), area.center().y() - side // 2, side, side), picture)
        painter.setFont(theme.font("body"))
        painter.setPen(ink)
        inner = area.adjusted(theme.px(32), 0, -theme.px(120), 0)
        title = painter.fontMetrics().elidedText(str(index.data()), Qt.TextElideMode.ElideRight, inner.width())
        painter.drawText(inner, Qt.AlignmentFlag.AlignVCenter, title)
        painter.setPen(ink if chosen else theme.color("muted"))
        painter.setFont(theme.font("table"))
        painter.drawText(
            area.adjusted(0, 0, -theme.px(8), 0),
            Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
            visible(hit.detail),
        )
        painter.restore()
