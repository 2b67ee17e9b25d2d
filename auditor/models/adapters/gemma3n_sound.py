"""Gemma 3n with sounds: a conformer over a spectrum (Zhang et al. 2023, arXiv:2303.01037), whose states stand among the
tokens of the text. Its tower for pictures is left out: the library has it from timm.

Google DeepMind 2025, https://ai.google.dev/gemma/docs/gemma-3n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts, read_config_json
from auditor.models.adapters.adapter import check_lengths, text_of
from auditor.models.adapters.gemma3n import Gemma3nTextAdapter
from auditor.models.adapters.llama import llama_blocks
from auditor.models.adapters.whisper import sound_of
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Kind, Site
from auditor.models.inputs import Inputs, Positions, Row, laid_sounds, padded, text_row
from auditor.models.tokens import load_tokenizer, special_ids
from auditor.models.weights import load_transformers

TOWER = "model.audio_tower"
LANGUAGE = "model.language_model."
SECONDS = 30.0
"""How much is heard at once at most: what is shorter is filled up with silence, as in training."""
# What a folder may say of its spectra, and the least and the most that each can be.
_SPECTRUM = {
    "sampling_rate": (1000, 192_000), "frame_length_ms": (1, 1000), "hop_length_ms": (1, 1000),
    "min_frequency": (0, 96_000), "max_frequency": (1, 96_000), "preemphasis": (0, 1),
    "input_scale_factor": (1e-6, 1e6), "mel_floor": (1e-12, 1),
}  # fmt: skip
# Inside a block, in the order in which it computes: name, module, which tensor, how many heads' width (0: the tower's).
_SITES: tuple[tuple[str, str, Kind, bool], ...] = (
    ("first_mlp_pre", "ffw_layer_start.ffw_layer_1", "output", False),
    ("first_mlp_hidden", "ffw_layer_start.ffw_layer_2", "input", False),
    ("first_mlp_out", "ffw_layer_start.post_layer_norm", "output", False),
    ("q", "attention.attn.q_proj", "output", False),
    ("k", "attention.attn.k_proj", "output", False),
    ("v", "attention.attn.v_proj", "output", False),
    ("z", "attention.post", "input", False),
    ("attn_out", "attention.post_norm", "output", False),
    ("resid_mid", "lconv1d.pre_layer_norm", "input", True),
    ("mixer_hidden", "lconv1d.linear_end", "input", False),
    ("mixer_out", "lconv1d.linear_end", "output", False),
    ("mlp_pre", "ffw_layer_end.ffw_layer_1", "output", False),
    ("mlp_hidden", "ffw_layer_end.ffw_layer_2", "input", False),
    ("mlp_out", "ffw_layer_end.post_layer_norm", "output", False),
)


class Gemma3nAdapter(Gemma3nTextAdapter):
    """A sound stands where the text says so by its token, else before it, as the library's processor writes it: so many
    tokens whatever its length, those behind its end special.

    ``audio.embed`` are the frames that the conformer reads, ``audio.blocks.N.…`` its blocks: an MLP, attention to
    frames before, a convolution and an MLP, each of whose outputs (half of an MLP's) is added, and a norm over the sum,
    which is `resid_post`. Every fourth frame becomes one of ``audio_tokens``.
    """

    root = LANGUAGE.rstrip(".")
    family = "gemma3n"
    config_class = "Gemma3nConfig"
    architectures = ("Gemma3nForConditionalGeneration",)
    modalities = frozenset({"text", "audio"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(
            facts, self.config_class, self.architectures, dtype, kind=without_pictures(),
            left_out=("model.vision_tower.",),
        )  # fmt: skip
        self.network, self.whole, self.dtype = network, network.config, dtype
        self.config, self.tower = self.whole.text_config, self.whole.audio_config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        self.audio_id, self.tokens = int(self.whole.audio_token_id), int(self.whole.audio_soft_tokens_per_image)
        self.extractor = spectra(facts, "Gemma3nAudioFeatureExtractor", int(self.tower.input_feat_size))

    def notes(self) -> list[str]:
        return [*super().notes(), "Pictures are not read: the library builds the tower for them by timm."]

    @property
    def longest_sound(self) -> float:
        return min(SECONDS, self.tokens * int(self.tower.conf_reduction_factor) * self._seconds())

    def table(self) -> Blocks:
        plain = llama_blocks(LANGUAGE)
        # What is first made of the tokens, after sounds have taken their places.
        embed = Site(f"{LANGUAGE}per_layer_model_projection", "input", shared=True)
        return replace(super().table(), stack=plain.stack, embed=embed, final_norm=plain.final_norm)

    def hook_points(self) -> list[HookPoint]:
        width, heads = int(self.tower.hidden_size), int(self.tower.conf_num_attention_heads)
        found = [self._heard("embed", f"{TOWER}.subsample_conv_projection", width)]
        for number in range(int(self.tower.conf_num_hidden_layers)):
            at, name = f"{TOWER}.conformer.{number}", f"blocks.{number}"
            found.append(self._heard(f"{name}.resid_pre", at, width, "input"))
            for site, module, tensor, shared in _SITES:
                wide = 4 * width if site.endswith(("mlp_pre", "mlp_hidden")) else width
                point = self._heard(f"{name}.{site}", f"{at}.{module}", wide, tensor)
                found.append(replace(point, shared=shared, heads=heads if site in ("q", "k", "v", "z") else 0))
            found.append(self._heard(f"{name}.resid_post", at, width))
        # It embeds tokens of sounds first, and fills up last.
        tokens = self._heard("tokens", "model.embed_audio", self.d_model)
        found.append(replace(tokens, name="audio_tokens", cells="tokens", call=1))
        return [*found, *super().hook_points()]

    def _heard(self, name: str, module: str, width: int, tensor: Kind = "output") -> HookPoint:
        return HookPoint(f"audio.{name}", width, TOKENS, module, 0, tensor, "sound")

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        rate, special = self.extractor.sampling_rate, frozenset[int]()
        sounds = [sound_of(sample, rate, self.longest_sound) for sample in samples if sample.audio is not None]
        beside: dict[str, Tensor] = {}
        heard = iter(range(len(sounds)))
        sound, counts = None, torch.zeros(0, dtype=torch.int64)
        if sounds:
            longest = round(self.longest_sound * rate)
            made = self.extractor(sounds, padding="max_length", max_length=longest, return_tensors="pt")
            sound, beside = made.input_features, {"input_features_mask": made.input_features_mask.bool()}
            counts = self._frames(beside["input_features_mask"], "tokens").sum(1)
        if self.tokenizer is not None:
            special = special_ids(self.tokenizer) | {self.audio_id}
        ids = self.numbers([self._written(sample) for sample in samples], None)
        rows = [
            self._row(row, sample, special, max_tokens, None if sample.audio is None else int(counts[next(heard)]))
            for row, sample in zip(ids, samples, strict=True)
        ]
        check_lengths([row.ids for row in rows], self.longest())
        return replace(padded(rows, samples, None, None), sound=sound, beside=beside, frame_seconds=self._seconds())

    def _written(self, sample: Sample) -> str:
        """The sample's text, with its sound's tokens, as the library's processor writes it."""
        if sample.audio is None:
            return text_of(sample)
        begin, token, end = (
            self._name(number) for number in (self.whole.boa_token_id, self.audio_id, self.whole.eoa_token_id)
        )
        before, mark, after = (sample.text or "").partition(token or "\0")
        before, after = (before, after) if mark else ("", before)
        return f"{before}\n\n{begin}{token * self.tokens}{end}\n\n{after}"

    def _name(self, number: int) -> str:
        known = self.tokenizer is not None and 0 <= int(number) < len(self.tokenizer)
        return (self.tokenizer.convert_ids_to_tokens(int(number)) or "") if known else ""

    def _row(
        self, ids: list[int], sample: Sample, special: frozenset[int], max_tokens: int | None, heard: int | None
    ) -> Row:
        """`heard`: how many of its sound's tokens stand for it; None without one."""
        places = [] if heard is None else [place for place, token in enumerate(ids) if token == self.audio_id]
        if heard is not None and len(places) != self.tokens:
            raise AuditorError(
                f"The text of sample “{sample.id}” came out with {len(places)} tokens of sound in the place of "
                f"{self.tokens}.",
                "The model's tokenizer does not know its token of sounds: copy its folder from its source again.",
            )
        if max_tokens is not None:
            ids = ids[: max(max_tokens + len(places), places[-1] + 1 if places else 0)]
        row, step = text_row(ids, special), int(self.tower.conf_reduction_factor)
        for number, place in enumerate(places):
            inside = number < (heard or 0)
            row.ids[place], row.unit[place] = -1, number * step if inside else -1
            row.kind[place] = int(PositionKind.AUDIO if inside else PositionKind.SPECIAL)
        return row

    def _seconds(self) -> float:
        """Of a frame of the conformer."""
        strides = math.prod(pair[0] for pair in self.tower.sscp_conv_stride_size)
        return float(strides * self.extractor.hop_length / self.extractor.sampling_rate)

    def _frames(self, mask: Tensor, cells: str) -> Tensor:
        """Which of the conformer's frames, or of the tokens made of them, stand for a sound: bool [sounds, frames]; as
        the library tells it from the spectra's `mask`."""
        count = mask.shape[1]
        strides = [pair[0] for pair in self.tower.sscp_conv_stride_size]
        for stride in strides:
            count = (count - 1) // stride + 1
        at = (torch.arange(count, device=mask.device) * math.prod(strides)).clamp(max=mask.shape[1] - 1)
        return mask[:, at][:, :: int(self.tower.conf_reduction_factor) if cells == "tokens" else 1]

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        if point.stream != "sound" or inputs.sound is None:
            return None
        frames = self._frames(inputs.beside["input_features_mask"], point.cells)
        step = int(self.tower.conf_reduction_factor) if point.cells == "tokens" else 1
        return laid_sounds(inputs.samples, frames.sum(1), frames.shape[1], step)

    def forward(self, inputs: Inputs) -> Tensor | None:
        if inputs.sound is None:
            return super().forward(inputs)
        ids = inputs.ids.masked_fill((inputs.ids < 0) & inputs.mask, self.audio_id).clamp(min=0)
        logits: Tensor = self.network(
            input_ids=ids, input_features=inputs.sound.to(self.dtype), use_cache=False, **inputs.beside
        ).logits
        return logits


@cache
def without_pictures() -> Any:
    """The library's network less its tower for pictures."""
    from transformers import AutoModel
    from transformers.models.gemma3n import modeling_gemma3n as library

    class Gemma3nModel(library.Gemma3nModel):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super(library.Gemma3nModel, self).__init__(config)
            self.vocab_size = config.text_config.vocab_size
            self.language_model = AutoModel.from_config(config.text_config)
            self.vocab_size_per_layer_input = config.text_config.vocab_size_per_layer_input
            self.audio_tower = AutoModel.from_config(config.audio_config)
            self.embed_vision = library.Gemma3nMultimodalEmbedder(config.vision_config, config.text_config)
            self.embed_audio = library.Gemma3nMultimodalEmbedder(config.audio_config, config.text_config)
            self.post_init()

    class Gemma3nForConditionalGeneration(library.Gemma3nForConditionalGeneration):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super(library.Gemma3nForConditionalGeneration, self).__init__(config)
            self.model = Gemma3nModel(config)
            self.lm_head = torch.nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
            self.post_init()

    return Gemma3nForConditionalGeneration


def spectra(facts: ModelFacts, kind: str, bands: int) -> Any:
    """The library's maker of spectra of so many bands, called `kind`, as the folder says. AuditorError for numbers that
    cannot be."""
    import transformers

    said: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (facts.folder / name).exists():
            whole = read_config_json(facts.folder / name)
            inner = whole.get("feature_extractor")
            said = inner if isinstance(inner, dict) else whole
            break
    chosen = {name: said[name] for name in _SPECTRUM if said.get(name) is not None}
    for name, value in chosen.items():
        least, most = _SPECTRUM[name]
        if not isinstance(value, (int, float)) or not least <= value <= most:
            raise AuditorError(
                f"The preprocessor config in “{facts.name}” gives an impossible size: {name} = {value}.",
                "Copy it again.",
            )
    for name in ("per_bin_mean", "per_bin_stddev"):
        values = said.get(name)
        if values is not None:
            chosen[name] = _bands(values, bands, name, facts)
    return getattr(transformers, kind)(feature_size=bands, **chosen)


def _bands(values: Any, bands: int, name: str, facts: ModelFacts) -> list[float]:
    usable = isinstance(values, list) and len(values) == bands and all(isinstance(one, (int, float)) for one in values)
    if not usable or (name == "per_bin_stddev" and 0 in values):
        raise AuditorError(
            f"The preprocessor config in “{facts.name}” has no usable {name} of {bands} bands.", "Copy it again."
        )
    return [float(one) for one in values]
