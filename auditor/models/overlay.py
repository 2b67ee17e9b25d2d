"""Adapters laid over a network: its weights as they would be with the adapter merged, or as they are without.

The base's own tensors stay where they are. While the adapter is on, a layer that it changes reads for the time of its
run W + s·B·A (LoRA, Hu et al. 2021, eq. 3), m·(W + s·B·A)/‖W + s·B·A‖ with the norm over the inputs (DoRA, Liu et al.
2024, eq. 5), l ⊙ W (IA³, Liu et al. 2022, section 3.3) or another tensor altogether; off, it reads W itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from auditor.base.errors import AuditorError
from auditor.intake.overlay import OverlayFacts

_PREFIX = "base_model.model."
_PARTS = {
    ".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "A", ".lora_embedding_B": "B",
    ".lora_magnitude_vector": "m", ".lora_magnitude_vector.weight": "m", ".ia3_l": "l",
}  # fmt: skip


class Overlay:
    """An adapter that lies over a network; `on` says whether it acts."""

    def __init__(self, facts: OverlayFacts) -> None:
        self.facts, self.on = facts, True
        self.changed: list[str] = []


def lay_over(network: nn.Module, facts: OverlayFacts, tensors: Mapping[str, Tensor]) -> Overlay:
    """Lay the adapter's `tensors` over `network`, on from the start.

    AuditorError, before anything is changed, for a tensor that the network has no place for, a shape that does not fit
    and a rank that the config does not give.
    """
    overlay = Overlay(facts)
    changes = [
        change
        for path, parts in _by_module(facts, tensors).items()
        for change in _changes(network, overlay, path, parts)
    ]
    if not changes:
        raise AuditorError(f"“{facts.file.name}” in “{facts.folder.name}” holds no tensors.", "Copy the folder again.")
    for module, leaf, change in changes:
        getattr(module, leaf).requires_grad_(False)
        parametrize.register_parametrization(module, leaf, change, unsafe=True)
    overlay.changed = sorted({change.name for _, _, change in changes})
    network.requires_grad_(False)
    return overlay


def _by_module(facts: OverlayFacts, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Path of the module in the base → part of the adapter (A, B, m, l) or name of a parameter → tensor."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX) or not tensor.is_floating_point():
            raise _unfit(facts, f"holds “{name[:120]}”, which is no tensor of an adapter")
        inside = name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        ending = next((one for one in _PARTS if inside.endswith(one)), None)
        path, _, leaf = (inside[: -len(ending)], "", _PARTS[ending]) if ending else inside.rpartition(".")
        if leaf in (parts := found.setdefault(path, {})):
            raise _unfit(facts, f"holds “{name[:120]}” twice")
        parts[leaf] = tensor
    return found


def _changes(
    network: nn.Module, overlay: Overlay, said: str, parts: Mapping[str, Tensor]
) -> list[tuple[nn.Module, str, _Change]]:
    """The parametrisations that one module needs."""
    facts = overlay.facts
    path, module = _module(network, facts, said)
    found: list[tuple[nn.Module, str, _Change]] = []
    for leaf, tensor in parts.items():
        if leaf in ("A", "B", "m", "l"):
            continue
        own = getattr(module, leaf, None)
        if not isinstance(own, Tensor) or own.shape != tensor.shape:
            shape = list(own.shape) if isinstance(own, Tensor) else "nothing"
            raise _unfit(facts, f"replaces “{said}.{leaf}” by {list(tensor.shape)}, where the base has {shape}")
        found.append((module, leaf, _Replaced(overlay, f"{path}.{leaf}", tensor)))
    if not {"A", "B", "m", "l"} & set(parts):
        return found
    weight: Any = getattr(module, "weight", None)
    if not isinstance(module, _layers()) or any(
        part.ndim < 2 for name, part in parts.items() if name in ("A", "B", "l")
    ):
        raise _unfit(facts, f"changes “{said}” in a way that its layer ({type(module).__name__}) has no place for")
    turned = not isinstance(module, nn.Linear | nn.Conv2d)  # Conv1D and embeddings: [in, out]
    rows, columns = (weight.shape[1], weight.shape[0]) if turned else (weight.shape[0], weight[0].numel())
    if facts.kind == "ia3":
        return [*found, *_ia3(module, overlay, path, parts, turned, (rows, columns))]
    if not {"A", "B"} <= set(parts) or "l" in parts or ("m" in parts) != facts.dora:
        raise _unfit(facts, f"lacks a part of what it changes in “{said}”")
    a, b = parts["A"].flatten(1), parts["B"].flatten(1)
    rank = facts.rank_of(said)
    if a.shape != (rank, columns) or b.shape != (rows, rank):
        raise _unfit(
            facts,
            f"has factors {list(b.shape)} · {list(a.shape)} for “{said}”; rank {rank} and the base's "
            f"{rows} × {columns} would fit",
        )
    m = parts.get("m")
    if m is not None and (m.numel() != rows or isinstance(module, nn.Embedding)):
        raise _unfit(facts, f"has lengths {list(m.shape)} for “{said}”, which has {rows} outputs")
    lora = _Lora(overlay, path, a, b, None if m is None else m.reshape(-1, 1), facts.scale_of(said), turned)
    return [*found, (module, "weight", lora)]


def _ia3(
    module: nn.Module, overlay: Overlay, path: str, parts: Mapping[str, Tensor], turned: bool, size: tuple[int, int]
) -> list[tuple[nn.Module, str, _Change]]:
    """A vector [out, 1] scales what a layer gives, its bias too; one [1, in] scales what it is given."""
    vector = parts.get("l")
    rows, columns = size
    if vector is None or vector.flatten(1).shape not in ((rows, 1), (1, columns)):
        shape = None if vector is None else list(vector.shape)
        raise _unfit(overlay.facts, f"has a vector {shape} for “{path}”, which is {rows} × {columns}")
    flat = vector.flatten(1)
    scaled = _Scaled(overlay, path, flat.T if turned else flat)
    found: list[tuple[nn.Module, str, _Change]] = [(module, "weight", scaled)]
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor) and flat.shape == (rows, 1):
        found.append((module, "bias", _Scaled(overlay, f"{path}.bias", flat[:, 0])))
    return found


def _module(network: Any, facts: OverlayFacts, said: str) -> tuple[str, nn.Module]:
    """The module that the adapter calls `said`: also where the base is inside a larger network, or without its head."""
    prefix = getattr(network, "base_model_prefix", "") or "model"
    for path in (said, f"{prefix}.{said}", said.removeprefix(f"{prefix}."), f"text.{said}"):
        try:
            module = network.get_submodule(path)
        except AttributeError:
            continue
        if path:
            return path, module
    raise _unfit(facts, f"changes “{said[:120]}”, which the base does not have")


def _layers() -> tuple[type[nn.Module], ...]:
    """What has a weight of inputs and outputs."""
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, Conv1D, nn.Embedding, nn.Conv2d


class _Change(nn.Module):
    """A parametrisation that acts while its overlay is on. `name` says what it changes."""

    def __init__(self, overlay: Overlay, name: str) -> None:
        super().__init__()
        self.overlay, self.name = overlay, name

    def forward(self, weight: Tensor) -> Tensor:
        return self.changed(weight) if self.overlay.on else weight

    def changed(self, weight: Tensor) -> Tensor:
        raise NotImplementedError


class _Replaced(_Change):
    def __init__(self, overlay: Overlay, name: str, value: Tensor) -> None:
        super().__init__(overlay, name)
        self.register_buffer("value", value)
        self.value: Tensor

    def changed(self, weight: Tensor) -> Tensor:
        return self.value.to(weight.dtype)


class _Scaled(_Change):
    def __init__(self, overlay: Overlay, name: str, factor: Tensor) -> None:
        super().__init__(overlay, name)
        self.register_buffer("factor", factor)
        self.factor: Tensor

    def changed(self, weight: Tensor) -> Tensor:
        factor = self.factor.float()
        factor = factor.reshape(*factor.shape, *[1] * (weight.ndim - factor.ndim))
        return (weight.float() * factor).to(weight.dtype)


class _Lora(_Change):
    """Factors `a` [rank, in] and `b` [out, rank]; `turned` where the layer keeps its weight [in, out]."""

    def __init__(
        self, overlay: Overlay, name: str, a: Tensor, b: Tensor, m: Tensor | None, scale: float, turned: bool
    ) -> None:
        super().__init__(overlay, name)
        for part, tensor in (("a", a), ("b", b), ("m", m)):
            self.register_buffer(part, tensor)
        self.a: Tensor
        self.b: Tensor
        self.m: Tensor | None
        self.scale, self.turned = scale, turned

    def changed(self, weight: Tensor) -> Tensor:
        delta = self.scale * (self.b.float() @ self.a.float())
        whole = weight.float() + (delta.T if self.turned else delta.reshape(weight.shape))
        if self.m is not None:
            outputs = whole.T if self.turned else whole.flatten(1)
            factor = self.m.float() / outputs.norm(dim=1, keepdim=True)
            factor = factor.T if self.turned else factor.reshape(-1, *[1] * (weight.ndim - 1))
            whole = whole * factor
        return whole.to(weight.dtype)


def _unfit(facts: OverlayFacts, what: str) -> AuditorError:
    return AuditorError(
        f"The adapter “{facts.folder.name}” {what}.", "It was made for another base, or by other means than peft's."
    )
