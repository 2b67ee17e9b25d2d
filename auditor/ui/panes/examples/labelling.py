"""Labels, notes and stars as steps that can be undone; they are written off the GUI thread, in order."""

from __future__ import annotations

import getpass

from PySide6.QtGui import QUndoCommand

from auditor.project import settings
from auditor.ui.session import Session


class Write(QUndoCommand):
    """Gives a feature a label, note or star in the project's file; undo writes what stood there before."""

    def __init__(
        self, session: Session, dictionary: str, digest: str, feature: int, kind: str, before: str, text: str
    ) -> None:
        name = "star" if kind == "star" else f"{kind} “{text[:40]}”" if text else f"remove the {kind}"
        super().__init__(f"{name} (feature {feature})")
        self._session, self._dictionary, self._digest = session, dictionary, digest
        self._feature, self._kind, self._before, self._text = feature, kind, before, text

    def redo(self) -> None:
        self._write(self._text)

    def undo(self) -> None:
        self._write(self._before)

    def _write(self, text: str) -> None:
        session, project, number = self._session, self._session.project, self._feature
        if project is None:
            return

        def write() -> None:
            from auditor.features.labels import Labels

            project.must_write()
            labels = Labels(project.folder / "labels.sqlite", self._digest)
            try:
                labels.set(number, text, author(), self._kind)  # type: ignore[arg-type]
            finally:
                labels.close()

        def written(_: object) -> None:
            session.select_feature(self._dictionary, number)

        session.read(f"label {self._kind} {number} {text}", write, written)


def author() -> str:
    """Whom a label is by: the name in the settings, else that of the account."""
    name = str(settings.read().get("author") or "").strip()
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
