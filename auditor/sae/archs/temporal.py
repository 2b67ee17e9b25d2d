"""Temporal dictionaries: what the rows before let expect of a row is taken out of it, and few features describe the
rest (Lubana et al. 2025, arXiv 2511.01836)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import ArchConfig, Architecture, Batch, Outcome, checked_k, outcome_of
from auditor.sae.clt import Dictionary
from auditor.sae.context import LEAST_NORM, Context
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling


@dataclass(frozen=True, kw_only=True)
class TemporalConfig(ArchConfig):
    """`k`: features active on each row, for what is new in it; `heads`: of the attention that looks back; `bottleneck`:
    its queries and keys have d_sae / bottleneck entries."""

    k: int
    heads: int
    bottleneck: int


class Temporal(Architecture):
    """Mean over rows of ‖x' - x‖², x' = p + z D + b_dec: p is what the rows before foresee (`auditor.sae.context`, one
    layer), z the k largest of ReLU(λ (x - b_dec - p) Dᵀ), λ = 1 / (4 d_in). Encoder and decoder are one matrix D, free
    in its norms, as in the authors' code; gradients run through the attention. D's rows begin with norm √d_in, as
    theirs do; what is learned is D / √d_in, so that a rate means the same as with other architectures.

    Batches are whole samples, the last one cut where the batch is full: what was left out comes after all else, and
    nothing looks ahead. Special positions are context; they count in no figure.
    """

    name = "temporal"
    config: TemporalConfig
    config_class = TemporalConfig
    takes = "samples"
    continues = ("topk",)

    def __init__(self, config: TemporalConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self.k = self.active = checked_k(config.k, config.d_sae)
        if config.d_sae % (config.bottleneck * config.heads):
            raise AuditorError(
                f"{config.d_sae} features do not divide into a bottleneck of {config.bottleneck} and {config.heads} "
                "heads.", f"Choose a multiple of {config.bottleneck * config.heads} features.",
            )
        # One factor for all columns; what is linear in the rows does not feel it, but sizes inside attention do.
        self._factor = float(scaling.input[0])

    def begin(self, sample: Batch) -> Parameters:
        tensors = {name: tensor.detach() for name, tensor in super().begin(sample).named().items()}
        d_sae = len(tensors["decoder"])
        drawn = torch.Generator().manual_seed(self.config.seed + 1)
        narrow, heads = d_sae // self.config.bottleneck, self.config.heads
        # As the authors begin: rows of one norm, so that scores and values are of the size of what they are made from.
        sizes = {
            "q_target": (narrow, narrow // heads), "k_ctx": (narrow, narrow // heads),
            "v_ctx": (d_sae, d_sae // heads), "c_proj": (d_sae, d_sae),
        }  # fmt: skip
        more = {}
        for name, (size, among) in sizes.items():
            weight = torch.randn(size, d_sae, generator=drawn)
            more[f"attn_layers.0.{name}.weight"] = weight / weight.norm(dim=1, keepdim=True) / among**0.5
            more[f"attn_layers.0.{name}.bias"] = torch.zeros(size)
        return self._tied(tensors["decoder"].cpu(), tensors["b_dec"], more)

    def _tied(self, decoder: Tensor, b_dec: Tensor, more: dict[str, Tensor]) -> Parameters:
        named = {"encoder": decoder[:, :0], "decoder": decoder, "b_enc": torch.zeros(len(decoder)), "b_dec": b_dec}
        return leaves(named | more, self.device)

    def adopt(self, sae: Dictionary) -> Parameters:
        if not isinstance(sae, Sae) or sae.context is None or sae.arch not in self.continues:
            raise AuditorError(
                f"A dictionary of kind “{sae.arch}” cannot be trained on as temporal.", "Start from a temporal one."
            )
        context = sae.context
        same = torch.equal(sae.W_enc, sae.W_dec.T) and context.offset is None and context.layers == 1
        narrow = self.config.d_sae // self.config.bottleneck
        shape = self.config.d_sae, self.config.heads, narrow, len(self.scaling.input)
        found = sae.d_sae, context.heads, len(context.tensors["attn_layers.0.k_ctx.bias"]), sae.d_in
        if not same or shape != found or sae.normalise != ("layer_norm" if self.scaling.layer_norm else "none"):
            raise AuditorError(
                f"The dictionary to start from has {found[0]} features, {found[1]} heads, {found[2]} entries in keys "
                f"and {found[3]} in rows; asked for are {', '.join(map(str, shape))}, one layer and a tied encoder.",
                "Choose its number of features, heads, bottleneck and normalisation.",
            )
        more = {name: tensor.cpu().clone() for name, tensor in self._scaled(context.tensors, 1 / self._factor).items()}
        return self._tied(sae.W_dec.cpu() / self._norm, sae.b_dec.cpu() * self._factor, more)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p, judged = parameters, batch.judged
        assert batch.runs is not None and judged is not None
        context = Context(p.more, self.config.heads, self._scale, least=LEAST_NORM * self._factor)
        rows, D = batch.x - p.b_dec, p.decoder * self._norm
        foreseen = context.foreseen(rows, batch.runs, D.T, D)
        pre = ((rows - foreseen) * self._scale) @ D.T
        values, ids = pre.topk(self.k, dim=1, sorted=False)
        z = torch.zeros_like(pre).scatter(1, ids, values.relu())
        residual = (z @ D + foreseen - rows)[judged]
        squared = residual.pow(2).sum()
        outcome = outcome_of(squared / max(1, len(residual)), squared, (z.detach() > 0)[judged])
        # Neither takes part, but whoever asks for gradients of all finds zeros.
        outcome.loss = outcome.loss + 0 * (p.encoder.sum() + p.b_enc.sum())
        return outcome

    @property
    def _scale(self) -> float:
        return 1 / (4 * len(self.scaling.input))

    @property
    def _norm(self) -> float:
        return float(len(self.scaling.input) ** 0.5)

    def finish(self, parameters: Parameters) -> Sae:
        decoder = parameters.decoder.detach().cpu().float() * self._norm
        b_dec = parameters.b_dec.detach().cpu().float()
        more = {name: tensor.detach().cpu().float() for name, tensor in parameters.more.items()}
        tensors = {name: tensor.clone() for name, tensor in self._scaled(more, self._factor).items()}
        return Sae(
            "topk", decoder.T.contiguous(), decoder, torch.zeros(len(decoder)), b_dec / self._factor, k=self.k,
            context=Context(tensors, self.config.heads, self._scale), **self.scaling.facts(),
        )

    @staticmethod
    def _scaled(tensors: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
        """The attention over codes that are 1 / `factor` times what they were: D stays, as it is on both sides."""
        found = {}
        for name, tensor in tensors.items():
            if ".c_proj." in name:
                found[name] = tensor / factor
            else:
                found[name] = tensor * factor if name.endswith(".weight") else tensor
        return found
