"""Verifies a bundle, from this one file: it needs Python 3.11 and `cryptography`, and no other part of Auditor.

A copy travels in each bundle as verify.py:  python verify.py BUNDLE.zip [--author FINGERPRINT] [--reviewer FINGERPRINT]

A bundle is a zip file in exactly one form: members stored without compression in the order of their names, all times
1980-01-01, no extra field, no comment, nothing before, between or after. So each byte is either in a member, whose
SHA-256 the manifest lists, or can be computed from the members. manifest.json is canonical JSON {format, files:
[{path, sha256, size}]} of all members but itself and signatures/. A signature is canonical JSON: `signature` is
Ed25519 over the manifest's exact bytes; `statement_signature` is over b"auditor-signature/1\\n" + the canonical JSON of
all other fields.
Nothing inside is parsed before it is known to be what the manifest says. An unpacked folder is verified alike.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_MEMBERS = 10_000
MAX_BYTES = 2 * 2**30
MAX_JSON = 64 * 2**20
MANIFEST = "manifest.json"
MANIFEST_FORMAT = "auditor-bundle/1"
SIGNATURE_FORMAT = "auditor-signature/1"
ROLES = ("author", "reviewer")
SIGNATURE_FIELDS = frozenset(
    (
        "format",
        "role",
        "name",
        "organisation",
        "claimed_time",
        "fingerprint",
        "public_key",
        "manifest",
        "review",
        "signature",
        "statement_signature",
    )
)
_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}/){0,4}[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_DATE = 0x21  # 1980-01-01 in MS-DOS form
_AGAIN = " (was it packed again? Unpack it and verify the folder)"


class Refused(Exception):
    """The bundle is not what it must be; the text says what and where."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked, in plain words. A `note` informs and does not decide."""

    name: str
    ok: bool
    detail: str
    note: bool = False


@dataclass(frozen=True)
class Signer:
    """Who signed: the role, the name they gave, the fingerprint of their key, and the review they sealed, if any."""

    role: str
    name: str
    fingerprint: str
    claimed_time: str
    review: Mapping[str, Any] | None


@dataclass(frozen=True)
class Verdict:
    """`ok` when each deciding check holds; `checks` in the order in which they were made."""

    ok: bool
    checks: tuple[Check, ...]
    signers: tuple[Signer, ...] = ()

    def __str__(self) -> str:
        marks = {(True, False): "ok   ", (False, False): "FAILS", (True, True): "note ", (False, True): "note "}
        lines = [f"{marks[check.ok, check.note]}  {check.name}: {check.detail}" for check in self.checks]
        return "\n".join([*lines, "", "The bundle is as it was signed." if self.ok else "Do not rely on this bundle."])


@dataclass(frozen=True)
class Member:
    """A file of the bundle: its name, CRC-32, size and where its bytes begin."""

    name: str
    crc: int
    size: int
    start: int = 0


