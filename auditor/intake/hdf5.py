"""HDF5 behind one door: the library is loaded with plug-ins switched off; a foreign file is walked before it is read.

Import `h5py` from here and nowhere else. libhdf5 reads HDF5_PLUGIN_PATH, HDF5_VOL_CONNECTOR and HDF5_DRIVER when it is
loaded, and with the first of them runs a planted shared object's code on a mere dataset read.

A foreign file is opened only in a jailed child (`inspect_hdf5`, `ForeignFile`), where a crash or a hang of the library
costs nothing. Refused as a whole: external and user-defined links, external storage, virtual datasets, user blocks,
reference types, filters beyond gzip, shuffle, fletcher32 and lzf, chunks of over 64 MiB, and datasets that claim more
than the file can hold. Soft links are not followed, attributes not read.
"""

from __future__ import annotations

import math
import os
import stat
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.intake.arrays import ArrayFacts
from auditor.intake.jail import Jail, Limits

for _name in ("HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG"):
    os.environ.pop(_name, None)
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # the library's own word for «no plug-in at all»

import h5py  # noqa: E402

while h5py.h5pl.size():
    h5py.h5pl.remove(0)

__all__ = ["ForeignFile", "h5py", "inspect_hdf5"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 20_000
MAX_DEPTH = 64
MAX_CHUNK_BYTES = 64 << 20
MAX_RATIO = 100
MAX_READ_BYTES = 256 << 20
MAX_STRING_BYTES = 16 << 20
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_REFUSED = "The file was not opened further and nothing of it was kept."


def inspect_hdf5(path: Path | str) -> list[ArrayFacts]:
    """The datasets of a foreign file, walked in a jailed child. AuditorError says what is wrong or refused."""
    with ForeignFile(path) as file:
        return file.datasets


class ForeignFile:
    """A foreign HDF5 file that was found harmless: `datasets`, and reads through a jailed child of its own."""

    def __init__(self, path: Path | str) -> None:
        self.path = _plain_file(Path(path))
        self._jail = Jail(Limits(cpu_seconds=24 * 3600, wall_seconds=60.0))
        # The child lives on between reads; whoever drops the last reference ends it.
        self.close = weakref.finalize(self, self._jail.close)
        try:
            found = self._jail.call("auditor.intake.hdf5:walked", str(self.path))
        except BaseException:
            self.close()
            raise
        self.datasets = [ArrayFacts(d["path"], tuple(d["shape"]), d["dtype"], d["offset"]) for d in found]

    def find(self, path: str) -> ArrayFacts:
        """The dataset at `path`; AuditorError lists what there is."""
        for dataset in self.datasets:
            if dataset.path.strip("/") == path.strip("/"):
                return dataset
        names = ", ".join(dataset.path for dataset in self.datasets[:8]) or "none"
        raise AuditorError(f"“{self.path.name}” has no dataset “{path}”.", f"Its datasets: {names}.")

    def read(self, path: str, start: int, stop: int) -> np.ndarray:
        """Entries `start` to `stop` along the first axis of a numeric dataset, in native byte order."""
        facts = self.find(path)
        shape = (stop - start, *facts.shape[1:])
        dtype = np.dtype(facts.dtype).newbyteorder("<")
        if not 0 <= start <= stop <= facts.shape[0]:
            raise IndexError(f"entries {start}:{stop} of {facts.shape[0]}")
        if math.prod(shape) * dtype.itemsize > MAX_READ_BYTES:
            raise AuditorError(
                f"One entry along the first axis of “{path}” is too large to read.", "Store it in smaller entries."
            )
        data = self._jail.call("auditor.intake.hdf5:entries", str(self.path), facts.path, start, stop)
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise AuditorError(f"“{path}” of “{self.path.name}” gave another number of bytes.", _REFUSED)
        return np.frombuffer(bytearray(data), dtype=dtype).reshape(shape)

    def strings(self, path: str, start: int, stop: int) -> list[str]:
        """Entries of a one-dimensional text dataset."""
        facts = self.find(path)
        if facts.dtype != "string" or len(facts.shape) != 1:
            raise AuditorError(f"“{path}” is not a list of texts.", "Choose a one-dimensional dataset of strings.")
        return [
            str(text) for text in self._jail.call("auditor.intake.hdf5:texts", str(self.path), facts.path, start, stop)
        ]

    def said(self, name: str) -> str:
        """The text that the file has of itself, as a dataset of this name with one string; empty where it has none."""
        one = any(d.path == f"/{name}" and (d.dtype, d.shape) == ("string", (1,)) for d in self.datasets)
        return self.strings(name, 0, 1)[0] if one else ""

    def __enter__(self) -> ForeignFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plain_file(path: Path) -> Path:
    """`path`, if it is a regular file that begins as HDF5 does."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise AuditorError(f"“{path.name}” is not a file.", "Choose an HDF5 file.")
        with open(path, "rb") as file:
            head = file.read(len(SIGNATURE))
    except OSError as error:
        raise AuditorError(f"“{path.name}” cannot be read ({error.strerror}).", "Check the path and rights.") from None
    if head != SIGNATURE:
        raise AuditorError(
            f"“{path.name}” is not an HDF5 file: it does not begin with the HDF5 signature.",
            "A file with a block before its signature is refused too; repack it with h5repack.",
        )
    return path.resolve()


# What follows runs in the jailed child.


def walked(path: str) -> list[dict[str, Any]]:
    """The datasets of the file as plain data."""
    size = os.stat(path).st_size
    with _opened(path) as file:
        return [asdict(dataset) for dataset in _walk(file, size)]


def entries(path: str, name: str, start: int, stop: int) -> bytes:
    """Bytes of entries along the first axis, little-endian, in C order."""
    with _opened(path) as file:
        dataset = file[name]
        _checked(dataset.id, name, os.stat(path).st_size)
        data = dataset[start:stop]
        return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<")).tobytes()


def texts(path: str, name: str, start: int, stop: int) -> list[str]:
    """Entries of a text dataset."""
    with _opened(path) as file:
        dataset = file[name]
        _checked(dataset.id, name, os.stat(path).st_size)
        found = [value.decode("utf-8", "replace") for value in dataset[start:stop].tolist()]
        if sum(map(len, found)) > MAX_STRING_BYTES:
            raise _refusal(name, "its texts are too long")
        return found


def _opened(path: str) -> Any:
    try:
        file = h5py.File(path, "r", driver="sec2", locking=False)
    except OSError as error:
        raise AuditorError(f"“{Path(path).name}” is damaged: {str(error)[:120]}.", "Copy the file again.") from None
    if file.userblock_size:
        file.close()
        raise AuditorError(f"“{Path(path).name}” has a user block.", _REFUSED)
    return file


def _walk(file: Any, size: int) -> Iterator[ArrayFacts]:
    """Every dataset reached by hard links; each object once, so that no ring of groups hangs it."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", file, 0)]
    while waiting:
        above, group, depth = waiting.pop()
        for name in sorted(group, reverse=True):
            where = f"{above}/{name}"
            if not _followed(group, name, where):
                continue
            if len(seen) >= MAX_OBJECTS or depth >= MAX_DEPTH:
                raise _refusal(where, f"it has over {MAX_OBJECTS} objects or {MAX_DEPTH} levels")
            identity = h5py.h5o.open(group.id, name.encode("utf-8", "surrogateescape"))
            address = h5py.h5o.get_info(identity).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(identity, h5py.h5g.GroupID):
                waiting.append((where, h5py.Group(identity), depth + 1))
            elif isinstance(identity, h5py.h5d.DatasetID):
                yield _checked(identity, where, size)


