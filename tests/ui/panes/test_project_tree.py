"""The project tree: an artefact that can be evidence is offered to the case from its card."""

from __future__ import annotations

from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from auditor.ui.panes.project_tree import ProjectTree
from auditor.ui.session import Session


def pins(pane: ProjectTree) -> list[QPushButton]:
    return [found for found in pane.findChildren(QPushButton) if found.text() == "Add to case"]


def test_that_a_store_and_a_dictionary_go_to_the_case_from_their_card(qtbot: QtBot, indexed: Session) -> None:
    pane = ProjectTree(indexed)
    qtbot.addWidget(pane)
    pane.show()
    for kind, evidence in (("store", "other"), ("dictionary", "reconstruction")):
        indexed.select_artefact(indexed.artefacts(kind)[-1].id)
        with qtbot.waitSignal(indexed.evidence_offered, timeout=20_000) as told:
            pins(pane)[-1].click()
        assert told.args[0]["kind"] == evidence and told.args[0]["inputs"]
    indexed.select_artefact(indexed.artefacts("model")[-1].id)
    qtbot.waitUntil(lambda: not pins(pane))
