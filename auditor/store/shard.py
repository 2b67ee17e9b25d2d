"""The HDF5 structures of a shard: composed without its numbers, which already lie where the structures then say.

libhdf5 makes them in memory, for datasets that have shapes but no room yet, and the addresses are put in afterwards.
Objects are kept in the library's earliest format, which has no checksums over them (HDF5 File Format Specification
4.0, IV.A.1 and IV.A.2.i: version 1 object headers, and the Data Layout message with a contiguous address and size).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import numpy as np

from auditor.intake.hdf5 import h5py
from auditor.store.layout import DatasetFacts

# Version 3, class 1 (contiguous), an address that is not yet known.
_NOWHERE = b"\x03\x01" + b"\xff" * 8
# Where a version 0 superblock tells the end of the file.
_END = slice(40, 48)
BFLOAT16 = "bfloat16"


def structures(datasets: Mapping[str, DatasetFacts], end: int) -> bytes:
    """The beginning of an HDF5 file of `end` bytes in which `datasets` lie where they say. As long for any shapes and
    offsets; equal input, equal bytes."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.CONTIGUOUS)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    made.set_obj_track_times(False)
    name = f"{uuid.uuid4()}"
    with h5py.File(name, "w", driver="core", backing_store=False, libver=("earliest", "latest")) as file:
        headers = {}
        for path, facts in datasets.items():
            if "/" in path:
                file.require_group(path.rpartition("/")[0])
            kind = h5py.h5t.py_create(np.dtype(facts.dtype), logical=True)
            space = h5py.h5s.create_simple(tuple(facts.shape))
            dataset = h5py.h5d.create(file.id, path.encode(), kind, space, made)
            if facts.dtype == "uint16":
                h5py.Dataset(dataset).attrs["number_format"] = BFLOAT16
            headers[path] = h5py.h5o.get_info(dataset).addr
        file.flush()
        image = bytearray(file.id.get_file_image())
    for path, facts in datasets.items():
        if facts.bytes:  # a dataset without elements has no place in the file
            at = image.index(_NOWHERE + facts.bytes.to_bytes(8, "little"), headers[path]) + 2
            image[at : at + 8] = facts.offset.to_bytes(8, "little")
    image[_END] = end.to_bytes(8, "little")
    return bytes(image)
