"""The step of a TopK or BatchTopK dictionary whose features lie on several processes.

Each process finds its own largest pre-activations; the values of these candidates are gathered, from which each knows
which of its own are among the largest of all. Each decodes those, and the reconstructions [B, d] are added up. Every
process then has the same residual and loss, so the gradients of its features need no exchange; only b_dec's, whose part
that goes through the encoder is summed over features, does (Gao et al. 2024, section C.4, shards likewise).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import ArchConfig, Architecture, Batch, Outcome, folded
from auditor.sae.archs.batchtopk import BatchTopK, BatchTopKConfig
from auditor.sae.archs.topk import TopK, TopKConfig
from auditor.sae.clt import Dictionary
from auditor.sae.distributed.group import Group
from auditor.sae.distributed.shards import FeatureShards
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling


class Sharded(Architecture):
    """The features of this process; `whole` is the architecture that they are part of, made for the CPU, which starts
    and finishes the dictionary."""

    config: TopKConfig | BatchTopKConfig

    def __init__(
        self, ranks: FeatureShards, kind: type[Architecture], config: ArchConfig, scaling: Scaling, sample: Batch,
        device: torch.device,
    ) -> None:
        if kind.name not in (TopK.name, BatchTopK.name):
            raise AuditorError(
                f"The features of {kind.name} cannot be sharded.",
                f"Choose {TopK.name} or {BatchTopK.name}, or train it without --shard-features.",
            )
        super().__init__(config, scaling, sample, device)
        self.ranks, self.group = ranks, ranks.group
        self.whole = kind(config, scaling, sample, torch.device("cpu"))

    def begin(self, sample: Batch) -> Parameters:
        return self._own(self.whole.begin(sample))

    def adopt(self, sae: Dictionary) -> Parameters:
        return self._own(self.whole.adopt(sae))

    def gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        try:
            return super().gradients(parameters, batch)
        except torch.OutOfMemoryError as error:
            # The others are in the middle of this batch, so it cannot be taken again in smaller pieces.
            raise AuditorError(
                "A process's share of the dictionary does not fit its memory.",
                "Use more processes, or smaller batches.",
            ) from error

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            pre = self._pre(p, batch.x)
        places = self._chosen(pre.detach())
        ids, values, decoded = self._decoded(p, pre, places)
        residual = decoded + p.b_dec - batch.target
        squared = residual.pow(2).sum()
        loss = squared / len(batch.x) + self._auxk(p, pre, residual.detach(), batch.dead)
        active = values.detach() > 0
        counts = torch.zeros(p.d_sae, dtype=torch.int64, device=self.device).index_add_(0, ids, active.long())
        return Outcome(loss, squared.detach(), self.group.sum(active.sum()) / len(batch.x), counts)

    def before_update(self, parameters: Parameters) -> None:
        self.whole.before_update(parameters)

    def after_update(self, parameters: Parameters) -> None:
        self.whole.after_update(parameters)

    def observe(self, parameters: Parameters, batch: Batch, outcome: Outcome) -> None:
        self.whole.observe(parameters, batch, outcome)

    def state(self) -> dict[str, Any]:
        return self.whole.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.whole.restore(state)

    def finish(self, parameters: Parameters) -> Dictionary:
        """The whole dictionary on process 0; on the others the features that they hold."""
        named = {
            name: tensor.detach() if self.ranks.split(name) is None else self.group.stack(tensor, self.ranks.starts)
            for name, tensor in parameters.named().items()
        }
        gathered = leaves(named, torch.device("cpu"))
        return self.whole.finish(gathered) if self.ranks.leads else Sae("relu", **folded(gathered, self.scaling))

    def _own(self, whole: Parameters) -> Parameters:
        own = self.ranks.own
        named = {
            name: tensor if self.ranks.split(name) is None else tensor[own] for name, tensor in whole.named().items()
        }
        return leaves(named, self.device)

    def _pre(self, p: Parameters, x: Tensor) -> Tensor:
        """Pre-activations [B, m/R]. Their gradient reaches b_dec through a term that is 0, since one to each row of the
        input would take another product as large as this one."""
        read: Tensor = _Read.apply(p.b_dec, self.group)  # type: ignore[no-untyped-call]
        bias = p.b_enc - p.encoder @ (read - read.detach())
        return torch.addmm(bias, x - p.b_dec.detach(), p.encoder.T)

    def _chosen(self, pre: Tensor) -> Tensor:
        """Where the pre-activations lie [n] that are among the largest of all features, of each row or of the batch."""
        k, of_rows = self.config.k, isinstance(self.whole, TopK)
        return self._largest(pre, k) if of_rows else self._largest(pre.reshape(1, -1), k * len(pre))

    def _largest(self, pre: Tensor, k: int) -> Tensor:
        """Places [n], rising, in pre [rows, width] of those among the k largest of each row over all processes."""
        width = pre.shape[1]
        wanted = min(k, width // self.ranks.held * self.ranks.most)
        values, ids = pre.topk(min(wanted, width), dim=1, sorted=False)
        held = functional.pad(values.float(), (0, wanted - values.shape[1]), value=-torch.inf)
        gathered = torch.cat(self.group.gather(held), 1)
        at = gathered.topk(k, dim=1, sorted=False).indices
        kept = torch.zeros_like(gathered, dtype=torch.bool).scatter_(1, at, True) & (gathered > -torch.inf)
        mine = kept[:, self.group.rank * wanted :][:, : values.shape[1]]
        places = ids + torch.arange(len(pre), device=pre.device)[:, None] * width
        return places[mine].sort().values

    def _decoded(self, p: Parameters, pre: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [n] and activations [n] at these places of pre [B, m/R], and what those of all processes add up to
        [B, d]."""
        rows, ids = places // pre.shape[1], places % pre.shape[1]
        values = pre.reshape(-1)[places].float().relu()
        starts = torch.searchsorted(rows, torch.arange(len(pre), device=rows.device))
        here = functional.embedding_bag(ids, p.decoder, starts, per_sample_weights=values, mode="sum")
        return ids, values, _Sum.apply(here, self.group)  # type: ignore[no-untyped-call]

    def _auxk(self, p: Parameters, pre: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        """As `auxk.auxk`, of the dead features of all processes."""
        if not self.config.auxk_alpha or not self.group.any(bool(dead.any())):
            return torch.zeros((), device=self.device)
        rows = slice(0, self.config.auxk_rows)
        part = pre[rows].masked_fill(~dead, -torch.inf)
        places = self._largest(part.detach(), min(residual.shape[1] // 2 or 1, self.config.d_sae))
        missed = self._decoded(p, part, places)[2] + residual[rows]
        return self.config.auxk_alpha * missed.pow(2).sum() / len(missed)


class _Read(torch.autograd.Function):
    """What every process reads alike: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum(gradients[0].contiguous().clone()), None


class _Sum(torch.autograd.Function):
    """The sum of what all processes give: its gradient is each one's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return group.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
