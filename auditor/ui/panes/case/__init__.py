"""The case pane: questions, evidence and findings of one audit, and the way to a signed report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QUndoCommand
from PySide6.QtWidgets import QComboBox, QSplitter, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.panes.case.detail import Detail
from auditor.ui.panes.case.outline import Outline
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.plain_text import visible

if TYPE_CHECKING:
    from auditor.audit.case import Case
    from auditor.tasks.casework import OpenCase

Change = Callable[["Case"], "Case"]


class CasePane(Pane):
    """Shows the newest case of the project, or the chosen one, and changes it; each change can be undone."""

    id, title, icon = "case", "Case", "briefcase"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def pane() -> CasePane:
            found = session.open_pane("case")
            assert isinstance(found, CasePane)
            return found

        def command(id: str, title: str, icon: str, act: str, needs: str = "case", keys: str = "") -> Command:
            return Command(
                id=f"case.{id}", title=title, icon=icon, needs=needs, menu="Case", keys=keys,
                run=lambda: getattr(pane(), act)(),
            )  # fmt: skip

        return (
            command("new", "New case…", "folder-plus", "new_case", "writable"),
            command("ask", "Ask a question…", "message-square-text", "ask"),
            command("find", "Write a finding…", "gavel", "write_finding"),
            command("report", "Write the report", "file-text", "write_report", keys="Ctrl+R"),
            command("sign", "Sign the bundle…", "key", "sign", "bundle"),
            command("verify", "Verify a bundle…", "shield-check", "verify_bundle", ""),
        )

    def build(self, session: Session) -> QWidget:
        self.open: OpenCase | None = None
        self._chosen = ""
        self._fresh = True
        self._cases = QComboBox()
        self._cases.setAccessibleName("Case")
        self._cases.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._cases.setMinimumContentsLength(32)
        self._cases.activated.connect(lambda at: self._choose(str(self._cases.itemData(at))))
        self.outline = Outline()
        self.outline.chosen.connect(self._show)
        self.detail = Detail(self.session, self.apply)
        self.detail.opened.connect(self.outline.select)
        self.detail.closed.connect(self._leave)
        session.evidence_offered.connect(self._pin)
        run = session.commands.run
        self._report = controls.button("Write the report", lambda: run("case.report"), primary=True, icon="file-text")
        bar = Flow(
            self._cases,
            controls.button("Ask a question…", lambda: run("case.ask"), icon="message-square-text"),
            controls.button("Write a finding…", lambda: run("case.find"), icon="gavel"),
            self._report,
            controls.button("Sign…", lambda: run("case.sign"), icon="key"),
            controls.button("Verify…", lambda: run("case.verify"), icon="shield-check"),
            gap="small",
        )
        self._split = QSplitter(Qt.Orientation.Horizontal)
        self._split.addWidget(self.outline)
        self._split.addWidget(self.detail)
        self._split.setStretchFactor(1, 1)
        self._split.setChildrenCollapsible(False)
        self._split.setSizes([theme.px(310), theme.px(790)])
        whole = controls.column(controls.box(bar), self._split, margin="medium")
        whole.setStretch(1, 1)
        return controls.box(whole)

    # what is shown

    def refresh(self) -> None:
        cases = self.session.artefacts("case")
        if self.session.project is None:
            self.open = None
            self.empty("No project is open.", hint="Open one from the start page.")
            return
        if not cases:
            self.open = None
            self.session.set_status("case", "")
            self.empty("This project has no case yet.", "case.new", "A case holds questions, evidence and findings.")
            self._page_for_new_case()
            return
        wanted = next((a.id for a in cases if a.id == self._chosen), cases[-1].id)
        self._cases.clear()
        for artefact in cases:
            self._cases.addItem(visible(artefact.name), artefact.id)
        self._cases.setCurrentIndex(self._cases.findData(wanted))
        if self.open is None or self.open.artefact.id != wanted or self._changed_elsewhere(wanted):
            self._choose(wanted)
        else:
            self._draw()

    def _changed_elsewhere(self, wanted: str) -> bool:
        assert self.open is not None
        return self.session.find(wanted).digest != self.open.artefact.digest

    def _choose(self, ref: str) -> None:
        from auditor.tasks.casework import open_case

        project = self.session.project
        if project is None:
            return
        self._chosen = ref
        self.read(lambda: open_case(project, ref), self._opened, key="open")

    def _opened(self, opened: OpenCase) -> None:
        self.open, self._fresh = opened, True
        self._draw()

    def _draw(self) -> None:
        assert self.open is not None
        case = self.open.case
        told = f"{case.title} ({len(case.findings)} findings, {len(case.evidence)} pieces of evidence)"
        self.session.set_status("case", told)
        self.detail.set_case(case, self.open.figures_folder)
        self.outline.set_case(case)
        if not self.detail.editing or self._fresh:
            self.detail.show_item(self.outline.current)
        self._fresh = False
        self.ready()

    def _show(self, key: str) -> None:
        self.detail.show_item(key)

    def _leave(self) -> None:
        """Back from a form to what is chosen, or to the page of a project without a case."""
        if self.open is None:
            self.refresh()
        else:
            self.detail.show_item(self.outline.current)

    # changing

    def apply(self, title: str, change: Change) -> None:
        """Change the case; the change goes on the undo stack."""
        opened = self._need()
        opened.change(title, change(opened.case))
        self._done(title, opened)

    def _done(self, title: str, opened: OpenCase) -> None:
        """Put a change that was made on the undo stack; one that failed never comes here."""
        self.session.undo.push(_Step(self, title, opened))
        self.changed()

    def changed(self) -> None:
        """Draw again after a change, an undo or a redo."""
        self.session.refresh()

    def new_case(self) -> None:
        """Show the editor of a new case."""
        self.detail.edit_new_case(self._create)
        self.ready()

    def _page_for_new_case(self) -> None:
        self.outline.clear()

    def _create(self, title: str, author: str, organisation: str) -> None:
        from auditor.tasks.casework import create_case

        project = self.session.project
        if project is None:
            raise AuditorError("No project is open.", "Open or create one first.")
        made = create_case(project, title, author, organisation=organisation)
        self.open, self._chosen, self._fresh = made, made.artefact.id, True
        self.session.refresh()
        self.session.say(f"The case “{title}” is started. Ask a question next, then seal its plan.")

    def ask(self) -> None:
        self._need()
        self.detail.edit_question()

    def write_finding(self) -> None:
        self._need()
        self.detail.edit_finding()

    def _pin(self, fields: dict[str, Any]) -> None:
        """“Add to case” from another pane."""
        try:
            opened = self._need()
            piece = opened.pin_fields(fields)
        except AuditorError as error:
            self.session.error(error)
            return
        self._done(f"Add evidence {piece.id}", opened)
        self.outline.select(piece.id)
        self.session.say(f"{piece.id} “{piece.title}” is in the case “{opened.case.title}”.")

    def _need(self) -> OpenCase:
        if self.open is None:
            from auditor.tasks.casework import open_case

            project = self.session.project
            if project is None:
                raise AuditorError("No project is open.", "Open or create one first.")
            self.open = open_case(project)
        return self.open

    # to the report

    def write_report(self) -> None:
        from auditor.tasks.report import ReportConfig

        live = self.session.run_task("report", ReportConfig(case=self._need().artefact.id), "Write the report")
        self._report.setEnabled(False)
        live.done.connect(self._reported)
        live.ended.connect(lambda: self._report.setEnabled(True))

    def _reported(self, made: dict[str, Any]) -> None:
        self.session.say(f"The report is written: “{Path(str(made['bundle'])).name}”. Sign it next.")
        self.session.refresh()
        self.outline.select("report")

    def sign(self) -> None:
        """Show the page that signs the newest bundle."""
        self.ready()
        self.detail.sign_page(self.session.artefacts("bundle")[-1].path)

    def verify_bundle(self) -> None:
        """Show the page that verifies a bundle, the newest one to begin with."""
        self.ready()
        bundles = self.session.artefacts("bundle")
        self.detail.verify_page(bundles[-1].path if bundles else Path())


class _Step(QUndoCommand):
    """One change of a case on the window's undo stack; it is made already when it is pushed."""

    def __init__(self, pane: CasePane, title: str, opened: OpenCase) -> None:
        super().__init__(visible(title))
        self._pane, self._opened, self._made = pane, opened, True

    def redo(self) -> None:
        if self._made:
            self._made = False
        elif self._pane.session.attempt(self._opened.redo):
            self._pane.changed()
            self._pane.session.say(f"Done again: {self.text()}.")

    def undo(self) -> None:
        if self._pane.session.attempt(self._opened.undo):
            self._pane.changed()
            self._pane.session.say(f"Undone: {self.text()}.")