class Archive:
    """The members of a bundle, from its zip file or its unpacked folder; Refused where there is more or less to it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.file: IO[bytes] | None = None
        if self.path.is_dir():
            self.members = {m.name: m for m in _folder_members(self.path)}
        else:
            try:
                self.file = open(self.path, "rb")  # noqa: SIM115 (closed by __exit__)
            except OSError as error:
                raise Refused(f"“{plain(self.path.name)}” cannot be read: {error.strerror}") from error
            try:
                self.members = {m.name: m for m in _zip_members(self.file)}
            except BaseException:
                self.file.close()
                raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()

    def read(self, name: str, limit: int = MAX_JSON) -> bytes:
        """All bytes of a member; Refused where it is missing or larger than `limit`."""
        member = self.members.get(name)
        if member is None:
            raise Refused(f"“{plain(name)}” is missing")
        if member.size > limit:
            raise Refused(f"“{plain(name)}” is too large ({member.size:,} bytes)")
        return b"".join(self.blocks(member))

    def blocks(self, member: Member) -> Iterable[bytes]:
        """The bytes of a member in pieces of 1 MiB."""
        if self.file:
            yield from _pieces(self.file, member.start, member.size)
        else:
            with open(self.path / member.name, "rb") as file:
                yield from _pieces(file, 0, member.size)

    def sha256(self, member: Member) -> str:
        """SHA-256 of a member's bytes; Refused where the zip's own check sum says otherwise."""
        digest, crc = hashlib.sha256(), 0
        for block in self.blocks(member):
            digest.update(block)
            crc = zlib.crc32(block, crc)
        if self.file and crc != member.crc:
            raise Refused(f"“{plain(member.name)}” is damaged: its check sum in the archive does not fit its bytes")
        return digest.hexdigest()


def verify(path: Path | str, trusted: Mapping[str, Iterable[str]] | Iterable[str] | None = None) -> Verdict:
    """Check the bundle at `path` (zip or unpacked folder) and list each check.

    `trusted` pins keys by fingerprint: for each role ({"author": [...], "reviewer": [...]}: a role that is named must
    have signed), or for all signatures at once. Without it a forger's own key cannot be told from the author's: the
    verdict then says which fingerprints to compare. A bundle that no author signed is not ok.
    """
    checks: list[Check] = []
    signers: list[Signer] = []
    try:
        with Archive(path) as archive:
            total = sum(m.size for m in archive.members.values())
            form = "nothing is hidden between or after them" if archive.file else "an unpacked folder"
            checks.append(Check("archive", True, f"{len(archive.members)} files, {total:,} bytes; {form}"))
            manifest = archive.read(MANIFEST)
            signers += _signatures(archive, manifest, checks)
            _manifest(archive, manifest, checks)
            checks += _roles(signers, trusted)
            checks += _contents(archive)
    except Refused as refusal:
        checks.append(Check("contents", False, f"{refusal}"))
    except OSError as error:
        checks.append(Check("contents", False, f"the bundle cannot be read to its end: {error.strerror}"))
    return Verdict(all(check.ok or check.note for check in checks), tuple(checks), tuple(signers))


# The zip file


def check_names(names: Iterable[str]) -> None:
    """Refused where a name could leave the folder, collide on another system, or occurs twice."""
    seen: set[str] = set()
    for name in names:
        bad = not _NAME.fullmatch(name) or any(_DEVICES.fullmatch(p) or p.endswith(".") for p in name.split("/"))
        if bad:
            raise Refused(f"the name “{plain(name)[:120]}” is not allowed in a bundle")
        if name.casefold() in seen:
            raise Refused(f"“{name}” occurs twice")
        seen.add(name.casefold())
    if len(seen) > MAX_MEMBERS:
        raise Refused(f"there are more than {MAX_MEMBERS:,} files")


def local_header(member: Member) -> bytes:
    """The bytes before a member's own."""
    name = member.name.encode("ascii")
    head = _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DATE, member.crc, member.size, member.size, len(name), 0)
    return head + name


def directory(members: Iterable[Member]) -> bytes:
    """The bytes after the last member: the central directory and its end record."""
    records, offset, count = [], 0, 0
    for member in members:
        name = member.name.encode("ascii")
        records.append(
            _CENTRAL.pack(b"PK\1\2", 0x0314, 20, 0, 0, 0, _DATE, member.crc, member.size, member.size, len(name),
                          0, 0, 0, 0, 0o100644 << 16, offset) + name
        )  # fmt: skip
        offset += len(local_header(member)) + member.size
        count += 1
    central = b"".join(records)
    return central + _END.pack(b"PK\5\6", 0, 0, count, count, len(central), offset, 0)


def _zip_members(file: IO[bytes]) -> list[Member]:
    length = file.seek(0, os.SEEK_END)
    if length > MAX_BYTES:
        raise Refused(f"the file is larger than {MAX_BYTES:,} bytes")
    members, end = _walk(file, length)
    file.seek(end)
    tail = file.read(8 * 2**20)
    if not members or tail != directory(members):
        raise Refused(_culprit(file, length, members, end, tail))
    names = [member.name for member in members]
    check_names(names)
    if names != sorted(names):
        raise Refused("the files are not in the order of their names")
    return members


