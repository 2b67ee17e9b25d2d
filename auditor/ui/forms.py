"""A form made from a Config class: labels, help, units, ranges, choices, artefact pickers, and errors beside fields."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import PydanticUndefined
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from auditor.base.config import Config, describe
from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.session import Session
from auditor.ui.widgets.controls import button, tool
from auditor.ui.widgets.drops import Drops
from auditor.ui.widgets.plain_text import PlainLabel, tooltip, visible

_INT_MAX = 2**31 - 1


class Form(QWidget):
    """Edits a config of class `kind`. `value()` gives it, or raises after marking the fields that are wrong.

    `changed` comes at each edit; pickers follow the project's catalogue. `refused` tells what `kind` itself does not
    know to be wrong: reasons by name.
    """

    changed = Signal()

    def __init__(
        self, kind: type[Config], session: Session, initial: Mapping[str, Any] | None = None,
        parent: QWidget | None = None, *, refused: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda _: {},
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self.kind, self._session, self._refuses = kind, session, refused
        self._fields = {
            name: _Field(name, info, session, (initial or {}).get(name, info.default))
            for name, info in kind.model_fields.items()
        }
        for held in self._fields.values():
            if isinstance(held.editor, _Hooks) and held.editor.of in self._fields:
                held.editor.choices = self._fields[held.editor.of].hooks
        self._lay()
        for line in self.findChildren(QLineEdit):
            line.setAcceptDrops(isinstance(line, _Place))  # else a file that is dropped there becomes text in it
        for held in self._fields.values():
            held.edited.connect(self._edited)
        session.catalogue_changed.connect(self._fill_pickers)
        session.gpu_looked_for.connect(self._mark_errors)

    def values(self) -> dict[str, Any]:
        """What the fields hold, unchecked; empty optional fields, and those not shown or barred, are left to their
        default."""
        found = {name: held.get() for name, held in self._fields.items() if held.shown and not held.barred}
        return {name: value for name, value in found.items() if value is not PydanticUndefined}

    def value(self) -> Config:
        """The config. AuditorError when something is missing or out of range; the fields then say what."""
        try:
            made = self.kind(**self.values())
        except ValidationError as error:
            wrong = {str(e["loc"][0]) if e["loc"] else "": _plain(e) for e in error.errors()}
            self._mark(wrong)
            name, reason = next(iter(wrong.items()))
            title = self._fields[name].title if name in self._fields else self.kind.__name__
            raise AuditorError(f"“{title}”: {reason}.", "Change the marked settings and start again.") from None
        refused = self._refused(self.values())
        self._mark(refused)
        for name, reason in refused.items():
            raise AuditorError(f"“{self._fields[name].title}”: {reason}", "Change the marked settings and start again.")
        return made

    def set(self, name: str, value: Any) -> None:
        """Put a value into one field."""
        self._fields[name].put(value)

    def set_all(self, values: Mapping[str, Any]) -> None:
        """Put values into several fields, and tell of it once."""
        self.blockSignals(True)
        for name, value in values.items():
            self._fields[name].put(value)
        self.blockSignals(False)
        self._edited()

    def show_only(self, names: Collection[str]) -> None:
        """Show these fields; the others keep what they hold but count as left alone."""
        for name, held in self._fields.items():
            held.show(name in names)
        self._mark_errors()

    def bar(self, reasons: Mapping[str, str]) -> None:
        """Grey these fields, each with the reason in place of its help; they keep what they hold but count as left
        alone."""
        for name, held in self._fields.items():
            held.bar(reasons.get(name, ""))
        self._mark_errors()

    def listed(self, name: str) -> list[str]:
        """The hook points of the model or store that is chosen in a field, as far as the catalogue names them."""
        return self._fields[name].hooks()

    def shown(self, name: str) -> bool:
        """Whether a field is one of those that are shown."""
        return self._fields[name].shown

    def offer(self, name: str, choices: Callable[[], list[str]]) -> None:
        """Let a field of hook points list these, where the model is chosen elsewhere."""
        editor = self._fields[name].editor
        if isinstance(editor, _Hooks):
            editor.choices = choices

    def tell(self, name: str, help: str) -> None:
        """Say this of a field in place of its help."""
        self._fields[name].tell(help)

    def _lay(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(theme.space("small"))
        column.addLayout(self._grid([held for held in self._fields.values() if not held.advanced]))
        folded = [held for held in self._fields.values() if held.advanced]
        if folded:
            body = QWidget()
            body.setLayout(self._grid(folded))
            body.setVisible(False)
            self._fold = button("Advanced settings", link=True, icon="chevron-right")
            self._fold.setCheckable(True)
            self._fold.toggled.connect(body.setVisible)
            self._fold.toggled.connect(
                lambda on: theme.set_icon(self._fold, "chevron-down" if on else "chevron-right", "accent")
            )
            column.addWidget(self._fold)
            column.addWidget(body)
        column.addStretch(1)

    def _grid(self, fields: list[_Field]) -> QGridLayout:
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(theme.space("medium"))
        grid.setVerticalSpacing(theme.space("tight"))
        grid.setColumnStretch(1, 1)
        for number, held in enumerate(fields):
            grid.addWidget(held.label, 2 * number, 0, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
            grid.addLayout(held.line, 2 * number, 1)
            grid.addWidget(held.note, 2 * number + 1, 1)
        return grid

    def _mark(self, wrong: Mapping[str, str]) -> None:
        for name, held in self._fields.items():
            held.mark(wrong.get(name, ""))
            if name in wrong and held.advanced:
                self._fold.setChecked(True)

    def _edited(self) -> None:
        self._mark_errors()
        self.changed.emit()

    def _mark_errors(self) -> None:
        self._mark(self._errors())

    def _errors(self) -> dict[str, str]:
        try:
            self.kind(**self.values())
        except ValidationError as error:
            return {str(e["loc"][0]) if e["loc"] else "": _plain(e) for e in error.errors() if e["type"] != "missing"}
        values = self.values()
        # What is still to be chosen is not wrong yet.
        return {name: reason for name, reason in self._refused(values).items() if values.get(name) not in ("", None)}

    def _refused(self, values: Mapping[str, Any]) -> dict[str, str]:
        """What would be refused, and why: also a GPU, once it is known that there is none."""
        found = dict(self._refuses(values))
        if values.get("device") == "cuda":
            self._session.look_for_gpu()
            if self._session.no_gpu:
                found.setdefault("device", self._session.no_gpu)
        return found

    def _fill_pickers(self) -> None:
        for held in self._fields.values():
            held.fill()


class _Field(QObject):
    """One setting: its label, its editor and the line below for help and error. It is no widget itself."""

    edited = Signal()

    def __init__(self, name: str, info: Any, session: Session, value: Any) -> None:
        super().__init__()
        facts = describe(info)
        self.name = name
        self.title = str(facts["title"] or name.replace("_", " ").capitalize())
        self.advanced = bool(facts["advanced"])
        self.artefact: str | None = facts["artefact"]
        self._help = str(facts["help"])
        self._between = str(facts["between"])
        self._session = session
        self._type, self._optional = _plain_type(info.annotation)
        self._default = info.default
        self.shown = True
        self.barred = self._wrong = ""
        self._aside: list[QWidget] = []
        self.label = PlainLabel(self.title)
        self.label.setContentsMargins(0, theme.px(6), 0, 0)
        self.label.set_tip(self._help)
        self.note = PlainLabel(self._help, "small", wrap=True)
        self.note.setContentsMargins(0, 0, 0, theme.px(4))
        self.editor = self._editor(facts)
        self.editor.setAccessibleName(self.title)
        self.editor.setAccessibleDescription(self._help)
        self.label.setBuddy(self.editor)
        self.line = QHBoxLayout()
        self.line.setSpacing(theme.space("small"))
        self.line.addWidget(self.editor, 1)
        if facts["unit"] and isinstance(self.editor, QLineEdit):
            self._aside.append(PlainLabel(str(facts["unit"]), "muted"))
        if self._wants_path():
            self._aside.append(tool("folder-open", f"Choose {self.title.lower()}…", self._browse))
        for widget in self._aside:
            self.line.addWidget(widget)
        self.mark("")
        self.put(value)

    def get(self) -> Any:
        """The value, or PydanticUndefined where the field is empty."""
        editor = self.editor
        if isinstance(editor, QCheckBox):
            return editor.isChecked()
        if isinstance(editor, QSpinBox):
            return editor.value()
        if isinstance(editor, QComboBox):
            at = editor.findText(editor.currentText())
            text = str(editor.itemData(at) or "") if at >= 0 else editor.currentText().strip()
        elif isinstance(editor, QLineEdit):
            text = editor.text().strip()
        else:
            raise TypeError(type(editor).__name__)
        if text == "":
            return None if self._optional else PydanticUndefined if self._default != "" else ""
        return self._parsed(text)

    def put(self, value: Any) -> None:
        """Show `value`."""
        if value is PydanticUndefined:
            if self.artefact is not None:
                return  # what must be chosen starts with the newest
            value = None
        editor = self.editor
        if isinstance(editor, QCheckBox):
            editor.setChecked(bool(value))
        elif isinstance(editor, QSpinBox):
            editor.setValue(int(value or 0))
        elif isinstance(editor, QComboBox):
            at = editor.findData(_written(value, self._between))
            if at >= 0:
                editor.setCurrentIndex(at)
            elif editor.isEditable():
                editor.setEditText(_written(value, self._between))
            _show_start(editor)
        elif isinstance(editor, QLineEdit):
            editor.setText(_written(value, self._between))

    def hooks(self) -> list[str]:
        """Hook points of the model or store that is chosen here, as far as the catalogue names them."""
        held = self._session.artefacts(self.artefact)
        ref = self.get()
        found = next((a for a in held if ref in (a.id, a.name)), held[-1] if held else None)
        told = found.meta.get("hook_points") or found.meta.get("hooks") or () if found is not None else ()
        return [str(point["hook"]) if isinstance(point, dict) else str(point) for point in told]

    def fill(self) -> None:
        """List the project's artefacts of this kind again, newest first."""
        if self.artefact is None or not isinstance(self.editor, QComboBox):
            return
        kept = self.get()
        self.editor.blockSignals(True)
        self.editor.clear()
        for found in reversed(self._session.artefacts(self.artefact)):
            self.editor.addItem(f"{visible(found.name)}  ·  {found.digest[:8]}", found.id)
        if kept in (None, PydanticUndefined) and self._optional:
            self.editor.setCurrentIndex(-1)
            self.editor.clearEditText()
        elif kept not in (None, PydanticUndefined):
            self.put(kept)
        self.editor.blockSignals(False)
        _show_start(self.editor)

    def show(self, on: bool) -> None:
        """Show or hide the whole line."""
        self.shown = on
        for widget in (self.label, self.editor, *self._aside):
            widget.setVisible(on)
        self.note.setVisible(on and bool(self.note.text()))

    def bar(self, reason: str) -> None:
        """Grey it and say why, or no longer where there is no reason."""
        if reason != self.barred:
            self.barred = reason
            for widget in (self.label, self.editor, *self._aside):
                widget.setEnabled(not reason)
            self.mark(self._wrong)

    def tell(self, help: str) -> None:
        """Change what is said below it."""
        self._help = help
        self.editor.setAccessibleDescription(help)
        self.mark(self._wrong)

    def mark(self, reason: str) -> None:
        """Say beside the field what is wrong, or its help where nothing is."""
        wrong, self._wrong = bool(reason), reason
        self.note.setText(reason[:1].upper() + reason[1:] if wrong else self.barred or self._help)
        self.note.set_role("bad" if wrong else "small")
        self.note.setVisible(self.shown and bool(self.note.text()))
        if bool(self.editor.property("invalid")) != wrong:
            self.editor.setProperty("invalid", wrong)
            self.editor.style().unpolish(self.editor)
            self.editor.style().polish(self.editor)

    def _editor(self, facts: Mapping[str, Any]) -> QWidget:
        choices = facts["choices"] or _choices(self._type)
        if self.artefact is not None or facts["hook_of"]:
            return self._picker(str(facts["hook_of"] or ""))
        if choices:
            return self._listed([str(choice) for choice in choices])
        if self._type is bool:
            return self._wired(QCheckBox(), "toggled")
        if self._type is int and not self._optional:
            return self._whole(facts)
        line = _Place() if self._wants_path() else QLineEdit()
        line.setPlaceholderText(self._hint())
        return self._wired(line, "textChanged")

    def _picker(self, hook_of: str) -> QComboBox:
        made = _Hooks(hook_of) if hook_of else QComboBox()
        made.setEditable(True)
        made.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        made.setMinimumContentsLength(16)
        made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        edit = made.lineEdit()
        assert edit is not None
        free = self._optional or self._default in ((), [], "")
        edit.setPlaceholderText("automatic" if free else _choose(self.artefact))
        self.editor = made
        self.fill()
        if self._default is not PydanticUndefined or hook_of:
            made.setCurrentIndex(-1)
        made.currentTextChanged.connect(lambda _: self.edited.emit())
        made.activated.connect(lambda _: _show_start(made))
        return made

    def _listed(self, choices: list[str]) -> QComboBox:
        made = QComboBox()
        for choice in choices:
            made.addItem(choice, choice)
        made.currentIndexChanged.connect(lambda _: self.edited.emit())
        return made

    def _whole(self, facts: Mapping[str, Any]) -> QSpinBox:
        made = _Whole()
        made.setRange(_bound(facts["ge"], -_INT_MAX), _bound(facts["le"], _INT_MAX))
        made.setGroupSeparatorShown(False)
        made.setSuffix(f" {facts['unit']}" if facts["unit"] else "")
        if made.minimum() == 0:
            made.setSpecialValueText(facts["zero"])
        made.valueChanged.connect(lambda _: self.edited.emit())
        return made

    def _wired(self, widget: QWidget, signal: str) -> QWidget:
        getattr(widget, signal).connect(lambda _: self.edited.emit())
        return widget

    def _hint(self) -> str:
        marks = {",": "commas", ";": "semicolons"}[self._between]
        many = f"several, with {marks} between" if get_origin(self._type) in (list, tuple) else ""
        return many or ("automatic" if self._optional else "")

    def _wants_path(self) -> bool:
        return self._type is Path or self.artefact in ("model", "samples") or self.name == "path"

    def _browse(self) -> None:
        """A model is a folder; what else is read from a path may be a file or a folder."""
        if self.artefact == "model":
            self._take(QFileDialog.getExistingDirectory(self.editor, "Choose a model's folder"))
            return
        menu = QMenu(self.editor)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        asked = f"Choose {self.title.lower()}"
        menu.addAction("A file…", lambda: self._take(QFileDialog.getOpenFileName(self.editor, asked)[0]))
        menu.addAction("A folder…", lambda: self._take(QFileDialog.getExistingDirectory(self.editor, asked)))
        menu.popup(self.editor.mapToGlobal(self.editor.rect().bottomRight()))

    def _take(self, chosen: str) -> None:
        if chosen:
            self.put(chosen)

    def _parsed(self, text: str) -> Any:
        if get_origin(self._type) in (list, tuple):
            return [part.strip() for part in text.split(self._between) if part.strip()]
        return text


