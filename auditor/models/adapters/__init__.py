"""The families of networks that can be opened: one file each, and this list."""

from __future__ import annotations

from auditor.models.adapters.adapter import Adapter
from auditor.models.adapters.albert import AlbertAdapter
from auditor.models.adapters.bert import BertAdapter
from auditor.models.adapters.clip import ClipAdapter
from auditor.models.adapters.deberta import DebertaAdapter, DebertaV2Adapter
from auditor.models.adapters.deepseek import DEEPSEEK
from auditor.models.adapters.distilbert import DistilbertAdapter
from auditor.models.adapters.efficientnet_lite import EfficientNetLiteAdapter
from auditor.models.adapters.electra import ElectraAdapter
from auditor.models.adapters.gpt2 import GPT2_LIKE
from auditor.models.adapters.gpt_neox import NEOX_LIKE
from auditor.models.adapters.llama import LLAMA_LIKE
from auditor.models.adapters.llava import LlavaAdapter
from auditor.models.adapters.mamba import Mamba2Adapter, MambaAdapter
from auditor.models.adapters.mpnet import MpnetAdapter
from auditor.models.adapters.opt import OptAdapter
from auditor.models.adapters.packed import PACKED
from auditor.models.adapters.paired import PairedAdapter
from auditor.models.adapters.post_norm import POST_NORM
from auditor.models.adapters.roberta import CamembertAdapter, RobertaAdapter, XlmRobertaAdapter
from auditor.models.adapters.t5 import Mt5Adapter, T5Adapter, Umt5Adapter
from auditor.models.adapters.vit import VitAdapter
from auditor.models.adapters.whisper import WhisperAdapter

_LISTED: tuple[type[Adapter], ...] = (
    *LLAMA_LIKE,
    *POST_NORM,
    *PACKED,
    *DEEPSEEK,
    *GPT2_LIKE,
    *NEOX_LIKE,
    OptAdapter,
    BertAdapter,
    RobertaAdapter,
    XlmRobertaAdapter,
    CamembertAdapter,
    DistilbertAdapter,
    AlbertAdapter,
    ElectraAdapter,
    DebertaAdapter,
    DebertaV2Adapter,
    MpnetAdapter,
    T5Adapter,
    Mt5Adapter,
    Umt5Adapter,
    MambaAdapter,
    Mamba2Adapter,
    WhisperAdapter,
    VitAdapter,
    ClipAdapter,
    LlavaAdapter,
    EfficientNetLiteAdapter,
    PairedAdapter,
)
ADAPTERS: dict[str, type[Adapter]] = {adapter.family: adapter for adapter in _LISTED}
