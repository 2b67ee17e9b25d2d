"""Frozen attention and norms: what they were in one run is kept in another, while everything else is free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.models.edits.edit import Edit
from auditor.models.edits.norms import is_norm, shape_of
from auditor.models.edits.patch import Patch

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

Seen = list[tuple[Tensor, Tensor]]


class FreezeAttention(Edit):
    """Attention patterns [B, head, query, key] by hook point, put in the place of those that this run computes.

    Values are then moved as in the other run, whatever queries and keys have become (Elhage et al. 2021; Ameisen et
    al. 2025). Rows of a pattern that are this run's own keep the bits of the fused kernel (`auditor.models.attention`):
    frozen at its own patterns, a run is bit-equal to a plain one.
    """

    def __init__(self, patterns: Mapping[str, Tensor], heads: Sequence[int] | None = None) -> None:
        super().__init__("")
        self.patterns, self.heads = dict(patterns), heads

    @classmethod
    def at(
        cls, model: Model, inputs: Inputs, blocks: Sequence[int] | None = None, heads: Sequence[int] | None = None
    ) -> FreezeAttention:
        """As they are in a run on `inputs`, in these blocks or all. AuditorError for a family without patterns."""
        names = pattern_points(model, blocks)
        return cls(model.run(inputs, record=names, logits=False).records, heads)

    def bound(self, model: Model, inputs: Inputs) -> Sequence[Edit]:
        length = inputs.ids.shape[1]
        for name, pattern in self.patterns.items():
            if model.hook_points[name].stream == "text" and pattern.shape[-1] != length:
                raise AuditorError(
                    f"The run to freeze attention at has {pattern.shape[-1]} positions and this one {length}.",
                    "Choose a text of as many tokens.",
                )
        return [Patch(name, pattern, columns=self.heads) for name, pattern in self.patterns.items()]

    def control(self, seeds: Sequence[int]) -> None:
        return None


class FreezeNorms(Edit):
    """Norms with the denominators [B, P, 1] of another run: each is then linear in its input.

    `seen`: module path → (input, output) of each of its calls in that run. The output becomes
    output₀ + scale₀ · gain · centre(input − input₀), which is the frozen norm exactly, and bit-equal where nothing has
    changed.
    """

    def __init__(self, seen: Mapping[str, Seen]) -> None:
        super().__init__("")
        self.seen = dict(seen)

    @classmethod
    def at(cls, model: Model, inputs: Inputs, blocks: Sequence[int] | None = None) -> FreezeNorms:
        """As they are in a run on `inputs`: those of these blocks, or all with the final one."""
        paths = norm_paths(model, blocks)
        seen: dict[str, Seen] = {path: [] for path in paths}
        handles = []

        def look(path: str) -> None:
            def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                seen[path].append((args[0], output))

            handles.append(model.network.get_submodule(path).register_forward_hook(after))

        with model._lock:  # another thread's run must not be seen
            try:
                for path in paths:
                    look(path)
                model.run(inputs)
            finally:
                for handle in handles:
                    handle.remove()
        return cls({path: calls for path, calls in seen.items() if calls})

    @contextlib.contextmanager
    def in_place(self, model: Model) -> Iterator[None]:
        handles = []
        try:
            for path, calls in self.seen.items():
                module = model.network.get_submodule(path)
                # Before all other hooks, so that what is recorded or edited behind the norm is behind the frozen one.
                handles.append(module.register_forward_hook(_Frozen(path, calls), prepend=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def control(self, seeds: Sequence[int]) -> None:
        return None


class _Frozen:
    """The hook of one norm; counts its calls."""

    def __init__(self, path: str, calls: Seen) -> None:
        self.path, self.calls, self.count = path, calls, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x, (x0, y0) = args[0], self.calls[min(self.count, len(self.calls) - 1)]
        self.count += 1
        if x0.shape[1:] != x.shape[1:]:
            raise AuditorError(
                f"The run to freeze norms at has {x0.shape[1]} positions and this one {x.shape[1]} (“{self.path}”).",
                "Choose a text of as many tokens.",
            )
        return y0 + shape_of(module, x.shape[-1], x.device, x.dtype).share(x - x0, x0, y0)


def pattern_points(model: Model, blocks: Sequence[int] | None = None) -> list[str]:
    """Hook points of attention patterns, of these blocks or all; AuditorError where there are none."""
    ends = tuple(f"blocks.{number}.pattern" for number in blocks or ()) if blocks is not None else (".pattern",)
    names = [name for name in model.hook_points if name.endswith(ends)]
    if not names:
        raise AuditorError(
            f"“{model.name}” has no attention patterns{'' if blocks is None else ' in these blocks'} to freeze.",
            "Choose other blocks, or a model whose list of hook points names patterns.",
        )
    return names


def norm_paths(model: Model, blocks: Sequence[int] | None = None) -> list[str]:
    """Modules that are norms, of these blocks or all."""
    inside = [model.hook_points[f"blocks.{number}.resid_pre"].module + "." for number in blocks or ()
              if f"blocks.{number}.resid_pre" in model.hook_points]  # fmt: skip
    paths = [path for path, module in model.network.named_modules() if is_norm(module)]
    if blocks is not None:
        paths = [path for path in paths if path.startswith(tuple(inside))]
    if not paths:
        raise AuditorError(f"“{model.name}” has no norms to freeze there.", "Choose other blocks.")
    return paths