class _Place(QLineEdit):
    """A path: a file or folder that is dropped on it is meant."""

    def __init__(self) -> None:
        super().__init__()
        self._drops = Drops()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._drops.enter(event):
            event.acceptProposedAction()
        else:
            super().dragEnterEvent(event)

    def dropEvent(self, event: QDropEvent) -> None:
        if brought := self._drops.take(event):
            event.acceptProposedAction()
            self.setText(str(brought[0]))
        else:
            super().dropEvent(event)


class _Hooks(QComboBox):
    """Names one hook point, or several by hand; its list is that of the model or store chosen in the field `of`."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of
        self.choices: Callable[[], list[str]] = list

    def showPopup(self) -> None:
        kept, found = self.currentText(), self.choices()
        self.blockSignals(True)
        self.clear()
        for choice in found:
            self.addItem(visible(choice), choice)
        if not found:
            self.addItem("Type the name: none are listed here")
            self.setItemData(0, 0, Qt.ItemDataRole.UserRole - 1)  # grey, not to be chosen
        self.setCurrentIndex(self.findText(kept))
        self.setEditText(kept)
        self.blockSignals(False)
        super().showPopup()


class _Whole(QSpinBox):
    """A whole number that the wheel does not change while a person scrolls past."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.lineEdit().setTextMargins(theme.px(6), 0, 0, 0)

    def wheelEvent(self, event: Any) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


