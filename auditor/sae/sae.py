"""One dictionary for inference: its weights in canonical orientation, encode and decode."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditor.base.digest import digest_folder, digest_json, sha256_bytes
from auditor.base.errors import AuditorError
from auditor.sae.kernels.select import top_k

Arch = Literal["topk", "relu", "jumprelu", "matching_pursuit"]
Normalise = Literal["none", "layer_norm", "constant_norm"]
# Rows per dense [rows, d_sae] block: bounds memory whatever the caller passes.
_BLOCK_ELEMENTS = 1 << 25
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Original:
    """What a dictionary was in the format it was read from, so that it can be written back byte for byte: the format's
    name, its configuration as it stood, those tensors that the canonical weights do not give back exactly, and the type
    (“float32”, “bfloat16”, …) of every tensor by name."""

    format: str
    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)


@dataclass
class Sae:
    """A sparse dictionary on raw activations: z = f((x - c) W_enc + b_enc), x' = z W_dec + b_dec.

    f keeps the k largest of ReLU (`topk`), is ReLU (`relu`), or keeps what exceeds `threshold` (`jumprelu`);
    `matching_pursuit` chooses up to k features one after another, each the best for what is left (Mallat & Zhang 1993).

    A sparse autoencoder gives its input back: c = b_dec. A transcoder (`hook_out` is set) gives the activations of
    another hook point: c = 0, and a skip connection adds x W_skip. A crosscoder reads and writes the activations of
    several `sources` (hook point, width) side by side: its d_in is the sum of their widths.

    With `normalise` = "layer_norm" each row is centred and scaled to unit variance first (eps 1e-5 added to the
    standard deviation, and left out when that is undone: OpenAI's convention, and SAELens'), with "constant_norm" it is
    scaled to norm sqrt(d_in); `reconstruct` undoes that, while `decode` gives the normalised scale.

    Matching pursuit goes on until k features or until the rest's norm is not above `residual_threshold`; with
    `stop_on_repeat` also where it would choose a feature again, which then gets the second value too (SAELens').

    Weights are float32: W_enc [d_in, d_sae], W_dec [d_sae, d_out], b_enc [d_sae], b_dec [d_out], threshold [d_sae],
    W_skip [d_in, d_out]. `meta` holds the facts of its making (model and store digests, training settings, quality).
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
    hook_out: str = ""
    W_skip: Tensor | None = None
    sources: tuple[tuple[str, int], ...] = ()
    normalise: Normalise = "none"
    residual_threshold: float = 0.0
    stop_on_repeat: bool = False
    original: Original | None = None

    def __post_init__(self) -> None:
        d_in, d_sae = self.W_enc.shape
        d_out = self.W_dec.shape[-1] if self.hook_out else d_in
        want = {"W_dec": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,)}
        want |= {"threshold": (d_sae,)} if self.threshold is not None else {}
        want |= {"W_skip": (d_in, d_out)} if self.W_skip is not None else {}
        for name, shape in want.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise AuditorError(
                    f"The dictionary's {name} has shape {found}, but W_enc [{d_in}, {d_sae}] asks for {shape}.",
                    "The file is damaged or follows another convention; import it with the format it was made in.",
                )
        if self.arch in ("topk", "matching_pursuit") and not (self.k and 1 <= self.k <= d_sae):
            raise AuditorError(f"A {self.arch} dictionary needs k between 1 and {d_sae}, not {self.k}.")
        if (self.arch == "jumprelu") != (self.threshold is not None):
            raise AuditorError("A JumpReLU dictionary, and no other, has a threshold for each feature.")
        if self.W_skip is not None and not self.hook_out:
            raise AuditorError("Only a transcoder has a skip connection, and this dictionary names no output.")
        if self.sources and sum(width for _, width in self.sources) != d_in:
            raise AuditorError(f"The crosscoder's sources {list(self.sources)} do not add up to its width {d_in}.")

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    @property
    def plain(self) -> bool:
        """Whether it is a sparse autoencoder of one hook point, linear around its activation function: what edits of a
        network and circuits take for granted."""
        return not (self.hook_out or self.sources) and self.normalise == "none"

    @property
    def kind(self) -> str:
        """What it maps: a transcoder, a crosscoder, or an autoencoder."""
        return "transcoder" if self.hook_out else "crosscoder" if self.sources else "autoencoder"

    def must_be_plain(self, work: str) -> None:
        """AuditorError unless it is `plain`, which `work` (“Editing a feature”) takes for granted."""
        if not self.plain:
            what = f"a {self.kind}" if self.kind != "autoencoder" else "one that normalises each row first"
            raise AuditorError(
                f"{work} needs a dictionary of the raw activations of one hook point, and this is {what}.",
                "Choose a sparse autoencoder; features of this one can be indexed, searched and compared.",
            )

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
        named |= {} if self.threshold is None else {"threshold": self.threshold}
        return named | ({} if self.W_skip is None else {"W_skip": self.W_skip})

    def source_shares(self) -> Tensor:
        """How much of each feature's decoder norms, summed over the sources, belongs to each of them, [d_sae, sources]:
        near 0 and 1 for a feature of one source, even for a shared one (Lindsey et al. 2024). Norms are on the scale of
        training, where `meta` tells it, since a source of larger activations would else seem to hold more."""
        scale = self.meta.get("input_scale")
        widths = [width for _, width in self.sources] or [self.d_out]
        factors = [float(scale.get(name, 1.0)) if isinstance(scale, dict) else 1.0 for name, _ in self.sources] or [1.0]
        parts = zip(torch.split(self.W_dec, widths, 1), factors, strict=True)
        norms = torch.stack([part.norm(dim=1) * factor for part, factor in parts], 1)
        return norms / norms.sum(1, keepdim=True).clamp_min(1e-12)

    def to(self, device: str | torch.device) -> Sae:
        """The same dictionary with its weights on `device`."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return replace(self, **moved)

    def centre(self, x: Tensor) -> Tensor:
        """x [..., d_in] as W_enc takes it: normalised if this dictionary does so, less b_dec unless it transcodes."""
        self._check_width(x, self.d_in)
        rows = x.to(self.W_enc.dtype)
        if self.normalise != "none":
            mean, spread = self.moments(rows)
            rows = (rows - mean) / spread
        return rows if self.hook_out else rows - self.b_dec

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale [..., 1] of each row that `normalise` takes out of x [..., d_in]; 0 and 1 if it takes none."""
        if self.normalise == "none":
            return torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])
        if self.normalise == "constant_norm":
            return torch.zeros_like(x[..., :1]), x.norm(dim=-1, keepdim=True).clamp_min(1e-12) / x.shape[-1] ** 0.5
        return x.mean(-1, keepdim=True), x.std(-1, keepdim=True) + LAYER_NORM_EPS

    def pre(self, x: Tensor) -> Tensor:
        """Pre-activations [..., d_sae] of raw activations x [..., d_in]."""
        return self.centre(x) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [..., d_sae], zero where a feature is silent, of raw activations x [..., d_in]."""
        if self.arch == "matching_pursuit":
            values, ids = self.encode_sparse(x.reshape(-1, self.d_in))
            dense = torch.zeros(len(values), self.d_sae, dtype=values.dtype, device=values.device)
            return dense.scatter_add(1, ids, values).reshape(*x.shape[:-1], self.d_sae)
        return self.activate(self.pre(x))

    def activate(self, pre: Tensor) -> Tensor:
        """The activations [..., d_sae] that pre-activations [..., d_sae] give; not for matching pursuit."""
        if self.arch == "topk":
            assert self.k is not None
            values, ids = top_k(pre.reshape(-1, self.d_sae), self.k)
            dense = torch.zeros_like(pre).reshape(-1, self.d_sae).scatter(1, ids, values.relu())
            return dense.reshape(pre.shape)
        if self.arch == "matching_pursuit":
            raise AuditorError("Matching pursuit has no activation function of its pre-activations.", "Encode rows.")
        if self.threshold is not None:
            return pre * (pre > self.threshold)
        return pre.relu()

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(values [B, K], ids int64 [B, K]) of the active features of x [B, d_in].

        K is k for TopK and matching pursuit, else the largest count in the batch; unused places hold value 0.
        """
        if x.ndim != 2:
            raise ValueError(f"encode_sparse takes [B, d_in], not {tuple(x.shape)}")
        blocks = torch.split(x, self.block_rows)
        if self.arch in ("topk", "matching_pursuit"):
            parts = [self._fixed(block) for block in blocks]
            return torch.cat([v for v, _ in parts]), torch.cat([i for _, i in parts])
        return stack([compact(self.encode(block)) for block in blocks])

    def decode(self, z: Tensor) -> Tensor:
        """What activations z [..., d_sae] stand for, [..., d_out]: without a skip connection, on the scale that
        `normalise` sets."""
        self._check_width(z, self.d_sae)
        return z @ self.W_dec + self.b_dec

    def decode_sparse(self, values: Tensor, ids: Tensor) -> Tensor:
        """As `decode`, [B, d_out], of (values [B, K], ids [B, K])."""
        return functional.embedding_bag(ids, self.W_dec, per_sample_weights=values, mode="sum") + self.b_dec

    def complete(self, decoded: Tensor, x: Tensor) -> Tensor:
        """The prediction [..., d_out] that `decoded` [..., d_out] makes for raw x [..., d_in]: on the raw scale, with
        the skip connection."""
        rows = x.to(self.W_enc.dtype)
        if self.normalise != "none" and not self.hook_out:
            mean, spread = self.moments(rows)
            decoded = decoded * (spread - LAYER_NORM_EPS if self.normalise == "layer_norm" else spread) + mean
        return decoded if self.W_skip is None else decoded + rows @ self.W_skip

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the dictionary makes of raw x [..., d_in], [..., d_out], in blocks that bound memory."""
        flat = x.reshape(-1, x.shape[-1])
        blocks = [
            self.complete(self.decode_sparse(*self.encode_sparse(block)), block)
            for block in torch.split(flat, self.block_rows)
        ]
        return torch.cat(blocks).reshape(*x.shape[:-1], self.d_out).to(x.dtype) if blocks else x

    @property
    def block_rows(self) -> int:
        """Rows whose dense activations fit the memory that one block may take."""
        return max(1, _BLOCK_ELEMENTS // self.d_sae)

    def save(self, path: Path | str, *, half: bool = False) -> Path:
        """Write the folder `path` (SAELens v6 layout); `half` keeps the weights as float16 on disk."""
        from auditor.sae.formats import saelens

        self.path = saelens.write(self, Path(path), half=half)
        return self.path

    def _fixed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.k is not None
        if self.arch == "topk":
            values, ids = top_k(self.pre(x), self.k)
            return values.relu(), ids
        from auditor.sae.kernels.pursuit import pursue

        return pursue(self.centre(x), self.W_dec, self.k, self.residual_threshold, self.stop_on_repeat)

    def _check_width(self, x: Tensor, width: int) -> None:
        if x.shape[-1] != width:
            raise AuditorError(
                f"This dictionary works on activations of width {width}, but was given width {x.shape[-1]}.",
                f"Choose the store or hook point it was trained on{f' ({self.hook})' if self.hook else ''}.",
            )


def compact(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Dense activations [B, d_sae] as (values, ids), padded to the largest count of active features."""
    width = max(1, int((dense > 0).sum(1).max())) if len(dense) else 1
    values, ids = top_k(dense, width)
    return values, torch.where(values > 0, ids, 0)


def stack(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Blocks of (values, ids) as one, padded to the widest."""
    width = max(values.shape[1] for values, _ in parts)
    values = torch.cat([functional.pad(v, (0, width - v.shape[1])) for v, _ in parts])
    return values, torch.cat([functional.pad(i, (0, width - i.shape[1])) for _, i in parts])