def _followed(group: Any, name: str, where: str) -> bool:
    try:
        link = group.get(name, getlink=True)
    except TypeError:
        raise _refusal(where, "it has a link of a kind that the program does not know") from None
    if isinstance(link, h5py.ExternalLink):
        raise _refusal(where, "it links to another file")
    return isinstance(link, h5py.HardLink)


def _checked(dataset: Any, where: str, size: int) -> ArrayFacts:
    """Facts of a dataset of which every claim fits the file. AuditorError otherwise."""
    if dataset.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return ArrayFacts(where, (0,), "other", -1)  # it holds nothing
    made = dataset.get_create_plist()
    layout = made.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise _refusal(where, "it is a virtual dataset, which reads other files")
    if made.get_external_count():
        raise _refusal(where, "it keeps its numbers in another file")
    for number in range(made.get_nfilters()):
        code = made.get_filter(number)[0]
        if code not in _FILTERS:
            raise _refusal(where, f"it is packed by filter {code}, which this program does not ship")
    dtype = _dtype_name(dataset.get_type(), where)
    shape = tuple(int(side) for side in dataset.shape)
    item, stored = dataset.get_type().get_size(), dataset.get_storage_size()
    claimed = math.prod(shape) * item
    if stored > size or claimed > MAX_RATIO * max(stored, 1 << 16) or (layout != h5py.h5d.CHUNKED and claimed > stored):
        raise _refusal(where, f"it claims {claimed} bytes and holds {stored} in a file of {size}")
    if layout == h5py.h5d.CHUNKED and math.prod(made.get_chunk()) * item > MAX_CHUNK_BYTES:
        raise _refusal(where, "its chunks are larger than 64 MiB")
    offset = dataset.get_offset() if layout == h5py.h5d.CONTIGUOUS else None
    if offset is not None and offset + claimed > size:
        raise _refusal(where, "it lies beyond the end of the file")
    return ArrayFacts(where, shape, dtype, -1 if offset is None else int(offset))


def _dtype_name(kind: Any, where: str) -> str:
    if kind.detect_class(h5py.h5t.REFERENCE):
        raise _refusal(where, "it holds references")
    if isinstance(kind, h5py.h5t.TypeStringID):
        return "string"
    if not isinstance(kind, (h5py.h5t.TypeFloatID, h5py.h5t.TypeIntegerID)):
        return "other"
    try:
        return str(np.dtype(kind.dtype).str)
    except (TypeError, ValueError):
        return "other"


def _refusal(where: str, why: str) -> AuditorError:
    return AuditorError(f"The HDF5 file is refused at “{where}”: {why}.", _REFUSED)
