"""Hook points: the named places inside a network where activations are recorded and edited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError

Stream = Literal["text", "vision", "target", "pooled", "sound"]
TOKENS = ("batch", "position", "channel")
MAP = ("batch", "y", "x", "channel")
PATTERN = ("batch", "head", "query", "key")
_LARGEST_PATTERN = 4 << 30  # bytes, of a batch
RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "cross_resid_pre", "cross_resid_mid", "cross_resid_post")
"""Last parts of the names of hook points in the residual stream."""


@dataclass(frozen=True)
class Part:
    """Some channels of a module that computes several things at once: its output, seen as (groups, pieces, size), from
    piece `start` to before piece `stop` of every group. One group and one channel a piece is a plain slice."""

    groups: int
    pieces: int
    start: int
    stop: int

    def take(self, whole: Tensor) -> Tensor:
        """[…, whole width] → […, width]."""
        return self._pieces(whole, self.pieces)[..., self.start : self.stop, :].flatten(-3)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """`whole` with other values in the channels that `take` gives."""
        pieces, new = self._pieces(whole, self.pieces), self._pieces(part, self.stop - self.start)
        return torch.cat([pieces[..., : self.start, :], new, pieces[..., self.stop :, :]], dim=-2).flatten(-3)

    def _pieces(self, x: Tensor, count: int) -> Tensor:
        return x.reshape(*x.shape[:-1], self.groups, count, -1)


@dataclass(frozen=True)
class Lane:
    """One of several streams that stand side by side along the first axis of a module's tensor (AltUp)."""

    number: int

    def take(self, whole: Tensor) -> Tensor:
        """[lanes, …, width] → […, width]."""
        return whole[self.number]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """`whole` with other values in the lane that `take` gives."""
        return torch.cat([whole[: self.number], part[None], whole[self.number + 1 :]])


Cells = Literal["patches", "tokens", "context"]
Kind = Literal["output", "input", "inside", "expert_weights"]
"""Which tensor of a module: its first output; its first input; what the first call of a torch function inside it
gives; or, of the experts of a mixture, the weights among its inputs (hidden states, numbers of experts, weights), laid
out with a channel for every expert."""


@dataclass(frozen=True)
class HookPoint:
    """A place in a network.

    `width` channels (0 for an attention pattern, whose last axis is as long as the sample); `axes` of the recorded
    tensor; `module` is the path of the module whose tensor it is, and `tensor` says which (`Kind`), with `inside` the
    name of the torch function (behind those of some that are called before it), and `after` the path within it of a
    module that has to be done first; `part` the channels of it, or which of its streams; `heads` how many heads the
    width splits into, 0 where it does not; `depth` is its rank in the order of the forward pass; `stream` says whose
    positions its rows have: those of the token sequence (``text``, image tokens included), those of the picture
    (``vision``), those of the sequence that a decoder writes while it reads the first (``target``), or the one row that
    stands for a whole text (``pooled``), or those of the sound beside the text (``sound``).
    `shared` marks an input that the network also keeps for its residual sum: an edit has to be written into it.
    `overwritten` marks an output that the network writes into later: it goes on with a copy.
    `leading` counts positions before the first patch of a vision stream (the class token), `trailing` those after the
    last. `call` says which of a module's calls in one run is meant, from 0, where the network calls it several times
    (ALBERT's blocks share their weights); None: it is called once. `order` holds, for each patch row by row, its place
    among a sample's rows in a module that has them otherwise (Qwen2-VL's tower; Swin's attention, in windows, some of
    whose rows are no patches); empty: they are row by row. `cells` says whether the rows of a picture are patches of
    its tower, the tokens that are made of them, or patches and behind them tokens: the ``context`` that tokens look at.
    `apart` marks patterns of a module that attends within each picture, or window, by a call of its own. `keys` names,
    of a pattern whose keys are not its queries and which is of one picture a row of the module, the hook point that
    has the keys. `lanes` counts streams side by side along the first axis of a module's tensor, which are recorded one
    after the other. `turned` marks tensors of modules that have positions before samples.
    """

    name: str
    width: int
    axes: tuple[str, ...]
    module: str
    depth: float
    tensor: Kind
    stream: Stream = "text"
    shared: bool = False
    leading: int = 0
    call: int | None = None
    inside: str = ""
    part: Part | Lane | None = None
    heads: int = 0
    order: tuple[int, ...] = ()
    overwritten: bool = False
    cells: Cells = "patches"
    trailing: int = 0
    apart: bool = False
    after: str = ""
    keys: str = ""
    lanes: int = 0
    turned: bool = False


