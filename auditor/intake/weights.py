"""Model folders: what is in one, which family it is of, and why it may not be opened, before anything is loaded.

Nothing here runs or unpickles: `config.json` is read as JSON and checked against a list of families and bounds, the
headers of safetensors files are checked byte for byte, other formats are only recognised by name and first bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from auditor.base.errors import AuditorError
from auditor.intake.library import is_config, known
from auditor.intake.safetensors_header import check_safetensors

# Decoders, whose families are named as config.json names them.
DECODERS = (
    "llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "smollm3", "helium", "ernie4_5", "seed_oss",
    "hunyuan_v1_dense", "cwm", "gemma", "gemma2", "gemma3_text", "gemma3n_text",
    "gemma4_text", "gemma4_unified_text", "recurrent_gemma", "vaultgemma", "olmo", "olmo2",
    "olmo3", "exaone4", "arcee", "jais2", "nemotron", "apertus", "starcoder2", "stablelm", "granite", "cohere",
    "cohere2", "glm", "glm4", "phi", "phi3", "persimmon", "llama4_text", "mixtral", "qwen2_moe", "qwen3_moe",
    "olmoe", "phimoe", "gpt_oss", "granitemoe", "deepseek_v2", "deepseek_v3", "ernie4_5_moe", "glm4_moe", "dots1",
    "minimax_m2", "hunyuan_v1_moe", "lfm2", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "granitemoehybrid",
    "granitemoeshared", "jamba", "bamba", "olmo_hybrid", "nemotron_h", "falcon_h1", "lfm2_moe", "glm4_moe_lite",
    "mistral4", "youtu", "minicpm3", "exaone_moe", "solar_open", "hy_v3", "cohere2_moe", "nanochat", "codegen",
    "internlm3", "iquestcoder", "granite_swa", "granitemoe_swa", "mellum", "deepseek_v32", "glm_moe_dsa", "flex_olmo",
    "kolibri1", "lfm3", "kimi_linear", "bailing_hybrid", "minimax_m3_vl_text", "aria_text", "bitnet", "afmoe", "dbrx",
    "xlstm", "laguna", "mimo_v2_flash", "zamba2",
    "biogpt", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "gpt_neox", "bloom", "falcon", "mpt", "opt",
)  # fmt: skip
# model_type in config.json → family (one adapter each in auditor.models.adapters).
FAMILIES: Mapping[str, str] = dict(zip(DECODERS, DECODERS, strict=True)) | {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "xlm_roberta",
    "camembert": "camembert",
    "distilbert": "distilbert",
    "albert": "albert",
    "electra": "electra",
    "deberta": "deberta",
    "deberta-v2": "deberta_v2",
    "mpnet": "mpnet",
    "modernbert": "modernbert",
    "esm": "esm",
    "ernie": "ernie",
    "rembert": "rembert",
    "megatron-bert": "megatron_bert",
    "xlm-roberta-xl": "xlm_roberta_xl",
    "roberta-prelayernorm": "roberta_prelayernorm",
    "data2vec-text": "data2vec_text",
    "roformer": "roformer",
    "nomic_bert": "nomic_bert",
    "gte": "gte",
    "jina_embeddings_v3": "jina_embeddings_v3",
    "eurobert": "eurobert",
    "esmc": "esmc",
    "bart": "bart",
    "plbart": "plbart",
    "marian": "marian",
    "blenderbot": "blenderbot",
    "blenderbot-small": "blenderbot-small",
    "mbart": "mbart",
    "pegasus": "pegasus",
    "m2m_100": "m2m_100",
    "t5": "t5",
    "t5gemma": "t5gemma",
    "mt5": "mt5",
    "umt5": "umt5",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "falcon_mamba": "falcon_mamba",
    "openai-gpt": "openai_gpt",
    "modernbert-decoder": "modernbert_decoder",
    "rwkv": "rwkv",
    "whisper": "whisper",
    "wav2vec2": "wav2vec2",
    "hubert": "hubert",
    "wavlm": "wavlm",
    "unispeech": "unispeech",
    "unispeech-sat": "unispeech_sat",
    "data2vec-audio": "data2vec_audio",
    "wav2vec2-conformer": "wav2vec2_conformer",
    "wav2vec2-bert": "wav2vec2_bert",
    "audio-spectrogram-transformer": "audio_spectrogram_transformer",
    "vit": "vit",
    "vit_msn": "vit_msn",
    "vit_mae": "vit_mae",
    "ijepa": "ijepa",
    "deit": "deit",
    "beit": "beit",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2_with_registers",
    "dinov3_vit": "dinov3_vit",
    "swin": "swin",
    "swinv2": "swinv2",
    "segformer": "segformer",
    "sam": "sam",
    "sam_vision_model": "sam_vision",
    "sam_hq": "sam_hq",
    "sam_hq_vision_model": "sam_hq_vision",
    "sam2": "sam2",
    "sam2_video": "sam2_video",
    "sam2_vision_model": "sam2_vision",
    "resnet": "resnet",
    "regnet": "regnet",
    "convnext": "convnext",
    "convnextv2": "convnextv2",
    "dinov3_convnext": "dinov3_convnext",
    "mobilenet_v1": "mobilenet_v1",
    "mobilenet_v2": "mobilenet_v2",
    "efficientnet": "efficientnet",
    "clap": "clap",
    "clip": "clip",
    "clip_text_model": "clip_text",
    "clip_vision_model": "clip_vision",
    "metaclip_2": "metaclip_2",
    "metaclip_2_vision_model": "metaclip_2_vision",
    "chinese_clip": "chinese_clip",
    "clipseg": "clipseg",
    "owlvit": "owlvit",
    "aimv2_vision_model": "aimv2_vision",
    "siglip": "siglip",
    "siglip_vision_model": "siglip_vision",
    "siglip2": "siglip2",
    "siglip2_vision_model": "siglip2_vision",
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_onevision": "llava_onevision",
    "paligemma": "paligemma",
    "gemma3": "gemma3",
    "shieldgemma2": "shieldgemma2",
    "gemma3n": "gemma3n",
    "gemma4": "gemma4",
    "gemma4_unified": "gemma4_unified",
    "idefics": "idefics",
    "mllama": "mllama",
    "llama4": "llama4",
    "blip": "blip",
    "blip-2": "blip_2",
    "instructblip": "instructblip",
    "idefics2": "idefics2",
    "idefics3": "idefics3",
    "smolvlm": "smolvlm",
    "internvl": "internvl",
    "aya_vision": "aya_vision",
    "mistral3": "mistral3",
    "lighton_ocr": "lighton_ocr",
    "qwen2_audio": "qwen2_audio",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl_moe",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5_moe",
    "glm4v": "glm4v",
    "glm46v": "glm46v",
    "glm4v_moe": "glm4v_moe",
    "glm_ocr": "glm_ocr",
    "efficientnet-lite0": "efficientnet_lite",
    "auditor-paired": "paired",
}
SPEAKERS: Mapping[str, Mapping[str, str]] = {
    "blip": {"blip_text_model": "blip"},
    "blip_2": {"opt": "blip_2", "t5": "blip_2_t5"},
    "instructblip": {"llama": "instructblip", "t5": "instructblip_t5"},
}
"""Of families that speak through networks of several kinds: the model_type of that network, the usual one first → its
own family."""
GENERIC = "generic"
"""The family of what has no adapter and transformers builds by itself."""
NESTED_TYPES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llava": {
        "text_config": ("llama", "mistral", "qwen2"),
        "vision_config": ("clip_vision_model", "siglip_vision_model"),
    },
    "llava_next": {
        "text_config": ("llama", "mistral", "qwen2"),
        "vision_config": ("clip_vision_model", "siglip_vision_model"),
    },
    "llava_onevision": {
        "text_config": ("qwen2", "llama", "mistral"),
        "vision_config": ("siglip_vision_model", "clip_vision_model"),
    },
    "paligemma": {"text_config": ("gemma", "gemma2"), "vision_config": ("siglip_vision_model",)},
    "gemma3": {"text_config": ("gemma3_text",), "vision_config": ("siglip_vision_model",)},
    "shieldgemma2": {"text_config": ("gemma3_text",), "vision_config": ("siglip_vision_model",)},
    "gemma3n": {
        "text_config": ("gemma3n_text",),
        "vision_config": ("gemma3n_vision",),
        "audio_config": ("gemma3n_audio",),
    },
    "gemma4": {"text_config": ("gemma4_text",), "vision_config": ("gemma4_vision",), "audio_config": ("gemma4_audio",)},
    "gemma4_unified": {
        "text_config": ("gemma4_unified_text",),
        "vision_config": ("gemma4_unified_vision",),
        "audio_config": ("gemma4_unified_audio",),
    },
    "llama4": {"text_config": ("llama4_text",), "vision_config": ("llama4_vision_model",)},
    "mllama": {"text_config": ("mllama_text_model",), "vision_config": ("mllama_vision_model",)},
    "idefics2": {"text_config": ("mistral",)},
    "idefics3": {"text_config": ("llama",)},
    "smolvlm": {"text_config": ("llama",)},
    "internvl": {"text_config": ("qwen2", "qwen3", "llama")},
    "aya_vision": {"text_config": ("cohere2", "cohere"), "vision_config": ("siglip_vision_model",)},
    "mistral3": {"text_config": ("mistral", "ministral3"), "vision_config": ("pixtral",)},
    "lighton_ocr": {"text_config": ("qwen3",), "vision_config": ("pixtral",)},
}
# Keys that name weights outside the folder.
_ELSEWHERE = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "base_model_name_or_path")
NOT_OPENED = "The folder was not opened and nothing from it was run."
MAX_CONFIG_BYTES = 4 << 20
MAX_LAYERS = 1024
MAX_EXPERTS = 1 << 14
MAX_SIZE = 1 << 21
MAX_FACTOR = 64
# Blocks of each stage of a network in stages, and what families of convolutional networks are scaled by.
STAGES = ("depths", "num_block_repeats")
FACTORS = ("depth_coefficient", "width_coefficient", "depth_multiplier")
SIZES = (
    "_size", "_heads", "_dim", "_labels", "_embeddings", "_positions", "_bins", "n_embd", "n_inner", "n_head",
    "d_model", "d_ff", "d_kv",
)  # fmt: skip

Format = Literal["safetensors", "pickle", "gguf"]


@dataclass(frozen=True)
class ModelFacts:
    """What a model folder holds.

    `files` are (name, bytes); `weights` the files that hold tensors; `refusals` are sentences, empty if it may be
    opened; `notes` tell what is in the folder and is never used. `parameters` is 0 where only loading could tell.
    """

    folder: Path
    name: str
    family: str
    model_type: str
    architectures: tuple[str, ...]
    config: dict[str, Any]
    files: tuple[tuple[str, int], ...]
    weights: tuple[Path, ...]
    format: Format
    parameters: int
    refusals: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(path.stat().st_size for path in self.weights)


def inspect_model(folder: Path | str) -> ModelFacts:
    """The facts of a local model folder, or of a GGUF file. AuditorError if it is no model at all."""
    path = Path(folder)
    if not path.exists():
        raise AuditorError(f"There is no model at “{path}”.", "Choose a folder on this machine; nothing is downloaded.")
    if path.is_dir() and (links := _link_refusals(path)):  # before a byte is read through one
        raise AuditorError(links[0], NOT_OPENED)
    gguf = _gguf_of(path)
    if gguf is not None:
        return _gguf_facts(path, gguf)
    if not path.is_dir():
        raise AuditorError(
            f"“{path.name}” is a file, not a model folder.", "Choose the folder that holds config.json, or a GGUF file."
        )
    config = read_config_json(path / "config.json")
    model_type = str(config.get("model_type", ""))
    files = tuple(sorted((str(p.relative_to(path)), p.stat().st_size) for p in _files(path)))
    refusals = _config_refusals(config)
    family = _family(model_type, config)
    if not family and not refusals and model_type and known(model_type):
        family = GENERIC
        refusals += _foreign_parts(config)
    if not family and not refusals:
        refusals.append(f"config.json in “{path.name}” {_unknown(model_type)}.")
    if any(name == "adapter_config.json" for name, _ in files):
        refusals.append(f"“{path.name}” holds an adapter beside a whole model, so that it could mean either.")
    weights, form, parameters = _weights(path, family, config)
    notes = tuple(f"{name} is never run" for name, _ in files if name.endswith(".py"))
    return ModelFacts(
        folder=path, name=path.resolve().name, family=family, model_type=model_type,
        architectures=_architectures(config), config=config, files=files,
        weights=weights, format=form, parameters=parameters, refusals=tuple(refusals), notes=notes,
    )  # fmt: skip


def _unknown(model_type: str) -> str:
    """What is said of a family that nobody here knows, with the nearest of those that have an adapter."""
    if not model_type:
        return "names no family (model_type)"
    alike = get_close_matches(model_type[:60], FAMILIES, 3)
    near = f"; the nearest are {', '.join(f'“{name}”' for name in alike)}" if alike else ""
    return f"names the family “{model_type}”, which neither this program nor the installed transformers knows{near}"


def _family(model_type: str, config: dict[str, Any]) -> str:
    """Of a network that has an adapter. BLIP's are of those that speak, if by an OPT by one with norms before each
    part."""
    family = FAMILIES.get(model_type, "")
    if family not in SPEAKERS:
        return family
    text = config.get("text_config")
    said = text if isinstance(text, dict) else {}
    speaks = any(name.endswith("ForConditionalGeneration") for name in _architectures(config))
    usual = said.get("do_layer_norm_before", True)
    kinds = SPEAKERS[family]
    return kinds.get(str(said.get("model_type", next(iter(kinds)))), "") if speaks and usual else ""


def checked_model(folder: Path | str) -> ModelFacts:
    """`inspect_model`, and AuditorError with the first refusal if there is one."""
    facts = inspect_model(folder)
    if facts.refusals:
        raise AuditorError(facts.refusals[0], NOT_OPENED)
    return facts


def read_config_json(path: Path) -> dict[str, Any]:
    """A model's config.json. AuditorError if it is missing, too large or not a JSON object."""
    name = f"“{path.parent.name}”"
    hint = "Choose the folder that holds config.json and the weights."
    if not path.is_file():
        raise AuditorError(f"{name} is not a model folder: it has no {path.name}.", hint)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise AuditorError(f"{path.name} in {name} is larger than {MAX_CONFIG_BYTES >> 20} MiB.", hint)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AuditorError(f"{path.name} in {name} is not valid JSON.", "Copy the folder again.") from error
    if not isinstance(config, dict):
        raise AuditorError(f"{path.name} in {name} does not hold a JSON object.", hint)
    return config


