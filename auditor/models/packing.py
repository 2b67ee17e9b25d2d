"""Several texts in one sequence, each with positions of its own, and none seen by another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, text_sample
from auditor.models.inputs import Inputs

if TYPE_CHECKING:
    from auditor.models.model import Model

_FIRST, _SECOND = "One text stands before another one.", "The second must not see what the first has said."
_STAYS, _CLOSE = 1e-4, 0.05


def in_sequences(lengths: Sequence[int], context: int) -> list[int]:
    """How many of texts of these lengths, in turn, share each sequence of at most `context` positions."""
    counts: list[int] = []
    used = context
    for length in lengths:
        if used + length > context:
            counts.append(0)
            used = 0
        counts[-1] += 1
        used += length
    return counts


def packed(inputs: Inputs, context: int) -> Inputs:
    """A batch of texts as fewer sequences of at most `context` positions, the texts in turn.

    `document` of the result says for each position which text of the batch it belongs to, `place` its position there;
    `unit` and `kind` are those of the text. AuditorError where the batch holds more than texts.
    """
    if inputs.pixels is not None or inputs.sound is not None or inputs.target is not None:
        raise AuditorError("Only texts can be packed, and these samples hold more.", "Record without packing.")
    lengths: list[int] = inputs.mask.sum(1).tolist()
    counts = in_sequences(lengths, context)
    rows: list[dict[str, Tensor]] = []
    first = 0
    for count in counts:
        texts = range(first, first + count)
        held = {
            name: torch.cat([getattr(inputs, name)[text, : lengths[text]] for text in texts])
            for name in ("ids", "kind", "unit")
        }
        held["document"] = torch.cat([torch.full((lengths[text],), text) for text in texts])
        held["place"] = torch.cat([torch.arange(lengths[text]) for text in texts])
        rows.append(held)
        first += count
    longest = max(len(row["ids"]) for row in rows)
    # At padding each position stands alone, so that no text grows by it.
    fills = {"ids": -1, "kind": int(PositionKind.PAD), "unit": -1, "document": -1, "place": 0}
    stacked: dict[str, Any] = {
        name: torch.stack([_filled(row[name], longest, fill) for row in rows]) for name, fill in fills.items()
    }
    kind = stacked.pop("kind")
    firsts = [sum(counts[:row]) for row in range(len(counts))]
    return replace(
        inputs, **stacked, kind=kind, mask=kind != int(PositionKind.PAD),
        samples=tuple(inputs.samples[number] for number in firsts),
    )  # fmt: skip


def must_keep_apart(model: Model, hook: str) -> None:
    """AuditorError unless this network keeps packed texts apart up to `hook`: the rows of the second of two texts must
    stay when the first is another, and be those of the text alone, but for rounding (experts that compute together
    round in other groups)."""
    alone = model.encode([text_sample(_FIRST), text_sample(_SECOND)])
    length = int(alone.mask[0].sum())
    together = packed(alone, int(alone.mask.sum()))
    ids = together.ids.clone()
    ids[0, :length] = (ids[0, :length] + 1 + torch.arange(length)) % len(model.tokenizer)
    own = slice(length, int(together.mask.sum()))
    first, other = (
        model.run(inputs, record=[hook], logits=False).rows(hook)[0, own]
        for inputs in (together, replace(together, ids=ids))
    )
    wanted = model.run(alone, record=[hook], logits=False).rows(hook)[1, : own.stop - own.start]
    known = not model._adapter.packs or model.hook_points[hook].stream == "pooled"
    if known or _error(first, other) > max(_STAYS, 3 * torch.finfo(first.dtype).eps) or _error(first, wanted) > _CLOSE:
        raise AuditorError(
            f"“{model.name}” ({model.family}) cannot keep several texts of one sequence apart.",
            "Record without packing.",
        )


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).float().norm() / wanted.float().norm().clamp(min=1e-9))


def _filled(values: Tensor, length: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=fill)
