"""Tokenizers from a model folder, and token strings that a person can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from auditor.base.errors import AuditorError
from auditor.data.tokenizing import encodings
from auditor.intake.weights import read_config_json

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
_special: WeakKeyDictionary[Any, frozenset[int]] = WeakKeyDictionary()


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder, or None if it has none. AuditorError if its files are damaged."""
    settings = read_config_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    if settings.get("auto_map"):
        raise AuditorError(
            f"tokenizer_config.json in “{folder.name}” asks to run code that the folder brings (auto_map).",
            "The folder was not opened and nothing from it was run.",
        )
    file = folder / "tokenizer.json"
    try:
        if file.is_file():
            return _from_json(file, settings)
        if any((folder / name).is_file() for name in ("vocab.txt", "vocab.json")):
            from transformers import AutoTokenizer

            found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            return _with_its_words(found, folder)
    except AuditorError:
        raise
    except Exception as error:
        raise AuditorError(f"The tokenizer in “{folder.name}” cannot be read.", "Copy the folder again.") from error
    return None


def _with_its_words(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer, which has the words of vocab.txt. AuditorError where the library has none that reads this file for
    the family: it then gives one of a few special tokens, to which every text is unknown."""
    file = folder / "vocab.txt"
    count = len(file.read_bytes().splitlines()) if file.is_file() else 0
    if len(tokenizer) < count / 2:
        raise AuditorError(
            f"vocab.txt in “{folder.name}” holds {count:,} tokens, but nothing there says how a text is cut into them.",
            "Add tokenizer.json, which says both: tokenizers and transformers write it (save, save_pretrained).",
        )
    return tokenizer


def _from_json(file: Path, settings: dict[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    specials = {}
    for name in SPECIAL_NAMES:
        value = settings.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            specials[name] = value
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), **specials)
    tokenizer.chat_template = _template_in(settings)
    for name in ("chat_template.jinja", "chat_template.json"):
        template = file.parent / name
        if template.is_file():
            text = template.read_text(encoding="utf-8")
            tokenizer.chat_template = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
    return tokenizer


def _template_in(settings: dict[str, Any]) -> str | None:
    """The chat template of tokenizer_config.json: one, or several by name."""
    held = settings.get("chat_template")
    if isinstance(held, list):
        named = {item.get("name"): item.get("template") for item in held if isinstance(item, dict)}
        held = named.get("default")
    return held if isinstance(held, str) else None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Numbers of all tokens that mark structure; looked up once for each tokenizer, since every batch asks."""
    if tokenizer not in _special:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marks = {number for number, token in added.items() if token.special}
        _special[tokenizer] = frozenset(tokenizer.all_special_ids) | marks
    return _special[tokenizer]


def encode_texts(tokenizer: Any, texts: Sequence[str], *, begin: bool, max_tokens: int | None) -> list[list[int]]:
    """Token numbers of each text, with the tokenizer's own special tokens.

    With `begin`, a begin token stands first even if the tokenizer adds none: the first position of a causal network
    is its attention sink, with activations a hundred times larger than elsewhere, and no word should have to be it.
    """
    if not texts:
        return []
    rows = _numbers(tokenizer, list(texts))
    first = begin_token(tokenizer) if begin else None
    if first is not None:
        rows = [row if row[:1] == [first] else [first, *row] for row in rows]
        # A chat template may have written the begin token that the tokenizer then puts first once more.
        rows = [row[1:] if row[:2] == [first, first] else row for row in rows]
    return [row if max_tokens is None else row[:max_tokens] for row in rows]


def _numbers(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = encodings(tokenizer, texts, special=True)
    if encoded is not None:
        return [one.ids for one in encoded]
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]
    return rows


def spelt(tokenizer: Any, text: str, never: int) -> list[int]:
    """Token numbers of a text that spells a special token, taken as the letters that it is: the token itself, `never`,
    is none of them."""
    how = {"add_special_tokens": False, "verbose": False}
    ids: list[int] = tokenizer(text, split_special_tokens=True, **how)["input_ids"]
    if never in ids:  # no special token to this tokenizer, or a word of its own
        ids = [*tokenizer(text[:1], **how)["input_ids"], *tokenizer(text[1:], **how)["input_ids"]]
    return ids


def following(tokenizer: Any, text: str) -> list[int]:
    """Token numbers of a text as it goes on after a word. Some tokenizers (Llama 2, Mistral 7B) put a space before any
    text, so that one that begins with a space has two where it stands alone: the first is a token of its own."""

    def numbers(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])

    alone = numbers(text)
    if not text.startswith(" "):
        return alone
    before, both = numbers("a"), numbers(f"a{text}")
    return both[len(before) :] if both[: len(before)] == before and len(both) > len(before) else alone


def begin_token(tokenizer: Any) -> int | None:
    """The number of the begin token, else of the end token (GPT-2 has one for both), else None."""
    number = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return None if number is None else int(number)


def token_strings(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """A readable string for each token number: bytes decoded, a leading space kept; "" for negative numbers."""
    numbers = [int(number) for number in ids]
    names = tokenizer.convert_ids_to_tokens([max(number, 0) for number in numbers])
    special = special_ids(tokenizer)
    read = _reader(tokenizer)
    shown = []
    for number, name in zip(numbers, names, strict=True):
        shown.append("" if number < 0 else str(name) if name is None or number in special else read(name))
    return shown


def time_string(seconds: float) -> str:
    """What a frame of sound is shown as: when it begins, such as “ 1.28s”."""
    return f" {seconds:.2f}s"


def _reader(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = repr(getattr(backend, "decoder", "")) + repr(getattr(backend, "pre_tokenizer", ""))
    if "ByteLevel" in decoder:
        return _from_byte_alphabet
    if "WordPiece" in decoder:
        return lambda name: name[2:] if name.startswith("##") else f" {name}"
    if "</w>" in repr(getattr(backend, "model", "")):
        return lambda name: f" {name[:-4]}" if name.endswith("</w>") else name
    return lambda name: name.replace("▁", " ")


def _from_byte_alphabet(name: str) -> str:
    alphabet = _byte_alphabet()
    if any(character not in alphabet for character in name):
        return name
    return bytes(alphabet[character] for character in name).decode("utf-8", errors="replace")


@cache
def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE (Radford et al. 2019): character → byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}
