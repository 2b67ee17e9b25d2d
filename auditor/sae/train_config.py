"""The settings of dictionary training; imports no torch, so forms and the command line can show them at once."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from auditor.base.config import Config, field
from auditor.intake.overlay import SWITCH, Switch
from auditor.sae.presets import PRESETS

# Each is one file in `archs`; a test compares this list with their registry.
ARCHS = (
    "topk", "batchtopk", "matryoshka", "abstopk", "groupmax", "matching_pursuit", "temporal", "relu", "gated",
    "jumprelu", "transcoder", "skip_transcoder", "crosscoder", "clt",
)  # fmt: skip


class TrainConfig(Config):
    """How to train a dictionary on one hook point of a store, or several at once on one pass over it (`sweep`).

    The input is scaled to a mean norm of sqrt(d_in) while training, so `l1` and `lr` mean the same on every model;
    the scale is folded into the weights that are saved.
    """

    preset: Literal["", *PRESETS] = field(  # type: ignore[valid-type]
        "", title="Preset", help="Settings that go together; those that are given as well stand in their place.",
        choices=tuple(PRESETS),
    )
    store: str = field("", title="Store", help="The recorded activations to learn from.", artefact="store")
    hook: str = field(
        "", title="Hook point", help="Empty: the store's only hook point. A crosscoder or cross-layer transcoder takes "
        "several, separated by commas.", hook_of="store",
    )
    target: str = field(
        "", title="Predicts", help="Transcoders: the hook point whose activations are predicted; a cross-layer "
        "transcoder takes one for each that it reads.", hook_of="store",
    )
    others: str = field(
        "", title="Further stores", help="Crosscoder over models or checkpoints: stores of the same samples, separated "
        "by commas.",
    )
    model: str = field(
        "", title="Stream from", help="No store: learn from this model's activations as they arise.", artefact="model",
        advanced=True,
    )
    samples: str = field(
        "", title="Stream samples", help="What that model is run on; some are held out to measure on.",
        artefact="samples", advanced=True,
    )
    adapter: Switch = field("on", **SWITCH)
    context: int = field(
        256, title="Context", help="Streaming: no text is run longer than this.", unit="tokens", ge=2, advanced=True
    )
    buffer_rows: int = field(
        131_072, title="Shuffle buffer", help="Streaming: rows that are mixed at a time.", unit="rows", ge=1024,
        le=2**31 - 1, advanced=True,
    )
    arch: Literal[ARCHS] = field(  # type: ignore[valid-type]
        "topk", title="Architecture", help="How few features may be active: the k largest, or a penalty.", choices=ARCHS
    )
    d_sae: int = field(4096, title="Features", help="Size of the dictionary.", ge=2, le=4_194_304)
    k: int = field(
        32, title="Active features", help="TopK: features active at once; BatchTopK and Matryoshka: on average; "
        "matching pursuit: at most.", unit="features", ge=1, le=4096,
    )
    heads: int = field(
        8, title="Attention heads", help="Temporal: heads of the attention that looks back.", ge=1, le=1024,
        advanced=True,
    )
    bottleneck: int = field(
        64, title="Bottleneck", help="Temporal: queries and keys have so many times fewer entries than there are "
        "features, which this times the heads must divide.", ge=1, le=4096, advanced=True,
    )
    l1: float = field(
        3.0, title="Sparsity penalty", help="ReLU, gated, crosscoder: weight of the decoder-norm-weighted L1; JumpReLU "
        "and cross-layer transcoder: of their own penalty.", ge=0, le=1000,
    )
    target_l0: float = field(
        0, title="Target L0", help="JumpReLU: active features to aim at, in place of a fixed penalty; 0: none.",
        unit="features", ge=0, le=100_000,
    )
    jump_loss: Literal["step", "tanh"] = field(
        "step", title="JumpReLU loss", help="step: Rajamanoharan et al. 2024; tanh: Conerly et al. 2025. With a "
        "target L0 the penalty is the count of active features in both; tanh then lets the jump teach all weights.",
        choices=("step", "tanh"), advanced=True,
    )
    bandwidth: float = field(
        0.03, title="Bandwidth", help="JumpReLU: width of the kernel that lets thresholds learn, in units of a typical "
        "activation.", ge=1e-6, le=10, advanced=True,
    )
    p_end: float = field(
        1.0, title="Last p", help="ReLU: the penalty's exponent falls from 1 to this (p-annealing); 1: plain L1.",
        ge=0.1, le=1, advanced=True,
    )
    widths: str = field(
        "1/16, 1/8, 1/4, 1/2, 1", title="Nested widths", help="Matryoshka: shares of the features that must "
        "reconstruct on their own.", advanced=True,
    )
    steps: int = field(3000, title="Steps", ge=1, le=100_000_000)
    batch_size: int = field(4096, title="Batch size", unit="rows", ge=1, le=1_048_576)
    lr: float = field(3e-3, title="Learning rate", help="Highest rate of Adam.", ge=0, le=1)
    warmup: float = field(0.02, title="Warm-up", help="Share of the steps over which the rate rises.", ge=0, le=1,
                          advanced=True)
    decay: float = field(0.25, title="Decay", help="Share of the steps over which the rate falls to 0.", ge=0, le=1,
                         advanced=True)
    normalise: Literal["none", "norm", "layer_norm"] = field(
        "norm", title="Normalisation", help="norm: mean norm sqrt(d_in), folded into the weights; layer_norm: each row "
        "on its own, kept as a setting of the dictionary; none: as recorded.",
        choices=("none", "norm", "layer_norm"), advanced=True,
    )
    start_from: str = field(
        "", title="Start from", help="Fine-tune this dictionary instead of starting anew; size and kind must fit.",
        artefact="dictionary", advanced=True,
    )
    sweep: str = field(
        "", title="Sweep", help="Several dictionaries on one pass: such as “k=16,32,64; seed=0,1”. Of k, d_sae, l1, "
        "lr, target_l0, arch and seed.",
    )
    kinds: Literal["all", "text", "image"] = field(
        "all", title="Positions", help="Which positions to learn from; special tokens and attention sinks never.",
        choices=("all", "text", "image"), advanced=True,
    )
    seed: int = field(0, title="Seed", ge=0, le=2**31 - 1)
    data_seed: int = field(
        -1, title="Order", help="Seed of the order of rows; -1: the seed above.", ge=-1, le=2**31 - 1, advanced=True
    )
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
    spike: float = field(
        10.0, title="Loss spike", help="A loss this many times its running mean sends training back to the last good "
        "state at half the rate; 0: never.", ge=0, le=1e6, advanced=True,
    )
    metrics_every: int = field(10, title="Metrics every", unit="steps", ge=1, advanced=True)
    checkpoint_every: int = field(500, title="Checkpoint every", unit="steps", ge=1, advanced=True)
    splice_every: int = field(
        0, title="Splice every", help="How often to put the reconstruction into the model and measure cross-entropy "
        "and KL; 0: never.", unit="steps", ge=0, advanced=True, zero="never",
    )
    splice_samples: int = field(
        16, title="Samples to splice into", help="How many samples the model is run on to measure cross-entropy and KL "
        "with the reconstruction in place, at the end and every “Splice every” steps; 0: none. Needs the model and the "
        "samples of the store in the project.", unit="samples", ge=0, le=10_000, advanced=True, zero="none",
    )
    look_samples: int = field(
        4, title="Samples of a look on the way", help="At how many of these samples each look before the last step is. "
        "0: four, and more as far as all looks then take a tenth of the steps' time; what was looked at, and so the "
        "bytes of the dictionary's record, then differ with the machine.", unit="samples", ge=0, le=10_000,
        advanced=True, zero="as the time allows",
    )
    random_model: bool = field(
        False, title="Baseline of a random model", help="Train the same dictionary on the model with its weights drawn "
        "anew, and say its FVU and L0 beside: about doubles the time.", advanced=True,
    )
    evaluate_rows: int = field(
        8192, title="Rows to evaluate on", help="0: no evaluation.", unit="rows", ge=0, advanced=True, zero="none"
    )
    half: bool = field(False, title="Save as float16", help="Half the size on disk.", advanced=True)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """The settings of the preset. Its name is not kept: equal settings make the same dictionary."""
        if not isinstance(given, dict) or given.get("preset") not in PRESETS:
            return given
        return {**PRESETS[given["preset"]].values, **{name: held for name, held in given.items() if name != "preset"}}

    def order_seed(self) -> int:
        """The seed of the order of rows."""
        return self.seed if self.data_seed < 0 else self.data_seed
