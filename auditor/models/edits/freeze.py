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
            if model.hook_points[name].stream == "text" and pattern.shape[-2] != length:
                raise AuditorError(
                    f"The run to freeze attention at has {pattern.shape[-2]} positions and this one {length}.",
                    "Choose a text of as many tokens.",
                )
        return [Patch(name, pattern, columns=self.heads) for name, pattern in self.patterns.items()]

    def control(self, seeds: Sequence[int]) -> None:
        return None


class FreezeNorms(Edit):
    """Norms with the denominators [B, P, 1] of another run: each is then linear in its input.

    `seen`: module path → (input, output) of each of its calls in that run. It is of so many `samples`: of one, whose
    denominators then hold for every sample of any batch, or of as many as this run, one for one. The output becomes
    output₀ + scale₀ · gain · centre(input − input₀), which is the frozen norm exactly, and bit-equal where nothing has
    changed.
    """

    def __init__(self, seen: Mapping[str, Seen], samples: int = 1) -> None:
        super().__init__("")
        self.seen, self.samples, self._times = dict(seen), samples, 1

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
        return cls({path: calls for path, calls in seen.items() if calls}, len(inputs.samples))

    def bound(self, model: Model, inputs: Inputs) -> Sequence[Edit]:
        count = len(inputs.samples)
        if self.samples not in (1, count):
            raise AuditorError(
                f"The run to freeze norms at is of {self.samples} samples and this one of {count}.",
                "Freeze them at one sample, or at as many as there are.",
            )
        made = FreezeNorms(self.seen, self.samples)
        made._times = count // self.samples
        return [made]

    @contextlib.contextmanager
    def in_place(self, model: Model) -> Iterator[None]:
        handles = []
        try:
            for path, calls in self.seen.items():
                module = model.network.get_submodule(path)
                # Before all other hooks, so that what is recorded or edited behind the norm is behind the frozen one.
                handles.append(module.register_forward_hook(_Frozen(path, calls, self._times), prepend=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def control(self, seeds: Sequence[int]) -> None:
        return None


class _Frozen:
    """The hook of one norm; counts its calls. What was seen of one sample holds for each of `times`."""

    def __init__(self, path: str, calls: Seen, times: int) -> None:
        self.path, self.calls, self.times, self.count = path, calls, times, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x, (x0, y0) = args[0], self.calls[min(self.count, len(self.calls) - 1)]
        self.count += 1
        if self.times > 1:  # some norms get the positions of all samples one after the other
            x0, y0 = (held.repeat(self.times, *[1] * (held.ndim - 1)) for held in (x0, y0))
        if x0.shape != x.shape:
            had, has = x0[..., 0].numel() // len(x0), x[..., 0].numel() // len(x)
            had, has = (had, has) if had != has else (len(x0), len(x))
            raise AuditorError(
                f"The run to freeze norms at has {had} positions and this one {has} (“{self.path}”).",
                "Choose a text of as many tokens.",
            )
        return y0 + shape_of(module, x.shape[-1], x.device, x.dtype).share(x - x0, x0, y0)


def pattern_points(model: Model, blocks: Sequence[int] | None = None) -> list[str]:
    """Hook points of attention patterns, also of those to another sequence, of these blocks or all; AuditorError where
    there are none."""
    starts = [""] if blocks is None else [f"blocks.{number}" for number in blocks]
    ends = tuple(f"{start}.{site}" for start in starts for site in ("pattern", "cross_pattern"))
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
