"""What changes in a network's next-token distributions, or that of its classes: where they are asked, and the figures
of a change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from auditor.analysis.next_token import of_classes, predicted_positions
from auditor.base.errors import AuditorError
from auditor.data.sample import ORDINARY, PositionKind, Sample
from auditor.models import Model
from auditor.models.inputs import Inputs
from auditor.models.tokens import following

Measure = Literal["target", "loss", "kl"]
UNITS = {"target": "nats (log probability)", "loss": "nats per token", "kl": "nats (KL)"}
# Rows × predicted positions of one batch: each is a row of logits over the vocabulary.
MOST_LOGITS = 512
_ORDINARY = [int(PositionKind[name.upper()]) for name in ORDINARY]


def asked(
    model: Model, sample: Sample, inputs: Inputs, measure: Measure, target: str
) -> tuple[list[int], Tensor | None]:
    """Positions of a batch of one sample whose next token is asked, and those tokens: the text's own for the loss, the
    first of `target` after the last position, none for the KL. Classes are asked once, for the KL alone. AuditorError
    where nothing can be asked."""
    if of_classes(model):
        if measure != "kl":
            raise AuditorError(f"“{model.name}” predicts no text.", "Choose the measure “kl”: of its classes.")
        return [0], None
    read = inputs.predicted
    at, follows = predicted_positions(read)
    tokens: Tensor | None = follows if measure == "loss" else None
    if measure == "target":
        at = [int(read.mask.sum()) - 1]
        tokens = torch.tensor([first_token(model, target)], device=model.device)
    if measure == "kl":
        at = torch.nonzero(ordinary(read.kind[0]))[:, 0].tolist()
    if not at:
        other = "choose “kl”" if measure == "loss" else "choose a model that predicts text"
        raise AuditorError(
            f"Sample “{sample.id}” has no text to predict.",
            f"Leave it out, or {other}; an encoder-decoder predicts what the samples' column “target” holds.",
        )
    return at, tokens


def effects(clean: Tensor, targets: Tensor | None, edited: Tensor, measure: Measure) -> Tensor:
    """One figure for each row of edited log probabilities [R, positions, vocabulary] beside `clean` [positions,
    vocabulary]: mean KL, rise of the loss, or gain of the target's log probability; [R], nats."""
    if measure == "kl" or targets is None:
        return kl(clean, edited).mean(1)
    index = targets[None, :, None].expand(len(edited), -1, 1)
    gain = edited.gather(2, index)[..., 0] - clean.gather(1, targets[:, None])[:, 0]
    return gain.mean(1) if measure == "target" else -gain.mean(1)


def kl(clean: Tensor, edited: Tensor) -> Tensor:
    """KL(clean ‖ edited) along the last axis, in nats, at least 0."""
    p = clean.exp()
    return torch.where(p > 0, p * (clean - edited), torch.zeros_like(edited)).sum(-1).clamp(min=0)


def without(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """Log probabilities [positions, vocabulary] of the distribution in which one token of each row is not possible."""
    return logprobs.scatter(-1, tokens[:, None], float("-inf")).log_softmax(-1)


def ordinary(kind: Tensor) -> Tensor:
    """bool, in the shape of `kind`: text, image and sound; no padding, no special token, which no dictionary is trained
    on."""
    return torch.isin(kind, torch.tensor(_ORDINARY, dtype=kind.dtype, device=kind.device))


def groups_of(samples: Sequence[Sample]) -> list[str] | None:
    """Groups for the bootstrap, when samples share any."""
    named = [sample.group or sample.id for sample in samples]
    return named if len(set(named)) < len(named) and len(set(named)) > 1 else None


def first_token(model: Model, text: str) -> int:
    """The number of the first token of a text that goes on; AuditorError for an empty one, or one that has no
    token."""
    ids = following(model.tokenizer, text)
    if not ids:
        raise AuditorError("A target is empty.", "Give a word; its first token is measured.")
    if ids[0] == model.tokenizer.unk_token_id and text.strip() != model.tokenizer.unk_token:
        raise AuditorError(f"The tokenizer of “{model.name}” has no token for “{text}”.", "Give another word.")
    return int(ids[0])
