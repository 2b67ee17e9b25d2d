"""The library's own processors: texts with pictures among them, as a family wants them that has no adapter here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import read_config_json
from auditor.models.inputs import Inputs, Row, padded
from auditor.models.marks import MARK, around_pictures
from auditor.models.pictures import LARGEST
from auditor.models.tokens import special_ids

_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
          "tokenizer_config.json")  # fmt: skip
_LARGEST_AREA = 1 << 28


def load_processor(folder: Path) -> Any | None:
    """The processor of a model folder, or None where it has none that works here. AuditorError where one of its files
    asks to run code."""
    held = [folder / name for name in _FILES if (folder / name).exists()]
    for file in held:
        if "auto_map" in read_config_json(file):
            raise AuditorError(
                f"{file.name} in “{folder.name}” asks to run code that the folder brings (auto_map).",
                "The folder was not opened and nothing from it was run.",
            )
    said = [read_config_json(file) for file in held if "processor" in file.name]
    if not said or not all(_moderate(one) for one in said):
        return None
    from transformers import AutoProcessor

    try:
        found = AutoProcessor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, backend="pil"
        )
    except Exception:
        return None
    if not hasattr(found, "image_processor") or not hasattr(found, "tokenizer"):
        return None
    found.tokenizer.padding_side = "right"
    return found


def _moderate(value: Any, key: str = "") -> bool:
    """Whether no picture can become so large that it fills the memory: no side, and no part of one, beyond `LARGEST`
    pixels; numbers of pixels and of tokens go by other bounds."""
    if isinstance(value, dict):
        return all(_moderate(inner, str(name)) for name, inner in value.items())
    if isinstance(value, list):
        return all(_moderate(inner, key) for inner in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if key == "crop_pct":
        return value > 0.1
    area = key in ("longest_edge", "max_pixels", "min_pixels") or key.endswith("_id")
    return abs(value) <= (_LARGEST_AREA if area else LARGEST)


def joined(
    processor: Any, samples: Sequence[Sample], image_id: int, wanted: Sequence[str], max_tokens: int | None
) -> Inputs:
    """One batch of samples that all have a picture: `beside` holds what the processor makes of the pictures, as far as
    the network has an argument of that name (`wanted`).

    Pictures stand where the sample has them in its text. `max_tokens` counts the text alone.
    AuditorError where the processor cannot do it.
    """
    pictures = [[Image.fromarray(picture.load()) for picture in sample.pictures] for sample in samples]
    texts = [_cut(processor.tokenizer, around_pictures(sample), max_tokens) for sample in samples]
    made = _made(processor, texts, pictures, image_id)
    ids, mask = made["input_ids"], made["attention_mask"].bool()
    special = special_ids(processor.tokenizer)
    rows = [_row(ids[row][mask[row]].tolist(), image_id, special) for row in range(len(samples))]
    beside = {
        name: value
        for name, value in made.items()
        if name in wanted and name not in ("input_ids", "attention_mask") and isinstance(value, Tensor)
    }
    return replace(padded(rows, samples, None, None), beside=beside)


def _made(processor: Any, texts: Sequence[Sequence[str]], pictures: Sequence[Any], image_id: int) -> dict[str, Any]:
    """What the processor gives for texts between which its own mark of a picture stands."""
    marks = [getattr(processor, name, None) for name in ("boi_token", "image_token")]
    first = ""
    for mark in dict.fromkeys(mark for mark in (*marks, MARK) if isinstance(mark, str)):
        written = [mark.join(pieces) for pieces in texts]
        try:
            made = dict(processor(text=written, images=list(pictures), padding=True, return_tensors="pt"))
        except Exception as error:
            first = first or (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            continue
        if bool((made["input_ids"] == image_id).any(dim=-1).all()):
            return made
    raise AuditorError(
        f"The model's processor does not take texts with pictures ({first or 'it leaves the pictures out'}).",
        "Record texts alone.",
    )


def _cut(tokenizer: Any, pieces: Sequence[str], max_tokens: int | None) -> list[str]:
    """The texts around a sample's pictures, of at most `max_tokens` tokens in all."""
    left, found = max_tokens, []
    for text in pieces:
        if left is not None and text:
            ends = [end for _, end in tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]]
            text = text if len(ends) <= left else text[: ends[left - 1] if left else 0]
            left -= min(left, len(ends))
        found.append(text)
    return found


def _row(ids: list[int], image_id: int, special: frozenset[int]) -> Row:
    kinds, units, texts, patches = [], [], 0, 0
    for token in ids:
        kind = PositionKind.IMAGE if token == image_id else PositionKind.TEXT
        kind = PositionKind.SPECIAL if kind == PositionKind.TEXT and token in special else kind
        kinds.append(int(kind))
        units.append(patches if kind == PositionKind.IMAGE else texts if kind == PositionKind.TEXT else -1)
        patches += kind == PositionKind.IMAGE
        texts += kind == PositionKind.TEXT
    return Row([-1 if token == image_id else token for token in ids], kinds, units)


def with_images(inputs: Inputs, image_id: int) -> Tensor:
    """Token numbers with the picture's own number where a picture's tokens stand."""
    is_image = inputs.kind == int(PositionKind.IMAGE)
    return torch.where(is_image, image_id, inputs.ids.clamp(min=0))