def beside(folder: Path, relative: object) -> Path:
    """The folder that a paired model names: directly below or beside the model's own. AuditorError otherwise."""
    text = str(relative)
    target = (folder / text).resolve()
    inside = target.parent in (folder.resolve(), folder.resolve().parent)
    if not isinstance(relative, str) or Path(text).is_absolute() or not inside or target == folder.resolve():
        raise AuditorError(
            f"config.json in “{folder.name}” points to “{text}”, outside the folder that holds the model.",
            "A paired model may only name folders that lie beside it.",
        )
    return target


def _architectures(config: dict[str, Any]) -> tuple[str, ...]:
    named = config.get("architectures")
    return tuple(str(name) for name in named) if isinstance(named, list) else ()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path


def _config_refusals(config: dict[str, Any]) -> list[str]:
    """Why this config.json may not be followed: code, remote names, foreign attention, absurd sizes."""
    refusals = []
    nested = NESTED_TYPES.get(str(config.get("model_type")), {})
    for key, allowed in nested.items():
        inner = config.get(key)
        if isinstance(inner, dict) and inner.get("model_type", allowed[0]) not in allowed:
            refusals.append(f"config.json names “{inner.get('model_type')}” as {key}; allowed: {', '.join(allowed)}.")
    for where, key, value in _walk(config, ""):
        if key in ("auto_map", "custom_pipelines", "trust_remote_code"):
            refusals.append(f"config.json asks to run code that the folder brings ({where}).")
        elif key.startswith("_attn") or key in ("attn_implementation", "_experts_implementation", "use_kernels"):
            refusals.append(f"config.json asks for its own attention code ({where}).")
        elif key == "quantization_config" and value:
            refusals.append(_quantised(value))
        elif key in _ELSEWHERE and value:
            refusals.append(f"config.json asks for parts that Auditor does not load ({where}).")
        elif isinstance(value, int) and not isinstance(value, bool):
            limit = MAX_LAYERS if key.endswith(("_layers", "n_layer", "num_blocks")) or key == "depth" else None
            sized = key.endswith(SIZES)
            limit = MAX_EXPERTS if key.endswith("_experts") else limit
            limit = limit or (MAX_SIZE * 8 if key == "max_position_embeddings" else MAX_SIZE if sized else None)
            if limit is not None and not -1 <= value <= limit:
                refusals.append(f"config.json gives an impossible size: {where} = {value}.")
        elif (key in STAGES and _blocks(value) > MAX_LAYERS) or (key in FACTORS and not _factor(value)):
            refusals.append(f"config.json gives an impossible size: {where} = {str(value)[:80]}.")
    return refusals


