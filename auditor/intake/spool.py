"""Bytes by offset: of a file, of memory, or of an unnamed temporary file. Nothing is read before it is asked for."""

from __future__ import annotations

import gzip
import os
import resource
import stat
import tempfile
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from auditor.base.errors import AuditorError
from auditor.base.files import no_more_files, told, too_many_files
from auditor.base.paths import large_temporary

MAX_BYTES = 8 << 30
MAX_LINE_BYTES = 64 << 20
MAX_RATIO = 100
_RATIO_FROM_BYTES = 64 << 20
_BLOCK = 1 << 20
# So many more files the rest of the program may open.
_SPARE = 128


class Bytes(ABC):
    """`size` bytes called `name`."""

    name: str
    size: int

    @abstractmethod
    def at(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`; AuditorError where they are not there any more."""

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        """All bytes in order from `start` on."""
        for at in range(start, self.size, _BLOCK):
            yield self.at(at, min(at + _BLOCK, self.size))

    def lines(self, start: int = 0) -> Iterator[tuple[int, int, bytes | None]]:
        """Start, end and bytes of each line from `start` on, its line feed included; None for the bytes of a line that
        is too long."""
        at = start
        held: list[bytes] = []
        length = 0
        for block in self.blocks(start):
            for part in _lines(block):
                at += len(part)
                length += len(part)
                if length <= MAX_LINE_BYTES:
                    held.append(part)
                if part.endswith(b"\n"):
                    yield start, at, b"".join(held) if length <= MAX_LINE_BYTES else None
                    start, held, length = at, [], 0
        if length:
            yield start, at, b"".join(held) if length <= MAX_LINE_BYTES else None


def _lines(block: bytes) -> list[bytes]:
    """Lines with their line feeds; bytes.splitlines would also cut at a carriage return."""
    parts = block.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


class MemoryBytes(Bytes):
    """Bytes that are there already."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.size, self._data = name, len(data), data

    def at(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


class FileBytes(Bytes):
    """Of a file as it was when this was made; it is opened for each read, so that thousands can be held."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = path.name, path
        try:
            status = os.stat(path)
        except OSError as error:
            raise unreadable(path.name) from error
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            raise AuditorError(f"“{path.name}” is no plain file.", "Copy what it gives into a file.")
        self._as_it_was = _identity(status)
        self.size = self._as_it_was[0]
        self._ahead, self._next = (0, b""), -1

    def at(self, start: int, stop: int) -> bytes:
        first, held = self._ahead
        if first <= start and stop <= first + len(held):
            self._next = stop
            return held[start - first : stop - first]
        with self._opened() as file:
            file.seek(start)
            # Who reads in order gets from one read what comes next.
            data = file.read(max(stop - start, _BLOCK if start == self._next else 0))
        if start == self._next:
            self._ahead = start, data
        self._next = stop
        return data[: stop - start]

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        with self._opened() as file:
            file.seek(start)
            while block := file.read(_BLOCK):
                yield block

    def _opened(self) -> FileIO:
        try:
            file = FileIO(self._path, "rb")
        except OSError as error:
            raise (no_more_files() if too_many_files(error) else unreadable(self.name)) from error
        if _identity(os.fstat(file.fileno())) != self._as_it_was:
            file.close()
            raise AuditorError(f"“{self.name}” has changed since it was opened.", "Open it again.")
        return file


class Spool(Bytes):
    """An unnamed temporary file that grows; it is gone with this object, and with the program."""

    def __init__(self, name: str) -> None:
        self.name, self.size = name, 0
        try:
            handle, path = tempfile.mkstemp(prefix="auditor-", dir=large_temporary())
            os.unlink(path)
            if handle + _SPARE > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
                _allow_more()
        except OSError as error:
            raise told(error, large_temporary() / "auditor") from error
        self._handle = handle
        weakref.finalize(self, os.close, handle)

    def add(self, data: bytes) -> tuple[int, int]:
        """Where `data` lies now. AuditorError on a full disk."""
        start = self.size
        if start + len(data) > MAX_BYTES:
            raise AuditorError(f"“{self.name}” unpacks to more than {MAX_BYTES >> 30} GiB.", "Cut it into parts.")
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self._handle, view, self.size + len(data) - len(view)) :]
        except OSError as error:
            raise told(error, large_temporary() / self.name) from error
        self.size += len(data)
        return start, self.size

    def at(self, start: int, stop: int) -> bytes:
        return os.pread(self._handle, stop - start, start)


def _allow_more() -> None:
    """Each packed file of a folder is an open one, and a program has 1,024 of those unless it asks for more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def bytes_of(path: Path) -> Bytes:
    """Of a file; of what a .gz file holds, which is unpacked to disk."""
    return _unpacked(path) if path.suffix.lower() == ".gz" else FileBytes(path)


def unreadable(name: str) -> AuditorError:
    return AuditorError(f"“{name}” is damaged or cannot be read.", "Copy it again.")


def _unpacked(path: Path) -> Bytes:
    spool = Spool(path.name)
    try:
        packed = path.stat().st_size
        with gzip.open(path, "rb") as file:
            while block := file.read(_BLOCK):
                spool.add(block)
                if spool.size > max(_RATIO_FROM_BYTES, MAX_RATIO * packed):
                    raise AuditorError(
                        f"“{path.name}” unpacks to over {MAX_RATIO} times its size.", "Unpack it and look at it."
                    )
    except (EOFError, OSError, zlib.error) as error:
        limited = isinstance(error, OSError) and too_many_files(error)
        raise (no_more_files() if limited else unreadable(path.name)) from error
    return spool


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
