# ruff: noqa: E501 (hostile strings and tables of cases read best in one piece)
"""A bundle is the same bytes everywhere, can be signed by two people, and tells in plain words what it is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as other_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import auditor.audit
from auditor.audit import bundle, signing
from auditor.audit.case import Review
from auditor.base.errors import AuditorError
from auditor.project.log import Log
from tests.audit.sample import WHEN, attachments, sample_case

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sample():
    return sample_case()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return [signing.generate_key(folder / f"{name}.pem") for name in ("author", "reviewer", "other")]


@pytest.fixture
def unsigned(sample, tmp_path):
    case, figures = sample
    return bundle.write(case, attachments(figures), tmp_path / "audit.zip")


@pytest.fixture
def signed(unsigned, keys):
    signing.sign(unsigned, keys[0], "author", name="Ada Brandt", when=WHEN)
    signing.sign(unsigned, keys[1], "reviewer", name="Jonas Weil", when=WHEN)
    return unsigned


def failed(verdict):
    return [check for check in verdict.checks if not check.ok and not check.note]


def test_that_a_bundle_signed_by_two_people_verifies_and_names_them(signed, keys):
    verdict = auditor.audit.verify(signed)
    assert verdict.ok, str(verdict)
    assert {(s.role, s.name, s.fingerprint) for s in verdict.signers} == {
        ("author", "Ada Brandt", signing.fingerprint(keys[0])), ("reviewer", "Jonas Weil", signing.fingerprint(keys[1]))
    }  # fmt: skip
    assert "The bundle is as it was signed." in str(verdict) and all(check.detail for check in verdict.checks)


def test_that_the_zip_opens_with_any_tool_and_the_signature_is_over_the_manifests_bytes(signed, keys):
    with zipfile.ZipFile(signed) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = archive.read("manifest.json")
        signature = json.loads(archive.read(next(n for n in names if n.startswith("signatures/author"))))
        for file in json.loads(manifest)["files"]:
            assert hashlib.sha256(archive.read(file["path"])).hexdigest() == file["sha256"]
        crate = json.loads(archive.read("ro-crate-metadata.json"))
    Ed25519PublicKey.from_public_bytes(signing.public_bytes(keys[0])).verify(
        base64.b64decode(signature["signature"]), manifest
    )
    needed = {
        "report.html",
        "report.pdf",
        "case.json",
        "findings.sarif",
        "verify.py",
        "manifest.json",
        "recipes/E1.json",
    }
    assert needed | {"evidence/E1.png", "evidence/E3.svg", "evidence/E1.csv", "ro-crate-metadata.json"} <= set(names)
    parts = {part["@id"] for part in next(e for e in crate["@graph"] if e["@id"] == "./")["hasPart"]}
    assert parts == set(names) - {"manifest.json", "ro-crate-metadata.json"} - {n for n in names if n.startswith("sig")}


def test_that_an_unsigned_bundle_is_whole_but_not_ok(unsigned):
    verdict = auditor.audit.verify(unsigned)
    assert not verdict.ok and [check.name for check in failed(verdict)] == ["author"]


def test_that_pinned_keys_decide(signed, keys):
    author, reviewer, other = (signing.fingerprint(key) for key in keys)
    assert auditor.audit.verify(signed, {"author": [author], "reviewer": [reviewer]}).ok
    assert auditor.audit.verify(signed, [author.upper(), " ".join(reviewer[i : i + 4] for i in range(0, 64, 4))]).ok
    for wrong in ({"author": [other]}, {"author": [reviewer]}, {"reviewer": [author]}, [author], []):
        assert not auditor.audit.verify(signed, wrong).ok


def test_that_a_removed_reviewer_is_missed_when_pinned(unsigned, keys):
    signing.sign(unsigned, keys[0], "author", when=WHEN)
    assert not auditor.audit.verify(unsigned, {"reviewer": [signing.fingerprint(keys[1])]}).ok


def test_that_author_and_reviewer_need_different_keys_and_the_author_comes_first(unsigned, keys):
    with pytest.raises(AuditorError, match="author signs first"):
        signing.sign(unsigned, keys[1], "reviewer", when=WHEN)
    signing.sign(unsigned, keys[0], "author", when=WHEN)
    before = unsigned.read_bytes()
    with pytest.raises(AuditorError, match="other role"):
        signing.sign(unsigned, keys[0], "reviewer", when=WHEN)
    assert unsigned.read_bytes() == before and not list(unsigned.parent.glob("*.partial"))


def test_that_a_reviewers_verdict_travels_sealed_in_the_signature(unsigned, keys):
    review = Review(id="R2", reviewer="Jonas Weil", findings=("F1",), verdict="not confirmed", dissent="I got 0.2.")
    signing.sign(unsigned, keys[0], "author", when=WHEN)
    signing.sign(unsigned, keys[1], "reviewer", review=review, when=WHEN)
    verdict = auditor.audit.verify(unsigned)
    assert verdict.ok and [s.review["dissent"] for s in verdict.signers if s.review] == ["I got 0.2."]
    assert "verdict: not confirmed" in str(verdict)


def test_that_a_grave_finding_without_counter_evidence_cannot_be_signed(sample, keys, tmp_path):
    case, figures = sample
    bare = case.put(case.findings[0].model_copy(update={"counter_evidence": ()}))
    path = bundle.write(bare, attachments(figures), tmp_path / "audit.zip")
    with pytest.raises(AuditorError, match="counter-evidence"):
        signing.sign(path, keys[0], "author", when=WHEN)


def test_that_keys_are_private_encrypted_when_asked_and_never_overwritten(tmp_path):
    key = signing.generate_key(tmp_path / "key.pem", "open sesame")
    pem = (tmp_path / "key.pem").read_bytes()
    assert b"ENCRYPTED" in pem and not signing.exposed(tmp_path / "key.pem")
    assert signing.fingerprint(signing.load_key(tmp_path / "key.pem", "open sesame")) == signing.fingerprint(key)
    for passphrase in ("", "wrong"):
        with pytest.raises(AuditorError, match="was not opened"):
            signing.load_key(tmp_path / "key.pem", passphrase)
    with pytest.raises(AuditorError, match="exists already"):
        signing.generate_key(tmp_path / "key.pem")
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "ec.pem").write_bytes(other_key(SECP256R1()).private_bytes(*kinds))
    (tmp_path / "bad.pem").write_bytes(b"not a key")
    for name, told in (("ec.pem", "not an Ed25519"), ("bad.pem", "was not opened"), ("none.pem", "cannot be read")):
        with pytest.raises(AuditorError, match=told):
            signing.load_key(tmp_path / name)


EXPORT = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests/audit"]
from auditor.audit import bundle
from sample import attachments, sample_case
case, figures = sample_case()
for number in range({count}):
    bundle.write(case, attachments(figures), f"{{number}}.zip")
"""


