"""Skip transcoders: a linear path beside the features takes what is linear, so that features need not (Paulo et al.
2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from auditor.sae.archs.architecture import Batch
from auditor.sae.archs.transcoder import Transcoder, TranscoderConfig
from auditor.sae.clt import Dictionary
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae


@dataclass(frozen=True, kw_only=True)
class SkipTranscoderConfig(TranscoderConfig):
    """As of a transcoder: the linear path has no setting."""


class SkipTranscoder(Transcoder):
    """As `Transcoder`, with y' = TopK(x W_enc + b_enc) W_dec + x W_skip + b_dec (Paulo et al. 2025, eq. 3). W_skip
    [d_in, d_out] starts at 0."""

    name = "skip_transcoder"
    config: SkipTranscoderConfig
    config_class = SkipTranscoderConfig
    skips = True

    def begin(self, sample: Batch) -> Parameters:
        started = super().begin(sample)
        skip = torch.zeros(sample.x.shape[1], sample.target.shape[1], device=self.device)
        started.more["skip"] = skip.requires_grad_()
        return started

    def adopt(self, sae: Dictionary) -> Parameters:
        tensors = self.adopted(sae)
        return leaves({"skip": torch.zeros(sae.d_in, sae.d_out)} | tensors, self.device)

    def beside(self, p: Parameters, batch: Batch) -> Tensor:
        return batch.x @ p.more["skip"] + p.b_dec

    def finish(self, parameters: Parameters) -> Sae:
        skip = parameters.more["skip"].detach().cpu().float()
        return replace(super().finish(parameters), W_skip=skip * self.scaling.input[:, None] / self.scaling.output)
