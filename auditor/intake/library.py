"""What the installed transformers builds by itself: classes that its own lists name for a model_type, none else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

# In the order in which they are tried where config.json names no class: what writes or fills in words goes first.
_LISTS = (
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
    "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
# Built by looking elsewhere: for an index of documents, for another library's network.
_NEVER = ("rag", "timm_backbone", "timm_wrapper")


@dataclass(frozen=True)
class Known:
    """Names of transformers' classes for a model_type: of its config, and of its networks, the likeliest first."""

    config: str
    networks: tuple[str, ...]


@cache
def known(model_type: str) -> Known | None:
    """None where the installed transformers has no network of its own for it, or only one that needs more than the
    folder."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config = CONFIG_MAPPING_NAMES.get(model_type)
    if config is None or model_type in _NEVER:
        return None
    networks: list[str] = []
    for name in _LISTS:
        listed: Any = getattr(modeling_auto, name, {}).get(model_type, ())
        networks += [listed] if isinstance(listed, str) else list(listed)
    return Known(str(config), tuple(dict.fromkeys(networks))) if networks else None


def is_config(model_type: object) -> bool:
    """Whether transformers has a config of this model_type: what a part of a network may name."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING_NAMES and model_type not in _NEVER
