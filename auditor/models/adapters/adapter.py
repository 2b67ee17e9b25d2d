"""What an adapter knows of its family: how it is built, where its hook points are, and how it is fed."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.hook_points import Blocks, Heads, HookPoint, block_points
from auditor.models.inputs import Inputs, Positions
from auditor.models.linearise import LinearPart
from auditor.models.mixing import Mixing
from auditor.models.pictures import Size
from auditor.models.sheets import Box, Sheet
from auditor.models.texts import texts_padded
from auditor.models.tokens import encode_texts, load_tokenizer, special_ids
from auditor.models.unpacked import nothing_packed
from auditor.models.weights import load_transformers


class Adapter(ABC):
    """One family. Subclasses fill the table of class attributes and override what differs."""

    family: str
    modalities: frozenset[str]
    normed_after: bool = False
    """Whether its norms stand after each sum, so that hook points of the residual stream are normed."""
    packs: bool = True
    """False where it is known that texts of one sequence change one another; else a trial tells."""
    network: nn.Module
    config: Any = None
    tokenizer: Any = None
    n_layers: int
    d_model: int

    @property
    def longest_sound(self) -> float | None:
        """Seconds of sound that the network reads at once; None: it hears none."""
        return None

    def longest(self) -> int | None:
        """The most positions of a text that the network reads; None: any number."""
        return None

    @abstractmethod
    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        """Build the network from a checked folder."""

    def notes(self) -> list[str]:
        """Sentences about what is thinner than a person would expect."""
        return []

    @abstractmethod
    def hook_points(self) -> list[HookPoint]:
        """In the order of the forward pass."""

    @abstractmethod
    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """Samples as one batch, but for what `pictured` makes of their pictures, of which this asks the sizes alone."""

    def pictured(self, inputs: Inputs) -> Inputs:
        """A batch that `encode` gave, with the pixels of its pictures. Takes no tokenizer, and may run in several
        threads."""
        return inputs

    def copies(self, inputs: Inputs, n: int) -> Inputs:
        """The batch of n equal samples that `encode` would make, of the batch of one."""
        return inputs.copies(n)

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tensor | None:
        """Logits, or None for a network without a head."""

    def unembed(self) -> Tensor | None:
        """[d_model, vocabulary], if logits are read (`readout`) from `final_norm` of the residual stream times this."""
        return None

    def final_norm(self) -> nn.Module | None:
        return None

    def norm_gain(self) -> Tensor | None:
        """What the final norm multiplies each channel with [d_model]; None where it has no such weight."""
        gain: Tensor | None = getattr(self.final_norm(), "weight", None)
        return gain

    def readout(self, normed: Tensor) -> Tensor:
        """Logits […, vocabulary] of rows after the final norm: their product with `unembed`, with what a family does to
        it after that (a bias, a soft cap). AssertionError for a family without `unembed`."""
        unembed = self.unembed()
        assert unembed is not None
        return normed @ unembed

    def beyond(self, hook: str) -> str:
        """Why what is read after `hook` of the residual stream comes not through it alone, as the end of a sentence; ""
        where it does."""
        return ""

    def scaled(self, hook: str) -> float:
        """What a unit written at `hook` is when it comes to the last norm, where blocks multiply it or the stream."""
        return 1.0

    def linear_parts(self) -> list[LinearPart]:
        """What is frozen in a linearised run; empty for a family that lacks it."""
        return []

    def mixing(self) -> Mixing | None:
        """How its residual streams are mixed, where several stand side by side."""
        return None

    def before(self, hook: str) -> list[str]:
        """Modules that only serve the values at `hook` and hand on their input where they are left out; empty where
        that is not known."""
        return []

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        """Rows and columns of patches of a vision stream with a token axis."""
        return None

    def seen(self, rows: int, columns: int) -> Box:
        """The part that the network sees of a picture of so many pixels, over which the grids of its patches lie."""
        return 0, 0, rows, columns

    def sheet_of(self, inputs: Inputs, number: int, hooks: Sequence[HookPoint]) -> Sheet | None:
        """Where the pictures of a sample of the batch lie as they are shown, so that the grids of `hooks` lie right
        over them; None where it has one picture that is read whole."""
        return inputs.sheets[number] if inputs.sheets else None

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        """Where modules see the pictures of all samples in turn: which of their rows are whose (int64 [B, P], −1: none;
        see `auditor.models.hook_points.to_axes`), and what those stand for. None where each sample has its own row."""
        return None

    def must_fit(self, sample: Sample, sizes: Sequence[Size]) -> None:
        """AuditorError where the network cannot read the pictures of a sample, which have so many rows and columns."""
        if len(sizes) > 1:
            raise AuditorError(
                f"“{sample.id}” has {len(sizes)} pictures, and this model reads one a sample.",
                "Choose a language model that reads pictures among its text.",
            )
        for size in sizes:
            self.must_take(*size)

    def must_take(self, rows: int, columns: int) -> None:  # noqa: B027 most take any
        """AuditorError where a picture of so many pixels cannot be made into what the network reads."""

    def must_reach(self, sample: Sample, sizes: Sequence[Size], max_tokens: int) -> None:  # noqa: B027 most cut it
        """AuditorError where the last picture of a sample stands behind more than `max_tokens` tokens of text, and text
        before pictures is never cut."""


class TextAdapter(Adapter):
    """A transformers network over text: the table of its blocks and a few facts."""

    modalities = frozenset({"text"})
    config_class: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    """Classes of transformers that may be built; the first is taken where config.json names none of them."""
    blocks: ClassVar[Blocks]
    causal: bool = True

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = self.load(facts, dtype)
        self.network, self.config = network, network.config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers = int(self.config.num_hidden_layers)
        self.d_model = int(self.config.hidden_size)
        if looks_both_ways(self.config):
            self.causal = False

    def load(self, facts: ModelFacts, dtype: torch.dtype) -> nn.Module:
        return load_transformers(facts, self.config_class, self.architectures, dtype)

    def table(self) -> Blocks:
        return self.blocks

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size)

    def heads(self) -> Heads:
        return heads_of(self.config)

    def heads_by_block(self) -> Heads | list[Heads]:
        """As `heads`, or of each block where they differ."""
        return self.heads()

    def experts(self) -> int:
        """How many experts a block has, 0 if it is no mixture of experts."""
        names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
        return next((int(count) for name in names if (count := getattr(self.config, name, None))), 0)

    def hook_points(self) -> list[HookPoint]:
        return block_points(
            self.table(), self.n_layers, self.d_model, self.mlp_width(), heads=self.heads_by_block(),
            experts=self.experts(), within=self.network,
        )  # fmt: skip

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        texts = [text_of(sample) for sample in samples]
        return texts_padded(self.tokenize(texts, max_tokens), special_ids(self.tokenizer), samples)

    def tokenize(self, texts: Sequence[str], max_tokens: int | None) -> list[list[int]]:
        """Token numbers; AuditorError without a tokenizer or past the network's longest context."""
        rows = self.numbers(texts, max_tokens)
        check_lengths(rows, self.longest())
        return rows

    def numbers(self, texts: Sequence[str], max_tokens: int | None) -> list[list[int]]:
        """Token numbers of texts of any length; AuditorError without a tokenizer."""
        if self.tokenizer is None:
            raise AuditorError(
                "The model's folder holds no tokenizer, so text cannot be given to it.",
                "Add tokenizer.json to the folder.",
            )
        return encode_texts(self.tokenizer, texts, begin=self.causal, max_tokens=max_tokens)

    def longest(self) -> int | None:
        return getattr(self.config, "max_position_embeddings", None)

    def forward(self, inputs: Inputs) -> Tensor | None:
        logits: Tensor | None = getattr(self.output(self.network, inputs), "logits", None)
        return logits

    def output(self, network: nn.Module, inputs: Inputs) -> Any:
        """What the library's `network` gives: the whole, or the part below a head."""
        # Padding is on the right: a causal network never looks at it, and without a mask takes the fastest kernel.
        mask = None if self.causal else inputs.mask.to(torch.int64)
        ids = inputs.ids.clamp(min=0)
        more: dict[str, Any] = {"use_cache": False} if type(self).causal else {}
        if inputs.place is not None:
            # transformers takes positions that begin anew for texts that must not see one another.
            more["position_ids"] = inputs.place
        with nothing_packed(inputs.ragged) if inputs.place is None else contextlib.nullcontext():
            return network(input_ids=ids, attention_mask=mask, **more)


