"""The report as it would be printed now, and what became of the last one: its bundle, signatures, copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtGui import QImage
from PySide6.QtWidgets import QFileDialog, QWidget
from shiboken6 import isValid

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.panes.case.figures import Figure
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.audit.case import Case

_SHARPNESS = 1.5
_PAGE_WIDE = 720


@dataclass(frozen=True)
class Standing:
    """Of the newest bundle: who signed it, and whether the case has changed since it was written."""

    told: str
    stale: bool


def standing(bundle: Path, case: Case) -> Standing:
    """What a bundle's own case and signatures say, beside the case as it is now."""
    from auditor.audit.case import Case
    from auditor.audit.verify import Archive, Refused, verify

    try:
        with Archive(bundle) as archive:
            written = Case.from_bytes(archive.read("case.json"), "the bundle's case.json")
    except Refused as refusal:
        return Standing(f"It cannot be read: {refusal}.", False)
    found = verify(bundle).signers
    told = ", ".join(f"{signer.name or 'no name'} ({signer.role})" for signer in found)
    same = written.changed(log_head=None) == case.changed(log_head=None)
    return Standing(f"signed by {told}" if told else "not signed yet", not same)


def pages(case: Case, folder: Path) -> list[QImage]:
    """The report of the case as it is now, one picture a page."""
    from auditor.audit.report import render_pages

    names = [piece.figure for piece in case.evidence if piece.figure]
    try:
        figures = {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        lost = Path(str(error.filename)).name
        raise AuditorError(f"The figure “{lost}” of this case is missing.", "Pin its evidence again.") from error
    made = [QImage.fromData(page) for page in render_pages(case, figures, 96 * _SHARPNESS * _PAGE_WIDE / 794)]
    for image in made:
        image.setDevicePixelRatio(_SHARPNESS)
    return made


class ReportPage(QWidget):
    """Shows `case` as it would be printed; `run` runs a command by its id."""

    def __init__(
        self, session: Session, case: Case, folder: Path, bundle: Path | None, run: Callable[[str], object]
    ) -> None:  # fmt: skip
        super().__init__()
        from auditor.audit.ladder import objections

        self.session = session
        self.bundle = bundle
        self.state = PlainLabel("Reading the newest bundle…" if bundle else "No report is written yet.", wrap=True)
        copy = controls.button("Save a copy…", self._browse, icon="download")
        copy.setEnabled(bundle is not None)
        write = controls.button("Write the report", lambda: run("case.report"), icon="file-text")
        sign = controls.button("Sign…", lambda: run("case.sign"), icon="key")
        verify = controls.button("Verify…", lambda: run("case.verify"), icon="shield-check")
        head = Flow(write, sign, verify, copy, gap="small")
        parts: list[QWidget] = [PlainLabel("Report", "page"), self.state, controls.box(head)]
        if blocking := objections(case):
            told = [PlainLabel(text, "warn", wrap=True) for text in blocking]
            parts.append(controls.card(controls.heading("An author cannot sign it yet"), *told))
        self.told = PlainLabel("Laying out the pages…", "muted")
        self._pages = controls.column(gap="medium")
        self.setLayout(controls.column(*parts, controls.heading("As it would be printed now"), self.told, self._pages,
                                       gap="small"))  # fmt: skip
        self._read("case.pages", lambda: pages(case, folder), self._show)
        if bundle is not None:
            self._read("case.bundle", lambda: standing(bundle, case), self._stands)

    def _read(self, key: str, work: Callable[[], object], then: Callable[..., object]) -> None:
        def arrived(value: object) -> None:
            if isValid(self):
                then(value)

        def failed(error: Exception) -> None:
            if isValid(self):
                self.told.set_role("bad")
                self.told.setText(str(error))
                self.told.show()
            if not isinstance(error, AuditorError):
                self.session.error(error)

        self.session.read(key, work, arrived, failed)

    def _show(self, made: list[QImage]) -> None:
        self.told.hide()
        for number, image in enumerate(made, 1):
            page = Figure(f"page {number} of {len(made)}")
            page.setMaximumWidth(theme.px(_PAGE_WIDE))
            page.set_image(image)
            self._pages.addWidget(page)

    def _stands(self, found: Standing) -> None:
        assert self.bundle is not None
        stale = " The case has changed since: write the report again before anyone relies on it." if found.stale else ""
        self.state.set_role("warn" if found.stale else "")
        self.state.setText(f"Newest bundle: {self.bundle.name}, {found.told}.{stale}")

    def _browse(self) -> None:
        if self.bundle is None:
            return
        kinds = "Bundle with everything (*.audit.zip);;Report as PDF (*.pdf);;Report as HTML (*.html)"
        chosen, kind = QFileDialog.getSaveFileName(self, "Save a copy", self.bundle.name, kinds)
        if chosen:
            ending = next(end for end in (".pdf", ".html", ".audit.zip") if end in kind)
            target = Path(chosen)
            self.save(target if target.name.endswith(ending) else target.with_name(target.name + ending))

    def save(self, target: Path) -> None:
        """Copy the bundle, or the report beside it of the target's kind."""
        assert self.bundle is not None
        stem = self.bundle.name.removesuffix(".audit.zip")
        source = self.bundle if target.name.endswith(".zip") else self.bundle.with_name(stem + target.suffix)
        self._read("case.copy", lambda: shutil.copyfile(source, target), self._saved)

    def _saved(self, target: Path) -> None:
        self.session.say(f"Saved as “{target}”.")