def test_that_twenty_exports_in_other_folders_zones_and_locales_are_the_same_bytes(sample, tmp_path):
    digests = set()
    for number, (zone, locale) in enumerate(
        [("UTC", "C"), ("Asia/Kathmandu", "de_DE.UTF-8"), ("America/Lima", "C.UTF-8"), ("X-13", "tr_TR")]
    ):
        folder = tmp_path / f"füld {number}" / ("x" * 40)
        folder.mkdir(parents=True)
        environment = {
            **os.environ,
            "TZ": zone,
            "LC_ALL": locale,
            "PYTHONHASHSEED": str(number),
            "PYTHONUTF8": str(number % 2),
        }
        script = EXPORT.format(root=str(ROOT), count=5)
        subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True, timeout=120)
        digests |= {hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.zip")}
        assert len(list(folder.glob("*"))) == 5
    assert len(digests) == 1
    case, figures = sample
    here = bundle.write(case, attachments(figures), tmp_path / "here.zip")
    assert hashlib.sha256(here.read_bytes()).hexdigest() in digests


def test_that_nothing_of_this_machine_is_in_a_bundle(signed):
    data = signed.read_bytes()
    name = os.uname().nodename
    # A name of a few letters stands in any compressed page by chance.
    for word in (str(ROOT), str(Path.home()) + "/", "/tmp/", *([name] if len(name) > 5 else [])):
        assert word.encode() not in data


def test_that_verifying_is_quick_and_imports_neither_torch_nor_qt(signed):
    script = (
        "import sys, auditor.audit\nverdict = auditor.audit.verify(sys.argv[1])\n"
        "banned = {'torch', 'h5py', 'transformers', 'PySide6', 'numpy', 'typst', 'jinja2'} & sys.modules.keys()\n"
        "assert verdict.ok and not banned, (verdict, banned)"
    )
    took = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script, signed], cwd=ROOT, check=True, timeout=60)
        took.append(time.perf_counter() - start)
    assert min(took) < 2


