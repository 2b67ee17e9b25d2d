"""Headers of safetensors files: whatever stands in one, the answer is facts or a sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from auditor.base.errors import AuditorError
from auditor.intake.safetensors_header import check_safetensors

SOUND = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(folder: Path, header: Any, data: bytes = bytes(8)) -> Path:
    text = json.dumps(header).encode()
    path = folder / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_that_a_sound_header_is_told(tmp_path: Path) -> None:
    facts = check_safetensors(file_of(tmp_path, {"a": SOUND, "__metadata__": {"format": "pt"}}))
    assert facts.tensors == {"a": ("F32", (2,))} and facts.parameters == 2 and facts.metadata == {"format": "pt"}


@pytest.mark.parametrize(
    "changed",
    [{"dtype": []}, {"dtype": {}}, {"dtype": None}, {"dtype": "F33"}, {"shape": {}}, {"shape": [2.0]}, {"shape": [[2]]},
     {"shape": [-2]}, {"shape": [True, 2]}, {"data_offsets": [8, 0]}, {"data_offsets": [0]}, {"data_offsets": "08"}],
)  # fmt: skip
def test_that_a_strange_entry_is_told_in_a_sentence(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(AuditorError, match="the tensor “a”"):
        check_safetensors(file_of(tmp_path, {"a": SOUND | changed}))
