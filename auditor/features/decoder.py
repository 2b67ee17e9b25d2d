"""What the decoder directions say alone: nearest features by cosine, and effects on the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.base.reporter import Reporter
from auditor.models.hook_points import RESIDUAL

if TYPE_CHECKING:
    from auditor.models.model import Model

_BLOCK = 512
_FLOAT16_MAX = 65504.0
_AFTER_BLOCKS = ("joined", "final_norm")
_WRITTEN = (
    "embed", "image_tokens", "attn_out", "cross_attn_out", "mlp_out", "cross_mlp_out", *RESIDUAL, *_AFTER_BLOCKS,
)  # fmt: skip
_OTHER_STREAMS = ("vision.", "audio.", "encoder.", "resampler.", "qformer.")


def nearest_features(W_dec: Tensor, k: int, reporter: Reporter) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """ids and cosines [n, k] of the k features nearest to each by decoder cosine, itself left out, nearest first.

    Where there are fewer than k others, ids are -1 and cosines NaN. A zero direction has cosine 0 with all.
    """
    n = len(W_dec)
    ids, cosines = np.full((n, k), -1, np.int32), np.full((n, k), np.nan, np.float16)
    keep = min(k, n - 1)
    if keep < 1:
        return ids, cosines
    unit = torch.nn.functional.normalize(W_dec.float(), dim=1)
    for start in range(0, n, _BLOCK):
        reporter.step(start, n, "comparing directions", "features")
        part = unit[start:start + _BLOCK] @ unit.T
        part[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        best, which = part.topk(keep, dim=1)
        ids[start:start + len(part), :keep] = which.cpu().numpy()
        cosines[start:start + len(part), :keep] = best.cpu().numpy()
    return ids, cosines


def writes_to_logits(model: Model | None, W_dec: Tensor, hook: str) -> bool:
    """Whether a direction at `hook` lies in the space that the unembedding reads."""
    if model is None or model.unembed is None or hook.startswith(_OTHER_STREAMS):
        return False
    if hook not in _AFTER_BLOCKS and any(point.lanes for point in model.hook_points.values()):
        return False  # by how much what is written is read depends on the input (Gemma 3n)
    return model.unembed.shape[0] == W_dec.shape[1] and hook.split(".")[-1] in _WRITTEN


class LogitEffects:
    """Tokens [n, k] whose logits a feature raises or lowers most, and by how much (float16)."""

    def __init__(self, n: int, k: int) -> None:
        self.top_ids, self.bottom_ids = np.zeros((n, k), np.int64), np.zeros((n, k), np.int64)
        self.top, self.bottom = np.zeros((n, k), np.float16), np.zeros((n, k), np.float16)


def logit_effects(W_dec: Tensor, model: Model | None, hook: str, k: int, reporter: Reporter) -> LogitEffects:
    """The direct effect of one unit of each feature on the logits: (W_dec ⊙ γ) W_U, less its mean over the vocabulary.

    γ is what the final norm multiplies with (not used at `final_norm` itself, which lies after it); the norm's division
    by the scale of the stream is left out, as it is the same for all tokens. Nothing [n, 0] where `writes_to_logits`
    denies. Where blocks multiply what is written, or the stream, by numbers (Granite, Gemma 4), these count.
    """
    if not writes_to_logits(model, W_dec, hook):
        return LogitEffects(len(W_dec), 0)
    assert model is not None and model.unembed is not None
    unembed = model.unembed.detach().float()
    weight = model.norm_gain
    k = min(k, unembed.shape[1])
    effects = LogitEffects(len(W_dec), k)
    with torch.no_grad():
        directions = W_dec.float().to(unembed.device) * model.scaled(hook)
        if weight is not None and hook != "final_norm":
            directions = directions * weight.detach().float()
        for start in range(0, len(directions), _BLOCK):
            reporter.step(start, len(directions), "effects on the logits", "features")
            logits = directions[start:start + _BLOCK] @ unembed
            logits -= logits.mean(1, keepdim=True)
            part = slice(start, start + len(logits))
            for ids, values, largest in ((effects.top_ids, effects.top, True),
                                         (effects.bottom_ids, effects.bottom, False)):
                best, which = logits.topk(k, dim=1, largest=largest)
                ids[part] = which.cpu().numpy()
                values[part] = best.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).cpu().numpy()
    return effects
