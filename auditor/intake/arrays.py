"""Arrays of numbers in a foreign .npy, .npz or safetensors file: headers checked first, then read piece by piece.

No array can be a pickle: types with objects are refused by their header, and no library parses what follows it. Only
what an .npz archive has compressed is unpacked, to an unnamed temporary file; all else is read where it lies, so that
memory does not grow with the file.
"""

from __future__ import annotations

import io
import math
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auditor.base.errors import AuditorError
from auditor.intake.archives import MAX_TOTAL_BYTES, members
from auditor.intake.safetensors_header import SafetensorsFacts, check_safetensors
from auditor.intake.spool import Bytes, FileBytes, MemoryBytes, Spool

BFLOAT16 = "bfloat16"
FLOATS = ("<f2", "<f4", "<f8", ">f2", ">f4", ">f8", BFLOAT16)
MAX_READ_BYTES = 256 << 20
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|u1",
}  # fmt: skip
_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 64 << 10
_AGAIN = "Ask for the file again; arrays of numbers need no code."
UNSOUND = (ValueError, KeyError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError,
           tokenize.TokenError)  # fmt: skip
"""What numpy raises of a header that is none: it reads it as Python reads a literal, which takes only so much depth."""


@dataclass(frozen=True)
class ArrayFacts:
    """One array: its name, shape, numpy type (``bfloat16`` for that, ``string`` for text, ``other`` for what is not
    offered), and, if its bytes lie in the file in C order, where they begin (−1 otherwise)."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def is_int(self) -> bool:
        return len(self.dtype) == 3 and self.dtype[1] in "iu"

    @property
    def raw(self) -> np.dtype:
        """What its bytes are to numpy."""
        return np.dtype("<u2" if self.dtype == BFLOAT16 else self.dtype)


@dataclass(frozen=True)
class _Place:
    """Where an array begins in some bytes, and whether its first axis runs fastest there."""

    source: Bytes
    start: int
    fortran: bool = False


class ArrayFile:
    """The arrays of one file, `datasets`, each read a few entries of its first axis at a time; `metadata` is what a
    safetensors file says of itself."""

    def __init__(
        self, path: Path, found: Mapping[str, tuple[ArrayFacts, _Place]], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.metadata = path, metadata or {}
        self.datasets = [facts for facts, _ in found.values()]
        self._places = {name: place for name, (_, place) in found.items()}

    def find(self, path: str) -> ArrayFacts:
        """The array called `path`; AuditorError lists what there is."""
        for facts in self.datasets:
            if facts.path.strip("/") == path.strip("/"):
                return facts
        names = ", ".join(facts.path for facts in self.datasets[:8]) or "none"
        raise AuditorError(f"“{self.path.name}” has no array “{path}”.", f"Its arrays: {names}.")

    def read(self, path: str, start: int, stop: int) -> np.ndarray:
        """Entries `start` to `stop` along the first axis; bfloat16 as uint16."""
        facts = self.find(path)
        place, entry = self._places[facts.path], facts.shape[1:]
        if not 0 <= start <= stop <= facts.shape[0]:
            raise IndexError(f"entries {start}:{stop} of {facts.shape[0]}")
        item = facts.raw.itemsize
        if (stop - start) * math.prod(entry) * item > MAX_READ_BYTES:
            raise AuditorError(
                f"One entry along the first axis of “{path}” is too large to read.", "Store it in smaller entries."
            )
        if not place.fortran:
            row = math.prod(entry) * item
            data = _whole(place.source, place.start + start * row, (stop - start) * row)
            return np.frombuffer(data, facts.raw).reshape(stop - start, *entry)
        # The first axis runs fastest: each place of the others has its entries side by side.
        columns = [
            _whole(place.source, place.start + (at * facts.shape[0] + start) * item, (stop - start) * item)
            for at in range(math.prod(entry))
        ]
        return np.frombuffer(b"".join(columns), facts.raw).reshape(*entry[::-1], stop - start).T

    def strings(self, path: str, start: int, stop: int) -> list[str]:
        """Entries of an array [texts, bytes] of UTF-8 filled up with zeros. AuditorError where it is none."""
        facts = self.find(path)
        if facts.dtype != "|u1" or len(facts.shape) != 2:
            raise AuditorError(f"“{path}” is not a list of texts.", "Choose bytes, with a text in each row.")
        held = self.read(path, start, stop)
        return [row.tobytes().rstrip(b"\0").decode("utf-8", "replace") for row in held]

    def said(self, name: str) -> str:
        """The text that the file has of itself under this name; empty where it has none."""
        return self.metadata.get(name, "")


def open_arrays(path: Path) -> ArrayFile:
    """The arrays of a .npy, .npz or safetensors file, by its first bytes. AuditorError says what is wrong with it."""
    kind = array_kind(path)
    if kind == "npy":
        source = FileBytes(path)
        return ArrayFile(path, {"array": _npy(path, "array", source, 0, source.size, lies_in_file=True)})
    if kind == "npz":
        return ArrayFile(path, dict(_npz(path)))
    checked = check_safetensors(path)
    return ArrayFile(path, dict(_safetensors(path, checked)), checked.metadata)


def array_names(path: Path) -> list[str]:
    """The names of a file's arrays; none of them is read. AuditorError as for `open_arrays`."""
    kind = array_kind(path)
    if kind == "npz":
        return [member.removesuffix(".npy") for member in members(path, most=MAX_TOTAL_BYTES)]
    return list(check_safetensors(path).tensors) if kind == "safetensors" else ["array"]


