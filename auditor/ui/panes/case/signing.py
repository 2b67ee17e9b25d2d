"""The pages that sign a bundle and that verify one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.panes.case.editors import Editor
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.audit.verify import Verdict


class SignPage(Editor):
    """Signs the bundle at `bundle` with the person's key."""

    def __init__(self, session: Session, bundle: Path) -> None:
        super().__init__(session, "Sign the bundle", "Sign")
        self.bundle = self.line("Bundle", str(bundle))
        self.role = self.choice("Role", [("author", "author"), ("reviewer", "reviewer")])
        self.name = self.line("Name", hint="As the signature states it")
        self.key = self.line("Key", hint="A PEM file")
        self.form.addRow(PlainLabel(""), controls.button("Choose a key…", self._choose_key, icon="key"))
        self.passphrase = self.line("Passphrase", hint="Empty where the key has none")
        self.passphrase.setEchoMode(QLineEdit.EchoMode.Password)
        self.new = QCheckBox("Make this key now")
        self.form.addRow(PlainLabel(""), self.new)

    def _choose_key(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose a key", "", "Keys (*.pem);;All files (*)")
        if chosen:
            self.key.setText(chosen)

    def accept(self) -> None:
        if not self.key.text().strip():
            raise AuditorError("A key is needed.", "Choose a PEM file, or name a new one and tick “Make this key now”.")
        bundle, key = Path(self.bundle.text()), Path(self.key.text())
        passphrase, new = self.passphrase.text(), self.new.isChecked()
        role, name = self.role.currentData(), self.name.text()

        def sign() -> str:
            from auditor.audit import signing

            if new:
                signing.generate_key(key, passphrase)
            return signing.sign(bundle, signing.load_key(key, passphrase), role, name=name)

        self.take.setEnabled(False)
        self.session.read("case.sign", sign, self._signed, self._failed)

    def _signed(self, fingerprint: str) -> None:
        self.take.setEnabled(True)
        self.fault.hide()
        self.session.say(f"Signed. The key's fingerprint is {fingerprint}.")
        self.session.refresh()

    def _failed(self, error: Exception) -> None:
        self.take.setEnabled(True)
        if isinstance(error, AuditorError):
            self._tell(str(error))
        else:
            self.session.error(error)


class VerifyPage(Editor):
    """Verifies a bundle and lists every check in plain words."""

    def __init__(self, session: Session, bundle: Path) -> None:
        super().__init__(session, "Verify a bundle", "Verify")
        self.bundle = self.line("Bundle", str(bundle) if bundle.name else "", "A .audit.zip file")
        self.form.addRow(PlainLabel(""), controls.button("Choose a bundle…", self._choose, icon="folder-open"))
        self._verdict: QWidget | None = None

    def _choose(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose a bundle", "", "Bundles (*.zip);;All files (*)")
        if chosen:
            self.bundle.setText(chosen)

    def accept(self) -> None:
        path = Path(self.bundle.text())
        if not path.exists() or not self.bundle.text().strip():
            raise AuditorError("There is no such file.", "Choose a bundle.")

        def check() -> Verdict:
            from auditor.audit import verify

            return verify(path)

        self.take.setEnabled(False)
        self.session.read("case.verify", check, self._show, self._failed)

    def _failed(self, error: Exception) -> None:
        self.take.setEnabled(True)
        self.session.error(error)

    def _show(self, verdict: Verdict) -> None:
        self.take.setEnabled(True)
        self.fault.hide()
        if self._verdict is not None:
            self._verdict.deleteLater()
        word = "✓ The bundle is as it was signed." if verdict.ok else "✗ Do not rely on this bundle."
        rows: list[QWidget] = [PlainLabel(word, "good" if verdict.ok else "bad", wrap=True)]
        for signer in verdict.signers:
            rows.append(PlainLabel(f"{signer.role}: {signer.name or 'no name'}", "strong"))
            rows.append(PlainLabel(signer.fingerprint, "mono", wrap=True, selectable=True))
        for check in verdict.checks:
            mark = "·" if check.note else "✓" if check.ok else "✗"
            role = "muted" if check.note else "" if check.ok else "bad"
            rows.append(PlainLabel(f"{mark} {check.name}: {check.detail}", role, wrap=True, selectable=True))
        self._verdict = controls.card(*rows, gap="tight")
        self._verdict.setMinimumWidth(theme.px(200))
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self._verdict)
