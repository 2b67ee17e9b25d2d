"""The page that verifies a bundle and tells every check and the verdict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QFileDialog, QGridLayout, QWidget

from auditor.base.errors import AuditorError
from auditor.base.paths import at_home
from auditor.ui import theme
from auditor.ui.panes.case.editors import Editor
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.audit.verify import Check, Verdict

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class VerifyPage(Editor):
    """Verifies a bundle, anyone's, and lists every check in plain words."""

    kept = False

    def __init__(self, session: Session, bundle: Path) -> None:
        super().__init__(session, "Verify a bundle", "Verify")
        self.cancel.setText("Close")
        choose = controls.button("Choose…", self._choose, icon="folder-open")
        self.bundle = self.line("Bundle", str(bundle) if bundle.name else "", "A .audit.zip file", choose)
        hint = "As the author told it to you by another way; empty: not compared"
        self.author = self.line("Author's fingerprint", "", hint)
        self.reviewer = self.line("Reviewer's fingerprint", "", hint.replace("author", "reviewer"))
        self._checking = PlainLabel("Checking every file and signature…", "muted")
        self._checking.hide()
        self.body.addWidget(self._checking)
        self._verdict: QWidget | None = None
        for edit in (self.bundle, self.author, self.reviewer):
            edit.textChanged.connect(self._forget)

    def _choose(self) -> None:
        kinds = "Bundles (*.zip);;All files (*)"
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose a bundle", "", kinds)
        if chosen:
            self.bundle.setText(chosen)

    def accept(self) -> None:
        self._forget()
        path = at_home(self.bundle.text().strip())
        if not self.bundle.text().strip() or not path.exists():
            raise AuditorError("There is no such file.", "Choose a bundle.")
        trusted = {
            role: [key]
            for role, edit in (("author", self.author), ("reviewer", self.reviewer))
            if (key := _fingerprint(edit.text(), role))
        }

        def check() -> Verdict:
            from auditor.audit import verify

            return verify(path, trusted or None)

        self.take.setEnabled(False)
        self._checking.show()
        self.read("case.verify", check, self._show)

    def failed(self, error: Exception) -> None:
        self.take.setEnabled(True)
        self._checking.hide()
        super().failed(error)

    def _forget(self, *_: object) -> None:
        """A verdict stands only beside what it is about."""
        if self._verdict is not None:
            self._verdict.hide()
            self._verdict.deleteLater()
            self._verdict = None

    def _show(self, verdict: Verdict) -> None:
        self.take.setEnabled(True)
        self._checking.hide()
        self._forget()
        word = "✓ The bundle is as it was signed." if verdict.ok else "✗ Do not rely on this bundle."
        head = PlainLabel(word, "good" if verdict.ok else "bad", wrap=True)
        head.setFont(theme.font("pane", bold=True))
        rows: list[QWidget] = [head]
        for signer in verdict.signers:
            rows.append(
                PlainLabel(f"{signer.role}: {signer.name or 'no name'}, {signer.claimed_time} (claimed)", "strong")
            )
            rows.append(PlainLabel(signer.fingerprint, "mono", wrap=True, selectable=True))
        if verdict.ok and not (self.author.text().strip() or self.reviewer.text().strip()):
            told = "Anyone can make a key. Compare the fingerprint with the one that the person told you."
            rows.append(PlainLabel(told, "warn", wrap=True))
        self._verdict = controls.card(*rows, _checks(verdict.checks), gap="tight")
        self.body.addWidget(self._verdict)


def _checks(checks: tuple[Check, ...]) -> QWidget:
    made = QWidget()
    grid = QGridLayout(made)
    grid.setContentsMargins(0, theme.space("small"), 0, 0)
    grid.setHorizontalSpacing(theme.space("small"))
    grid.setVerticalSpacing(theme.space("tight"))
    grid.setColumnStretch(2, 1)
    for row, check in enumerate(checks):
        mark, role = ("·", "muted") if check.note else ("✓", "good") if check.ok else ("✗", "bad")
        told = "muted" if check.note else "" if check.ok else "bad"
        grid.addWidget(PlainLabel(mark, role), row, 0)
        grid.addWidget(PlainLabel(check.name, told), row, 1)
        grid.addWidget(PlainLabel(check.detail, told, wrap=True, selectable=True), row, 2)
    return made


def _fingerprint(text: str, role: str) -> str:
    """A fingerprint as people write it, with spaces or colons; empty where none is given."""
    found = re.sub(r"[\s:]", "", text).lower()
    if found and not _FINGERPRINT.fullmatch(found):
        raise AuditorError(f"The {role}'s fingerprint is not 64 hexadecimal digits.", "Copy the whole of it.")
    return found