def _walk(file: IO[bytes], length: int) -> tuple[list[Member], int]:
    """The members as their local headers tell them, and where the first byte lies that is no such header."""
    members: list[Member] = []
    place = 0
    while len(members) <= MAX_MEMBERS:
        file.seek(place)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
            break
        crc, size, name_length = (_LOCAL.unpack(head)[i] for i in (6, 7, 9))
        raw = file.read(name_length)
        start = place + _LOCAL.size + name_length
        if start + size > length or not raw.isascii():
            break
        member = Member(raw.decode("ascii"), crc, size, start)
        if local_header(member) != head + raw:
            break
        members.append(member)
        place = start + size
    return members, place


def _culprit(file: IO[bytes], length: int, members: list[Member], end: int, tail: bytes) -> str:
    """Which file's header is damaged, by holding the two lists of a zip file against each other."""
    whole = tail.startswith(b"PK\1\2")
    listed = tail if whole else _listed_at_end(file, length)
    place = offset = 0
    names = _central_names(listed)
    for number, name in enumerate(names):
        member = members[number] if number < len(members) else None
        record = b"" if member is None else directory([member])[: _CENTRAL.size + len(member.name)]
        bound = record[: _CENTRAL.size - 4] + struct.pack("<I", offset) + record[_CENTRAL.size :]
        if member is None or listed[place : place + len(bound)] != bound:
            other = f" (elsewhere “{plain(member.name)}”)" if whole and member and member.name != name else ""
            return f"the archive's header of “{plain(name)}”{other} is damaged or in another form than ours{_AGAIN}"
        place += len(bound)
        offset += len(local_header(member)) + member.size
    if listed and len(names) < len(members):
        return f"the archive's list of files is damaged at “{plain(members[len(names)].name)}”"
    if not members:
        return f"this is not a bundle as Auditor writes it{_AGAIN}"
    if whole:
        return "the archive's end record is damaged, or something follows it"
    return f"the archive is damaged at byte {end:,}, after “{plain(members[-1].name)}”"


def _listed_at_end(file: IO[bytes], length: int) -> bytes:
    """The central directory as the end record tells it, where that record is where it must be."""
    file.seek(max(length - _END.size, 0))
    end = file.read(_END.size)
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        return b""
    size, offset = _END.unpack(end)[5:7]
    file.seek(min(offset, length))
    return file.read(min(size, 8 * 2**20))


def _central_names(tail: bytes) -> list[str]:
    names, place = [], 0
    while tail[place : place + 4] == b"PK\1\2" and place + _CENTRAL.size <= len(tail):
        fields = _CENTRAL.unpack(tail[place : place + _CENTRAL.size])
        names.append(tail[place + _CENTRAL.size : place + _CENTRAL.size + fields[10]].decode("latin-1"))
        place += _CENTRAL.size + sum(fields[10:13])
    return names


def _folder_members(root: Path) -> list[Member]:
    members = []
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise Refused(f"“{plain(name)}” is a link or a device, not a file")
        for name in files:
            path = Path(folder, name)
            members.append(Member(path.relative_to(root).as_posix(), 0, path.stat().st_size))
    check_names(member.name for member in members)
    if sum(member.size for member in members) > MAX_BYTES:
        raise Refused(f"the files are larger than {MAX_BYTES:,} bytes together")
    return sorted(members, key=lambda member: member.name)


def _pieces(file: IO[bytes], start: int, size: int) -> Iterable[bytes]:
    file.seek(start)
    while size > 0:
        block = file.read(min(size, 2**20))
        if not block:
            raise Refused("the file became shorter while it was read")
        size -= len(block)
        yield block


# The manifest


