"""SHA-256 of bytes, files, folders and plain objects: how artefacts are named and claims are bound."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_bytes(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; equal values give equal bytes. ValueError on NaN and infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def digest_json(value: Any) -> str:
    """SHA-256 of `canonical_json(value)`."""
    return sha256_bytes(canonical_json(value))


def digest_folder(path: Path | str) -> str:
    """SHA-256 of the sorted list of (relative path, SHA-256) of a folder's files; names and contents both count."""
    return digest_json([[name, digest] for name, digest in digest_files(path).items()])


def digest_files(path: Path | str) -> dict[str, str]:
    """SHA-256 of every file of a folder by its relative path, in the order of the paths; or of one file by its name."""
    root = Path(path)
    if root.is_file():
        return {root.name: sha256_file(root)}
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): sha256_file(p) for p in files}
