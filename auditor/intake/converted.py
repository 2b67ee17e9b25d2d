"""Weights that were converted to safetensors, kept in the person's cache folder, so that a model is converted once.

Each is a folder of its own, named by the digests of what it was made of and by the versions of what made it: in `model`
an ordinary model folder, in `kept.json` the SHA-256 of each of its files, which are compared at every opening. Nothing
there is needed: what is missing, damaged or of another version is made again, and where nothing can be kept a model is
converted for this opening alone. A lock on the folder says that it is being made or read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from auditor.base.digest import canonical_json, digest_files, digest_json, sha256_file
from auditor.base.errors import AuditorError
from auditor.base.paths import large_temporary, user_cache
from auditor.intake import convert
from auditor.intake.weights import ModelFacts

MOST_BYTES = 20_000_000_000
"""At most so much is kept, and no more than the disk has free beside it; what was not used for longest goes first."""
_FACTS, _MODEL, _BEGUN = "kept.json", "model", ".partial"
_LONGEST_FACTS = 1 << 20
_LIBRARIES = ("torch", "transformers", "gguf", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Kept:
    """What is kept in `folder`: how many models, and their bytes."""

    folder: Path
    models: int
    bytes: int

    def __str__(self) -> str:
        held = f"{self.models} model{'' if self.models == 1 else 's'}, {self.bytes / 1e9:.1f} GB, in {_shown()}"
        return f"{held}; at most {MOST_BYTES / 1e9:.0f} GB; delete the folder if you like, they are made again"


def kept() -> Kept:
    """All converted weights that are kept on this machine."""
    places = _places()
    return Kept(_folder(), len(places), sum(map(_size, places)))


@contextlib.contextmanager
def as_safetensors(facts: ModelFacts) -> Iterator[tuple[Path, str]]:
    """(a folder with weights, config and tokenizer of `facts` that lasts as long as the block, a sentence on where they
    are kept or why not). AuditorError as for `convert.convert`, or if a file changes meanwhile."""
    key = _key(facts)
    with contextlib.ExitStack() as stack:
        model, why = _found(key, stack), ""
        if model is None:
            model, why = _made(facts, key, stack)
        told = f"are converted anew at each opening: {why}" if why else f"were converted, and are kept in {_shown()}"
        yield model, f"Its weights {told}."


def _key(facts: ModelFacts) -> str:
    """Names what is made of these files by this program."""
    digests = {path.name: sha256_file(path) for path in facts.weights}
    if facts.format == "pickle":
        beside = [facts.folder / name for name in convert.TOKENIZER_FILES]
        digests |= {path.name: sha256_file(path) for path in beside if path.is_file()}
    made_of = digests if facts.format == "pickle" else sorted(digests.values())
    return digest_json([facts.format, made_of, convert.VERSION, [_version(name) for name in _LIBRARIES]])


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _found(key: str, stack: contextlib.ExitStack) -> Path | None:
    """The model of this key, which stays there until `stack` ends; None where none is kept that is as it was made."""
    place = _folder() / key
    if not _is_own(place.parent) or (handle := _locked(place, fcntl.LOCK_SH)) is None:
        return None
    if _is_sound(place, key):
        stack.callback(os.close, handle)
        with contextlib.suppress(OSError):
            os.utime(place / _FACTS)
        return place / _MODEL
    os.close(handle)
    _remove(place)
    return None


def _is_sound(place: Path, key: str) -> bool:
    try:
        if (place / _FACTS).stat().st_size > _LONGEST_FACTS:
            return False
        told = json.loads((place / _FACTS).read_bytes())
        return bool(told == {"key": key, "files": digest_files(place / _MODEL)})
    except (OSError, ValueError, RecursionError):
        return False


def _made(facts: ModelFacts, key: str, stack: contextlib.ExitStack) -> tuple[Path, str]:
    """(the converted model, why it is gone when `stack` ends, "" where it is kept)."""
    why = ""
    while not why:
        try:
            begun, handle = _begun(stack)
            convert.convert(facts, begun / _MODEL)
            return _put(facts, key, begun, handle)
        except convert.NoRoom:
            shutil.rmtree(begun, ignore_errors=True)
            if not _trim(0):
                why = f"the disk that holds {_shown()} is full"
        except OSError as error:
            why = f"nothing can be kept in {_shown()} ({error.strerror})"
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="auditor-weights-", dir=large_temporary()))
    convert.convert(facts, Path(scratch))
    _must_be_as_it_was(facts, key)
    return Path(scratch), why


def _begun(stack: contextlib.ExitStack) -> tuple[Path, int]:
    """A new folder under a name that says that it is being made, and the handle by which others see it. It is gone when
    `stack` ends if it still has that name. OSError where nothing can be kept."""
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_own(folder):
        raise PermissionError(errno.EPERM, "others may write there")
    for left in folder.glob(f"*{_BEGUN}"):
        if (left / _MODEL).is_dir():  # one that is locked already: else who just made it would lose it
            _remove(left)
    begun = folder / f"{uuid.uuid4().hex}{_BEGUN}"
    begun.mkdir(mode=0o700)
    stack.callback(shutil.rmtree, begun, ignore_errors=True)
    if (handle := _locked(begun, fcntl.LOCK_EX)) is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    stack.callback(os.close, handle)
    (begun / _MODEL).mkdir()
    return begun, handle


def _put(facts: ModelFacts, key: str, begun: Path, handle: int) -> tuple[Path, str]:
    """Give what is made the name by which it is found, where there is room for it; else it stays as it is. OSError
    where the disk is full now."""
    _must_be_as_it_was(facts, key)
    (begun / _FACTS).write_bytes(canonical_json({"key": key, "files": digest_files(begun / _MODEL)}))
    size, most = _size(begun), min(MOST_BYTES, shutil.disk_usage(begun).free)
    if size > most:
        return begun / _MODEL, f"they take {size / 1e9:.1f} GB, and no more than {most / 1e9:.1f} GB are kept"
    _trim(most - size)
    fcntl.flock(handle, fcntl.LOCK_SH)  # whoever finds it may read it
    place = begun.with_name(key)
    try:
        os.rename(begun, place)
    except OSError:  # another program was first
        return begun / _MODEL, ""
    return place / _MODEL, ""


def _must_be_as_it_was(facts: ModelFacts, key: str) -> None:
    if _key(facts) != key:
        raise AuditorError(f"“{facts.name}” changed while it was converted.", "Open it again once it stays as it is.")


def _trim(most: int) -> int:
    """Remove what was not used for longest until no more than `most` bytes are kept, but for what is being read; the
    bytes that are free again."""
    ages = {place: age for place in _places() if (age := _used(place)) is not None}
    held, freed = {place: _size(place) for place in sorted(ages, key=ages.__getitem__)}, 0
    for place, size in held.items():
        if sum(held.values()) - freed > most and _remove(place):
            freed += size
    return freed


def _remove(place: Path) -> bool:
    """Remove a folder that nobody makes or reads, at once under another name: half of it is never found."""
    if (handle := _locked(place, fcntl.LOCK_EX)) is None:
        return False
    try:
        away = place.with_name(f"{uuid.uuid4().hex}{_BEGUN}")
        os.rename(place, away)
        shutil.rmtree(away, ignore_errors=True)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _locked(place: Path, how: int) -> int | None:
    """A handle of the folder with this lock on it, None where that cannot be had."""
    try:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.lstat(place)):  # else it was removed meanwhile
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _places() -> list[Path]:
    try:
        return [place for place in _folder().iterdir() if place.is_dir() and not place.name.endswith(_BEGUN)]
    except OSError:
        return []


def _used(place: Path) -> float | None:
    try:
        return (place / _FACTS).stat().st_mtime
    except OSError:  # removed meanwhile, or none of ours
        return None


def _size(place: Path) -> int:
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def _is_own(folder: Path) -> bool:
    """Whether nobody else may write in it."""
    try:
        held = folder.stat()
    except OSError:
        return False
    return held.st_uid == os.getuid() and not held.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _folder() -> Path:
    return user_cache() / "converted"


def _shown() -> str:
    """The folder as a person would write it."""
    home, folder = os.path.expanduser("~"), str(_folder())
    return f"~{folder[len(home) :]}" if folder.startswith(f"{home}/") else folder