def looks_both_ways(config: Any) -> bool:
    """Whether a network built as a decoder reads texts in both directions, as those that embed texts do
    (EmbeddingGemma, GTE-Qwen2)."""
    both = getattr(config, "use_bidirectional_attention", None)
    return getattr(config, "is_causal", True) is False or both is True or both == "all"


def heads_of(config: Any) -> Heads:
    """How attention splits by the usual names in a config."""
    count = int(config.num_attention_heads)
    groups = getattr(config, "num_key_value_heads", None) or count
    return Heads(count, int(groups), int(getattr(config, "head_dim", None) or config.hidden_size // count))


def blocks_until(stack: str, hook: str) -> list[str]:
    """Paths of the blocks of `stack` up to the one whose output is `hook` (``blocks.N.resid_post``); else none."""
    match = re.fullmatch(r"blocks\.(\d+)\.resid_post", hook)
    return [f"{stack}.{number}" for number in range(int(match[1]) + 1)] if match else []


def head_weight(network: nn.Module, path: str) -> Tensor:
    """[d_model, vocabulary] of a linear head."""
    head: Any = network.get_submodule(path)
    weight: Tensor = head.weight
    return weight.T


def text_of(sample: Sample) -> str:
    if sample.text is None:
        raise AuditorError(
            f"Sample “{sample.id}” has no text, and this model reads text only.",
            "Choose samples of text, or a model that reads images.",
        )
    return sample.text


def check_lengths(rows: Sequence[Sequence[int]], longest: int | None) -> None:
    """AuditorError if a sample has more positions than the network can read."""
    for number, row in enumerate(rows):
        if longest is not None and len(row) > longest:
            raise AuditorError(
                f"Sample number {number + 1} of the batch has {len(row)} tokens; the model reads at most {longest}.",
                f"Cut the texts, or choose a context of at most {longest} tokens where there is one.",
            )
