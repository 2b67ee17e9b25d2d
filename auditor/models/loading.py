"""Opening a model: check the folder, convert what must not be read in this process, build, assign the weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from auditor.base.digest import digest_folder, digest_json, sha256_file
from auditor.base.offline import go_offline
from auditor.intake.weights import ModelFacts, beside, checked_model
from auditor.models.adapters import ADAPTERS
from auditor.models.device import device_named
from auditor.models.model import Model
from auditor.models.weights import dtype_named


def open_model(path: Path | str, *, device: str = "cpu", dtype: str = "float32") -> Model:
    """Open a local model folder (or a GGUF file) of a supported family.

    `device` is auto, cpu or cuda; `dtype` float32, bfloat16 (half the memory, fast recording) or float16. Code from the
    folder never runs and no network is used. AuditorError tells why a folder cannot be opened.
    """
    go_offline()
    number_format = dtype_named(dtype)
    chosen = device_named(device)
    facts = checked_model(path)
    if facts.format == "safetensors":
        return _opened(facts, facts, chosen, number_format)
    from auditor.intake.convert import convert_gguf, convert_pickle

    with tempfile.TemporaryDirectory(prefix="auditor-weights-") as scratch:
        converted = Path(scratch) / facts.name
        converted.mkdir()
        (convert_gguf if facts.format == "gguf" else convert_pickle)(facts, converted)
        return _opened(facts, checked_model(converted), chosen, number_format)


def model_digest(path: Path) -> str:
    """SHA-256 that names a model: over its file or folder, and over the folders that a paired model names."""
    if path.is_file():
        return sha256_file(path)
    facts = checked_model(path)
    own = digest_folder(path)
    if facts.family != "paired":
        return own
    parts = [digest_folder(beside(path, facts.config[name])) for name in ("text", "vision")]
    return digest_json([own, *parts])


def _opened(source: ModelFacts, facts: ModelFacts, device: torch.device, dtype: torch.dtype) -> Model:
    adapter = ADAPTERS[facts.family](facts, dtype)
    return Model(source.folder.absolute(), source.name, adapter, device)
