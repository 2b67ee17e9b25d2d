"""The way from a dictionary to its features: open its index, or make that first."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, Signal

from auditor.base.config import Config, read_config
from auditor.base.errors import AuditorError
from auditor.project import Artefact
from auditor.ui.bridge import LiveJob, while_alive
from auditor.ui.panes.training.kept import Kept, read_kept
from auditor.ui.session import Session


class ToFeatures(QObject):
    """`indexing` tells the id of a dictionary whose index begins (True) or has ended to be made. Once it is made it is
    opened, if `awaited` still says so."""

    indexing = Signal(str, bool)

    def __init__(self, session: Session, awaited: Callable[[], bool], parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._awaited = session, awaited

    def go(self, dictionary: str) -> None:
        """Open the index of the dictionary with this id, or make it. AuditorError where the project lacks it."""
        index = self.indices().get(dictionary)
        if index is not None:
            self._session.select_artefact(index)
            self._session.open_pane("features")
            return
        artefact = next((a for a in self._session.artefacts("dictionary") if a.id == dictionary), None)
        if artefact is None:
            raise AuditorError("The dictionary is not in the project any more.", "Choose another one.")
        path = artefact.path

        def start(kind: type[Config]) -> None:
            # A key of its own: the newest request of a key replaces those before it.
            self._session.read(
                f"training.store {dictionary}", lambda: read_kept(path), lambda kept: self._make(artefact, kept, kind)
            )

        self.indexing.emit(dictionary, True)
        self._session.config_class("index", start)

    def indices(self) -> dict[str, str]:
        """The newest index of each dictionary that has one, by ids."""
        held = self._session.artefacts("index")
        return {str(a.meta["dictionary"]): a.id for a in held if a.meta.get("dictionary")}

    def _make(self, dictionary: Artefact, kept: Kept, kind: type[Config]) -> None:
        """Gather its features on the store that it was trained on, where the project has that, else on the newest."""
        digest = kept.facts.get("store_digest")
        store = next((a.id for a in self._session.artefacts("store") if a.digest == digest), "")
        config = read_config(kind, {"dictionary": dictionary.id, "store": store})
        try:
            live = self._session.run_task("index", config, f"Index {dictionary.name}")
        except AuditorError:
            self.indexing.emit(dictionary.id, False)
            raise
        live.ended.connect(while_alive(self._ended, dictionary, live))

    def _ended(self, dictionary: Artefact, live: LiveJob) -> None:
        self.indexing.emit(dictionary.id, False)
        if live.outcome == "done" and self._awaited():
            self._session.refresh()
            self.go(dictionary.id)
