"""Keys, and signatures on a bundle: Ed25519 over the manifest's exact bytes, by the author and by a reviewer."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from auditor.audit import bundle
from auditor.audit.case import Case, Review, now
from auditor.audit.ladder import objections
from auditor.audit.text import visible
from auditor.audit.verify import MANIFEST, SIGNATURE_FORMAT, Archive, canonical, signature_name, statement, verify
from auditor.audit.verify import fingerprint as fingerprint_of
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic

Role = Literal["author", "reviewer"]


def generate_key(path: Path | str, passphrase: str = "") -> Ed25519PrivateKey:
    """Make a key and write it to `path` as PEM (PKCS #8, encrypted where a passphrase is given), readable by its owner.

    AuditorError where the file exists: a key is never overwritten.
    """
    target = Path(path)
    if target.exists():
        raise AuditorError(f"“{target.name}” exists already.", "A key is never overwritten; choose another name.")
    key = Ed25519PrivateKey.generate()
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    before = os.umask(0o077)
    try:
        write_atomic(target, pem)
    finally:
        os.umask(before)
    return key


def load_key(path: Path | str, passphrase: str = "") -> Ed25519PrivateKey:
    """The key in a PEM file; AuditorError where it is missing, not Ed25519, or the passphrase does not open it."""
    target = Path(path)
    try:
        pem = target.read_bytes()
    except OSError as error:
        raise AuditorError(
            f"The key “{target.name}” cannot be read: {error.strerror}.", "Choose a PEM file."
        ) from error
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except TypeError as error:
        hint = "Enter its passphrase." if not passphrase else "Leave the passphrase empty."
        raise AuditorError(f"The key “{target.name}” was not opened.", hint) from error
    except ValueError as error:
        raise AuditorError(
            f"The key “{target.name}” was not opened.", "Is it a PEM key, and the passphrase right?"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise AuditorError(f"“{target.name}” is not an Ed25519 key.", "Make one with “New key”.")
    return key


def exposed(path: Path | str) -> bool:
    """Whether others than the owner may read the key file (always False where the system has no such modes)."""
    return os.name == "posix" and bool(stat.S_IMODE(Path(path).stat().st_mode) & 0o077)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 raw bytes of the public key."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def fingerprint(key: Ed25519PrivateKey) -> str:
    """SHA-256 of the raw public key: what people compare."""
    return fingerprint_of(public_bytes(key))


def sign(
    path: Path | str,
    key: Ed25519PrivateKey,
    role: Role,
    *,
    name: str = "",
    organisation: str = "",
    review: Review | None = None,
    when: str = "",
) -> str:
    """Add a signature to the bundle at `path`, atomically; returns the fingerprint of the key.

    A reviewer may seal a `review` (verdict, what was run again, dissent) into the signature: the case, which the author
    signed, stays as it is. AuditorError where the bundle is damaged, where the same key has signed in the other role,
    where a finding cannot be signed as it stands, or where a reviewer comes before any author.
    """
    own = fingerprint(key)
    _may_sign(path, own, role, review)
    with Archive(path) as archive:
        manifest = archive.read(MANIFEST)
        case = Case.from_bytes(archive.read("case.json"), "the bundle's case.json")
    blocking = objections(case)
    if role == "author" and blocking:
        more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
        raise AuditorError(
            f"The case cannot be signed yet: {blocking[0]}{more}", "Add what is missing, or lower the severity."
        )
    fields: dict[str, Any] = {
        "format": SIGNATURE_FORMAT,
        "role": role,
        "name": visible(name, newlines=False),
        "organisation": visible(organisation, newlines=False),
        "claimed_time": when or now(),
        "fingerprint": own,
        "public_key": base64.b64encode(public_bytes(key)).decode(),
        "manifest": hashlib.sha256(manifest).hexdigest(),
        "review": None if review is None else review.model_dump(mode="json"),
        "signature": base64.b64encode(key.sign(manifest)).decode(),
    }
    fields["statement_signature"] = base64.b64encode(key.sign(statement(fields))).decode()
    bundle.add(path, {signature_name(role, own): canonical(fields)})
    return own


def _may_sign(path: Path | str, own: str, role: Role, review: Review | None) -> None:
    if Path(path).is_dir():
        raise AuditorError("An unpacked bundle cannot be signed.", "Choose the zip file.")
    if review is not None and role != "reviewer":
        raise AuditorError("Only a reviewer's signature carries a review.", "Put the author's words into the case.")
    verdict = verify(path)
    faults = [check for check in verdict.checks if not check.ok and not check.note and check.name != "author"]
    if faults:
        raise AuditorError(f"The bundle cannot be signed: {faults[0].detail}.", "Ask its author for it again.")
    roles = {signer.role for signer in verdict.signers}
    if any(signer.fingerprint == own and signer.role != role for signer in verdict.signers):
        raise AuditorError("This key has signed in the other role.", "Author and reviewer sign with different keys.")
    if role == "reviewer" and "author" not in roles:
        raise AuditorError("No author has signed this bundle.", "The author signs first.")
