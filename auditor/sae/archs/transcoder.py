"""Transcoders: TopK features that predict one hook point from another, such as an MLP's output from its input (Dunefsky
et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from auditor.sae.archs.architecture import (
    Architecture,
    Batch,
    Outcome,
    checked_k,
    folded,
    outcome_of,
)
from auditor.sae.archs.auxk import AuxKConfig, add_auxk, auxk
from auditor.sae.kernels.product import resolve
from auditor.sae.kernels.sparse import Columns, decode, sampled
from auditor.sae.kernels.topk_step import CHECK_EVERY, CHECK_ROWS, TopKStep
from auditor.sae.parameters import Parameters
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling


@dataclass(frozen=True, kw_only=True)
class TranscoderConfig(AuxKConfig):
    """`k`: features active on each row; `product`: how candidates for them are found on a CPU (`kernels.product`)."""

    k: int
    product: str


class Transcoder(Architecture):
    """Mean over rows of ‖y' - y‖² + AuxK, where y' = TopK(x W_enc + b_enc) W_dec + b_dec predicts the target y
    (Dunefsky et al. 2024, eq. 3 and 4, with the k largest in place of their L1, as Paulo et al. 2025).

    The input is not centred: b_dec [d_out] belongs to the target. b_enc starts such that features see the input less
    its median. Decoder rows have unit norm.
    """

    name = "transcoder"
    config: TranscoderConfig
    config_class: ClassVar[type[TranscoderConfig]] = TranscoderConfig
    takes = "pair"
    continues = ("topk",)
    unit_rows = True

    def __init__(self, config: TranscoderConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self.k = self.active = checked_k(config.k, config.d_sae)
        self.step: TopKStep | None = None
        if device.type == "cpu":
            spread = sample.x.abs().amax(0)
            self.step = TopKStep(sample.x.shape[1], config.d_sae, self.k, resolve(config.product), spread)

    def begin(self, sample: Batch) -> Parameters:
        started = super().begin(sample)
        if not self.scaling.reading.targets:
            # What it reads is not centred.
            started.b_enc.detach().copy_(-started.encoder.detach() @ started.b_dec.detach())
        return started

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p, step = parameters, self.step
        if step is None:
            return None
        if batch.step % CHECK_EVERY == 0:
            step.check(batch.x[:CHECK_ROWS], p.encoder, p.b_enc)
        values, ids = step.select(batch.x, p.encoder, p.b_enc)
        values = values.relu_()
        residual = decode(values, ids, p.decoder) + self.beside(p, batch) - batch.target
        to_out = residual * (2 / len(batch.x))
        to_values = sampled(to_out, p.decoder, ids).mul_(values > 0)
        columns = Columns.of(ids, p.d_sae)
        p.encoder.grad = columns.product(to_values, batch.x, torch.empty_like(p.encoder))
        p.decoder.grad = columns.product(values, to_out, torch.empty_like(p.decoder))
        p.b_enc.grad = torch.zeros(p.d_sae).index_add_(0, ids.flatten(), to_values.flatten())
        p.b_dec.grad = to_out.sum(0)
        if "skip" in p.more:
            p.more["skip"].grad = batch.x.T @ to_out
        squared = residual.pow(2).sum()
        loss = squared / len(batch.x) + add_auxk(self.config, p, batch, batch.x, residual)
        active = values > 0
        counts = torch.bincount(ids[active], minlength=p.d_sae)
        return Outcome(loss, squared, active.sum() / len(batch.x), counts)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            pre = torch.addmm(p.b_enc, batch.x, p.encoder.T)
            values, ids = pre.topk(self.k, dim=1, sorted=False)
            z = torch.zeros_like(pre).scatter(1, ids, values.relu())
            residual = z @ p.decoder + self.beside(p, batch) - batch.target
        squared = residual.pow(2).sum()
        loss = squared / len(batch.x) + auxk(self.config, p, batch, batch.x, residual)
        return outcome_of(loss, squared, z.detach() > 0)

    def beside(self, p: Parameters, batch: Batch) -> Tensor:
        """What the prediction holds beside the features' part, [B, d_out] or [d_out]."""
        return p.b_dec

    def state(self) -> dict[str, Any]:
        return {"product": self.step.product.name if self.step else "autocast bfloat16"}

    def restore(self, state: dict[str, Any]) -> None:
        if self.step is not None and state.get("product") in ("float32", "bfloat16", "int8"):
            self.step.use(state["product"])

    def finish(self, parameters: Parameters) -> Sae:
        return Sae("topk", **folded(parameters, self.scaling), k=self.k)
