"""The families of networks that can be opened: one file each, and this list."""

from __future__ import annotations

from auditor.models.adapters.adapter import Adapter
from auditor.models.adapters.aimv2 import Aimv2VisionAdapter
from auditor.models.adapters.albert import AlbertAdapter
from auditor.models.adapters.audio_spectrogram import AudioSpectrogramAdapter
from auditor.models.adapters.aya_vision import AyaVisionAdapter
from auditor.models.adapters.bart import BART_LIKE
from auditor.models.adapters.beit import BeitAdapter
from auditor.models.adapters.bert import BertAdapter, ErnieAdapter, RembertAdapter
from auditor.models.adapters.blip import BlipAdapter
from auditor.models.adapters.blip2 import Blip2Adapter, Blip2T5Adapter
from auditor.models.adapters.chinese_clip import ChineseClipAdapter
from auditor.models.adapters.clap import ClapAdapter
from auditor.models.adapters.clip import (
    ClipAdapter,
    ClipTextAdapter,
    ClipVisionAdapter,
    MetaClip2Adapter,
    MetaClip2VisionAdapter,
)
from auditor.models.adapters.clipseg import ClipSegAdapter
from auditor.models.adapters.convnext import ConvnextAdapter, ConvnextV2Adapter, Dinov3ConvnextAdapter
from auditor.models.adapters.deberta import DebertaAdapter, DebertaV2Adapter
from auditor.models.adapters.deepseek import DEEPSEEK
from auditor.models.adapters.dinov2 import Dinov2Adapter, Dinov2WithRegistersAdapter
from auditor.models.adapters.dinov3 import Dinov3Adapter
from auditor.models.adapters.distilbert import DistilbertAdapter
from auditor.models.adapters.efficientnet import EfficientnetAdapter
from auditor.models.adapters.efficientnet_lite import EfficientNetLiteAdapter
from auditor.models.adapters.electra import ElectraAdapter, RoformerAdapter
from auditor.models.adapters.esm import EsmAdapter
from auditor.models.adapters.eurobert import EsmcAdapter, EuroBertAdapter
from auditor.models.adapters.falcon_h1 import FalconH1Adapter
from auditor.models.adapters.gemma3 import Gemma3Adapter, ShieldGemma2Adapter
from auditor.models.adapters.gemma3n import Gemma3nTextAdapter
from auditor.models.adapters.gemma3n_sound import Gemma3nAdapter
from auditor.models.adapters.gemma4 import Gemma4Adapter, Gemma4UnifiedAdapter
from auditor.models.adapters.gemma4_text import Gemma4TextAdapter, Gemma4UnifiedTextAdapter
from auditor.models.adapters.glm4v import Glm4vAdapter, Glm4vMoeAdapter, Glm46vAdapter, GlmOcrAdapter
from auditor.models.adapters.gpt2 import GPT2_LIKE
from auditor.models.adapters.gpt_neox import NEOX_LIKE
from auditor.models.adapters.hybrid import HYBRID
from auditor.models.adapters.idefics import IdeficsAdapter
from auditor.models.adapters.idefics2 import Idefics2Adapter
from auditor.models.adapters.idefics3 import Idefics3Adapter, SmolvlmAdapter
from auditor.models.adapters.instructblip import InstructBlipAdapter, InstructBlipT5Adapter
from auditor.models.adapters.internvl import InternVlAdapter
from auditor.models.adapters.llama import LLAMA_LIKE
from auditor.models.adapters.llama4 import Llama4Adapter
from auditor.models.adapters.llava import LlavaAdapter
from auditor.models.adapters.llava_next import LlavaNextAdapter
from auditor.models.adapters.llava_onevision import LlavaOnevisionAdapter
from auditor.models.adapters.mamba import FalconMambaAdapter, Mamba2Adapter, MambaAdapter
from auditor.models.adapters.mistral3 import LightOnOcrAdapter, Mistral3Adapter
from auditor.models.adapters.mllama import MllamaAdapter
from auditor.models.adapters.mobilenet_v1 import MobilenetV1Adapter
from auditor.models.adapters.mobilenet_v2 import MobilenetV2Adapter
from auditor.models.adapters.modernbert import ModernBertAdapter, ModernBertDecoderAdapter
from auditor.models.adapters.mpnet import MpnetAdapter
from auditor.models.adapters.nemotron_h import NemotronHAdapter
from auditor.models.adapters.nomic_bert import GteAdapter, JinaEmbeddingsV3Adapter, NomicBertAdapter
from auditor.models.adapters.opt import BioGptAdapter, OptAdapter
from auditor.models.adapters.owlvit import OwlVitAdapter
from auditor.models.adapters.packed import PACKED
from auditor.models.adapters.paired import PairedAdapter
from auditor.models.adapters.paligemma import PaligemmaAdapter
from auditor.models.adapters.post_norm import POST_NORM
from auditor.models.adapters.pre_norm import MegatronBertAdapter, RobertaPreLayerNormAdapter, XlmRobertaXlAdapter
from auditor.models.adapters.qwen2_audio import Qwen2AudioAdapter
from auditor.models.adapters.qwen2_vl import Qwen2VlAdapter, Qwen25VlAdapter
from auditor.models.adapters.qwen3_5 import Qwen35Adapter, Qwen35MoeAdapter
from auditor.models.adapters.qwen3_vl import Qwen3VlAdapter, Qwen3VlMoeAdapter
from auditor.models.adapters.recurrent_gemma import RecurrentGemmaAdapter
from auditor.models.adapters.regnet import RegnetAdapter
from auditor.models.adapters.resnet import ResnetAdapter
from auditor.models.adapters.roberta import CamembertAdapter, Data2vecTextAdapter, RobertaAdapter, XlmRobertaAdapter
from auditor.models.adapters.rwkv import RwkvAdapter
from auditor.models.adapters.sam import SamAdapter, SamHqAdapter, SamHqVisionAdapter, SamVisionAdapter
from auditor.models.adapters.sam2 import Sam2Adapter, Sam2VideoAdapter, Sam2VisionAdapter
from auditor.models.adapters.segformer import SegformerAdapter
from auditor.models.adapters.siglip import SiglipAdapter, SiglipVisionAdapter
from auditor.models.adapters.siglip2 import Siglip2Adapter, Siglip2VisionAdapter
from auditor.models.adapters.swin import SwinAdapter, Swinv2Adapter
from auditor.models.adapters.t5 import Mt5Adapter, T5Adapter, Umt5Adapter
from auditor.models.adapters.t5gemma import T5GemmaAdapter
from auditor.models.adapters.vit import DeitAdapter, IjepaAdapter, VitAdapter, VitMsnAdapter
from auditor.models.adapters.vit_mae import VitMaeAdapter
from auditor.models.adapters.wav2vec2 import (
    Data2vecAudioAdapter,
    HubertAdapter,
    UnispeechAdapter,
    UnispeechSatAdapter,
    Wav2Vec2Adapter,
)
from auditor.models.adapters.wav2vec2_conformer import Wav2Vec2BertAdapter, Wav2Vec2ConformerAdapter
from auditor.models.adapters.wavlm import WavlmAdapter
from auditor.models.adapters.whisper import WhisperAdapter
from auditor.models.adapters.xlstm import XlstmAdapter
from auditor.models.adapters.zamba2 import Zamba2Adapter

