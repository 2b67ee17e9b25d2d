"""The families of networks that can be opened: one file each, and this list."""

from __future__ import annotations

from auditor.models.adapters.adapter import Adapter
from auditor.models.adapters.bert import BertAdapter
from auditor.models.adapters.clip import ClipAdapter
from auditor.models.adapters.efficientnet_lite import EfficientNetLiteAdapter
from auditor.models.adapters.gpt2 import Gpt2Adapter
from auditor.models.adapters.gpt_neox import GptNeoxAdapter
from auditor.models.adapters.llama import LlamaAdapter
from auditor.models.adapters.llava import LlavaAdapter
from auditor.models.adapters.paired import PairedAdapter
from auditor.models.adapters.vit import VitAdapter

ADAPTERS: dict[str, type[Adapter]] = {
    adapter.family: adapter
    for adapter in (
        LlamaAdapter,
        Gpt2Adapter,
        GptNeoxAdapter,
        BertAdapter,
        VitAdapter,
        ClipAdapter,
        LlavaAdapter,
        EfficientNetLiteAdapter,
        PairedAdapter,
    )
}
