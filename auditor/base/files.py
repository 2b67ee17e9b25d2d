"""Writing so that a kill, a full disk or a pulled stick leaves either the whole file or none of it."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from auditor.base.errors import AuditorError

_FULL = r"\(os error 28\)|requested and \d+ written|database or disk is full"


def write_atomic(path: Path | str, data: bytes) -> None:
    """Put `data` at `path`: a new `*.partial` file, fsync, rename, fsync of the folder."""
    target = Path(path)
    with partial(target) as unfinished, open(unfinished, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def partial(path: Path | str) -> Iterator[Path]:
    """Yield a free `*.partial` path for a file or a folder; on success it takes the name `path`, else it is removed.

    A file already at `path` is replaced; a folder is not. A full disk becomes an AuditorError.
    """
    target = Path(path)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.partial")
    _remove(unfinished)
    _remove_abandoned(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        _sync_tree(unfinished)
        os.replace(unfinished, target)
        sync_folder(target.parent)
    except BaseException as error:
        _remove(unfinished)
        cause = system_error(error)
        if cause is None:
            raise
        raise told(cause, target) from cause


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    _sync(folder)


def full_disk(error: OSError) -> bool:
    """Whether the system said that there is no room, or that a quota or file-size limit is reached."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def too_many_files(error: OSError) -> bool:
    """Whether the system said that no more files may be open."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def full_disk_behind(error: BaseException | None) -> OSError | None:
    """The system's word that there is no room, where that is what `error` came of."""
    return _behind(error, full_disk)


def limit_behind(error: BaseException | None) -> OSError | None:
    """As `full_disk_behind`, or that no more files may be open: no fault of what was read."""
    return _behind(error, lambda found: full_disk(found) or too_many_files(found))


def _behind(error: BaseException | None, sought: Callable[[OSError], bool]) -> OSError | None:
    while error is not None and not (isinstance(error, OSError) and sought(error)):
        # `told` gives an error back that it has nothing to say of, which is then raised as its own cause.
        error = None if error.__cause__ is error else error.__cause__
    return error


def reserve(path: Path, size: int) -> None:
    """Make the file `path` with room for `size` bytes. A mapped file gets its room only when it is written, and a
    full disk then kills the program instead of raising."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.posix_fallocate(handle, 0, size)
    finally:
        os.close(handle)


def system_error(error: BaseException) -> OSError | None:
    """The system's error; also where a library (safetensors, numpy, SQLite) tells a full disk only in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    words = str(error)
    if isinstance(error, Exception) and re.search(_FULL, words):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error if isinstance(error, OSError) else None


def told(error: OSError, target: Path) -> Exception:
    """A full disk, a missing right or too many open files as an AuditorError about `target`; another error as it is."""
    if full_disk(error):
        free = shutil.disk_usage(existing(target.parent)).free
        return AuditorError(
            f"The disk is full: “{target.name}” could not be written ({free / 1e6:.0f} MB are free).",
            "Free some room or choose another folder, then start again.",
        )
    if too_many_files(error):
        return no_more_files()
    if error.errno == errno.ENAMETOOLONG:
        return AuditorError(f"“{target.name[:40]}…” is longer than the name of a file may be.", "Check the path.")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return AuditorError(f"“{target}” may not be written.", "Choose a folder in which you may write.")
    return error


def no_more_files() -> AuditorError:
    """What is said where the system lets no more files be open."""
    return AuditorError(
        "The system lets this program open no more files at once.",
        "Raise the limit (such as “ulimit -n 4096”) and start again, or use fewer files at once.",
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _sync_tree(path: Path) -> None:
    """Make a file last, or a folder with all that is in it: the names that its folders hold, too."""
    for item in (*path.rglob("*"), path) if path.is_dir() else (path,):
        if item.is_dir() or item.is_file():
            _sync(item)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(target: Path) -> None:
    """What a killed program left of the same artefact."""
    for left in target.parent.glob(f"{glob.escape(target.name)}.*.partial"):
        owner = left.name.removeprefix(f"{target.name}.").removesuffix(".partial")
        if owner.isdecimal() and not running(int(owner)):
            _remove(left)


def running(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
