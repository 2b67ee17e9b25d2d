"""What an architecture owes the training loop, so that the loop knows none of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.clt import Dictionary
from auditor.sae.kernels.step import Step
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae, blocks
from auditor.sae.scaling import Scaling
from auditor.sae.starting import start_at_rows

# What is read and what is written: one hook point; the same with its samples whole and in order; several side by side;
# one and another; several and as many others.
Takes = Literal["one", "samples", "several", "pair", "layers"]


@dataclass
class Batch:
    """x [B, d_in] on the training scale; `step` from 0; `dead` [d_sae] marks features silent for too long; `target`
    [B, d_out] is what is to be predicted, x itself unless the architecture transcodes. Where samples are taken whole,
    `runs` has the number of rows of each and `judged` [B] says which rows count; the others are read only."""

    x: Tensor
    step: int
    dead: Tensor
    target: Tensor
    runs: list[int] | None = None
    judged: Tensor | None = None

    @property
    def counted(self) -> int:
        """How many rows count."""
        return len(self.x) if self.judged is None else int(self.judged.sum())

    def part(self, rows: slice, runs: list[int] | None = None) -> Batch:
        """Some of its rows, which are whole `runs` where it has such."""
        target = self.x[rows] if self.target is self.x else self.target[rows]
        judged = None if self.judged is None else self.judged[rows]
        return Batch(self.x[rows], self.step, self.dead, target, runs, judged)

    def pieces(self, size: int) -> Iterator[Batch]:
        """Parts of so many rows at most, or of one sample that has more."""
        for rows, runs in blocks(len(self.x), size, self.runs):
            yield self.part(rows, runs)


@dataclass
class Outcome:
    """Of one batch, as tensors on its device: loss, Σ (x' - target)² over all entries, mean active features per row,
    and in how many rows each feature fired, `counts` [d_sae]; `sums` over its rows that the architecture asks for."""

    loss: Tensor
    squared_error: Tensor
    l0: Tensor
    counts: Tensor
    sums: Tensor | None = None


def outcome_of(loss: Tensor, squared: Tensor, active: Tensor) -> Outcome:
    """From which features were `active`, bool [B, d_sae]."""
    counts = active.sum(0)
    return Outcome(loss, squared.detach(), counts.sum() / max(1, len(active)), counts)


def outcome_of_step(parameters: Parameters, done: Step) -> Outcome:
    """Of a step that found its own gradients, which are put into `.grad` of the parameters."""
    for tensor, gradient in zip(parameters.named().values(), done.gradients, strict=True):
        tensor.grad = gradient
    return Outcome(done.loss, done.squared, done.counts.sum() / len(done.residual), done.counts)


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """The settings that an architecture reads, and no others: each has a class of its own. None has a default: those
    stand in `TrainConfig`.

    `d_sae`: features; `seed`: of the weights that it begins with.
    """

    d_sae: int
    seed: int

    @classmethod
    def of(cls, settings: object) -> Self:
        """Taken by name from `settings`, such as a TrainConfig. AttributeError where it lacks one."""
        return cls(**{each.name: getattr(settings, each.name) for each in fields(cls)})


class Fused(Protocol):
    """A step that takes gradients and updates the parameters in one go, where that is faster."""

    def step(self, batch: Batch, lr: float, silent: Tensor) -> Outcome: ...


class Architecture:
    """One way to keep features sparse. `sample` [n, d_in] is data on the training scale.

    `name` is what it is called, `config_class` what it is made with; `takes` says what it reads and predicts. `fused`
    is its own step for this device, or None: then the loop asks for `gradients` and updates with Adam.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[ArchConfig]]
    takes: ClassVar[Takes] = "one"
    # What it can be started from, as `Sae.arch`.
    continues: ClassVar[tuple[str, ...]] = ()
    skips: ClassVar[bool] = False
    # Whether decoder rows are kept at unit norm.
    unit_rows: bool = False
    # About how many features are active on a row as training starts.
    active: int = 32
    fused: Fused | None = None

    def __init__(self, config: ArchConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        self.config = config
        self.scaling = scaling
        self.device = device

    def begin(self, sample: Batch) -> Parameters:
        """Parameters before the first step."""
        c = self.config
        return start_at_rows(sample.x, sample.target, c.d_sae, self.active, c.seed, self.device)

    def prepare(self, parameters: Parameters, optimiser: torch.optim.Adam, *, batch_size: int, dead_after: int) -> None:
        """Set up a `fused` step over these parameters and this optimiser's state, where there is one here: for batches
        of `batch_size` rows, in which a feature silent for `dead_after` rows counts as dead."""

    def adopt(self, sae: Dictionary) -> Parameters:
        """Parameters that stand for the dictionary `sae`, to be trained on. AuditorError where it is of another kind or
        size, or does not fit the data."""
        return leaves(self.adopted(sae), self.device)

    def adopted(self, sae: Dictionary) -> dict[str, Tensor]:
        """`unfolded`, once what `sae` is was found to be what this architecture can go on from."""
        scaling = self.scaling
        if sae.arch not in self.continues or not isinstance(sae, Sae):
            raise AuditorError(
                f"A dictionary of kind “{sae.arch}” cannot be trained on as {self.name}.",
                f"Start from one of kind {' or '.join(self.continues) or 'none'}.",
            )
        if sae.d_sae != self.config.d_sae:
            raise AuditorError(
                f"The dictionary to start from has {sae.d_sae} features, and {self.config.d_sae} are asked for.",
                f"Set the number of features to {sae.d_sae}.",
            )
        wanted = scaling.reading.kind, "layer_norm" if scaling.layer_norm else "none"
        if wanted != (sae.kind, sae.normalise) or (sae.W_skip is not None and not self.skips):
            raise AuditorError(
                f"The dictionary to start from is of another kind: {'a skip ' if sae.W_skip is not None else ''}"
                f"{sae.kind}, normalisation {sae.normalise}.", "Choose its architecture and its normalisation.",
            )
        length = sae.W_dec.norm(dim=1)
        if sae.arch == "topk" and float(length.max() - length.min()) > 1e-3 * float(length.mean()):
            raise AuditorError(
                "The dictionary to start from has decoder rows of different lengths; training sets them to 1, and then "
                "other features are among the k largest.",
                "Import it with the convention “decoder-norms”, if it is meant so.",
            )
        return unfolded(sae, scaling)

    def gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        """Put the loss's gradients into `.grad` of every parameter."""
        with torch.no_grad():
            outcome = self.by_hand(parameters, batch)
        return self.by_autograd(parameters, batch) if outcome is None else outcome

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        """As `gradients`, where this device has something faster than autograd; else None."""
        return None

    def by_autograd(self, parameters: Parameters, batch: Batch) -> Outcome:
        """As `gradients`."""
        outcome = self.loss(parameters, batch)
        for tensor in parameters.named().values():
            tensor.grad = None
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        return outcome

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        """The loss as autograd sees it."""
        raise TypeError(f"{type(self).__name__} gives no loss")

    def before_update(self, parameters: Parameters) -> None:
        """Change gradients before the optimiser uses them."""
        if self.unit_rows:
            unit_decoder_gradient(parameters)

    def after_update(self, parameters: Parameters) -> None:
        """Restore what the architecture demands of its weights."""
        if self.unit_rows:
            unit_decoder_rows(parameters)

    def observe(self, parameters: Parameters, batch: Batch, outcome: Outcome) -> None:
        """Look at a finished step: running thresholds, controllers of a penalty."""

    def state(self) -> dict[str, Any]:
        """Plain values that a resumed run needs to go on as this one would."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""

    def facts(self) -> dict[str, Any]:
        """Plain values worth keeping with the dictionary."""
        return self.state()

    def finish(self, parameters: Parameters) -> Dictionary:
        """The dictionary on raw activations."""
        return Sae("relu", **folded(parameters, self.scaling))


def checked_k(k: int, d_sae: int) -> int:
    """k. AuditorError where there are fewer features."""
    if k > d_sae:
        raise AuditorError(f"{k} active features were asked of a dictionary of {d_sae}.", "Choose a smaller k.")
    return k


def unit_decoder_gradient(parameters: Parameters) -> None:
    """Take out of the decoder's gradient what lies along its unit rows: it only changes their norm, which is restored
    anyway, but would disturb Adam's second moments (Bricken et al. 2023)."""
    decoder, gradient = parameters.decoder, parameters.decoder.grad
    assert gradient is not None
    with torch.no_grad():
        gradient.addcmul_(decoder, torch.linalg.vecdot(gradient, decoder)[:, None], value=-1)


def unit_decoder_rows(parameters: Parameters) -> None:
    """Restore decoder rows to unit norm."""
    with torch.no_grad():
        parameters.decoder /= parameters.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12)


