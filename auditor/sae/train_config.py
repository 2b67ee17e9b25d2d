"""The settings of dictionary training; imports no torch, so forms and the command line can show them at once."""

from __future__ import annotations

from typing import Literal

from auditor.base.config import Config, field


class TrainConfig(Config):
    """How to train one dictionary on one hook point of a store.

    The input is scaled to a mean norm of sqrt(d_in) while training, so `l1` and `lr` mean the same on every model;
    the scale is folded into the weights that are saved.
    """

    store: str = field("", title="Store", help="The recorded activations to learn from.", artefact="store")
    hook: str = field("", title="Hook point", help="Empty: the store's only hook point.", hook_of="store")
    arch: Literal["topk", "relu"] = field(
        "topk", title="Architecture", help="How few features may be active: the k largest, or a penalty.",
        choices=("topk", "relu"),
    )
    d_sae: int = field(4096, title="Features", help="Size of the dictionary.", ge=2, le=4_194_304)
    k: int = field(32, title="Active features", help="TopK: features active at once.", unit="features", ge=1, le=4096)
    l1: float = field(3.0, title="L1 penalty", help="ReLU: weight of the decoder-norm-weighted L1.", ge=0, le=1000)
    steps: int = field(3000, title="Steps", ge=1, le=100_000_000)
    batch_size: int = field(4096, title="Batch size", unit="rows", ge=1, le=1_048_576)
    lr: float = field(3e-3, title="Learning rate", help="Highest rate of Adam.", ge=0, le=1)
    warmup: float = field(0.02, title="Warm-up", help="Share of the steps over which the rate rises.", ge=0, le=1)
    decay: float = field(0.25, title="Decay", help="Share of the steps over which the rate falls to 0.", ge=0, le=1)
    kinds: Literal["all", "text", "image"] = field(
        "all", title="Positions", help="Which positions to learn from.", choices=("all", "text", "image"), advanced=True
    )
    seed: int = field(0, title="Seed", ge=0, le=2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = field(
        "auto", title="Device", help="auto: a CUDA GPU where there is one.", choices=("auto", "cpu", "cuda")
    )
    product: Literal["auto", "float32", "bfloat16", "int8"] = field(
        "auto", title="Encoder product",
        help="How candidates for the top k are found; those found are scored again in float32. auto: the fastest that "
        "this processor has in hardware.",
        choices=("auto", "float32", "bfloat16", "int8"), advanced=True,
    )
    auxk_alpha: float = field(
        1 / 32, title="Dead-feature loss", help="Weight of AuxK (Gao et al. 2024).", ge=0, le=10, advanced=True
    )
    auxk_rows: int = field(
        512, title="Dead-feature rows", help="Rows of each batch that AuxK looks at.", unit="rows", ge=1, advanced=True
    )
    dead_after: int = field(
        200_000, title="Dead after", help="A feature silent for this long counts as dead.", unit="rows", ge=1,
        advanced=True,
    )
    metrics_every: int = field(10, title="Metrics every", unit="steps", ge=1, advanced=True)
    checkpoint_every: int = field(500, title="Checkpoint every", unit="steps", ge=1, advanced=True)
    evaluate_rows: int = field(
        8192, title="Rows to evaluate on", help="0: no evaluation.", unit="rows", ge=0, advanced=True
    )
    half: bool = field(False, title="Save as float16", help="Half the size on disk.", advanced=True)