def _manifest(archive: Archive, data: bytes, checks: list[Check]) -> None:
    listed = parse_manifest(data)
    checks.append(Check("manifest", True, f"{len(listed)} files listed; SHA-256 {hashlib.sha256(data).hexdigest()}"))
    bad = []
    for name, (digest, size) in listed.items():
        member = archive.members.get(name)
        if member is None:
            bad.append(f"“{name}” is missing")
        elif member.size != size or archive.sha256(member) != digest:
            bad.append(f"“{name}” was changed")
    for name, member in archive.members.items():
        if name not in listed:
            if name != MANIFEST and not re.fullmatch(r"signatures/[A-Za-z0-9-]+\.json", name):
                bad.append(f"“{name}” is not listed")
            archive.sha256(member)
    if bad:
        raise Refused("; ".join(bad[:20]) + (f"; and {len(bad) - 20} more" if len(bad) > 20 else ""))
    checks.append(Check("files", True, "each file is the one that the manifest lists, and there is no other"))


def parse_manifest(data: bytes) -> dict[str, tuple[str, int]]:
    """name → (SHA-256, size); Refused unless it is canonical."""
    value = _canonical_object(data, MANIFEST)
    files = value.get("files")
    if value.keys() != {"format", "files"} or value["format"] != MANIFEST_FORMAT or not isinstance(files, list):
        raise Refused(f"{MANIFEST} is not of the form {MANIFEST_FORMAT}")
    listed: dict[str, tuple[str, int]] = {}
    for file in files:
        fits = (
            isinstance(file, dict)
            and file.keys() == {"path", "sha256", "size"}
            and isinstance(file["path"], str)
            and re.fullmatch("[0-9a-f]{64}", str(file["sha256"]))
            and type(file["size"]) is int
        )
        if not fits:
            raise Refused(f"{MANIFEST} holds an entry that is not one")
        listed[file["path"]] = (file["sha256"], file["size"])
    check_names(file["path"] for file in files)
    if list(listed) != sorted(listed):
        raise Refused(f"{MANIFEST} is not in order")
    return listed


# Signatures


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the 32 raw bytes of an Ed25519 public key."""
    return hashlib.sha256(public_key).hexdigest()


def grouped(digest: str) -> str:
    """A fingerprint in groups of four, to be compared by eye or by telephone."""
    return " ".join(digest[i : i + 4] for i in range(0, len(digest), 4))


def statement(fields: Mapping[str, Any]) -> bytes:
    """The bytes under `statement_signature`: all the other fields of a signature file."""
    rest = {name: value for name, value in fields.items() if name != "statement_signature"}
    return SIGNATURE_FORMAT.encode() + b"\n" + canonical(rest)


def _signatures(archive: Archive, manifest: bytes, checks: list[Check]) -> list[Signer]:
    signers = []
    for name in archive.members:
        if not name.startswith("signatures/"):
            continue
        try:
            signer = read_signature(archive.read(name, 2**20), manifest, name)
        except Refused as refusal:
            checks.append(Check(name, False, f"{refusal}"))
        else:
            who = f"{plain(signer.name) or 'no name given'}, key {grouped(signer.fingerprint)}"
            when = f"claimed time {plain(signer.claimed_time)}"
            verdict = f"; verdict: {plain(str(signer.review.get('verdict')))}" if signer.review else ""
            checks.append(Check(f"signature of the {signer.role}", True, f"valid; {who}; {when}{verdict}"))
            signers.append(signer)
    return signers


def read_signature(data: bytes, manifest: bytes, name: str) -> Signer:
    """The signer of `manifest` in a signature file's bytes; Refused says what does not hold."""
    fields = _canonical_object(data, name)
    texts = fields.keys() - {"review"}
    if fields.keys() != SIGNATURE_FIELDS or not all(isinstance(fields[field], str) for field in texts):
        raise Refused(f"“{name}” is not of the form {SIGNATURE_FORMAT}")
    review = fields["review"]
    if fields["format"] != SIGNATURE_FORMAT or fields["role"] not in ROLES or not isinstance(review, dict | None):
        raise Refused(f"“{name}” is not of the form {SIGNATURE_FORMAT}")
    raw = _base64(fields["public_key"], 32, name)
    if fields["fingerprint"] != fingerprint(raw):
        raise Refused(f"“{name}” names another key than it holds")
    if name != signature_name(fields["role"], fields["fingerprint"]):
        raise Refused(f"“{name}” has the name of another signature")
    if fields["manifest"] != hashlib.sha256(manifest).hexdigest():
        raise Refused(f"“{name}” signs another manifest than this one: {MANIFEST} was changed or swapped")
    try:
        key = Ed25519PublicKey.from_public_bytes(raw)
        key.verify(_base64(fields["signature"], 64, name), manifest)
        key.verify(_base64(fields["statement_signature"], 64, name), statement(fields))
    except (InvalidSignature, ValueError):
        raise Refused(f"“{name}” does not hold: the signature is not of this manifest by this key") from None
    return Signer(fields["role"], fields["name"], fields["fingerprint"], fields["claimed_time"], review)


