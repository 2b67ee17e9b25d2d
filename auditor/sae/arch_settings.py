"""Which settings of a training concern which architecture, so that a form shows no others; imports no torch."""

from __future__ import annotations

from auditor.sae.train_config import TrainConfig

_REVIVAL = ("auxk_alpha", "auxk_rows")
# What the config class of each has beside what they all have; a test compares the two.
USES: dict[str, tuple[str, ...]] = {
    "topk": ("k", "product", *_REVIVAL),
    "batchtopk": ("k", "product", *_REVIVAL),
    "matryoshka": ("k", "widths", "product", *_REVIVAL),
    "abstopk": ("k", *_REVIVAL),
    "groupmax": ("k", *_REVIVAL),
    "matching_pursuit": ("k",),
    "temporal": ("k", "heads", "bottleneck"),
    "relu": ("l1", "p_end", "product"),
    "gated": ("l1", "product"),
    "jumprelu": ("l1", "target_l0", "jump_loss", "bandwidth", "product"),
    "transcoder": ("k", "product", *_REVIVAL),
    "skip_transcoder": ("k", "product", *_REVIVAL),
    "crosscoder": ("l1", "p_end"),
    "clt": ("l1", "bandwidth"),
}
# Which of the settings that say what is read concern one that takes more than one hook point of one store.
READS: dict[str, tuple[str, ...]] = {
    "transcoder": ("target",), "skip_transcoder": ("target",), "clt": ("target",), "crosscoder": ("others",),
}  # fmt: skip
ABOUT = {
    "topk": "The k largest activations of each row (Gao et al. 2024).",
    "batchtopk": "The k largest a row on average over the batch (Bussmann et al. 2024).",
    "matryoshka": "BatchTopK whose first features must reconstruct on their own (Bussmann et al. 2025).",
    "abstopk": "The k largest by magnitude: features with two sides (Zhu et al. 2025).",
    "groupmax": "The largest of each of k groups of features (sparsify).",
    "temporal": "What the rows before foresee, and TopK features of the rest (Lubana et al. 2025).",
    "matching_pursuit": "Features chosen one after another from what is left (Costa et al. 2025).",
    "relu": "ReLU with an L1 penalty (Bricken et al. 2023).",
    "gated": "One encoder says which fire, another how strongly (Rajamanoharan et al. 2024).",
    "jumprelu": "A learned threshold for each feature (Rajamanoharan et al. 2024).",
    "transcoder": "TopK that predicts another hook point, such as an MLP's output (Dunefsky et al. 2024).",
    "skip_transcoder": "A transcoder with a linear path beside its features (Paulo et al. 2025).",
    "crosscoder": "One set of features for several layers, models or checkpoints (Lindsey et al. 2024).",
    "clt": "Cross-layer transcoder: features that write to all later layers (Ameisen et al. 2025).",
}
# What a setting means with one architecture, where it means more than one thing.
_HELP = {
    "hook": {"crosscoder": "The layers that it reads, separated by commas; empty: all that the store has.",
             "clt": "The hook points that it reads, one a layer, separated by commas."},
    "target": {"clt": "The hook points that it predicts, one for each that it reads, separated by commas."},
    "k": {"topk": "Features active on each row.", "batchtopk": "Features active on a row, on average over the batch.",
          "matryoshka": "Features active on a row, on average over the batch.",
          "abstopk": "Features active on each row, on either side.", "temporal": "Features active on each row.",
          "groupmax": "Groups of features, one of each of which is active at most; they divide the features.",
          "matching_pursuit": "Features active on a row at most.", "transcoder": "Features active on each row.",
          "skip_transcoder": "Features active on each row."},
    "l1": {"relu": "Weight of the L1 of the activations, each by its decoder's norm.",
           "gated": "Weight of the L1 of the gates.", "jumprelu": "Weight of the penalty on active features.",
           "crosscoder": "Weight of the L1, by the norms of all of a feature's decoders.",
           "clt": "Weight of the sparsity penalty."},
}  # fmt: skip
_OTHERWISE = {"hook": "Empty: the store's only hook point.", "target": "The hook point that it predicts."}
_PARTICULAR = frozenset(name for names in (*USES.values(), *READS.values()) for name in names)


def settings_of(arch: str) -> frozenset[str]:
    """The settings that concern `arch`, those of all architectures included."""
    own = frozenset((*USES[arch], *READS.get(arch, ()))) if arch in USES else _PARTICULAR
    return frozenset(TrainConfig.model_fields) - _PARTICULAR | own


def help_of(arch: str, setting: str) -> str:
    """What `setting` means with `arch`."""
    said = TrainConfig.model_fields[setting].description or ""
    return _HELP.get(setting, {}).get(arch, _OTHERWISE.get(setting, said))
