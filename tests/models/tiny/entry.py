"""One tiny network: how it is built, saved, fed, and what transformers itself says of its inside."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.overrides import TorchFunctionMode

from auditor.data import ImageRef, Sample, text_sample
from auditor.models import Inputs, Model, open_model

WORDS = ["<pad>", "<s>", "</s>", "<image>", "one", "two", "three", "red", "cat", "sat"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
BESIDE = ("projector.", "deepstack.", "vision.pool.")
TEXT = SIZES | {"vocab_size": 10, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def word_tokenizer(folder: Path, *, ends: bool, more: Sequence[str] = ()) -> None:
    """A tokenizer over ten words, with begin and end tokens of its own if `ends`, and `more` special tokens."""
    words = [*WORDS, *more]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*WORDS[:4], *more])
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def two_texts() -> list[Sample]:
    return [text_sample("one two red cat sat"), text_sample("cat three")]


def two_images() -> list[ImageRef]:
    generator = np.random.default_rng(4)
    return [ImageRef.of(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(2)]


def arguments(inputs: Inputs) -> dict[str, Tensor]:
    """What a transformers network over text, or over pictures, is called with for one sample without padding."""
    return {"input_ids": inputs.ids} if inputs.ids.shape[1] else {"pixel_values": inputs.pixels, **inputs.beside}


def hidden_states(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The library's own hidden states by the names of hook points; its last one is after the final norm."""
    told = network(**arguments(inputs), output_hidden_states=True).hidden_states
    prefix = "" if inputs.ids.shape[1] else "vision."
    named = {f"{prefix}blocks.{number}.resid_post": state for number, state in enumerate(told[1:-1])}
    return {f"{prefix}embed": told[0]} | named | ({"final_norm": told[-1]} if not prefix else {})