def _show_start(box: QComboBox) -> None:
    """A long name is read from its start; Qt shows the end, where the cursor is."""
    box.setToolTip(tooltip(box.currentText()))
    edit = box.lineEdit()
    if edit is not None and not edit.hasFocus():
        edit.setCursorPosition(0)


def _choose(kind: str | None) -> str:
    if kind == "samples":
        return "choose samples"
    return f"choose {'an' if kind == 'index' else 'a'} {kind or 'hook point'}"


def _written(value: Any, between: str = ",") -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return f"{between} ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain_type(annotation: Any) -> tuple[Any, bool]:
    """The type behind `X | None`, and whether None is allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts[0], len(parts) < len(get_args(annotation))
    return annotation, False


def _choices(kind: Any) -> list[str]:
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []


def _bound(value: float | None, otherwise: int) -> int:
    return otherwise if value is None else max(-_INT_MAX, min(_INT_MAX, int(value)))


def _plain(error: Any) -> str:
    """Pydantic's reason in the words of the window."""
    context = error.get("ctx") or {}
    sentences: dict[str, Callable[[], str]] = {
        "missing": lambda: "this is needed",
        "greater_than_equal": lambda: f"at least {context['ge']:g}",
        "less_than_equal": lambda: f"at most {context['le']:g}",
        "int_parsing": lambda: "this is not a whole number",
        "float_parsing": lambda: "this is not a number",
        "value_error": lambda: str(context.get("error", error["msg"])),
    }
    told = sentences.get(error["type"])
    return (told() if told else str(error["msg"])).rstrip(".")
