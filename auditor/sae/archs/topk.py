"""TopK features with an auxiliary loss that revives dead ones (Gao et al. 2024, sections 2.3 and A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from auditor.sae.archs.architecture import (
    Architecture,
    Batch,
    Outcome,
    checked_k,
    folded,
)
from auditor.sae.archs.auxk import AuxKConfig, add_auxk, auxk
from auditor.sae.archs.fused import FusedStep, fits
from auditor.sae.kernels.product import resolve
from auditor.sae.kernels.topk_step import CHECK_EVERY, CHECK_ROWS, TopKStep
from auditor.sae.parameters import Parameters
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling


@dataclass(frozen=True, kw_only=True)
class TopKConfig(AuxKConfig):
    """`k`: features active on each row; `product`: how candidates for them are found on a CPU (`kernels.product`)."""

    k: int
    product: str


class TopK(Architecture):
    """Mean over rows of ‖x' - x‖² + α ‖e' - e‖², with only the k largest pre-activations active.

    e = x - x' is what is missing (no gradient through it) and e' its reconstruction by the d_in/2 most active dead
    features, measured on the first `auxk_rows` rows of the (shuffled) batch. Decoder rows have unit norm.
    """

    name = "topk"
    config: TopKConfig
    config_class = TopKConfig
    continues = ("topk",)
    unit_rows = True
    fused: FusedStep | None = None

    def __init__(self, config: TopKConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self.k = self.active = checked_k(config.k, config.d_sae)
        self.step: TopKStep | None = None
        if device.type == "cpu":
            spread = (sample.x - sample.x.mean(0)).abs().amax(0)
            self.step = TopKStep(sample.x.shape[1], config.d_sae, self.k, resolve(config.product), spread)

    def prepare(self, parameters: Parameters, optimiser: torch.optim.Adam, *, batch_size: int, dead_after: int) -> None:
        self.fused = None
        if fits(self.config.d_sae, self.config.k, self.device):
            c = self.config
            self.fused = FusedStep(
                parameters, optimiser, k=c.k, auxk_alpha=c.auxk_alpha, auxk_rows=c.auxk_rows, batch_size=batch_size,
                dead_after=dead_after,
            )

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p, step = parameters, self.step
        if step is None:
            return None
        if batch.step % CHECK_EVERY == 0:
            step.check(batch.x[:CHECK_ROWS] - p.b_dec, p.encoder, p.b_enc)
        done = step.forward(batch.x, p.encoder, p.decoder, p.b_enc, p.b_dec)
        gradients = step.backward(done, p.encoder, p.decoder)
        for tensor, gradient in zip(p.named().values(), gradients, strict=True):
            tensor.grad = gradient
        squared = done.residual.pow(2).sum()
        loss = squared / len(batch.x) + add_auxk(self.config, p, batch, done.centred, done.residual)
        active = done.values > 0
        counts = torch.bincount(done.ids[active], minlength=p.d_sae)
        return Outcome(loss, squared, active.sum() / len(batch.x), counts)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            centred = batch.x - p.b_dec
            values, ids = torch.addmm(p.b_enc, centred, p.encoder.T).topk(self.k, dim=1, sorted=False)
        values = values.float().relu()
        out = functional.embedding_bag(ids, p.decoder, per_sample_weights=values, mode="sum")
        residual = out + p.b_dec - batch.x
        squared = residual.pow(2).sum()
        loss = squared / len(batch.x) + auxk(self.config, p, batch, centred, residual)
        active = values.detach() > 0
        counts = torch.zeros(p.d_sae, dtype=torch.int64, device=self.device)
        counts.index_add_(0, ids.flatten(), active.flatten().long())
        return Outcome(loss, squared.detach(), active.sum() / len(batch.x), counts)

    def state(self) -> dict[str, Any]:
        if self.fused:
            return {"product": "fused bfloat16", "waiting": self.fused.waiting()}
        return {"product": self.step.product.name if self.step else "autocast bfloat16"}

    def restore(self, state: dict[str, Any]) -> None:
        if self.fused:
            self.fused.resume(state.get("waiting"))
        elif self.step is not None and state.get("product") in ("float32", "bfloat16", "int8"):
            self.step.use(state["product"])

    def facts(self) -> dict[str, Any]:
        return {"product": self.state()["product"]}

    def finish(self, parameters: Parameters) -> Sae:
        return Sae("topk", **folded(parameters, self.scaling), k=self.k)