def folded(parameters: Parameters, scaling: Scaling) -> dict[str, Any]:
    """Fields of the `Sae` on raw activations: canonical W_enc, W_dec (unit rows), b_enc, b_dec, and what it maps.

    With S and T the scales of input and output and n = ‖d / T‖ for a decoder row d, activations become z n: every f
    here is positively homogeneous, so scaling its input and undoing that on its output leaves what is decoded as is.
    """
    p = {name: tensor.detach().cpu().float() for name, tensor in parameters.named().items()}
    norm, decoder = growth(parameters, scaling), p["decoder"] / scaling.output
    return {
        "W_enc": (p["encoder"] * scaling.input * norm[:, None]).T.contiguous(), "W_dec": decoder / norm[:, None],
        "b_enc": p["b_enc"] * norm, "b_dec": p["b_dec"] / scaling.output, **scaling.facts(),
    }


def growth(parameters: Parameters, scaling: Scaling) -> Tensor:
    """By how much `folded` scales each feature's activation, [d_sae]: thresholds are to be scaled alike."""
    decoder: Tensor = parameters.decoder.detach().cpu().float() / scaling.output
    norm: Tensor = decoder.norm(dim=1).clamp_min(1e-12)
    return norm


def unfolded(sae: Sae, scaling: Scaling) -> dict[str, Tensor]:
    """encoder, decoder, b_enc, b_dec on the training scale, decoder rows of unit norm: the inverse of `folded`; a
    JumpReLU's `threshold` and a transcoder's `skip` too. AuditorError where the dictionary does not fit the data."""
    if (sae.d_in, sae.d_out) != (len(scaling.input), len(scaling.output)):
        raise AuditorError(
            f"The dictionary to start from maps {sae.d_in} to {sae.d_out} numbers, the data {len(scaling.input)} to "
            f"{len(scaling.output)}.", "Choose a dictionary of the same hook point.",
        )
    decoder = sae.W_dec.cpu().float() * scaling.output
    norm = decoder.norm(dim=1).clamp_min(1e-12)
    tensors = {
        "encoder": sae.W_enc.cpu().float().T / scaling.input * norm[:, None], "decoder": decoder / norm[:, None],
        "b_enc": sae.b_enc.cpu().float() * norm, "b_dec": sae.b_dec.cpu().float() * scaling.output,
    }
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold.cpu().float() * norm
    if sae.W_skip is not None:
        tensors["skip"] = sae.W_skip.cpu().float() / scaling.input[:, None] * scaling.output
    return tensors
