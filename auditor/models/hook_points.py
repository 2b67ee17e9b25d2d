"""Hook points: the named places inside a network where activations are recorded and edited."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Stream = Literal["text", "vision", "target"]
TOKENS = ("batch", "position", "channel")
MAP = ("batch", "y", "x", "channel")
RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
"""Last parts of the names of hook points in the residual stream."""


@dataclass(frozen=True)
class HookPoint:
    """A place in a network.

    `width` channels; `axes` of the recorded tensor; `module` is the path of the module whose first output or input
    it is (`tensor`); `depth` is its rank in the order of the forward pass; `stream` says whose positions its rows
    have: those of the token sequence (``text``, image tokens included), those of the picture (``vision``), or those
    of the sequence that a decoder writes while it reads the first (``target``).
    `shared` marks an input that the network also keeps for its residual sum: an edit has to be written into it.
    `leading` counts positions before the first patch of a vision stream (the class token). `call` says which of a
    module's calls in one run is meant, from 0, where the network calls it several times (ALBERT's blocks share their
    weights); None: it is called once.
    """

    name: str
    width: int
    axes: tuple[str, ...]
    module: str
    depth: int
    tensor: Literal["output", "input"]
    stream: Stream = "text"
    shared: bool = False
    leading: int = 0
    call: int | None = None


@dataclass(frozen=True)
class Site:
    """Where a family keeps a hook point: the module's path and which of its tensors; see `HookPoint.shared`."""

    module: str
    tensor: Literal["output", "input"] = "output"
    shared: bool = False


@dataclass(frozen=True)
class Blocks:
    """A family's table: the path of its list of blocks, and the sites inside one block, relative to it.

    Every block also has ``resid_pre`` (its input) and ``resid_post`` (its first output).
    """

    stack: str
    embed: Site
    attn_out: Site
    mlp_hidden: Site
    mlp_out: Site
    resid_mid: Site | None
    final_norm: Site | None


def block_points(
    table: Blocks,
    n_layers: int,
    d_model: int,
    mlp_width: int,
    *,
    prefix: str = "",
    stream: Stream = "text",
    leading: int = 0,
) -> list[HookPoint]:
    """The canonical hook points of a stack of transformer blocks, in the order of the forward pass (depth 0, 1, …)."""
    rows: list[tuple[str, Site, int]] = [("embed", table.embed, d_model)]
    for number in range(n_layers):
        at = f"{table.stack}.{number}"
        rows.append((f"blocks.{number}.resid_pre", Site(at, "input"), d_model))
        for name, site, width in (
            ("attn_out", table.attn_out, d_model),
            ("resid_mid", table.resid_mid, d_model),
            ("mlp_hidden", table.mlp_hidden, mlp_width),
            ("mlp_out", table.mlp_out, d_model),
        ):
            if site is not None:
                inside = Site(f"{at}.{site.module}", site.tensor, site.shared)
                rows.append((f"blocks.{number}.{name}", inside, width))
        rows.append((f"blocks.{number}.resid_post", Site(at), d_model))
    if table.final_norm is not None:
        rows.append(("final_norm", table.final_norm, d_model))
    return [
        HookPoint(prefix + name, width, TOKENS, site.module, depth, site.tensor, stream, site.shared, leading)
        for depth, (name, site, width) in enumerate(rows)
    ]


def in_order(points: Iterable[HookPoint]) -> dict[str, HookPoint]:
    """By name, with depths counted anew in the order given."""
    from dataclasses import replace

    return {point.name: replace(point, depth=depth) for depth, point in enumerate(points)}


def to_axes(point: HookPoint, x: Tensor) -> Tensor:
    """A module's tensor with the axes of its hook point: convolutions keep channels second."""
    return x.permute(0, 2, 3, 1) if point.axes == MAP else x


def from_axes(point: HookPoint, x: Tensor) -> Tensor:
    """The inverse of `to_axes`."""
    return x.permute(0, 3, 1, 2) if point.axes == MAP else x


def as_rows(x: Tensor) -> Tensor:
    """[B, …, width] → [B, P, width], maps row by row."""
    return x.flatten(1, -2)
