"""Measures the projector on the held-out concepts: is a picture's own caption the likeliest of a hundred?

Run ``python sample_data/measure_projector.py --models build/models``; train_projector.py calls it at its end. The
figures go to projector/metrics.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from caption_model import CACHE, MODELS, PROJECTOR, LanguageModel, Row, image_features, open_vision, read_rows

import torch  # isort: skip
from torch import Tensor  # isort: skip

from auditor.models.networks.efficientnet_lite import IMAGE_SIZE  # isort: skip
from auditor.models.networks.projector import Projector, load_projector  # isort: skip

EVALUATED = (
    "Objects", "Travel & Places", "Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities",
)  # fmt: skip
CANDIDATES = 100


def evaluation_rows(rows: list[Row], split: str) -> list[list[int]]:
    """Up to 100 concepts of a split, in the order of their hashes, each with the rows of its emoji drawings."""
    concepts: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.split == split and row.drawing != "openclipart" and row.category in EVALUATED:
            concepts.setdefault(row.concept, []).append(index)
    ordered = sorted(concepts, key=lambda name: hashlib.sha256(("order " + name).encode()).hexdigest())
    return [one_label(rows, concepts[name]) for name in ordered[:CANDIDATES]]


def one_label(rows: list[Row], indices: list[int]) -> list[int]:
    """Both drawings of one emoji of the concept (a concept may have several)."""
    return [index for index in indices if rows[index].caption == rows[indices[0]].caption]


@torch.no_grad()
def caption_scores(
    projector: Projector, rows: list[Row], features: Tensor, language: LanguageModel, concepts: list[list[int]]
) -> Tensor:
    """Log-likelihood of every concept's caption after every picture: [pictures, concepts], pictures in their order."""
    captions = [rows[indices[0]].tokens for indices in concepts]
    flat = [index for indices in concepts for index in indices]
    scores = []
    for start in range(0, len(flat), 2):
        tokens = projector(features[torch.tensor(flat[start : start + 2]), 0].float())
        scores.append(language.log_likelihoods(tokens, captions))
    return torch.cat(scores).cpu()


def ranks(scores: Tensor, concepts: list[list[int]], standardised: bool = False) -> Tensor:
    """Rank (0 is best) of the right caption: [concepts, drawings], −1 where a concept has fewer drawings.

    A caption is ranked by its log-likelihood after this picture less its mean over all the pictures; `standardised`
    also divides by its standard deviation over them, so that long captions do not rank by their larger spread.
    """
    table = scores - scores.mean(0)
    if standardised:
        table = table / scores.std(0)
    result = torch.full((len(concepts), max(map(len, concepts))), -1)
    position = 0
    for number, indices in enumerate(concepts):
        for drawing in range(len(indices)):
            result[number, drawing] = (table[position] > table[position, number]).sum()
            position += 1
    return result


def recall(table: Tensor, top: int) -> float:
    """Share of the pictures whose right caption is among the first `top`."""
    valid = table[table >= 0]
    return (valid < top).float().mean().item()


def interval(table: Tensor, top: int, seed: int, draws: int = 10000) -> tuple[float, float]:
    """95 % bootstrap interval of the recall, drawn over concepts."""
    hits = ((table >= 0) & (table < top)).sum(1).double()
    counts = (table >= 0).sum(1).double()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(table), (draws, len(table)), generator=generator)
    shares = hits[drawn].sum(1) / counts[drawn].sum(1)
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


@torch.no_grad()
def greedy_caption(language: LanguageModel, image_tokens: Tensor) -> str:
    """What the paired model says after the prompt: image tokens [1, 16, d] → up to 8 tokens, to the first mark."""
    said: list[int] = []
    while len(said) < 8:
        ids = torch.tensor([[language.bos, *language.prompt, *said]], device=language.device)
        embedded = language.embedding[ids]
        sequence = torch.cat([embedded[:, :1], image_tokens, embedded[:, 1:]], 1)
        token = int(language.model(inputs_embeds=sequence).logits[0, -1].argmax())
        said.append(token)
    text: str = language.tokenizer.decode(said)
    return re.split(r"[.,;:\n<]", text.strip())[0].strip()


def measure(
    projector: Projector, rows: list[Row], features: Tensor, language: LanguageModel, seed: int
) -> dict[str, Any]:
    """The held-out figures with bootstrap intervals, and what the model says of the first concepts' pictures."""
    concepts = evaluation_rows(rows, "held-out")
    scores = caption_scores(projector, rows, features, language, concepts)
    figures: dict[str, Any] = {"concepts": len(concepts), "pictures": len(scores), "bootstrap_seed": seed}
    for name, standardised in (("mean_corrected", False), ("standardised", True)):
        table = ranks(scores, concepts, standardised)
        figures[name] = {}
        for top in (1, 10):
            ends = [round(end, 4) for end in interval(table, top, seed)]
            figures[name][f"recall_at_{top}"] = round(recall(table, top), 4)
            figures[name][f"recall_at_{top}_interval_95"] = ends
    figures["chance"] = {f"recall_at_{top}": top / len(concepts) for top in (1, 10)}
    figures["greedy"] = {
        rows[indices[0]].caption: greedy_caption(language, projector(features[indices[0], :1].float()))
        for indices in concepts[:25]
    }
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the projector on the held-out concepts.")
    parser.add_argument("--models", type=Path, default=MODELS, help="where models.py wrote")
    parser.add_argument(
        "--folder", type=Path, default=PROJECTOR, help="where projector.safetensors and metrics.json lie"
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (options.models / "smollm2-135m").is_dir():
        print(f"{options.models} does not hold the sample models: run sample_data/models.py first.", file=sys.stderr)
        return 1
    language = LanguageModel(options.models / "smollm2-135m")
    rows = read_rows(language)
    features = image_features(open_vision(options.models), options.image_size, options.cache, views=1)
    projector = load_projector(options.folder / "projector.safetensors")
    path = options.folder / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    metrics["held_out"] = measure(projector, rows, features, language, options.seed)
    text = json.dumps(metrics, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
