"""Which settings of a training concern which architecture, so that a form shows no others; imports no torch."""

from __future__ import annotations

from auditor.sae.train_config import TrainConfig

_REVIVAL = ("auxk_alpha", "auxk_rows")
# Beside what concerns them all.
USES: dict[str, tuple[str, ...]] = {
    "topk": ("k", "product", *_REVIVAL),
    "batchtopk": ("k", *_REVIVAL),
    "matryoshka": ("k", "widths", *_REVIVAL),
    "matching_pursuit": ("k",),
    "relu": ("l1", "p_end"),
    "gated": ("l1",),
    "jumprelu": ("l1", "target_l0", "jump_loss", "bandwidth"),
    "transcoder": ("target", "k", *_REVIVAL),
    "skip_transcoder": ("target", "k", *_REVIVAL),
    "crosscoder": ("others", "l1"),
    "clt": ("target", "l1", "bandwidth"),
}
ABOUT = {
    "topk": "The k largest activations of each row (Gao et al. 2024).",
    "batchtopk": "The k largest a row on average over the batch (Bussmann et al. 2024).",
    "matryoshka": "BatchTopK whose first features must reconstruct on their own (Bussmann et al. 2025).",
    "matching_pursuit": "Features chosen one after another from what is left (Costa et al. 2025).",
    "relu": "ReLU with an L1 penalty (Bricken et al. 2023).",
    "gated": "One encoder says which fire, another how strongly (Rajamanoharan et al. 2024).",
    "jumprelu": "A learned threshold for each feature (Rajamanoharan et al. 2024).",
    "transcoder": "TopK that predicts another hook point, such as an MLP's output (Dunefsky et al. 2024).",
    "skip_transcoder": "A transcoder with a linear path beside its features (Paulo et al. 2025).",
    "crosscoder": "One set of features for several layers, models or checkpoints (Lindsey et al. 2024).",
    "clt": "Cross-layer transcoder: features that write to all later layers (Ameisen et al. 2025).",
}
_PARTICULAR = frozenset(name for names in USES.values() for name in names)


def settings_of(arch: str) -> frozenset[str]:
    """The settings that concern `arch`, those of all architectures included."""
    return frozenset(TrainConfig.model_fields) - _PARTICULAR | frozenset(USES.get(arch, _PARTICULAR))
