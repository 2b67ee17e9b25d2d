"""The page that signs a bundle, with a key at hand or a new one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QWidget

from auditor.base.errors import AuditorError
from auditor.base.paths import at_home
from auditor.ui.panes.case.editors import Editor
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel


@dataclass(frozen=True)
class Signed:
    """What signing gave: the fingerprint of the key, and whether others on this machine can read its file."""

    role: str
    fingerprint: str
    key: Path
    new: bool
    exposed: bool


def sign(bundle: Path, key: Path, passphrase: str, *, new: bool, role: str, name: str) -> Signed:
    """Sign a bundle; a key that was made for it and has signed nothing does not stay behind."""
    from auditor.audit import signing

    if new:
        if not key.absolute().parent.is_dir():
            raise AuditorError(f"There is no folder “{key.absolute().parent}”.", "Choose where the new key is to lie.")
        signing.generate_key(key, passphrase)
    try:
        held = signing.load_key(key, passphrase)
        fingerprint = signing.sign(bundle, held, "author" if role == "author" else "reviewer", name=name)
    except BaseException:
        if new:
            key.unlink(missing_ok=True)
        raise
    return Signed(role, fingerprint, key, new, signing.exposed(key))


def signers(bundle: Path) -> str:
    """Who has signed a bundle, in a line."""
    from auditor.audit import verify

    found = verify(bundle).signers
    told = ", ".join(f"{signer.name or 'no name'} ({signer.role})" for signer in found)
    return f"Signed so far by {told}." if told else "No one has signed this bundle yet."


class SignPage(Editor):
    """Signs the bundle at `bundle` with the person's key. `verify_wanted` carries the bundle once it is signed."""

    verify_wanted = Signal(object)
    kept = False

    def __init__(self, session: Session, bundle: Path, author: str = "") -> None:
        super().__init__(session, "Sign the bundle", "Sign")
        self.bundle = self.line("Bundle", str(bundle))
        self._so_far = self.note("Reading its signatures…")
        self.role = self.choice("Role", [("author", "author"), ("reviewer", "reviewer")])
        self.name = self.line("Name", author, "As the signature states it")
        self.new = QCheckBox("Make a new key now")
        self.form.addRow(PlainLabel(""), self.new)
        self._choose = controls.button("Choose…", self._browse, icon="key")
        self.key = self.line("Key", "", "Your key, a PEM file", self._choose)
        self.passphrase = self._secret("Passphrase", "Empty where the key has none")
        self.again = self._secret("Passphrase again", "The same once more")
        self._told = self.note("")
        self._done: QWidget | None = None
        self.new.toggled.connect(self._turn)
        self._turn(False)
        self.bundle.editingFinished.connect(self._look)
        self._look()

    def _secret(self, title: str, hint: str) -> QLineEdit:
        edit = self.line(title, "", hint)
        edit.setEchoMode(QLineEdit.EchoMode.Password)
        return edit

    def _look(self) -> None:
        bundle = Path(self.bundle.text())
        self.read("case.signers", lambda: signers(bundle), self._so_far.setText)

    def _turn(self, new: bool) -> None:
        """A new key is put somewhere and its passphrase typed twice; one at hand is chosen."""
        self.form.setRowVisible(self.again, new)
        self.key.setPlaceholderText(
            "Where the new key is to lie, such as author.pem" if new else "Your key, a PEM file"
        )
        self._told.setText(
            "Whoever has this file and its passphrase can sign in your name. It is not kept in the project: keep it "
            "yourself, and tell its fingerprint to those who will verify." if new else
            "The key stays where it is; only its public half goes into the bundle."
        )  # fmt: skip

    def _browse(self) -> None:
        kinds = "Keys (*.pem);;All files (*)"
        if self.new.isChecked():
            chosen, _ = QFileDialog.getSaveFileName(self, "Where to put the new key", "author.pem", kinds)
        else:
            chosen, _ = QFileDialog.getOpenFileName(self, "Choose a key", "", kinds)
        if chosen:
            self.key.setText(chosen)

    def accept(self) -> None:
        if not self.key.text().strip():
            raise AuditorError("A key is needed.", "Choose a PEM file, or tick “Make a new key now” and name it.")
        bundle, key = Path(self.bundle.text().strip()), at_home(self.key.text().strip())
        passphrase, new = self.passphrase.text(), self.new.isChecked()
        if not bundle.exists():
            raise AuditorError("There is no such bundle.", "Write the report first, or choose another file.")
        if new and self.again.text() != passphrase:
            raise AuditorError("The two passphrases differ.", "Type the same one twice; without it the key is lost.")
        role, name = str(self.role.currentData()), self.name.text()
        self.take.setEnabled(False)
        self._so_far.setText("Signing: every file of the bundle is checked first…")
        self.read("case.sign", lambda: sign(bundle, key, passphrase, new=new, role=role, name=name), self._signed)

    def failed(self, error: Exception) -> None:
        self.take.setEnabled(True)
        super().failed(error)
        if Path(self.bundle.text()).exists():
            self._look()
        else:
            self._so_far.setText("")

    def _signed(self, done: Signed) -> None:
        self.take.setEnabled(True)
        self.cancel.setText("Close")
        bundle = Path(self.bundle.text())
        if self._done is not None:
            self._done.deleteLater()
        parts: list[QWidget] = [
            PlainLabel(f"✓ Signed as {done.role}.", "good"),
            PlainLabel("The fingerprint of your key. Tell it to whoever verifies by another way than this bundle:",
                       wrap=True),
            PlainLabel(done.fingerprint, "mono", wrap=True, selectable=True),
        ]  # fmt: skip
        if done.new:
            parts.append(PlainLabel(f"The new key is “{done.key}”. Keep it, and its passphrase.", wrap=True))
            self.new.setChecked(False)
        if done.exposed:
            parts.append(PlainLabel("Others on this machine can read the key's file.", "warn", wrap=True))
        verify = controls.button("Verify it now", lambda: self.verify_wanted.emit(bundle), icon="shield-check")
        self._done = controls.card(*parts, controls.row(verify, None), gap="tight")
        self.body.addWidget(self._done)
        self._look()
        self.session.say(f"Signed. The key's fingerprint is {done.fingerprint}.")
        self.session.refresh()