_LISTED: tuple[type[Adapter], ...] = (
    *LLAMA_LIKE,
    *POST_NORM,
    Gemma3nTextAdapter,
    Gemma4TextAdapter,
    Gemma4UnifiedTextAdapter,
    RecurrentGemmaAdapter,
    *PACKED,
    *DEEPSEEK,
    *HYBRID,
    NemotronHAdapter,
    FalconH1Adapter,
    *GPT2_LIKE,
    *NEOX_LIKE,
    OptAdapter,
    BioGptAdapter,
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
    ModernBertAdapter,
    ModernBertDecoderAdapter,
    EsmAdapter,
    ErnieAdapter,
    RembertAdapter,
    MegatronBertAdapter,
    XlmRobertaXlAdapter,
    RobertaPreLayerNormAdapter,
    Data2vecTextAdapter,
    RoformerAdapter,
    NomicBertAdapter,
    GteAdapter,
    JinaEmbeddingsV3Adapter,
    EuroBertAdapter,
    EsmcAdapter,
    *BART_LIKE,
    T5Adapter,
    Mt5Adapter,
    Umt5Adapter,
    T5GemmaAdapter,
    MambaAdapter,
    FalconMambaAdapter,
    Mamba2Adapter,
    RwkvAdapter,
    XlstmAdapter,
    Zamba2Adapter,
    WhisperAdapter,
    Wav2Vec2Adapter,
    HubertAdapter,
    WavlmAdapter,
    UnispeechAdapter,
    UnispeechSatAdapter,
    Data2vecAudioAdapter,
    Wav2Vec2ConformerAdapter,
    Wav2Vec2BertAdapter,
    AudioSpectrogramAdapter,
    ClapAdapter,
    VitAdapter,
    VitMsnAdapter,
    VitMaeAdapter,
    IjepaAdapter,
    DeitAdapter,
    BeitAdapter,
    Dinov2Adapter,
    Dinov2WithRegistersAdapter,
    Dinov3Adapter,
    SwinAdapter,
    Swinv2Adapter,
    SegformerAdapter,
    SamAdapter,
    SamVisionAdapter,
    SamHqAdapter,
    SamHqVisionAdapter,
    Sam2Adapter,
    Sam2VideoAdapter,
    Sam2VisionAdapter,
    ResnetAdapter,
    RegnetAdapter,
    ConvnextAdapter,
    ConvnextV2Adapter,
    Dinov3ConvnextAdapter,
    MobilenetV1Adapter,
    MobilenetV2Adapter,
    EfficientnetAdapter,
    ClipAdapter,
    ClipTextAdapter,
    ClipVisionAdapter,
    MetaClip2Adapter,
    MetaClip2VisionAdapter,
    ChineseClipAdapter,
    ClipSegAdapter,
    OwlVitAdapter,
    Aimv2VisionAdapter,
    SiglipAdapter,
    SiglipVisionAdapter,
    Siglip2Adapter,
    Siglip2VisionAdapter,
    BlipAdapter,
    Blip2Adapter,
    Blip2T5Adapter,
    InstructBlipAdapter,
    InstructBlipT5Adapter,
    LlavaAdapter,
    LlavaNextAdapter,
    LlavaOnevisionAdapter,
    PaligemmaAdapter,
    Gemma3Adapter,
    ShieldGemma2Adapter,
    Gemma3nAdapter,
    Gemma4Adapter,
    Gemma4UnifiedAdapter,
    IdeficsAdapter,
    MllamaAdapter,
    Llama4Adapter,
    Idefics2Adapter,
    Idefics3Adapter,
    SmolvlmAdapter,
    InternVlAdapter,
    AyaVisionAdapter,
    Mistral3Adapter,
    LightOnOcrAdapter,
    Qwen2AudioAdapter,
    Qwen2VlAdapter,
    Qwen25VlAdapter,
    Qwen3VlAdapter,
    Qwen3VlMoeAdapter,
    Qwen35Adapter,
    Qwen35MoeAdapter,
    Glm4vAdapter,
    Glm46vAdapter,
    Glm4vMoeAdapter,
    GlmOcrAdapter,
    EfficientNetLiteAdapter,
    PairedAdapter,
)
ADAPTERS: dict[str, type[Adapter]] = {adapter.family: adapter for adapter in _LISTED}
