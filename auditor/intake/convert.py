"""Weights that are not safetensors, turned into them by a jailed child: tensors of a pickle, GGUF blocks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from auditor.base.errors import AuditorError
from auditor.intake.jail import Limits, jailed
from auditor.intake.weights import ModelFacts

TOKENIZER_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
    "special_tokens_map.json", "preprocessor_config.json", "processor_config.json",
    "chat_template.jinja",
)  # fmt: skip


def convert_pickle(facts: ModelFacts, target: Path) -> None:
    """Write `facts`' .bin, .pt or .pth tensors as model.safetensors into `target`, with config and tokenizer.

    Only tensors are accepted (torch's weights_only); AuditorError if the file holds anything else.
    """
    for name in TOKENIZER_FILES:
        if (facts.folder / name).is_file():
            shutil.copy(facts.folder / name, target / name)
    paths = [str(path.resolve()) for path in facts.weights]
    jailed("auditor.intake.convert:tensors_of_pickles", paths, str(target.resolve()), limits=_limits(facts))


def convert_gguf(facts: ModelFacts, target: Path) -> None:
    """Write a GGUF file's dequantised weights, config and tokenizer into `target` (half a minute for 100 MB)."""
    source = str(facts.weights[0].resolve())
    jailed("auditor.intake.convert:folder_of_gguf", source, str(target.resolve()), limits=_limits(facts))


def _limits(facts: ModelFacts) -> Limits:
    # A 4-bit block grows eightfold, and tensors exist twice while they are written; libraries map a few GiB themselves.
    return Limits(
        memory_bytes=(12 << 30) + 24 * facts.bytes,
        cpu_seconds=1800,
        wall_seconds=900.0,
        file_bytes=16 * facts.bytes + (1 << 28),
    )


def tensors_of_pickles(paths: list[str], target: str) -> int:
    """Runs in the child: the number of tensors written."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise AuditorError(
                f"“{Path(path).name}” holds more than tensors or is damaged, so it was not read.",
                "Ask for the weights as safetensors, which cannot carry code.",
            ) from error
        loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
        if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
            raise AuditorError(f"“{Path(path).name}” is not a table of tensors.", "Choose the file of the weights.")
        tensors |= {str(name): value.detach().clone().contiguous() for name, value in loaded.items()}
    save_file(tensors, str(Path(target) / "model.safetensors"), metadata={"format": "pt"})
    return len(tensors)


def folder_of_gguf(source: str, target: str) -> int:
    """Runs in the child: an ordinary folder, bfloat16 weights; gives the number of tensors."""
    import tempfile

    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = Path(source)
    with tempfile.TemporaryDirectory() as empty:
        # The library looks for other files beside a GGUF file: it gets a folder that holds nothing else.
        (Path(empty) / file.name).symlink_to(file)
        try:
            network = AutoModelForCausalLM.from_pretrained(
                empty, gguf_file=file.name, dtype=torch.float32, local_files_only=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(empty, gguf_file=file.name, local_files_only=True)
        except Exception as error:
            raise AuditorError(f"“{file.name}” cannot be converted.", "It is damaged or of another family.") from error
    tied = set(getattr(network, "_tied_weights_keys", None) or ()) if network.config.tie_word_embeddings else set()
    weights = {n: v.to(torch.bfloat16).contiguous() for n, v in network.state_dict().items() if n not in tied}
    save_file(weights, str(Path(target) / "model.safetensors"), metadata={"format": "pt"})
    config = {k: v for k, v in network.config.to_dict().items() if k != "quantization_config" and k[0] != "_"}
    config |= {"architectures": [type(network).__name__], "dtype": "bfloat16"}
    (Path(target) / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer.save_pretrained(target)
    return len(weights)