def _blocks(value: Any) -> int:
    """How many blocks a list of stages has."""
    listed = value if isinstance(value, list) else [value]
    return sum(number for number in listed if isinstance(number, int) and number > 0)


def _factor(value: Any) -> bool:
    """Whether a network could be so many times as wide or deep as its family's smallest."""
    return not isinstance(value, (int, float)) or 0 < value <= MAX_FACTOR


def _quantised(config: Any) -> str:
    """What these weights are kept in, and what would open."""
    method = str(config.get("quant_method", "")) if isinstance(config, dict) else ""
    if method == "bitsandbytes":
        return (
            "The weights are kept in the 8 or 4 bits of bitsandbytes, which needs CUDA to be read; the same model in "
            "float32, float16 or bfloat16 opens (with --dtype int8 or int4 in as little memory), and so does a GGUF "
            "file of it."
        )
    return (
        f"The weights are quantised ({method or 'by an unnamed method'}), which Auditor does not read; the same model "
        "in float32, float16 or bfloat16 opens (with --dtype int8 or int4 in little memory), and so does a GGUF file."
    )


def _foreign_parts(config: dict[str, Any]) -> list[str]:
    """Parts of a network that transformers does not know either."""
    return [
        f"config.json names “{value}” as a part of the network ({where}), which the installed transformers lacks."
        for where, key, value in _walk(config, "")
        if key == "model_type" and where != "model_type" and value and not is_config(value)
    ]


