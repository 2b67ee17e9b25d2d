"""Trains the projector of the paired model: vision features in, tokens of SmolLM2 out; both big networks frozen.

Run ``python sample_data/train_projector.py --models build/models --minutes 45`` after models.py and images.py; on a GPU
with ``--device cuda --batch 64 --views 24 --minutes 5``.
Three steps: features of every picture and of some altered views of it (cached) · meanings: pictures are brought close
to their captions in MiniLM's space (InfoNCE) · captions: through the language model, the likelihood of the right
caption and how well the captions and pictures of a hard batch are told apart. What is kept is a running mean of the
weights, at the step that is best on the validation concepts; the figures at the end are on the held-out concepts,
which nothing before looks at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from caption_model import (
    CACHE,
    MODELS,
    PROJECTOR,
    EfficientNetLite0,
    LanguageModel,
    Row,
    image_features,
    open_vision,
    read_rows,
)  # fmt: skip
from measure_projector import EVALUATED, caption_scores, evaluation_rows, measure, ranks, recall

import torch  # isort: skip
from torch import Tensor  # isort: skip
from torch.nn import functional  # isort: skip
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # isort: skip

from auditor.models.networks.efficientnet_lite import IMAGE_SIZE  # isort: skip
from auditor.models.networks.projector import Projector, load_projector  # isort: skip

# WordNet's files of nouns that can be drawn: animal, artifact, body, food, object, person, phenomenon, plant.
DRAWABLE = {"05": 3, "06": 2, "08": 2, "13": 3, "17": 2, "18": 1, "19": 1, "20": 3}
WIDTH, CONCEPTS = 256, 1000
# The language model tells pictures apart far better by embeddings that are longer than its own (3.2).
VALUE_GAIN = 2.5


@torch.no_grad()
def sentence_vectors(folder: Path, sentences: list[str], cache: Path) -> Tensor:
    """MiniLM's sentence vectors (mean over tokens, unit length): [sentences, 384], computed once per list."""
    unique = sorted(set(sentences))
    stored = cache / f"sentences-{hashlib.sha256(chr(10).join(unique).encode()).hexdigest()[:16]}.pt"
    if not stored.exists():
        if not folder.is_dir():
            raise SystemExit(f"{folder} does not hold MiniLM: run sample_data/models.py first.")
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(encode_sentences(folder, unique).half(), stored)
    place = {sentence: index for index, sentence in enumerate(unique)}
    vectors: Tensor = torch.load(stored, weights_only=True)
    return vectors[torch.tensor([place[sentence] for sentence in sentences])].float()


def encode_sentences(folder: Path, sentences: list[str]) -> Tensor:
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vectors = []
    for start in range(0, len(sentences), 128):
        part = sentences[start : start + 128]
        batch = tokenizer(part, padding=True, truncation=True, max_length=64, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        weight = batch["attention_mask"][..., None].float()
        vectors.append(functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1))
    return torch.cat(vectors)


