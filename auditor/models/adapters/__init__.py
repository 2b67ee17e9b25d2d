"""The families of networks that can be opened: one file each, and this list."""

from __future__ import annotations

from auditor.models.adapters.adapter import Adapter
from auditor.models.adapters.efficientnet_lite import EfficientNetLiteAdapter
from auditor.models.adapters.llama import LlamaAdapter
from auditor.models.adapters.paired import PairedAdapter

ADAPTERS: dict[str, type[Adapter]] = {
    adapter.family: adapter
    for adapter in (
        LlamaAdapter,
        EfficientNetLiteAdapter,
        PairedAdapter,
    )
}
