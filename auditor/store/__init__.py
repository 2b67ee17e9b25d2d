"""Activation stores: recorded rows of activations on disk, each traceable to its sample and its token or patch."""

from auditor.store.reader import Positions, Store, open_store
from auditor.store.samples import StoredSample
from auditor.store.writer import StoreWriter

__all__ = ["Positions", "Store", "StoreWriter", "StoredSample", "open_store"]
