"""The question whether running jobs may be stopped, before the project that they work in is left."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMessageBox, QWidget

from auditor.ui.session import Session


def may_leave(session: Session, parent: QWidget) -> bool:
    """Whether no job runs, or the person lets those that run be stopped."""
    if not session.has("job"):
        return True
    question = QMessageBox(parent)
    question.setTextFormat(Qt.TextFormat.PlainText)
    question.setText("A job is still running.")
    question.setInformativeText("Leaving stops it; recording and training go on from their last checkpoint.")
    leave = question.addButton("Stop and leave", QMessageBox.ButtonRole.AcceptRole)
    question.addButton("Stay", QMessageBox.ButtonRole.RejectRole)
    question.exec()
    return question.clickedButton() is leave
