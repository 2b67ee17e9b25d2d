"""Weights that are not safetensors, turned into them by a jailed child: tensors of a pickle, GGUF blocks."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.base.errors import AuditorError
from auditor.base.files import full_disk, system_error
from auditor.intake.jail import Limits, jailed
from auditor.intake.weights import ModelFacts

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Counted up when what is written changes, so that nothing converted before is taken for it."""
TOKENIZER_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
    "special_tokens_map.json", "preprocessor_config.json", "processor_config.json",
    "chat_template.jinja",
)  # fmt: skip
_NO_ROOM = -1


class NoRoom(AuditorError):
    """The disk has no room for what is converted."""


def convert(facts: ModelFacts, target: Path) -> None:
    """Write the weights of `facts` as model.safetensors into the folder `target`, with config and tokenizer: of a
    pickle (.bin, .pt, .pth) its tensors, of a GGUF file its dequantised ones (half a minute for 100 MB).

    Of a pickle only tensors are accepted (torch's weights_only). AuditorError if the file holds anything else, or
    cannot be converted; NoRoom if the disk is full.
    """
    if facts.format == "pickle":
        for name in TOKENIZER_FILES:
            if (facts.folder / name).is_file():
                _copied(facts.folder / name, target / name)
    paths = [str(path.resolve()) for path in facts.weights]
    name = {"pickle": "tensors_of_pickles", "gguf": "folder_of_gguf"}[facts.format]
    if jailed(f"auditor.intake.convert:{name}", paths, str(target.resolve()), limits=_limits(facts)) == _NO_ROOM:
        raise _no_room(target)


def _copied(source: Path, target: Path) -> None:
    try:
        shutil.copy(source, target)
    except OSError as error:
        if full_disk(error):
            raise _no_room(target) from error
        raise AuditorError(f"“{source.name}” cannot be copied ({error.strerror}).", "Copy the folder again.") from error


def _no_room(target: Path) -> NoRoom:
    free = shutil.disk_usage(target.parent).free
    return NoRoom(
        f"The disk is full: there is no room for the converted weights ({free / 1e6:.0f} MB are free).",
        f"Free some room on the disk that holds “{target.parent}”, then open the model again.",
    )


def _limits(facts: ModelFacts) -> Limits:
    # A 4-bit block grows eightfold, and tensors exist twice while they are written; libraries map a few GiB themselves.
    return Limits(
        memory_bytes=(12 << 30) + 24 * facts.bytes,
        cpu_seconds=1800,
        wall_seconds=900.0,
        file_bytes=16 * facts.bytes + (1 << 28),
    )


def tensors_of_pickles(paths: list[str], target: str) -> int:
    """Runs in the child: the number of tensors written; `_NO_ROOM` where the disk is full."""
    import torch

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
    return _done(lambda: _save(tensors, Path(target)), len(tensors))


def folder_of_gguf(paths: list[str], target: str) -> int:
    """Runs in the child: an ordinary folder, bfloat16 weights; gives what `tensors_of_pickles` does."""
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = Path(paths[0])
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
    config = {k: v for k, v in network.config.to_dict().items() if k != "quantization_config" and k[0] != "_"}
    config |= {"architectures": [type(network).__name__], "dtype": "bfloat16"}

    def write() -> None:
        (Path(target) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        tokenizer.save_pretrained(target)
        _save(weights, Path(target))

    return _done(write, len(weights))


def _save(tensors: dict[str, torch.Tensor], target: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, str(target / "model.safetensors"), metadata={"format": "pt"})


def _done(write: Callable[[], None], count: int) -> int:
    """`count` after `write`; `_NO_ROOM` where the disk is full, which is no fault of the file."""
    try:
        write()
    except Exception as error:
        cause = system_error(error)
        if cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return _NO_ROOM
        raise
    return count
