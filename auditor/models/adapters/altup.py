"""AltUp (Baykal et al. 2023, arXiv:2301.13310) as Gemma 3n has it: where what a component writes comes to, exactly.

Of the streams H [L, d] of a position a block computes with one, a, and gives what comes of it to all:

    P  = (I + M) H                              predicted; M [L, L] from a router that reads H_a
    m  = (P_a + attention + laurel) / √2        its middle;   e = m + MLP   its end
    H′ = P + (1 + c) ⊗ (e − P_a) + [0, t, …, t]  corrected; c [L] from a router that reads e, t the token's own vector

The last streams become one, mean over j of s_j V_j H_j, for the final norm; the first come of the embedding x as
r_j U_j x. With M, c, r and s held fixed, all of this is linear in x and in what components write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auditor.models.mixing import Seen

_SHRUNK = 2**-0.5
_LEAST = 1e-5  # below which the library takes no stream's mean square


@dataclass(frozen=True)
class AltUp:
    """The streams of the language model at `root` within `network`: `count` of them, in `layers` blocks that compute
    with the one numbered `active`."""

    network: nn.Module
    root: str
    count: int
    active: int
    layers: int

    @property
    def places(self) -> Sequence[str]:
        inner = [f"blocks.{number}.{site}" for number in range(self.layers) for site in ("predicted", "resid_mid")]
        return [*inner, "joined"]

    def watched(self, place: str) -> Sequence[str]:
        number, _ = _where(place)
        blocks = range(self.layers if number is None else number + 1)
        inner = ("altup.prediction_coefs", "altup.correction_coefs")
        begun = [f"{self.root}.altup_projections.{lane}" for lane in range(self.count - 1)]
        mixed = [f"{self.root}.layers.{block}.{name}" for block in blocks for name in inner]
        ended = [f"{self.root}.altup_unembed_projections.{lane}" for lane in range(self.count - 1)]
        return [*begun, *mixed, *([] if number is not None else [f"{self.root}.layers.{self.layers - 1}", *ended])]

    def carried(self, part: Tensor, source: str, place: str, seen: Seen) -> Tensor:
        """float32 inside; the shape and type of `part`."""
        (start, kind), (until, site) = _where(source), _where(place)
        x = part.float()
        streams = self._begun(x, kind, seen)
        for block in range((start or 0) + (kind == "resid_post"), self.layers if until is None else until + 1):
            own = kind if block == start else ""
            predicted = self._predicted(streams, block, seen)
            active = predicted[self.active]
            if block == until and site == "predicted":
                return active.to(part.dtype)
            middle = (active + x if own in ("attn_out", "laurel_out") else active) * _SHRUNK
            middle = x if own == "resid_mid" else middle
            if block == until:
                return middle.to(part.dtype)
            end = middle + x if own == "mlp_out" else middle
            streams = predicted + self._gains(block, seen) * (end - active)
            if own == "per_layer_out":
                streams[1:] += x
        return self._joined(streams, seen).to(part.dtype)

    def _begun(self, x: Tensor, kind: str, seen: Seen) -> Tensor:
        """The streams [L, B, P, d] that enter the block in or after which the source stands, as far as they are its."""
        streams = x.new_zeros(self.count, *x.shape)
        if kind == "embed":
            streams[0] = x
            for lane in range(1, self.count):
                path = f"{self.root}.altup_projections.{lane - 1}"
                whole, projected = seen[path]
                streams[lane] = self._projected(path, x, projected) * _ratio(whole, projected)
        elif kind in ("resid_pre", "resid_post"):
            streams[self.active] = x
        return streams

    def _predicted(self, streams: Tensor, block: int, seen: Seen) -> Tensor:
        _, told = seen[f"{self.root}.layers.{block}.altup.prediction_coefs"]
        mixed = told.float().reshape(*told.shape[:-1], self.count, self.count)
        return streams + torch.einsum("bpji,ibpd->jbpd", mixed, streams)

    def _gains(self, block: int, seen: Seen) -> Tensor:
        _, told = seen[f"{self.root}.layers.{block}.altup.correction_coefs"]
        return (told.float() + 1.0).permute(2, 0, 1)[..., None]

    def _joined(self, streams: Tensor, seen: Seen) -> Tensor:
        _, last = seen[f"{self.root}.layers.{self.layers - 1}"]
        total = streams[0]
        for lane in range(1, self.count):
            path = f"{self.root}.altup_unembed_projections.{lane - 1}"
            _, projected = seen[path]
            total = total + self._projected(path, streams[lane], projected) * _ratio(last[0], projected)
        return total / self.count

    def _projected(self, path: str, x: Tensor, like: Tensor) -> Tensor:
        # Its own forward, which no hook of the run sees.
        project: Any = self.network.get_submodule(path).forward
        made: Tensor = project(x.to(like.dtype))
        return made.float()


def frozen_magnitudes(module: nn.Module, argument: Any) -> Any:
    """The language model with r and s held fixed, for a linearised run (`auditor.models.linearise`)."""
    original = type(module).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _Roots():
            return original(self, *args, **kwargs)

    return forward


class _Roots(TorchFunctionMode):
    """Square roots are constants: the streams' magnitudes are all that the library takes any of."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made, name = function(*args, **(kwargs or {})), getattr(function, "__name__", "")
        root = name == "sqrt" or (name in ("pow", "__pow__") and args[1] == 0.5)
        return made.detach() if root else made


def _ratio(like: Tensor, projected: Tensor) -> Tensor:
    """What the library multiplies a projected stream [B, P, d] with to have the magnitude of `like`: [B, P, 1]."""
    size = projected.float().square().mean(-1, keepdim=True).clamp(min=_LEAST).sqrt()
    return like.float().square().mean(-1, keepdim=True).sqrt() / size


def _where(name: str) -> tuple[int | None, str]:
    """The block of a hook point, if it is in one, and its place there."""
    found = re.fullmatch(r"(?:blocks\.(\d+)\.)?(\w+)", name)
    assert found is not None
    return None if found[1] is None else int(found[1]), found[2]
