"""One dictionary for inference: its weights in canonical orientation, encode and decode."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditor.base.digest import digest_folder, digest_json, sha256_bytes
from auditor.base.errors import AuditorError
from auditor.sae.kernels.select import top_k

Arch = Literal["topk", "relu", "jumprelu"]
# Rows per dense [rows, d_sae] block: bounds memory whatever the caller passes.
_BLOCK_ELEMENTS = 1 << 25


@dataclass
class Sae:
    """A sparse autoencoder on raw activations: z = f((x - b_dec) W_enc + b_enc), x' = z W_dec + b_dec.

    f keeps the k largest of ReLU (`topk`), is ReLU (`relu`), or keeps what exceeds `threshold` (`jumprelu`).
    Weights are float32: W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc [d_sae], b_dec [d_in], threshold [d_sae].
    `meta` holds the facts of its making (hook, model and store digests, training settings, quality).
    """

    arch: Arch
    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    k: int | None = None
    threshold: Tensor | None = None
    hook: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __post_init__(self) -> None:
        d_in, d_sae = self.W_enc.shape
        want = {"W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
        if self.threshold is not None:
            want["threshold"] = (d_sae,)
        for name, shape in want.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise AuditorError(
                    f"The dictionary's {name} has shape {found}, but W_enc [{d_in}, {d_sae}] asks for {shape}.",
                    "The file is damaged or follows another convention; import it with the format it was made in.",
                )
        if self.arch == "topk" and not (self.k and 1 <= self.k <= d_sae):
            raise AuditorError(f"A TopK dictionary needs k between 1 and {d_sae}, not {self.k}.")
        if (self.arch == "jumprelu") != (self.threshold is not None):
            raise AuditorError("A JumpReLU dictionary, and no other, has a threshold for each feature.")

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    @property
    def digest(self) -> str:
        """Of the folder it was loaded from or saved to; in memory only, of its weights."""
        if self.path is not None:
            return digest_folder(self.path)
        facts = {name: sha256_bytes(t.cpu().contiguous().numpy().tobytes()) for name, t in self.tensors().items()}
        return digest_json({"arch": self.arch, "k": self.k, "tensors": facts})

    def tensors(self) -> dict[str, Tensor]:
        """Name → tensor of everything learned."""
        named = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}
        return named if self.threshold is None else named | {"threshold": self.threshold}

    def to(self, device: str | torch.device) -> Sae:
        """The same dictionary with its weights on `device`."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return Sae(self.arch, k=self.k, hook=self.hook, meta=self.meta, path=self.path, **moved)

    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations [..., d_sae] of raw activations x [..., d_in]."""
        self._check_width(x, self.d_in)
        return (x.to(self.W_enc.dtype) - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [..., d_sae], zero where a feature is silent, of raw activations x [..., d_in]."""
        return self.activate(self.pre(x))

    def activate(self, pre: Tensor) -> Tensor:
        """The activations [..., d_sae] that pre-activations [..., d_sae] give."""
        if self.arch == "topk":
            assert self.k is not None
            values, ids = top_k(pre.reshape(-1, self.d_sae), self.k)
            dense = torch.zeros_like(pre).reshape(-1, self.d_sae).scatter(1, ids, values.relu())
            return dense.reshape(pre.shape)
        if self.threshold is not None:
            return pre * (pre > self.threshold)
        return pre.relu()

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(values [B, K], ids int64 [B, K]) of the active features of x [B, d_in].

        K is k for TopK, else the largest count in the batch; unused places hold value 0 and id 0.
        """
        if x.ndim != 2:
            raise ValueError(f"encode_sparse takes [B, d_in], not {tuple(x.shape)}")
        blocks = torch.split(x, self.block_rows)
        if self.arch == "topk":
            assert self.k is not None
            parts = [top_k(self.pre(block), self.k) for block in blocks]
            return torch.cat([v for v, _ in parts]).relu(), torch.cat([i for _, i in parts])
        return _stack([_compact(self.encode(block)) for block in blocks])

    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions [..., d_in] of activations z [..., d_sae]."""
        self._check_width(z, self.d_sae)
        return z @ self.W_dec + self.b_dec

    def decode_sparse(self, values: Tensor, ids: Tensor) -> Tensor:
        """Reconstructions [B, d_in] of (values [B, K], ids [B, K])."""
        return functional.embedding_bag(ids, self.W_dec, per_sample_weights=values, mode="sum") + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        """x [..., d_in] through the dictionary, in blocks that bound memory."""
        flat = x.reshape(-1, x.shape[-1])
        blocks = [self.decode_sparse(*self.encode_sparse(block)) for block in torch.split(flat, self.block_rows)]
        return torch.cat(blocks).reshape(x.shape).to(x.dtype) if blocks else x

    @property
    def block_rows(self) -> int:
        """Rows whose dense activations fit the memory that one block may take."""
        return max(1, _BLOCK_ELEMENTS // self.d_sae)

    def save(self, path: Path | str, *, half: bool = False) -> Path:
        """Write the folder `path` (SAELens v6 layout); `half` keeps the weights as float16 on disk."""
        from auditor.sae.formats import saelens

        self.path = saelens.write(self, Path(path), half=half)
        return self.path

    def _check_width(self, x: Tensor, width: int) -> None:
        if x.shape[-1] != width:
            raise AuditorError(
                f"This dictionary works on activations of width {width}, but was given width {x.shape[-1]}.",
                f"Choose the store or hook point it was trained on{f' ({self.hook})' if self.hook else ''}.",
            )


def _compact(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Dense activations [B, d_sae] as (values, ids), padded to the largest count of active features."""
    width = max(1, int((dense > 0).sum(1).max())) if len(dense) else 1
    values, ids = top_k(dense, width)
    return values, torch.where(values > 0, ids, 0)


def _stack(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Blocks of (values, ids) as one, padded to the widest."""
    width = max(values.shape[1] for values, _ in parts)
    values = torch.cat([functional.pad(v, (0, width - v.shape[1])) for v, _ in parts])
    return values, torch.cat([functional.pad(i, (0, width - i.shape[1])) for _, i in parts])
