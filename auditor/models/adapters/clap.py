"""CLAP: a text tower and a tower of sounds that meet in one space; the latter is a Swin over a log-mel spectrum.

Wu et al. 2022, arXiv:2211.06687; the tower: Chen et al. 2022, arXiv:2202.00874.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts, read_config_json
from auditor.models.adapters.adapter import Adapter, check_lengths, heads_of
from auditor.models.adapters.bert import bert_blocks
from auditor.models.adapters.clip import pooled_texts, text_embeds
from auditor.models.adapters.swin import in_windows
from auditor.models.adapters.vision import pair
from auditor.models.adapters.whisper import sound_of
from auditor.models.hook_points import TOKENS, Blocks, Heads, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, Positions, padded, text_row
from auditor.models.tokens import encode_texts, load_tokenizer, special_ids
from auditor.models.weights import load_transformers

TOWER = "audio_model.audio_encoder."
IN_WINDOWS = ("q", "k", "v", "pattern", "z")
# What preprocessor_config.json may say of spectra: what is usual, and the least and the most that is taken.
SPECTRUM = {
    "sampling_rate": (48_000, 8_000, 192_000), "hop_length": (480, 1, 1 << 14), "fft_window_size": (1024, 16, 1 << 14),
    "max_length_s": (10, 1, 600), "frequency_min": (50, 0, 96_000), "frequency_max": (14_000, 1, 96_000),
}  # fmt: skip
WAYS = {"truncation": ("fusion", "rand_trunc"), "padding": ("repeatpad", "repeat", "pad")}


class ClapAdapter(Adapter):
    """Logits [B, B] say how well each sound fits each text of the batch, where every sample has both.

    A spectrum is cut into a few stretches of time, which lie below one another as one picture does: positions of
    ``audio.…`` are its patches, row by row, and count the time of the sound in steps of the first stage. What lies
    behind a sound's end, which is repeated or silence there, is special. Blocks are counted through all stages; what
    lies in windows is put back in that order. A sound is cut where the network's length ends: nothing is drawn at
    random, as it is in training, and the parts of longer sounds are never joined.
    """

    family = "clap"
    modalities = frozenset({"text", "audio"})
    normed_after = True

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, "ClapConfig", ("ClapModel",), dtype)
        self.network, self.config, self.dtype = network, network.config, dtype
        self.clap, self.tokenizer = network, load_tokenizer(facts.folder)
        self.text, self.audio = self.config.text_config, self.config.audio_config
        self.n_layers, self.d_model = int(self.text.num_hidden_layers), int(self.text.hidden_size)
        self.depths = [int(depth) for depth in self.audio.depths]
        self.folds = int(self.audio.spec_size) // int(self.audio.num_mel_bins)
        self.extractor = _extractor(facts, int(self.audio.num_mel_bins))
        side, step = int(self.audio.spec_size), pair(self.audio.patch_stride)
        self.grid = side // step[0], side // step[1]

    @property
    def longest_sound(self) -> float:
        return float(self.extractor.max_length_s)

    def longest(self) -> int:
        return int(self.text.max_position_embeddings) - int(self.text.pad_token_id or 0) - 1

    def hook_points(self) -> list[HookPoint]:
        sizes = self.n_layers, self.d_model, int(self.text.intermediate_size)
        text = block_points(bert_blocks("text_model."), *sizes, heads=heads_of(self.text))
        heard = HookPoint(
            "audio_embeds", int(self.config.projection_dim), TOKENS, "audio_projection", 0, "output", "sound",
            cells="tokens",
        )  # fmt: skip
        return [*self.audio_points(), heard, *text, text_embeds("text_projection", int(self.config.projection_dim))]

    def audio_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        for stage, depth in enumerate(self.depths):
            width = int(self.audio.patch_embeds_hidden_size) << stage
            count = int(self.audio.num_attention_heads[stage])
            inside = block_points(
                self.table(stage), depth, width, int(self.audio.mlp_ratio * width), prefix="audio.", stream="sound",
                heads=Heads(count, count, width // count),
            )  # fmt: skip
            first = sum(self.depths[:stage])
            found += [_counted_on(point, first) for point in inside if stage == 0 or point.name != "audio.embed"]
        return found

    def table(self, stage: int) -> Blocks:
        return Blocks(
            stack=f"{TOWER}layers.{stage}.blocks",
            embed=Site(f"{TOWER}patch_embed"),
            # Called once a block, on what attention gives after the windows are put together again.
            attn_out=Site("drop_path"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("output.dense", "input"),
            mlp_out=Site("output"),
            final_norm=Site(f"{TOWER}norm") if stage == len(self.depths) - 1 else None,
            q=Site("attention.self.query"),
            k=Site("attention.self.key"),
            v=Site("attention.self.value"),
            pattern=Site("attention.self.dropout"),
            z=Site("attention.output.dense", "input"),
            mlp_pre=Site("intermediate.dense"),
        )

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """`max_tokens` counts tokens of the text alone."""
        texts = [sample.text for sample in samples if sample.text is not None]
        if texts and self.tokenizer is None:
            raise AuditorError("The model's folder holds no tokenizer.", "Add tokenizer.json to the folder.")
        tokens = encode_texts(self.tokenizer, texts, begin=False, max_tokens=max_tokens) if texts else []
        check_lengths(tokens, self.longest())
        special = special_ids(self.tokenizer) if texts else frozenset[int]()
        left = iter(tokens)
        rows = [text_row([] if sample.text is None else next(left), special) for sample in samples]
        inputs = padded(rows, samples, None, None)
        heard = [self._heard(sample) for sample in samples]
        if all(sound is None for sound in heard):
            return inputs
        rate, longest = self.extractor.sampling_rate, self.extractor.nb_max_samples
        steps = self.folds * self.grid[1]
        return replace(
            inputs,
            sound=self._spectra(heard),
            frame_seconds=longest / rate / steps,
            beside={
                "heard": torch.tensor([0 if sound is None else -(-len(sound) * steps // longest) for sound in heard])
            },
        )  # fmt: skip

    def _heard(self, sample: Sample) -> np.ndarray | None:
        if sample.audio is None:
            return None
        sound = sound_of(sample, self.extractor.sampling_rate, self.longest_sound)
        if not len(sound):
            raise AuditorError(f"The sound of sample “{sample.id}” is empty.", "Leave it out.")
        return sound[: self.extractor.nb_max_samples].astype(np.float64)

    def _spectra(self, heard: Sequence[np.ndarray | None]) -> Tensor:
        """[B, 1 or 4 of them, time, mel bins], zeros for samples without a sound."""
        rate, held = self.extractor.sampling_rate, [sound is not None for sound in heard]
        sounds = [sound for sound in heard if sound is not None]
        each = self.extractor(sounds, sampling_rate=rate, return_tensors="pt").input_features.float()
        whole = torch.zeros(len(held), *each.shape[1:])
        whole[torch.tensor(held)] = each
        return whole

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        if point.stream == "pooled":
            return pooled_texts(inputs)
        if point.stream != "sound" or inputs.sound is None:
            return None
        heard = inputs.beside["heard"][:, None]
        if point.cells == "tokens":
            unit, rows = torch.zeros(1, dtype=torch.int64, device=heard.device), torch.zeros(1, dtype=torch.int64)
            total = 1
        else:
            unit, rows, total = self._cells(point)
        first = torch.arange(len(heard), device=heard.device)[:, None] * total
        unit = unit.to(heard.device).expand(len(heard), -1)
        kind = torch.where(unit < heard, int(PositionKind.AUDIO), int(PositionKind.SPECIAL))
        kind = torch.where(heard > 0, kind, int(PositionKind.PAD))
        unit = unit.masked_fill(kind != int(PositionKind.AUDIO), -1)
        whose = (first + rows.to(heard.device)).masked_fill(heard == 0, -1)
        return whose, Positions(kind.to(torch.uint8), unit.to(torch.int32), None)

    def _cells(self, point: HookPoint) -> tuple[Tensor, Tensor, int]:
        """Of each patch the time that it stands for, in steps of the first stage, and its row among those of a sound in
        the module; and how many of these there are."""
        stage = self._stage_of(point)
        rows, columns = self.grid[0] >> stage, self.grid[1] >> stage
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        unit = ((y // (rows // self.folds) * columns + x) << stage).flatten()
        block, _, site = point.name.rpartition(".")
        if site not in IN_WINDOWS:
            return unit, torch.arange(rows * columns), rows * columns
        window, shift = int(self.audio.window_size), 0
        if min(rows, columns) <= window:
            window = min(rows, columns)
        elif (int(block.rpartition(".")[2]) - sum(self.depths[:stage])) % 2:
            shift = window // 2
        down, across = (-(-side // window) * window for side in (rows, columns))
        return unit, torch.tensor(in_windows((rows, columns), window, shift)), down * across

    def _stage_of(self, point: HookPoint) -> int:
        match = re.search(r"audio_encoder\.layers\.(\d+)\.", point.module)
        return int(match[1]) if match else 0 if point.name == "audio.embed" else len(self.depths) - 1

    def forward(self, inputs: Inputs) -> Tensor | None:
        sound = text = None
        if inputs.sound is not None:
            longer = torch.zeros(len(inputs.sound), 1, dtype=torch.bool, device=inputs.sound.device)
            given = self.clap.get_audio_features(input_features=inputs.sound.to(self.dtype), is_longer=longer)
            sound = given.pooler_output
        if inputs.ids.shape[1]:
            ids = inputs.ids.masked_fill(inputs.ids < 0, int(self.text.pad_token_id or 0))
            mask = inputs.mask.to(torch.int64)
            text = self.clap.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        both = all(sample.text is not None and sample.audio is not None for sample in inputs.samples)
        if sound is None or text is None or not both:
            return None
        logits: Tensor = self.clap.logit_scale_a.exp() * sound @ text.T
        return logits


def _counted_on(point: HookPoint, first: int) -> HookPoint:
    """The hook point of a stage's block, its number counted from the first stage's first block."""
    match = re.fullmatch(r"audio\.blocks\.(\d+)\.(.+)", point.name)
    return replace(point, name=f"audio.blocks.{first + int(match[1])}.{match[2]}") if match else point


def _extractor(facts: ModelFacts, bins: int) -> Any:
    """What makes spectra, as preprocessor_config.json says. AuditorError for what no such network is trained with."""
    from transformers import ClapFeatureExtractor

    file = facts.folder / "preprocessor_config.json"
    said = read_config_json(file) if file.exists() else {}
    numbers = {name: said.get(name, usual) for name, (usual, _, _) in SPECTRUM.items()}
    ways = {name: said.get(name, known[0]) for name, known in WAYS.items()}
    fits = all(
        isinstance(numbers[name], (int, float)) and least <= numbers[name] <= most
        for name, (_, least, most) in SPECTRUM.items()
    ) and numbers["frequency_min"] < numbers["frequency_max"] <= numbers["sampling_rate"] / 2  # fmt: skip
    if not fits or any(way not in WAYS[name] for name, way in ways.items()):
        raise AuditorError(
            f"{file.name} in “{facts.name}” makes spectra as no such network has been trained with.", "Copy it again."
        )
    whole = {name: number if name.startswith("frequency") else int(number) for name, number in numbers.items()}
    return ClapFeatureExtractor(feature_size=bins, **whole, **ways)
