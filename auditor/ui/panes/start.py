"""The start page: recent projects, a new one, an existing one, and the sample audit."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from auditor.project import settings
from auditor.ui.bridge import LiveJob
from auditor.ui.pane import Pane
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, button, card, clear, column, heading, row
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_RECENT = 6


class Start(Pane):
    """What a person sees before a project is open."""

    id, title, icon = "start", "Start", "house"

    def build(self, session: Session) -> QWidget:
        self._recent = column(gap="tight")
        session.job_started.connect(self._follow)
        first = row(
            button("Open the sample audit", lambda: session.commands.run("file.sample"), primary=True, icon="play"),
            button("New project…", lambda: session.commands.run("file.new"), icon="folder-plus"),
            button("Open project…", lambda: session.commands.run("file.open"), icon="folder-open"),
            None,
        )
        inner = column(
            PlainLabel("Auditor", "page"),
            PlainLabel(
                "Offline interpretability audits: record what happens inside a network, learn its features, "
                "test every claim, and leave with a signed report.", "muted", wrap=True,
            ),
            first,
            PlainLabel("The folder of a project can also be dropped here.", "small"),
            box(self._recent),
            PlainLabel("Nothing leaves this machine: the program opens no connection.", "small", wrap=True),
            gap="large",
        )  # fmt: skip
        middle = box(inner)
        middle.setMaximumWidth(640)
        whole = row(1, column(2, middle, 3, gap=""), 1, margin="large")
        whole.setStretch(1, 6)
        return box(whole)

    def refresh(self) -> None:
        if self.session.project is not None:  # nobody sees it
            return
        clear(self._recent)
        found = settings.recent_projects()[:_RECENT]
        if found:
            self._recent.addWidget(heading("Recent projects"))
            self._recent.addWidget(card(*[self._line(folder) for folder in found], gap="tight"))
        self.ready()

    def _follow(self, live: LiveJob) -> None:
        """Show a job that runs before a project is open, such as unpacking the sample audit."""
        if self.session.project is None:
            live.changed.connect(lambda: self._tell(live))
            live.ended.connect(self.refresh)
            self._tell(live)

    def _tell(self, live: LiveJob) -> None:
        sentence = f"{live.title}: {live.note}" if live.note else live.title
        self.working(sentence, live.done_units, live.total, live.stop)

    def _line(self, folder: Path) -> QWidget:
        def open_it() -> None:
            self.session.attempt(lambda: self.session.open_project(folder))

        name = button(folder.name, open_it, link=True, icon="folder")
        place = ElidedLabel(str(folder.parent), "small", mode=Qt.TextElideMode.ElideMiddle)
        place.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        made = row(name, place, gap="medium")
        made.setStretch(1, 1)
        return box(made)