def signature_name(role: str, key_fingerprint: str) -> str:
    """Where a signature lies in the bundle."""
    return f"signatures/{role}-{key_fingerprint[:16]}.json"


def _roles(signers: list[Signer], trusted: Mapping[str, Iterable[str]] | Iterable[str] | None) -> list[Check]:
    checks = []
    by_role = {role: {s.fingerprint for s in signers if s.role == role} for role in ROLES}
    if not by_role["author"]:
        checks.append(Check("author", False, "no valid signature of an author: nobody vouches for this bundle"))
    if both := by_role["author"] & by_role["reviewer"]:
        checks.append(Check("roles", False, f"the key {grouped(min(both))} signed as author and as reviewer"))
    if not by_role["reviewer"]:
        checks.append(Check("reviewer", True, "no reviewer has signed", note=True))
    if trusted is None:
        told = "no fingerprint was given to compare with: compare the keys above with the people by another way"
        return [*checks, Check("keys", True, told, note=True)]
    pinned: Mapping[str, set[str]]
    if isinstance(trusted, Mapping):
        pinned = {role: _only(keys) for role, keys in trusted.items()}
    else:
        all_keys = _only(trusted)
        pinned = {role: all_keys for role in ROLES if role == "author" or by_role["reviewer"]}
    for role, known_keys in pinned.items():
        known = by_role.get(role, set()) & known_keys
        unknown = by_role.get(role, set()) - known_keys
        if unknown or not known:
            told = f"signed by an unknown key {grouped(min(unknown))}" if unknown else "none of the known keys signed"
            checks.append(Check(f"key of the {role}", False, told))
        else:
            checks.append(Check(f"key of the {role}", True, "it is one of the known keys"))
    return checks


def _only(keys: Iterable[str]) -> set[str]:
    several = [keys] if isinstance(keys, str) else keys
    return {re.sub(r"[\s:]", "", key).lower() for key in several}


# What the files say: parsed only now, when they are known to be the listed ones


def _contents(archive: Archive) -> list[Check]:
    case = _object(archive.read("case.json"), "case.json")
    return [*_figures(archive, case), *_seals(case), *_log(archive, case), _own_copy(archive)]


def _figures(archive: Archive, case: Mapping[str, Any]) -> list[Check]:
    bound = 0
    for piece in _objects(case.get("evidence")):
        name, digest = piece.get("figure"), piece.get("figure_digest")
        if name is None:
            continue
        member = archive.members.get(f"evidence/{name}")
        if member is None or archive.sha256(member) != digest:
            told = f"“evidence/{plain(str(name))}” is not the figure that {plain(str(piece.get('id')))} pinned"
            return [Check("figures", False, told)]
        bound += 1
    return [Check("figures", True, f"{bound} figures are those that the evidence pinned")]


