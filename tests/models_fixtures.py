"""Real models for tests: SmolLM2 opened once a session, and cut-down folders of real weights that open at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from auditor.base.paths import sample_models

if TYPE_CHECKING:
    from auditor.models import Model

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def sample_folder(name: str) -> Path:
    """A prepared sample model; the test is skipped where it was not made."""
    folder = sample_models() / name
    if not (folder / "config.json").exists():
        pytest.skip(f"the sample model {name} is not prepared (python sample_data/models.py build/models)")
    return folder


def cut_llama(source: Path, target: Path, layers: int) -> None:
    """The first `layers` blocks of a Llama folder, real weights, as a folder of its own."""
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    kept = {
        name: value
        for name, value in load_file(str(source / "model.safetensors")).items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers
    }
    save_file(kept, str(target / "model.safetensors"), metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}), encoding="utf-8")
    for name in TEXT_FILES:
        if (source / name).exists():
            shutil.copy(source / name, target / name)


def small_projector(target: Path, d_model: int) -> None:
    """An untrained projector of the paired model's shape, seeded, so that tests need no trained one."""
    import torch

    from auditor.models.networks.projector import Projector

    with torch.random.fork_rng():
        torch.manual_seed(5)
        Projector(width=16, concepts=32, d_model=d_model).save(target)


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    return sample_folder("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> Model:
    """SmolLM2-135M-Instruct, float32; shared by the session: leave it as it is."""
    from auditor.models import open_model

    return open_model(smollm2_folder)


@pytest.fixture(scope="session")
def tiny_llama_folder(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two blocks of SmolLM2 with its real weights and tokenizer: opens in a fraction of a second."""
    target = tmp_path_factory.mktemp("models") / "tiny-llama"
    cut_llama(smollm2_folder, target, 2)
    return target


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_folder: Path) -> Model:
    """`tiny_llama_folder`, opened; shared by the session: leave it as it is."""
    from auditor.models import open_model

    return open_model(tiny_llama_folder)


@pytest.fixture(scope="session")
def tiny_paired_folder(tiny_llama_folder: Path) -> Path:
    """A paired model of `tiny_llama_folder` and the real EfficientNet-Lite0, with an untrained projector."""
    vision = tiny_llama_folder.with_name("tiny-vision")
    shutil.copytree(sample_folder("efficientnet-lite0"), vision)
    target = tiny_llama_folder.with_name("tiny-paired")
    target.mkdir()
    small_projector(target / "projector.safetensors", 576)
    config = {
        "model_type": "auditor-paired", "architectures": ["PairedModel"], "text": f"../{tiny_llama_folder.name}",
        "vision": f"../{vision.name}", "projector": "projector.safetensors", "image_tokens": 16, "image_size": 128,
        "prompt": "A picture of",
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


@pytest.fixture(scope="session")
def tiny_paired(tiny_paired_folder: Path) -> Iterator[Model]:
    """`tiny_paired_folder`, opened; shared by the session: leave it as it is."""
    from auditor.models import open_model

    yield open_model(tiny_paired_folder)