def concept_words(rows: list[Row], language: LanguageModel, wordnet: Path) -> tuple[list[str], Tensor]:
    """The bank's words, each one token of the language model, and their embeddings [CONCEPTS, d].

    First the words of the training captions, the commonest first; then drawable nouns of WordNet (those that
    its tagged texts use in that sense), in the order of the tokenizer's merges, which is about that of frequency.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        if row.split == "train" and row.category in EVALUATED:
            counts.update(set(re.findall("[a-z]{3,}", row.caption)))
    ranked = [word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count > 1]
    lexicographer = {}
    for line in (wordnet / "data.noun").read_text(encoding="ascii").splitlines():
        if not line.startswith(" "):
            offset, file, _ = line.split(" ", 2)
            lexicographer[offset] = file
    nouns = []
    for line in (wordnet / "index.noun").read_text(encoding="ascii").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        pointers = int(fields[3])
        weight = DRAWABLE.get(lexicographer[fields[6 + pointers]], 0)
        if weight and int(fields[5 + pointers]) > 0 and len(fields[0]) > 2:
            nouns.append((language.caption_tokens(fields[0])[0] / weight, fields[0]))
    chosen: dict[str, int] = {}
    for word in ranked + [word for _, word in sorted(nouns)]:
        tokens = language.caption_tokens(word)
        if len(tokens) == 1 and len(chosen) < CONCEPTS:
            chosen[word] = tokens[0]
    return list(chosen), language.embedding[torch.tensor(list(chosen.values()), device=language.device)].clone()


def sentences_of(row: Row) -> list[str]:
    """What a caption may say for the meaning: the label, and the label with its tags."""
    return [row.caption, f"{row.caption}: {', '.join(row.tags)}" if row.tags else row.caption]


def start_projector(
    rows: list[Row], features: Tensor, language: LanguageModel, vision: EfficientNetLite0, options: Any
) -> tuple[Projector, Tensor]:
    """A projector whose bank holds words by meaning and whose map to meanings is trained on the training pictures.

    Also returns the captions' meanings [rows, WIDTH] that served, from which hard batches are drawn.
    """
    models = options.models
    words, values = concept_words(rows, language, options.wordnet)
    classes = json.loads((models / "efficientnet-lite0" / "classes.json").read_text(encoding="utf-8"))
    texts = [text for row in rows for text in sentences_of(row)]
    vectors = sentence_vectors(models / "minilm-l6", texts + words + classes, options.cache).to(language.device)
    captions = vectors[: len(texts)].reshape(len(rows), 2, -1)
    bank = vectors[len(texts) : len(texts) + len(words)]
    centre = bank.mean(0)
    # The directions of most variance among the words: the meanings' space, known before any picture is seen.
    axes = torch.linalg.svd(bank - centre, full_matrices=False).Vh[:WIDTH].T
    captions, bank = (functional.normalize((part - centre) @ axes, dim=-1) for part in (captions, bank))
    class_meanings = functional.normalize((vectors[len(texts) + len(words) :] - centre) @ axes, dim=-1)

    projector = Projector(concepts=len(words), width=WIDTH, d_model=values.shape[1]).to(language.device)
    train = torch.tensor([i for i, row in enumerate(rows) if row.split == "train"])
    with torch.no_grad():
        sample = features[train, 0].float().mean((2, 3))
        projector.feature_mean.copy_(sample.mean(0))
        projector.feature_scale.copy_(1 / (sample.std(0) + 0.05))
        projector.keys.copy_(bank)
        projector.values.copy_(values * VALUE_GAIN)
        # The classifier's start: the meaning of a picture is that of the classes' names, weighted by their logits.
        weight = class_meanings.T @ (vision._fc.weight - vision._fc.weight.mean(0)) / projector.feature_scale
        projector.meaning.weight.copy_(weight * (0.5 / (weight.norm(dim=0).mean() * math.sqrt(weight.shape[1]))))
        projector.meaning.bias.zero_()
    learn_meanings(projector, rows, features, captions, train, options.meaning_steps)
    level_words(projector, features, train)
    return projector, captions[:, 0]


@torch.no_grad()
def level_words(projector: Projector, features: Tensor, train: Tensor, rounds: int = 3) -> None:
    """Set the words' priors so that no word ("animal", "face") is meant by far more training pictures than others."""
    few = train[:: max(1, len(train) // 1000)]
    seen = projector.meanings(features[few, 0].float())
    mixed = projector.local_share * seen + projector.global_share * seen.mean(1, keepdim=True)
    for _ in range(rounds):
        used = projector.attention(mixed).mean((0, 1))
        projector.prior -= 0.7 * (used * len(used) + 0.1).log().clamp(-3, 3)


def learn_meanings(
    projector: Projector, rows: list[Row], features: Tensor, captions: Tensor, train: Tensor, steps: int
) -> None:
    """InfoNCE between pictures (mean of the regions' meanings) and captions, all training captions as candidates."""
    # A part at a time: the whole in float32 would be over a gigabyte of fresh memory.
    pooled = torch.cat([part.float().mean((3, 4)) for part in features.split(256)])
    names = sorted({row.caption for row in rows})
    number = torch.tensor([names.index(row.caption) for row in rows], device=pooled.device)
    log_scale = torch.tensor(2.7, device=pooled.device, requires_grad=True)
    optimiser = torch.optim.AdamW([*projector.meaning.parameters(), log_scale], lr=1e-3, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.1)
    weights = torch.tensor([sampling_weight(rows[i]) for i in train.tolist()])
    for step in range(steps):
        chosen = train[torch.multinomial(weights, 512, replacement=True)]
        view = torch.randint(pooled.shape[1], (len(chosen),))
        x = (pooled[chosen, view] - projector.feature_mean) * projector.feature_scale
        x = functional.dropout(x, 0.6)
        picture = functional.normalize(projector.meaning(x), dim=-1)
        text = captions[chosen, torch.randint(2, (len(chosen),))]
        scores = log_scale.exp() * picture @ text.T
        same = (number[chosen][:, None] == number[chosen][None]).float()
        target = same / same.sum(1, keepdim=True)
        loss = functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            report = {
                name: round(meaning_retrieval(projector, rows, pooled, captions, name), 3)
                for name in ("train", "validation")
            }
            print(f"meanings step {step + 1}: loss {loss.item():.3f}, R@1 {report}", flush=True)


@torch.no_grad()
def meaning_retrieval(projector: Projector, rows: list[Row], pooled: Tensor, captions: Tensor, split: str) -> float:
    """Share of a split's emoji pictures whose own caption is the nearest of up to 100 of that split."""
    index = evaluation_rows(rows, split)
    candidates = [pair[0] for pair in index]
    right = []
    for number, pair in enumerate(index):
        x = (pooled[torch.tensor(pair), 0] - projector.feature_mean) * projector.feature_scale
        scores = functional.normalize(projector.meaning(x), dim=-1) @ captions[torch.tensor(candidates), 0].T
        right += (scores.argmax(1) == number).float().tolist()
    return sum(right) / len(right)


def sampling_weight(row: Row) -> float:
    """How often a training picture is drawn: people and symbols are kept rare, noisy file names rarer than emoji."""
    if row.drawing == "openclipart":
        return 0.6
    return 1.0 if row.category in EVALUATED else 0.25


class HardBatches:
    """Draws batches in which captions come in groups of near meanings, so that telling them apart teaches something."""

    def __init__(self, rows: list[Row], meanings: Tensor, size: int, seed: int) -> None:
        self.size, self.random = size, random.Random(seed)
        self.rows = rows
        self.pictures: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            if row.split == "train" and len(row.tokens) <= 6:
                self.pictures.setdefault(row.caption, []).append(index)
        self.captions = sorted(self.pictures)
        self.weights = [sum(sampling_weight(rows[i]) for i in self.pictures[name]) ** 0.7 for name in self.captions]
        vectors = meanings[torch.tensor([self.pictures[name][0] for name in self.captions])]
        self.near = (vectors @ vectors.T).topk(12, dim=1).indices[:, 1:].tolist()

    def draw(self) -> list[int]:
        """Rows of `size` different captions."""
        chosen: dict[int, None] = {}
        while len(chosen) < self.size:
            first = self.random.choices(range(len(self.captions)), self.weights)[0]
            # A caption, three near ones, and so on: near captions alone would never be told from far ones.
            for caption in [first, *self.random.sample(self.near[first], 3)]:
                if len(chosen) < self.size:
                    chosen[caption] = None
        return [self.random.choice(self.pictures[self.captions[caption]]) for caption in chosen]


def caption_loss(
    language: LanguageModel, tokens: Tensor, captions: list[list[int]], contrast: float
) -> tuple[Tensor, Tensor]:
    """Mean −log p of the right captions, and how hard the batch's pictures and captions are to tell apart (InfoNCE)."""
    sums = language.log_likelihoods(tokens, captions)
    right = -(sums.diagonal().sum() / sum(map(len, captions)))
    corrected = sums - sums.mean(0, keepdim=True)
    own = torch.arange(len(captions), device=sums.device)
    apart = functional.cross_entropy(corrected, own) + functional.cross_entropy(sums.T, own)
    return right + contrast * apart / 2, right.detach()


def drop_channels(projector: Projector, maps: Tensor, share: float) -> Tensor:
    """Set a share of the channels to their mean over the training pictures, and stretch the others accordingly."""
    mean = projector.feature_mean[:, None, None]
    kept = (torch.rand(len(maps), maps.shape[1], 1, 1, device=maps.device) >= share).float() / (1 - share)
    return mean + (maps - mean) * kept


def learn_captions(
    projector: Projector, rows: list[Row], features: Tensor, language: LanguageModel, meanings: Tensor, options: Any
) -> dict[str, Any]:
    """Train every part of the projector through the frozen language model until the minutes are over."""
    batches = HardBatches(rows, meanings, options.batch, options.seed)
    slow = [projector.keys, projector.values, *projector.meaning.parameters()]
    others = [parameter for parameter in projector.parameters() if all(parameter is not other for other in slow)]
    groups = [{"params": slow, "lr": options.rate * 0.5}, {"params": others, "lr": options.rate}]
    optimiser = torch.optim.AdamW(groups, weight_decay=options.decay)
    peaks = [group["lr"] for group in optimiser.param_groups]
    mean = AveragedModel(projector, multi_avg_fn=get_ema_multi_avg_fn(options.average))
    best, best_step = keep_if_better(projector, rows, features, language, options, -1.0), 0
    begun = looked = time.monotonic()
    step, seen = 0, []
    while True:
        spent = (time.monotonic() - begun) / 60
        share = min(1.0, spent / options.minutes)
        factor = min(1.0, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        chosen = batches.draw()
        view = torch.randint(features.shape[1], (len(chosen),))
        seen_features = drop_channels(projector, features[torch.tensor(chosen), view].float(), options.dropout)
        tokens = projector(seen_features)
        loss, right = caption_loss(language, tokens, [rows[index].tokens for index in chosen], options.contrast)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 5.0)
        optimiser.step()
        mean.update_parameters(projector)
        seen.append(torch.stack([loss.detach(), right]))
        step += 1
        if step % 25 == 0:
            recent = torch.stack(seen[-25:]).mean(0).tolist()
            print(f"{spent:.1f} min, step {step}: loss {recent[0]:.3f}, caption {recent[1]:.3f}", flush=True)
        if time.monotonic() - looked > options.look_every * 60 or share == 1.0:
            figure = keep_if_better(mean.module, rows, features, language, options, best)
            best, best_step = max((best, best_step), (figure, step))
            looked = time.monotonic()
        if share == 1.0:
            break
    names = ("batch", "views", "rate", "decay", "average", "contrast", "dropout", "meaning_steps", "image_size", "seed")
    on_gpu = language.device.type == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return {
        "steps": step, "kept_step": best_step, "validation_mrr": round(best, 4), "minutes": round(spent, 1),
        **{name: getattr(options, name) for name in names}, "machine": f"{machine}, torch {torch.__version__}",
    }  # fmt: skip


def keep_if_better(
    projector: Projector, rows: list[Row], features: Tensor, language: LanguageModel, options: Any, best: float
) -> float:
    """Write the projector if its mean reciprocal rank on the validation concepts is above `best`; give that figure.

    The file is replaced at once.
    """
    concepts = evaluation_rows(rows, "validation")
    table = ranks(caption_scores(projector, rows, features, language, concepts), concepts)
    figure = (1 / (1 + table[table >= 0].double())).mean().item()
    found = f"MRR {figure:.3f} R@1 {recall(table, 1):.3f} R@10 {recall(table, 10):.3f} among {len(table)}"
    print(f"validation {found}", flush=True)
    if figure > best:
        options.output.mkdir(parents=True, exist_ok=True)
        partial = options.output / "projector.safetensors.partial"
        projector.save(partial)
        partial.replace(options.output / "projector.safetensors")
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the projector of the paired text+image model.")
    parser.add_argument("--models", type=Path, default=MODELS, help="where models.py wrote")
    parser.add_argument("--output", type=Path, default=PROJECTOR)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder of WordNet's files")
    parser.add_argument("--minutes", type=float, default=45.0, help="minutes of training through the language model")
    parser.add_argument(
        "--look-every", type=float, default=6.0, help="minutes between looks at the validation concepts"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=8, help="pictures a step")
    parser.add_argument("--views", type=int, default=3, help="views of each picture: itself and altered ones")
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE)
    parser.add_argument("--meaning-steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--decay", type=float, default=0.01, help="weight decay")
    parser.add_argument("--average", type=float, default=0.99, help="decay of the running mean of the weights")
    parser.add_argument("--contrast", type=float, default=1.0, help="weight of telling captions of a batch apart")
    parser.add_argument(
        "--dropout", type=float, default=0.3, help="share of the feature channels that a step does not see"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (options.models / "smollm2-135m").is_dir():
        print(f"{options.models} does not hold the sample models: run sample_data/models.py first.", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    # TensorFloat-32 on a GPU that has it: ten bits of mantissa, as many as training needs.
    torch.set_float32_matmul_precision("high")
    language = LanguageModel(options.models / "smollm2-135m", options.device)
    rows = read_rows(language)
    vision = open_vision(options.models, options.device)
    features = image_features(vision, options.image_size, options.cache, options.views)
    print(f"{len(rows)} pictures, features {list(features.shape)}", flush=True)
    projector, meanings = start_projector(rows, features, language, vision, options)
    training = learn_captions(projector, rows, features, language, meanings, options)
    torch.set_float32_matmul_precision("highest")
    best = load_projector(options.output / "projector.safetensors").to(language.device)
    metrics = {"training": training, "held_out": measure(best, rows, features, language, options.seed)}
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(metrics, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
