"""Training on several processes that share the batches, or the features: gradients and results as on one."""

from auditor.sae.distributed.ranks import Ranks, Rows

__all__ = ["Ranks", "Rows"]