def _walk(value: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Every (path, key, value) of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{where}.{key}" if where else str(key)
            yield path, str(key), inner
            yield from _walk(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, where)


def _link_refusals(folder: Path) -> list[str]:
    """Links that leave the folder could show another file of this machine; a hub cache's own blobs are let through."""
    root = folder.resolve()
    allowed = root.parent.parent if root.parent.name == "snapshots" else root
    return [
        f"“{path.name}” in “{folder.name}” is a link to a file outside the folder."
        for path in folder.rglob("*")
        if leads_out(path, allowed)
    ]


def own_of(folder: Path) -> Path:
    """Where links in a folder may lead: to what is in it, and in a hub's cache to what is of the same repository."""
    root = folder.resolve()
    hubs = (up.parent.parent for up in (root, *root.parents) if up.parent.name == "snapshots")
    return next((hub for hub in hubs if hub.name.startswith(("models--", "datasets--"))), root)


def leads_out(path: Path, root: Path) -> bool:
    """Whether `path` is a link that leads out of the folder `root`, or in a ring."""
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return True


def _weights(folder: Path, family: str, config: dict[str, Any]) -> tuple[tuple[Path, ...], Format, int]:
    if family == "paired":
        file = folder / Path(str(config.get("projector", "projector.safetensors"))).name
        if not file.is_file():
            raise AuditorError(f"“{folder.name}” lacks its weights {file.name}.", "Copy the whole folder again.")
        return (file,), "safetensors", check_safetensors(file).parameters
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        found = _sharded(folder, index)
    else:
        found = tuple(sorted(folder.glob("*.safetensors")))
        found = tuple(p for p in found if p.name == "model.safetensors") or found
    if found:
        return found, "safetensors", sum(check_safetensors(path).parameters for path in found)
    pickled = tuple(sorted(p for ending in ("*.bin", "*.pth", "*.pt") for p in folder.glob(ending)))
    pickled = tuple(p for p in pickled if p.name not in ("training_args.bin", "optimizer.pt", "scheduler.pt"))
    if pickled:
        return pickled, "pickle", 0
    raise AuditorError(
        f"“{folder.name}” has a config.json but no weights.", "It should hold model.safetensors; copy the folder again."
    )


def _sharded(folder: Path, index: Path) -> tuple[Path, ...]:
    names = read_config_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise AuditorError(f"{index.name} in “{folder.name}” has no usable weight_map.", "Copy the folder again.")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise AuditorError(f"{index.name} in “{folder.name}” names “{name}”, which is no file of the folder.", "")
        if not (folder / name).is_file():
            raise AuditorError(f"“{folder.name}” lacks {name}, one of {len(files)} files of weights.", "Copy it again.")
    return tuple(folder / name for name in files)


def _gguf_of(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise AuditorError(f"“{path.name}” holds {len(files)} GGUF files.", "Choose one of the files itself.")
        return files[0] if files else None
    return None


def _gguf_facts(path: Path, file: Path) -> ModelFacts:
    with open(file, "rb") as opened:
        magic = opened.read(4)
    if magic != b"GGUF":
        raise AuditorError(f"“{file.name}” is named GGUF but does not start as one.", "Copy the file again.")
    return ModelFacts(
        folder=path, name=file.stem, family="", model_type="gguf", architectures=(), config={},
        files=((file.name, file.stat().st_size),), weights=(file,), format="gguf", parameters=0, refusals=(),
        notes=("GGUF is converted in a child process, once, which takes half a minute",),
    )  # fmt: skip
