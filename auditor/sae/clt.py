"""A cross-layer transcoder for inference: features of one layer that write to the outputs of that layer and all later
ones (Ameisen et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from auditor.base.digest import digest_folder, digest_json, sha256_bytes
from auditor.base.errors import AuditorError
from auditor.sae.sae import Original, Sae, compact, stack

# Rows per dense [rows, d_sae] block: bounds memory whatever the caller passes.
_BLOCK_ELEMENTS = 1 << 25


@dataclass
class CrossLayerTranscoder:
    """z_l = f(x_l W_enc[l] + b_enc[l]) for layers l = 0 … L-1, and y'_j = Σ_{l≤j} z_l W_dec[l][:, j - l] + b_dec[j].

    f is JumpReLU with `threshold` where there is one, else ReLU. Inputs x are the columns of `hooks` side by side,
    outputs those of `hooks_out`; nothing is subtracted from the input. Features of all layers are numbered through:
    feature i of layer l is l m + i.

    Weights are float32: W_enc [L, d, m], b_enc [L, m], W_dec L tensors [m, L - l, d_out of one layer], b_dec [L, d_out
    of one layer], threshold [L, m]. `meta` as of `Sae`.
    """

    W_enc: Tensor
    W_dec: tuple[Tensor, ...]
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    hooks: tuple[str, ...] = ()
    hooks_out: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    original: Original | None = None

    arch: ClassVar[str] = "clt"
    kind: ClassVar[str] = "cross-layer transcoder"
    plain: ClassVar[bool] = False
    # It reads rows one by one, so that `runs` below are as nothing to it.
    context: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.W_enc.ndim != 3 or self.b_dec.ndim != 2 or len(self.W_dec) != len(self.W_enc):
            raise AuditorError(
                f"A cross-layer transcoder's W_enc is [layers, d_in, features], not {list(self.W_enc.shape)}, and it "
                "has a W_dec for each layer.", "The file is damaged or follows another convention.",
            )
        layers, _, width = self.W_enc.shape
        found = {"b_enc": self.b_enc, "b_dec": self.b_dec}
        want: dict[str, tuple[int, ...]] = {"b_enc": (layers, width), "b_dec": (layers, self.b_dec.shape[1])}
        for layer, decoder in enumerate(self.W_dec):
            found[f"W_dec of layer {layer}"] = decoder
            want[f"W_dec of layer {layer}"] = (width, layers - layer, self.b_dec.shape[1])
        if self.threshold is not None:
            found["threshold"], want["threshold"] = self.threshold, (layers, width)
        for name, shape in want.items():
            if tuple(found[name].shape) != shape:
                raise AuditorError(
                    f"The cross-layer transcoder's {name} has shape {tuple(found[name].shape)}, but its other tensors "
                    f"ask for {shape}.", "The file is damaged or follows another convention.",
                )

    @property
    def n_layers(self) -> int:
        return self.W_enc.shape[0]

    @property
    def width(self) -> int:
        """Features of each layer."""
        return self.W_enc.shape[2]

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0] * self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self.b_dec.numel()

    @property
    def d_sae(self) -> int:
        return self.b_enc.numel()

    @property
    def hook(self) -> str:
        return ", ".join(self.hooks)

    @property
    def hook_out(self) -> str:
        return ", ".join(self.hooks_out)

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    @property
    def digest(self) -> str:
        """Of the folder it was loaded from or saved to; in memory only, of its weights."""
        if self.path is not None:
            return digest_folder(self.path)
        facts = {name: sha256_bytes(t.cpu().contiguous().numpy().tobytes()) for name, t in self.tensors().items()}
        return digest_json({"arch": self.arch, "tensors": facts})

    def tensors(self) -> dict[str, Tensor]:
        """Name → tensor of everything learned."""
        named = {"W_enc": self.W_enc, "b_enc": self.b_enc, "b_dec": self.b_dec}
        named |= {f"W_dec.{layer}": decoder for layer, decoder in enumerate(self.W_dec)}
        return named | ({} if self.threshold is None else {"threshold": self.threshold})

    def to(self, device: str | torch.device) -> CrossLayerTranscoder:
        """The same with its weights on `device`."""
        return replace(
            self, W_enc=self.W_enc.to(device), W_dec=tuple(decoder.to(device) for decoder in self.W_dec),
            b_enc=self.b_enc.to(device), b_dec=self.b_dec.to(device),
            threshold=None if self.threshold is None else self.threshold.to(device),
        )

    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations [..., d_sae] of raw activations x [..., d_in] or [..., L, d]."""
        layers, d, _ = self.W_enc.shape
        if x.shape[-1] != self.d_in and x.shape[-2:] == (layers, d):
            x = x.flatten(-2)
        if x.shape[-1] != self.d_in:
            raise AuditorError(
                f"This cross-layer transcoder reads {layers} layers of width {d}, but was given width {x.shape[-1]}.",
                f"Choose the store it was trained on{f' ({self.hook})' if self.hook else ''}.",
            )
        by_layer = x.to(self.W_enc.dtype).reshape(*x.shape[:-1], layers, d)
        return (torch.einsum("...ld,ldm->...lm", by_layer, self.W_enc) + self.b_enc).flatten(-2)

    def activate(self, pre: Tensor) -> Tensor:
        """The activations [..., d_sae] that pre-activations [..., d_sae] give."""
        return pre.relu() if self.threshold is None else pre * (pre > self.threshold.flatten())

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [..., d_sae] of raw activations x [..., d_in] or [..., L, d]."""
        return self.activate(self.pre(x))

    def encode_sparse(self, x: Tensor, runs: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """(values [B, K], ids int64 [B, K]) of the active features of x [B, d_in]; unused places hold value 0."""
        return stack([compact(self.encode(block)) for block in torch.split(x, self.block_rows)])

    def decode(self, z: Tensor) -> Tensor:
        """What activations z [..., d_sae] stand for at all outputs, [..., d_out]."""
        layers, d_out = self.b_dec.shape
        flat = z.reshape(-1, self.d_sae)
        out = self.b_dec.flatten().expand(len(flat), -1).clone()
        for layer, (part, decoder) in enumerate(zip(torch.split(flat, self.width, 1), self.W_dec, strict=True)):
            out[:, layer * d_out :] += part @ decoder.flatten(1)
        return out.reshape(*z.shape[:-1], layers * d_out)

    def decode_sparse(self, values: Tensor, ids: Tensor) -> Tensor:
        """As `decode`, [B, d_out], of (values [B, K], ids [B, K])."""
        dense = torch.zeros(len(values), self.d_sae, dtype=values.dtype, device=values.device)
        return self.decode(dense.scatter_add(1, ids, values))

    def complete(self, decoded: Tensor, x: Tensor, runs: Sequence[int] | None = None) -> Tensor:
        """The prediction that `decoded` makes for raw x: itself, since nothing leads past the features."""
        return decoded

    def reconstruct(self, x: Tensor) -> Tensor:
        """What it predicts from raw x [..., d_in], [..., d_out], in blocks that bound memory."""
        flat = x.reshape(-1, self.d_in)
        blocks = [self.decode(self.encode(block)) for block in torch.split(flat, self.block_rows)]
        return torch.cat(blocks).reshape(*x.shape[:-1], self.d_out).to(x.dtype) if blocks else x

    def directions(self) -> Tensor:
        """What each feature writes to all outputs, [d_sae, d_out]: 0 for layers before its own."""
        layers, d_out = self.b_dec.shape
        found = torch.zeros(self.d_sae, layers * d_out, device=self.device)
        for layer, decoder in enumerate(self.W_dec):
            found[layer * self.width : (layer + 1) * self.width, layer * d_out :] = decoder.flatten(1)
        return found

    @property
    def block_rows(self) -> int:
        """Rows whose dense activations fit the memory that one block may take."""
        return max(1, _BLOCK_ELEMENTS // self.d_sae)

    def blocks(self, rows: int, runs: Sequence[int] | None = None) -> Iterator[tuple[slice, None]]:
        """So many rows in blocks that bound memory."""
        yield from ((slice(at, at + self.block_rows), None) for at in range(0, rows, self.block_rows))

    def save(self, path: Path | str, *, half: bool = False) -> Path:
        """Write the folder `path` (circuit-tracer's layout); `half` keeps the weights as float16 on disk."""
        from auditor.sae.formats.cross_layer import write_cross_layer

        write_cross_layer(self, Path(path), half=half)
        self.path = Path(path)
        return self.path


Dictionary: TypeAlias = Sae | CrossLayerTranscoder
