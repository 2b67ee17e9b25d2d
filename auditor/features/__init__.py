"""Facts on every feature of a dictionary: built once from a store, then searched and shown without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor.features.examples import Example
from auditor.features.feature import Feature, Histogram
from auditor.features.index import Index, open_index
from auditor.features.labels import Labels

if TYPE_CHECKING:
    from auditor.features.build import BuildConfig
    from auditor.features.fires import Fire, Fires, activations_at, fires_on

__all__ = ["BuildConfig", "Example", "Feature", "Fire", "Fires", "Histogram", "Index", "Labels", "activations_at",
           "fires_on", "open_index"]

_LATER = {"BuildConfig": "build", "Fire": "fires", "Fires": "fires", "activations_at": "fires",
          "fires_on": "fires"}


def __getattr__(name: str) -> Any:
    # The window opens an index before torch is loaded; only building and running need it.
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(f"auditor.features.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
