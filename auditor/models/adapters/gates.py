"""Gates of what attention's heads give: ``attn_gate`` is a gate before its sigmoid (of Laguna's: its softplus), and `z`
what heads give times that, as it enters the output projection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from auditor.models.hook_points import HookPoint, Part, Site


def with_gates(points: Iterable[HookPoint]) -> list[HookPoint]:
    """`points`, and behind queries that share a projection with gates of what the heads give, these: ``attn_gate``."""
    found = []
    for point in points:
        found.append(point)
        if point.name.endswith(".q") and isinstance(point.part, Part) and not point.name.startswith("vision."):
            block = point.name.removesuffix("q")
            found.append(replace(point, name=f"{block}attn_gate", part=replace(point.part, start=1, stop=2)))
    return found


def gated_by(points: Iterable[HookPoint], module: str, before: str, *, by_head: bool = False) -> list[HookPoint]:
    """`points`, and in front of each block's site `before` what attention's `module` gives: ``attn_gate``, one channel
    for each that the heads give, or one for each head."""
    listed = list(points)
    gates = {
        point.name.removesuffix("z"): replace(
            point, name=f"{point.name.removesuffix('z')}attn_gate", tensor="output",
            module=f"{point.module.rpartition('.')[0]}.{module}", width=point.heads if by_head else point.width,
        )
        for point in listed if point.name.endswith(".z")
    }  # fmt: skip
    found: list[HookPoint] = []
    for point in listed:
        block = point.name.removesuffix(before)
        found += [gates[block]] if point.name.endswith(f".{before}") and block in gates else []
        found.append(point)
    return found


def gated_queries(heads: int) -> Site:
    """Queries of so many heads, each in front of its gate."""
    return Site("self_attn.q_proj", part=Part(heads, 2, 0, 1))
