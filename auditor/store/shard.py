"""The bytes of one shard: an HDF5 file made in memory, so that no full disk ever meets libhdf5 halfway."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import numpy as np

from auditor.intake.hdf5 import h5py
from auditor.store.layout import DatasetFacts


def shard_bytes(datasets: Mapping[str, np.ndarray]) -> tuple[bytes, dict[str, DatasetFacts]]:
    """The HDF5 file that holds `datasets` contiguously, and where each of them lies in it. Equal input, equal bytes."""
    room = sum(array.nbytes for array in datasets.values()) + (1 << 16)
    with h5py.File(f"{uuid.uuid4()}", "w", driver="core", backing_store=False, block_size=room) as file:
        for name, array in datasets.items():
            file.create_dataset(name, data=np.ascontiguousarray(array), track_times=False)
        file.flush()
        facts = {name: _facts(file[name]) for name in datasets}
        return file.id.get_file_image(), facts


def _facts(dataset: h5py.Dataset) -> DatasetFacts:
    # A dataset without elements has no place in the file.
    offset = dataset.id.get_offset() or 0
    return DatasetFacts(offset=offset, shape=list(dataset.shape), dtype=dataset.dtype.name)
