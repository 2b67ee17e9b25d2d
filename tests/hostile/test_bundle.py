# ruff: noqa: E501 (hostile strings and tables of cases read best in one piece)
"""Changed, forged, swapped and malformed bundles: each is refused, in plain words, with the file named."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from auditor.audit import bundle, signing, verify
from auditor.audit.verify import Member, canonical, directory, local_header, statement
from auditor.base.errors import AuditorError
from auditor.project.log import Log
from tests.audit.sample import WHEN, attachments, sample_case

FLIPS = int(os.environ.get("AUDITOR_FLIPS", "1200"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return [signing.generate_key(folder / f"{name}.pem") for name in ("author", "reviewer", "forger")]


@pytest.fixture(scope="module")
def original(tmp_path_factory, keys) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    case, figures = sample_case()
    log = Log(folder / "audit.log")
    for number in range(12):
        log.append("step", number=number)
    path = bundle.write(case, {**attachments(figures), "log.jsonl": folder / "audit.log"}, folder / "audit.zip")
    signing.sign(path, keys[0], "author", name="Ada", when=WHEN)
    signing.sign(path, keys[1], "reviewer", name="Jonas", when=WHEN)
    assert verify(path).ok
    return path


def regions(data: bytes) -> list[tuple[int, int, str]]:
    """(first byte, end, file) of each stretch of the zip: header, bytes and directory record of each member."""
    found = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        place = archive.start_dir
    for info in infos:
        start = info.header_offset + 30 + len(info.filename)
        found += [(info.header_offset, start, info.filename), (start, start + info.file_size, info.filename)]
        found.append((place, place + 46 + len(info.filename), info.filename))
        place += 46 + len(info.filename)
    return [*found, (place, len(data), "end record")]


def told(path: Path) -> str:
    verdict = verify(path)
    assert not verdict.ok
    return " ".join(check.detail for check in verdict.checks if not check.ok and not check.note)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: dict[str, bytes], names: list[str] | None = None) -> bytes:
    """A zip in the bundle's form, whatever its names."""
    listed = [(name, files[name]) for name in (names or sorted(files))]
    heads = [Member(name, zlib.crc32(data), len(data)) for name, data in listed]
    body = b"".join(local_header(head) + data for head, (_, data) in zip(heads, listed, strict=True))
    return body + directory(heads)


def remade(files: dict[str, bytes]) -> dict[str, bytes]:
    """`files` under a new manifest that lists them."""
    from auditor.base.digest import sha256_bytes

    kept = {n: d for n, d in files.items() if n != "manifest.json" and not n.startswith("signatures/")}
    listed = [{"path": n, "sha256": sha256_bytes(d), "size": len(d)} for n, d in sorted(kept.items())]
    return {**kept, "manifest.json": canonical({"format": "auditor-bundle/1", "files": listed})}