def _seals(case: Mapping[str, Any]) -> list[Check]:
    sealed = 0
    for question in _objects(case.get("questions")):
        if question.get("sealed") is None:
            continue
        content = {name: question.get(name) for name in ("hypothesis", "null_hypothesis", "plan")}
        if _digest(content, "a plan in case.json") != question["sealed"]:
            told = f"{plain(str(question.get('id')))} was changed after it was sealed"
            return [Check("plans", False, told)]
        sealed += 1
    return [Check("plans", True, f"{sealed} questions are as they were when sealed")]


def _log(archive: Archive, case: Mapping[str, Any]) -> list[Check]:
    head = case.get("log_head")
    if "log.jsonl" not in archive.members:
        if head is None:
            return [Check("log", True, "the bundle carries no log: the order of its times is only claimed", note=True)]
        return [Check("log", True, "the log stayed with the author; its head is printed in the report", note=True)]
    count, last = check_log(archive.read("log.jsonl"))
    if not isinstance(head, dict) or head.get("entries") != count or head.get("digest") != last:
        return [Check("log", False, f"the log ends at entry {count - 1}, which is not the head that the case names")]
    return [Check("log", True, f"{count} entries, each bound to the one before; head {last}")]


def check_log(data: bytes) -> tuple[int, str]:
    """(number of entries, digest of the newest); Refused names the first entry that does not follow."""
    prev, count = "", 0
    for count, line in enumerate(data.split(b"\n")[:-1], 1):
        entry = _object(line, f"entry {count - 1} of the log")
        body = {name: entry.get(name) for name in ("index", "time", "kind", "payload", "prev")}
        own = _digest(body, f"entry {count - 1} of the log")
        if entry.get("index") != count - 1 or entry.get("prev") != prev or entry.get("entry") != own:
            raise Refused(f"entry {count - 1} of the log was changed, moved or removed")
        prev = own
    return count, prev


def _own_copy(archive: Archive) -> Check:
    mine = Path(__file__).read_bytes() if Path(__file__).suffix == ".py" and Path(__file__).exists() else b""
    same = "verify.py" in archive.members and archive.read("verify.py") == mine
    told = "the bundle's verify.py is this one" if same else "the bundle's verify.py is not this one: run your own"
    return Check("verify.py", same, told, note=True)


# JSON


def canonical(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def _digest(value: Any, what: str) -> str:
    try:
        return hashlib.sha256(canonical(value)).hexdigest()
    except (ValueError, RecursionError):  # 1e999 reads as infinity
        raise Refused(f"{what} holds a number or a depth that JSON has no form for") from None


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refused(f"“{plain(name)}” is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(f"“{plain(name)}” is not a JSON object")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _canonical_object(data: bytes, name: str) -> dict[str, Any]:
    value = _object(data, name)
    try:
        same = canonical(value) == data
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise Refused(f"“{name}” was changed: it is not in its canonical form")
    return value


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _base64(text: str, length: int, name: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != length or base64.b64encode(raw).decode() != text:
        raise Refused(f"“{name}” holds a key or signature that is not one")
    return raw


def plain(text: str) -> str:
    """`text` with whatever a terminal would obey or hide written as ⟨U+XXXX⟩."""
    return "".join(c if c.isprintable() else f"⟨U+{ord(c):04X}⟩" for c in text)


def main(arguments: list[str] | None = None) -> int:
    """Print the verdict; 0 when the bundle is ok, 1 when not."""
    parser = argparse.ArgumentParser(description="Verify a signed bundle of Auditor.")
    parser.add_argument("bundle", help="the zip file, or the folder into which it was unpacked")
    parser.add_argument("--author", action="append", help="fingerprint of the author's key")
    parser.add_argument("--reviewer", action="append", help="fingerprint of the reviewer's key")
    given = parser.parse_args(arguments)
    pinned = {role: keys for role in ROLES if (keys := getattr(given, role))}
    verdict = verify(given.bundle, pinned or None)
    terminal = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{verdict}\n".encode(terminal, "replace").decode(terminal))
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