@dataclass(frozen=True)
class Site:
    """Where a family keeps a hook point: the module's path (in a block "" is the block) and which of its tensors; the
    rest as in `HookPoint`."""

    module: str
    tensor: Kind = "output"
    shared: bool = False
    inside: str = ""
    part: Part | Lane | None = None
    overwritten: bool = False
    after: str = ""


@dataclass(frozen=True)
class Heads:
    """How an attention layer splits: `count` query heads, `groups` heads of keys and values, `size` channels a head
    (`value_size` for values and what the heads give, where it differs)."""

    count: int
    groups: int
    size: int
    value_size: int = 0

    @property
    def written(self) -> int:
        """Channels a head of values."""
        return self.value_size or self.size


@dataclass(frozen=True)
class Blocks:
    """A family's table: the path of its list of blocks, and the sites inside one block, relative to it.

    Every block also has ``resid_pre`` (its input) and ``resid_post`` (its first output). `attn_out` and `mlp_out` are
    what is written to the residual stream, after the norm that some families have there. The optional sites: `q`, `k`
    and `v` before rotary positions, `z` what the heads give before the output projection, the attention `pattern`,
    `mlp_pre` before the activation function, `mlp_linear` the other factor of a gated MLP, and of a mixture of experts
    the `router`'s logits and the `expert_weights`, and where a norm stands behind them what the experts give together,
    `experts_out`. A block that lacks a site's module lacks the hook point.
    """

    stack: str
    embed: Site
    attn_out: Site
    mlp_hidden: Site | None
    mlp_out: Site
    resid_mid: Site | None
    final_norm: Site | None
    q: Site | None = None
    k: Site | None = None
    v: Site | None = None
    pattern: Site | None = None
    z: Site | None = None
    mlp_pre: Site | None = None
    mlp_linear: Site | None = None
    router: Site | None = None
    expert_weights: Site | None = None
    experts_out: Site | None = None


def block_points(
    table: Blocks,
    n_layers: int,
    d_model: int,
    mlp_width: int,
    *,
    heads: Heads | Sequence[Heads] | None = None,
    experts: int = 0,
    within: nn.Module | None = None,
    prefix: str = "",
    stream: Stream = "text",
    leading: int = 0,
) -> list[HookPoint]:
    """The canonical hook points of a stack of transformer blocks, in the order of the forward pass (depth 0, 1, …).

    Without `heads` (those of each block, where they differ) the sites inside attention are left out, without `experts`
    (their number) those of a mixture; with `within`, the network, sites are left out of the blocks that lack their
    modules.
    """
    held = None if within is None else {path for path, _ in within.named_modules()}
    rows: list[tuple[str, Site, int, int]] = [("embed", table.embed, d_model, 0)]
    for number in range(n_layers):
        at = f"{table.stack}.{number}"
        rows.append((f"blocks.{number}.resid_pre", Site(at, "input"), d_model, 0))
        split = heads[number] if isinstance(heads, Sequence) else heads or Heads(0, 0, 0)
        ways = {"q": split.count, "k": split.groups, "v": split.groups, "pattern": split.count, "z": split.count}
        for name, site, width in _inner(table, split, d_model, mlp_width, experts):
            known = (heads is not None or name not in ways) and (experts or name not in ("router", "expert_weights"))
            path = "" if site is None else f"{at}.{site.module}".rstrip(".")
            if site is not None and known and (held is None or path in held):
                rows.append((f"blocks.{number}.{name}", replace(site, module=path), width, ways.get(name, 0)))
        rows.append((f"blocks.{number}.resid_post", Site(at), d_model, 0))
    if table.final_norm is not None:
        rows.append(("final_norm", table.final_norm, d_model, 0))
    return [
        HookPoint(
            prefix + name, width, PATTERN if name.endswith(".pattern") else TOKENS, site.module, depth, site.tensor,
            stream, site.shared, leading, inside=site.inside, part=site.part, overwritten=site.overwritten,
            heads=ways, after=site.after,
        )
        for depth, (name, site, width, ways) in enumerate(rows)
    ]  # fmt: skip