def test_that_every_single_byte_flip_is_found_and_its_file_named(original, tmp_path):
    rng, data, path = random.Random(11), original.read_bytes(), tmp_path / "flipped.zip"
    stretches = regions(data)
    assert sum(end - start for start, end, _ in stretches) == len(data)
    places = [
        place for start, end, _ in stretches for place in {start, end - 1, rng.randrange(start, end)} if end > start
    ]
    headers = [p for s, e, n in stretches if e - s < 100 or n == "end record" for p in range(s, e)]
    places += rng.sample(headers, min(len(headers), FLIPS // 2))
    places += [rng.randrange(*rng.choice(stretches)[:2]) for _ in range(max(FLIPS - len(places), 0))]
    broken = bytearray(data)
    path.write_bytes(broken)
    with open(path, "r+b") as file:
        for place in places:
            name = next(name for start, end, name in stretches if start <= place < end)
            file.seek(place)
            file.write(bytes([data[place] ^ (1 << rng.randrange(8))]))
            file.flush()
            assert name in told(path), (place, name, str(verify(path)))
            file.seek(place)
            file.write(data[place : place + 1])
            file.flush()
    assert verify(path).ok


def test_that_every_byte_of_a_small_files_header_and_of_a_signature_counts(original, tmp_path):
    data, path = original.read_bytes(), tmp_path / "flipped.zip"
    stretches = [(s, e, n) for s, e, n in regions(data) if n.startswith("signatures/author")]
    for start, end, name in stretches:
        for place in range(start, end, 3):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
            assert name in told(path)


def test_that_cut_extended_and_prefixed_files_are_refused(original, tmp_path):
    data, path = original.read_bytes(), tmp_path / "x.zip"
    for broken in (data[:-1], data + b"\0", b"\0" + data, data + data, data[: len(data) // 2], b"", b"PK", data[:-22]):
        path.write_bytes(broken)
        assert told(path)


def test_that_unlisted_missing_and_swapped_files_are_named(original, tmp_path):
    files, path = members(original), tmp_path / "x.zip"
    path.write_bytes(packed({**files, "evidence/extra.txt": b"hello"}))
    assert "“evidence/extra.txt” is not listed" in told(path)
    path.write_bytes(packed({n: d for n, d in files.items() if n != "report.pdf"}))
    assert "“report.pdf” is missing" in told(path)
    path.write_bytes(packed({**files, "evidence/E1.png": files["evidence/E3.svg"]}))
    assert "“evidence/E1.png” was changed" in told(path)
    path.write_bytes(packed({**files, "signatures/x.txt": b"hello"}))
    assert "signatures/x.txt" in told(path)


def test_that_a_forgers_own_manifest_and_signatures_fail(original, keys, tmp_path):
    files, path = members(original), tmp_path / "x.zip"
    forged = remade({**files, "case.json": files["case.json"].replace(b'"high"', b'"info"')})
    signatures = {n: d for n, d in files.items() if n.startswith("signatures/")}
    path.write_bytes(packed({**forged, **signatures}))
    assert "manifest.json was changed or swapped" in told(path)
    path.write_bytes(packed(forged))
    assert "nobody vouches" in told(path)
    signing.sign(path, keys[2], "author", name="Ada", when=WHEN)
    assert verify(path).ok  # a forger's own key verifies: only a pinned fingerprint can tell
    verdict = verify(path, {"author": [signing.fingerprint(keys[0])]})
    assert not verdict.ok and "unknown key" in str(verdict)


def test_that_a_signature_cannot_change_role_name_time_or_file_name(original, keys, tmp_path):
    files, path = members(original), tmp_path / "x.zip"
    name = next(n for n in files if n.startswith("signatures/author"))
    fields = json.loads(files[name])
    changes = {"role": "reviewer", "name": "Eve", "claimed_time": "2020-01-01T00:00:00Z", "organisation": "Other",
               "review": {"verdict": "confirmed"}, "format": "auditor-signature/2", "fingerprint": "0" * 64,
               "public_key": base64.b64encode(signing.public_bytes(keys[2])).decode(),
               "signature": base64.b64encode(bytes(64)).decode(), "statement_signature": "####"}  # fmt: skip
    for field, value in changes.items():
        path.write_bytes(packed({**files, name: canonical({**fields, field: value})}))
        assert name in told(path), field
    moved = {n: d for n, d in files.items() if n != name} | {"signatures/author-0.json": files[name]}
    path.write_bytes(packed(moved))
    assert "another signature" in told(path)
    again = {**fields, "role": "reviewer"}
    again["statement_signature"] = base64.b64encode(keys[0].sign(statement(again))).decode()
    path.write_bytes(packed({**files, name.replace("author", "reviewer"): canonical(again)}))
    assert "signed as author and as reviewer" in told(path)


def test_that_a_signature_of_another_bundle_does_not_fit(original, keys, tmp_path):
    case, figures = sample_case()
    other = bundle.write(case.changed(title="Other"), attachments(figures), tmp_path / "other.zip")
    signing.sign(other, keys[0], "author", when=WHEN)
    files, foreign = members(original), members(other)
    name = next(n for n in foreign if n.startswith("signatures/"))
    (tmp_path / "x.zip").write_bytes(packed({**files, name: foreign[name]}))
    assert name in told(tmp_path / "x.zip")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/x", "a/../../b", "C:/x", "a\\b", "evidence/", "con", "evidence/NUL.txt", "a\0b", "x" * 101, " x",
     "a/b/c/d/e/f", "..", ".", "évidence", "evidence/a\nb", ".git/config", "x."],
)  # fmt: skip
def test_that_names_that_could_leave_the_folder_are_refused(original, name, tmp_path):
    path = tmp_path / "x.zip"
    files = {**members(original), "case.json": b"{}"}
    raw = name.encode("latin-1")
    stand_in = "q" * len(raw)
    path.write_bytes(packed({**files, stand_in: b"evil"}).replace(stand_in.encode(), raw))
    assert told(path)
    with pytest.raises(AuditorError):
        bundle.unpack(path, tmp_path / "open")
    assert not (tmp_path / "open").exists() and {p.name for p in tmp_path.iterdir()} == {"x.zip"}


def test_that_twins_by_name_or_by_case_are_refused(original, tmp_path):
    files, path = members(original), tmp_path / "x.zip"
    names = sorted([*files, "case.json"])
    path.write_bytes(packed(files, names))
    assert "“case.json” occurs twice" in told(path)
    path.write_bytes(packed({**files, "Case.json": b"{}"}))
    assert "occurs twice" in told(path)
    path.write_bytes(packed(files, sorted(files, reverse=True)))
    assert "order" in told(path)


def other_zip(files: dict[str, bytes], **options: object) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **options) as archive:  # type: ignore[arg-type]
        for name, data in sorted(files.items()):
            archive.writestr(name, data)
    return made.getvalue()


def test_that_repacked_compressed_and_bomb_archives_are_refused_at_once(original, tmp_path):
    files, path = members(original), tmp_path / "x.zip"
    path.write_bytes(other_zip(files, compression=zipfile.ZIP_DEFLATED))
    assert "packed again" in told(path)
    path.write_bytes(other_zip({"case.json": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED))
    assert told(path)
    path.write_bytes(packed({f"evidence/{i}.txt": b"" for i in range(10_001)}))
    assert "10,000" in told(path)
    claimed = local_header(Member("case.json", 0, 2**31))
    path.write_bytes(claimed + b"x" + directory([Member("case.json", 0, 2**31)]))
    assert told(path)


def test_that_signed_but_senseless_contents_are_told_and_never_crash(original, keys, tmp_path):
    files, path = members(original), tmp_path / "x.zip"
    deep = b"[" * 200_000 + b"]" * 200_000
    for bad in (b"", b"[]", b"null", deep, b'{"evidence": [{"figure": 3}]}', b'{"questions": [{"sealed": "x"}]}',
                b'{"log_head": {"entries": NaN}}', b'{"evidence": 7, "questions": {"a": 1}, "log_head": "x"}', b"\xff{}", b'{"questions": [{"sealed": "x", "plan": 1e999}]}'):  # fmt: skip
        data = remade({**files, "case.json": bad})
        path.write_bytes(packed(data))
        assert told(path)
    for bad in (b"{}\n", b"x\n", b'{"index": "\\ud800"}\n', files["log.jsonl"][:-30] + b"\n"):
        path.write_bytes(packed(remade({**files, "log.jsonl": bad})))
        assert "log" in told(path)
    for bad in (
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"files":[],"format":"auditor-bundle/1"}',
        b'{"files":[1],"format":"auditor-bundle/1"}',
    ):
        path.write_bytes(packed({**files, "manifest.json": bad}))
        assert told(path)


def test_that_nothing_is_parsed_before_the_manifest_holds(original, tmp_path, monkeypatch):
    files, path = members(original), tmp_path / "x.zip"
    path.write_bytes(packed({**files, "case.json": b'{"canary": 1}'}))
    seen: list[bytes] = []
    module = __import__("sys").modules["auditor.audit.verify"]
    real = module._object
    monkeypatch.setattr(module, "_object", lambda data, name: seen.append(data) or real(data, name))
    assert "“case.json” was changed" in told(path)
    assert seen and not any(b"canary" in data for data in seen)


def test_that_links_and_devices_in_an_unpacked_bundle_are_refused(original, tmp_path):
    bundle.unpack(original, tmp_path / "open")
    assert verify(tmp_path / "open").ok
    report = tmp_path / "open" / "report.html"
    report.rename(tmp_path / "report.html")
    report.symlink_to(tmp_path / "report.html")
    assert "report.html” is a link" in told(tmp_path / "open")
    report.unlink()
    os.mkfifo(report)
    assert "report.html” is a link or a device" in told(tmp_path / "open")


def test_that_random_rubbish_never_crashes_the_verifier(original, tmp_path):
    rng, data, path = random.Random(3), original.read_bytes(), tmp_path / "x.zip"
    for _ in range(150):
        kind = rng.randrange(3)
        if kind == 0:
            broken = rng.randbytes(rng.randrange(400))
        elif kind == 1:
            start = rng.randrange(len(data))
            broken = data[:start] + rng.randbytes(rng.randrange(1, 60)) + data[start + rng.randrange(60) :]
        else:
            broken = bytearray(data)
            struct.pack_into(
                "<I", broken, rng.randrange(len(data) - 4), rng.choice((0, 2**32 - 1, len(data), 0x04034B50))
            )
        path.write_bytes(bytes(broken))
        if broken != data:
            verdict = verify(path)
            assert not verdict.ok and all(c.detail.isprintable() for c in verdict.checks)
    assert not verify(tmp_path / "none.zip").ok and not verify(tmp_path).ok


def test_that_a_hostile_name_in_a_signature_cannot_drive_the_terminal(original, keys, tmp_path):
    files, path = members(original), tmp_path / "x.zip"
    name = next(n for n in files if n.startswith("signatures/author"))
    fields = {**json.loads(files[name]), "name": "Ada\x1b[2J\u202e ok"}
    fields["statement_signature"] = base64.b64encode(keys[0].sign(statement(fields))).decode()
    path.write_bytes(packed({**files, name: canonical(fields)}))
    shown = str(verify(path))
    assert "⟨U+001B⟩" in shown and not re.search("[\x1b\u202e]", shown)