def test_that_the_bundles_own_verifier_runs_alone_on_the_zip_and_on_the_unpacked_folder(signed, tmp_path):
    bundle.unpack(signed, tmp_path / "open")
    alone = [sys.executable, "-I", tmp_path / "open" / "verify.py"]
    for target in (signed, tmp_path / "open"):
        done = subprocess.run([*alone, target], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0 and "as it was signed" in done.stdout, done.stdout + done.stderr
    (tmp_path / "open" / "case.json").write_bytes((tmp_path / "open" / "case.json").read_bytes()[:-1])
    done = subprocess.run([*alone, tmp_path / "open"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "“case.json” was changed" in done.stdout
    done = subprocess.run([*alone, signed, "--author", "ab" * 32], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "unknown key" in done.stdout


def test_that_the_projects_log_travels_and_its_head_stands_in_the_case(sample, keys, tmp_path):
    case, figures = sample
    log = Log(tmp_path / "audit.log")
    for number in range(30):
        log.append("label", feature=number, text="Schloß \u202e", score=0.1 * number)
    whole = {**attachments(figures), "log.jsonl": tmp_path / "audit.log"}
    path = bundle.write(case, whole, tmp_path / "audit.zip")
    signing.sign(path, keys[0], "author", when=WHEN)
    verdict = auditor.audit.verify(path)
    assert verdict.ok and any(c.name == "log" and log.head in c.detail for c in verdict.checks)
    lines = (tmp_path / "audit.log").read_bytes().splitlines(keepends=True)
    for broken in (lines[:3] + lines[4:], [*lines[:5], lines[6], lines[5], *lines[7:]], lines[1:],
                   [*lines[:9], lines[9].replace(b"label", b"libel"), *lines[10:]]):  # fmt: skip
        with pytest.raises(AuditorError, match="entry"):
            bundle.write(case, {**attachments(figures), "log.jsonl": b"".join(broken)}, tmp_path / "b.zip")


def test_that_a_reviewer_can_make_each_report_again_from_the_case(signed, sample):
    assert [check.name for check in bundle.rerender(signed) if not check.ok] == []
    assert {"report.html", "report.pdf", "findings.sarif"} <= {check.name for check in bundle.rerender(signed)}


def test_that_a_bundle_holds_only_what_has_a_place_in_it(sample, tmp_path):
    case, figures = sample
    whole = attachments(figures)
    for name in ("../x", "evidence/../x", "evidence/a b", "evidence/CON.txt", "other/x", "evidence//x", "recipes/E1.json",
                 "evidence/e1.PNG", "/evidence/x", "evidence/.hidden", "evidence/x.", "evidence/a/b/c/d/e"):  # fmt: skip
        with pytest.raises(AuditorError):
            bundle.write(case, {**whole, name: b"x"}, tmp_path / "x.zip")
    with pytest.raises(AuditorError, match="is missing"):
        bundle.write(case, {}, tmp_path / "x.zip")
    with pytest.raises(AuditorError, match="not the one"):
        bundle.write(case, {**whole, "evidence/E1.png": whole["evidence/E1.png"] + b"x"}, tmp_path / "x.zip")
    assert not list(tmp_path.iterdir())