def _inner(
    table: Blocks, split: Heads, d_model: int, mlp_width: int, experts: int
) -> tuple[tuple[str, Site | None, int], ...]:
    """Sites inside a block with their widths, in the order of the forward pass."""
    return (
        ("q", table.q, split.count * split.size),
        ("k", table.k, split.groups * split.size),
        ("v", table.v, split.groups * split.written),
        ("pattern", table.pattern, 0),
        ("z", table.z, split.count * split.written),
        ("attn_out", table.attn_out, d_model),
        ("resid_mid", table.resid_mid, d_model),
        ("router", table.router, experts),
        ("expert_weights", table.expert_weights, experts),
        ("mlp_pre", table.mlp_pre, mlp_width),
        ("mlp_linear", table.mlp_linear, mlp_width),
        ("mlp_hidden", table.mlp_hidden, mlp_width),
        ("experts_out", table.experts_out, d_model),
        ("mlp_out", table.mlp_out, d_model),
    )


def in_order(points: Iterable[HookPoint]) -> dict[str, HookPoint]:
    """By name, with depths counted anew in the order given."""
    return {point.name: replace(point, depth=depth) for depth, point in enumerate(points)}


def to_axes(point: HookPoint, x: Tensor, batch: int, rows: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
    """A module's tensor with the axes of its hook point: convolutions keep channels second, and some modules get the
    positions of all `batch` samples one after the other, some in another order.

    `rows` int64 [batch, P] says which of the rows of all pictures in turn are a sample's, −1: none, which become 0;
    `keys` the same of a pattern's keys, where they are not its queries.
    """
    if rows is None and point.axes == PATTERN and point.order:
        rows = in_turn(point, batch, x.shape[0] * x.shape[-1], x.device)
    if _by_head(point, x):
        x = x.flatten(2)
    if rows is not None:
        return _patterns_of(point, x, rows, keys) if point.axes == PATTERN else _rows_of(point, x, rows)
    if point.axes == MAP:
        return x.permute(0, 2, 3, 1)
    if point.lanes:
        return x.permute(1, 2, 0, 3).flatten(2)
    if point.turned:
        return x.transpose(0, 1)
    if point.axes == PATTERN and x.shape[-3] != point.heads:
        # Heads that share keys stand in the place of the queries where there is only one.
        return x.reshape(batch, point.heads, -1, x.shape[-1])
    if point.order:
        return x.reshape(batch, -1, x.shape[-1])[:, list(point.order)]
    return x if x.ndim == len(point.axes) else x.reshape(batch, -1, x.shape[-1])


def from_axes(
    point: HookPoint, x: Tensor, like: Tensor, rows: Tensor | None = None, keys: Tensor | None = None
) -> Tensor:
    """The inverse of `to_axes`, which made x of `like`."""
    if rows is None and point.axes == PATTERN and point.order:
        rows = in_turn(point, len(x), like.shape[0] * like.shape[-1], x.device)
    if rows is not None and _by_head(point, like):
        return _with_rows(point, x, like.flatten(2), rows).reshape(like.shape)
    if rows is not None:
        return _with_patterns(point, x, like, rows, keys) if point.axes == PATTERN else _with_rows(point, x, like, rows)
    if point.axes == MAP:
        return x.permute(0, 3, 1, 2)
    if point.turned:
        return x.transpose(0, 1)
    if point.lanes:
        return x.reshape(*x.shape[:2], point.lanes, -1).permute(2, 0, 1, 3)
    if point.order:
        whole = like.reshape(len(x), -1, like.shape[-1])
        x = whole.index_copy(1, torch.tensor(point.order, device=x.device), x)
    return x.reshape(like.shape)


def _by_head(point: HookPoint, x: Tensor) -> bool:
    """Whether a module's tensor has an axis of heads before that of a head's channels."""
    return point.axes == TOKENS and bool(point.heads) and x.ndim == 4 and x.shape[-2:].numel() == point.width


def in_turn(point: HookPoint, batch: int, total: int, device: torch.device) -> Tensor:
    """int64 [batch, P]: which of `total` rows of all samples, each in the point's `order`, are a sample's."""
    first = torch.arange(batch, device=device)[:, None] * (total // batch)
    return first + torch.tensor(point.order, device=device)


def _rows_of(point: HookPoint, x: Tensor, rows: Tensor) -> Tensor:
    """[pictures …, width] or maps [pictures, width, y, x] → [B, P, width]."""
    flat = (x.permute(0, 2, 3, 1) if _is_map(point, x) else x).flatten(0, -2)
    return flat[rows.clamp(min=0)] * (rows >= 0)[..., None]


def _with_rows(point: HookPoint, x: Tensor, like: Tensor, rows: Tensor) -> Tensor:
    turned = _is_map(point, like)
    last = like.permute(0, 2, 3, 1) if turned else like
    held = rows >= 0
    whole = last.flatten(0, -2).index_copy(0, rows[held], x[held]).reshape(last.shape)
    return whole.permute(0, 3, 1, 2) if turned else whole


def _is_map(point: HookPoint, x: Tensor) -> bool:
    """Whether x has its channels second, as convolutions give them, and not last."""
    return x.ndim == 4 and (x.shape[1] == point.width or x.shape[-1] != point.width)


def _patterns_of(point: HookPoint, x: Tensor, rows: Tensor, keys: Tensor | None) -> Tensor:
    """[pictures, head, query, key] → [B, head, P, K]: no patch looks at another picture's, or another window's."""
    keys = rows if keys is None else keys
    size = point.heads * rows.shape[0] * rows.shape[1] * keys.shape[1] * x.element_size()
    if size > _LARGEST_PATTERN:
        others = "as many" if keys is rows else f"{keys.shape[1]:,}"
        raise AuditorError(
            f"The pattern “{point.name}” of {rows.shape[1]:,} patches by {others} takes {size >> 30} GB.",
            "Choose smaller pictures, fewer at a time, or leave it out.",
        )
    each = x.reshape(-1, point.heads, *x.shape[-2:]).permute(0, 2, 3, 1)
    picture, query, key, together = _pairs(each, rows, keys)
    found = each[picture[:, :, None], query[:, :, None], key[:, None, :]] * together[..., None]
    return found.permute(0, 3, 1, 2)


def _with_patterns(point: HookPoint, x: Tensor, like: Tensor, rows: Tensor, keys: Tensor | None) -> Tensor:
    each = like.reshape(-1, point.heads, *like.shape[-2:]).permute(0, 2, 3, 1)
    picture, query, key, together = _pairs(each, rows, rows if keys is None else keys)
    sample, i, j = together.nonzero(as_tuple=True)
    at = (picture[sample, i], query[sample, i], key[sample, j])
    return each.index_put(at, x.permute(0, 2, 3, 1)[sample, i, j]).permute(0, 3, 1, 2).reshape(like.shape)


def _pairs(each: Tensor, rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each row its picture and its place there [B, P], of each key its place in its picture [B, K], and which rows
    and keys are of one picture [B, P, K]."""
    (picture, query), (other, key) = (
        (x.clamp(min=0) // count, x.clamp(min=0) % count)
        for x, count in zip((rows, keys), each.shape[1:3], strict=True)
    )
    held = (rows >= 0)[:, :, None] & (keys >= 0)[:, None, :]
    return picture, query, key, (picture[:, :, None] == other[:, None, :]) & held


def as_rows(x: Tensor) -> Tensor:
    """[B, …, width] → [B, P, width], maps row by row."""
    return x.flatten(1, -2)