def array_kind(path: Path) -> str:
    """npy, npz or safetensors, by the first bytes; "" for none of them."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return ""
    if head.startswith(_MAGIC):
        return "npy"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    return "safetensors" if len(head) == 9 and head[8:] == b"{" else ""


def _safetensors(path: Path, checked: SafetensorsFacts) -> Iterator[tuple[str, tuple[ArrayFacts, _Place]]]:
    source = FileBytes(path)
    for name, (dtype, shape) in checked.tensors.items():
        start = checked.starts[name]
        yield name, (ArrayFacts(name, shape, _SAFETENSORS.get(dtype, "other"), start), _Place(source, start))


def _npy(
    path: Path, name: str, source: Bytes, start: int, end: int, *, lies_in_file: bool
) -> tuple[ArrayFacts, _Place]:
    """The array whose header begins at `start` of `source` and whose numbers end at `end`."""
    head = source.at(start, min(end, start + _HEADER_BYTES))
    shape, fortran, dtype, length = npy_header(path, name, head)
    begin = start + length
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise AuditorError(
            f"“{name}” in “{path.name}” has {end - begin:,} bytes, not those of its shape {list(shape)}.",
            "Copy the file from its source again and compare its size.",
        )
    fortran = fortran and len(shape) > 1
    facts = ArrayFacts(name, shape, dtype.str, begin if lies_in_file and not fortran else -1)
    return facts, _Place(source, begin, fortran)


def npy_header(path: Path, name: str, head: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, whether the first axis runs fastest, type of the numbers, length of the header) of the array `name` of a
    .npy or .npz file that begins with `head`. AuditorError for what is no array of plain numbers."""
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except UNSOUND as error:
        raise AuditorError(f"“{name}” in “{path.name}” is not a sound array.", _AGAIN) from error
    if dtype.hasobject or dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise AuditorError(f"“{name}” in “{path.name}” holds no plain numbers, so it was not read.", _AGAIN)
    if any(type(side) is not int or not 0 <= side < 1 << 48 for side in shape):
        raise AuditorError(f"“{name}” in “{path.name}” has no usable shape.", _AGAIN)
    return tuple(shape), bool(fortran), np.dtype("|u1") if dtype.kind == "b" else dtype, file.tell()


def _npz(path: Path) -> Iterator[tuple[str, tuple[ArrayFacts, _Place]]]:
    """Arrays of an archive that is checked first."""
    sizes, whole = members(path, most=MAX_TOTAL_BYTES), FileBytes(path)
    with zipfile.ZipFile(path) as archive:
        for member, size in sizes.items():
            name = member.removesuffix(".npy")
            if name == member:
                continue
            entry = archive.getinfo(member)
            if entry.compress_type == zipfile.ZIP_STORED:
                start = _stored_at(path, whole, entry)
                yield name, _npy(path, name, whole, start, start + size, lies_in_file=True)
            else:
                yield name, _npy(path, name, _unpacked(path, archive, entry), 0, size, lies_in_file=False)


def _stored_at(path: Path, source: Bytes, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a member that is not compressed begin: behind its local header, which names lengths anew."""
    head = source.at(entry.header_offset, entry.header_offset + 30)
    start = entry.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if head[:4] != b"PK\x03\x04" or start + entry.file_size > source.size or entry.compress_size != entry.file_size:
        raise AuditorError(f"“{path.name}” is not a sound archive.", "Copy it again.")
    return start


def _unpacked(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Bytes:
    small = entry.file_size <= 1 << 20
    spool, pieces, done = Spool(path.name), list[bytes](), 0
    try:
        with archive.open(entry) as member:
            while piece := member.read(1 << 20):
                done += len(piece)
                pieces.append(piece) if small else spool.add(piece)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError) as error:
        raise AuditorError(f"“{entry.filename}” in “{path.name}” is damaged.", "Copy the archive again.") from error
    if done != entry.file_size:
        raise AuditorError(f"“{entry.filename}” in “{path.name}” is not as long as the archive says.", _AGAIN)
    return MemoryBytes(path.name, b"".join(pieces)) if small else spool


def _whole(source: Bytes, start: int, count: int) -> bytes:
    data = source.at(start, start + count)
    if len(data) != count:
        raise AuditorError(f"“{source.name}” has become shorter.", "Copy the file again.")
    return data