def attentions(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The library's own attention patterns by the names of hook points."""
    told = network(**arguments(inputs), output_attentions=True).attentions
    prefix = "" if inputs.ids.shape[1] else "vision."
    return {f"{prefix}blocks.{number}.pattern": pattern for number, pattern in enumerate(told)}


class Softmaxes(TorchFunctionMode):
    """What every softmax over patterns gives."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") == "softmax" and result.ndim == 4:
            self.held.append(result)
        return result


@dataclass(frozen=True, eq=False)
class Tiny:
    """A family, or a form of one that differs in its hook points.

    `build` makes a small network of transformers; `states` and `patterns` tell hidden states and attention patterns of
    the network by the names of hook points, for one sample. `lacks` gives the reason for each check, by its name in
    `tests.models.checks`, that does not apply. `written` is what the network multiplies the output of attention and
    MLP with before the sum. `normed_together`: one norm goes over the queries of all heads, so that no head is alone.
    `reads_weighted`: what an expert reads is multiplied with its weight, not what it gives. `normed`: what
    the names of blocks begin with that have a norm after each sum, where others have none.
    """

    name: str
    build: Callable[[], Any]
    samples: Callable[[], list[Sample]] = two_texts
    ends: bool = False
    states: Callable[[Any, Inputs], Mapping[str, Tensor]] = hidden_states
    patterns: Callable[[Any, Inputs], Mapping[str, Tensor]] = attentions
    lacks: Mapping[str, str] = field(default_factory=dict)
    activation: str = "silu"
    others: Mapping[str, str] = field(default_factory=dict)
    """The activation function of blocks whose names begin so, where it is another."""
    written: float = 1.0
    sums: Callable[[Any, str, Mapping[str, Tensor]], Sequence[tuple[Tensor, Tensor]]] | None = None
    """What is summed in a block of a network that sums otherwise, and what it has to be, from what was recorded."""
    normed_together: bool = False
    reads_weighted: bool = False
    gate: Callable[[Tensor], Tensor] = torch.sigmoid
    """What is made of attention's gates before they multiply."""
    normed: tuple[str, ...] = ()
    gives: str = "mlp_out"
    """What is linear in the weights of experts."""
    unread: tuple[str, ...] = ()
    remark: str = ""
    finish: Callable[[Path], None] | None = None
    """Writes what else the folder holds: a processor's config, another tokenizer."""

    def save(self, folder: Path) -> Any:
        """The network with random weights of unit scale (so that no branch is negligible), also saved to `folder`."""
        with torch.random.fork_rng():
            torch.manual_seed(11)
            network = self.build().eval()
            for parameter in network.parameters():
                if parameter.ndim and parameter.requires_grad:  # what is computed, such as positions, stays
                    matrix = parameter.ndim > 1
                    parameter.data.normal_(std=0.4 if matrix else 0.1).add_(0.0 if matrix else 0.7)
        network.save_pretrained(folder)
        word_tokenizer(folder, ends=self.ends)
        if self.finish is not None:
            self.finish(folder)
        return network.requires_grad_(False)


@dataclass(frozen=True)
class Case:
    """A tiny network as it was built, and as it was opened from its folder."""

    tiny: Tiny
    source: Any
    model: Model
    samples: list[Sample]

    @property
    def names(self) -> list[str]:
        """The hook points that are looked at: all."""
        return list(self.model.hook_points)

    @property
    def stored(self) -> list[str]:
        """Hook points whose values are rows: all but attention patterns."""
        return [name for name in self.names if self.model.hook_points[name].width]

    @property
    def blocks(self) -> list[str]:
        """Names of blocks, such as ``blocks.0`` or ``vision.blocks.2``."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.names if "blocks." in name))

    def near(self, expected: Tensor) -> dict[str, float]:
        """How close values have to be to what is expected."""
        return {"atol": 1e-4, "rtol": 1e-4}

    def kept(self, told: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the library says, of the hook points that are looked at."""
        return told

    def anew(self) -> Model:
        """The network opened once more."""
        with tempfile.TemporaryDirectory() as scratch:
            self.tiny.save(Path(scratch))
            return open_model(Path(scratch))

    @property
    def alike(self) -> list[str]:
        """Blocks that have the hook points of one before them in the same stack."""
        seen, found = set(), []
        for block in self.blocks:
            sites = frozenset(
                name.removeprefix(block) for name in self.model.hook_points if name.startswith(f"{block}.")
            )
            kind = (block.rpartition(".")[0], sites)
            found += [block] if kind in seen else []
            seen.add(kind)
        return found

    def stems(self, *sites: str) -> list[str]:
        """What the names of all these sites begin with: blocks, the attention to other positions of some blocks
        (``decoder.blocks.0.cross_``), and what stands beside blocks (``projector.``)."""
        every = [f"{block}.{kind}" for block in self.blocks for kind in ("", "cross_")]
        every += dict.fromkeys(f"{name.rpartition('.')[0]}." for name in self.names if name.startswith(BESIDE))
        return [stem for stem in every if all(f"{stem}{site}" in self.model.hook_points for site in sites)]

    def activation_of(self, stem: str) -> str:
        usual = "gelu" if stem.startswith(BESIDE) else self.tiny.activation
        return next((name for start, name in self.tiny.others.items() if stem.startswith(start)), usual)

    def normed_after(self, block: str) -> bool:
        """Whether what is written in a block is not what its stream gains, in a network where it mostly is."""
        return bool(self.tiny.normed) and block.startswith(self.tiny.normed)

    def has(self, *sites: str) -> list[str]:
        """The blocks that have all these sites."""
        return [block for block in self.blocks if all(f"{block}.{site}" in self.model.hook_points for site in sites)]


@functools.lru_cache(maxsize=2)
def opened(tiny: Tiny) -> Case:
    """The network of an entry, saved to a folder that is gone at once and opened from it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / tiny.name.replace(" ", "-")
        source, model = tiny.save(folder), open_model(folder)
        _share_memory(source, model)
        return Case(tiny, source, model, tiny.samples())


def _share_memory(source: Any, model: Model) -> None:
    """Let the network as it was built have its weights where the opened one has them, so that both give the same bits:
    on some processors the last one of a product depends on how its factors lie in memory."""
    held = dict(model.network.named_parameters())
    for name, parameter in source.named_parameters():
        twin = held.get(name)
        if twin is not None and twin.dtype == parameter.dtype and torch.equal(twin, parameter):
            parameter.data = twin.data
