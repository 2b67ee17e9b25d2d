"""Next-token logits at chosen positions of one sample, for many edited copies of it at once; or those of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.models import Model
from auditor.models.edits import Edit
from auditor.models.inputs import Inputs


class SetRows(Edit):
    """Puts its own rows [B, P, width] in the place of what the network computed."""

    def __init__(self, hook: str, rows: Tensor) -> None:
        super().__init__(hook)
        self.rows = rows

    def apply(self, x: Tensor) -> Tensor:
        return self.rows.to(x)


def next_token_logits(
    model: Model, inputs: Inputs, edits: Sequence[Edit], positions: Sequence[int], record: Sequence[str] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """(logits [B, len(positions), vocabulary], recorded rows by hook point). AuditorError for models without logits.
    Of a network that tells classes of pictures or sounds theirs, the same at each position.

    Only these positions are multiplied with the unembedding: a whole [B, P, vocabulary] is rarely needed.
    """
    index = torch.tensor(list(positions), device=model.device)
    with torch.no_grad():
        if model.unembed is not None and "final_norm" in model.hook_points and not _behind_final_norm(model, edits):
            run = model.run(inputs, record=[*record, "final_norm"], edits=edits, logits=False)
            logits = model.readout(run.rows("final_norm").index_select(1, index))
        else:
            run = model.run(inputs, record=record, edits=edits)
            if run.logits is not None and run.logits.ndim == 2 and of_classes(model):
                logits = run.logits[:, None].expand(-1, len(positions), -1)
            elif run.logits is not None and run.logits.ndim == 3 and not of_classes(model):
                logits = run.logits.index_select(1, index)
            elif of_classes(model):
                raise AuditorError(f"“{model.name}” tells no classes.", "Choose a network with a head that does.")
            else:
                raise AuditorError(f"“{model.name}” does not predict a next token.", "Choose a language model.")
    return logits, {name: run.rows(name) for name in record}


def of_classes(model: Model) -> bool:
    """Whether a network reads no text: what it predicts are classes of pictures or sounds, if anything."""
    return "text" not in model.modalities


def _behind_final_norm(model: Model, edits: Sequence[Edit]) -> bool:
    """Whether an edit may act there: what is recorded at the final norm is from before its edits."""
    last = model.hook_points["final_norm"].depth
    known = [edit.hook for edit in edits if edit.hook in model.hook_points]
    return any(edit.after_final_norm for edit in edits) or any(model.hook_points[hook].depth >= last for hook in known)


def predicted_positions(inputs: Inputs) -> tuple[list[int], Tensor]:
    """Positions whose next token is text, and those tokens' numbers, of a batch of one sample."""
    text = inputs.kind[0] == int(PositionKind.TEXT)
    at = [p - 1 for p in torch.nonzero(text)[:, 0].tolist() if p > 0]
    return at, inputs.ids[0][[p + 1 for p in at]]


def top_tokens(model: Model, logits: Tensor, n: int = 10) -> list[tuple[str, float]]:
    """The n most probable next tokens of logits [vocabulary] with their probabilities."""
    best = logits.softmax(-1).topk(min(n, logits.shape[-1]))
    return list(zip(model.token_strings(best.indices.tolist()), best.values.tolist(), strict=True))


def with_caption(sample: Sample) -> Sample:
    """A captioned image as one sample whose text is the caption, so that its loss can be taken."""
    caption = sample.labels.get("caption")
    if sample.image is None or sample.text or not caption:
        return sample
    return replace(sample, text=str(caption))
