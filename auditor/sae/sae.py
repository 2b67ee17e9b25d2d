"""One dictionary for inference: its weights in canonical orientation, encode and decode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditor.base.digest import digest_folder, digest_json, sha256_bytes
from auditor.base.errors import AuditorError
from auditor.sae.context import Context
from auditor.sae.kernels.select import group_max, top_k

Arch = Literal["topk", "groupmax", "relu", "jumprelu", "matching_pursuit"]
# Those that choose a set number of features a row.
_OF_K = ("topk", "groupmax", "matching_pursuit")
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

    f keeps the k largest of ReLU (`topk`), the largest of each of k groups of neighbours (`groupmax`), is ReLU
    (`relu`), or keeps what exceeds `threshold` (`jumprelu`); `matching_pursuit` chooses up to k features one after
    another, each the best for what is left (Mallat & Zhang 1993).

    A sparse autoencoder gives its input back: c = b_dec. A transcoder (`hook_out` is set) gives the activations of
    another hook point: c = 0, and a skip connection adds x W_skip. A crosscoder reads and writes the activations of
    several `sources` (hook point, width) side by side: its d_in is the sum of their widths.

    With `normalise` = "layer_norm" each row is centred and scaled to unit variance first (eps 1e-5 added to the
    standard deviation, and left out when that is undone: OpenAI's convention, and SAELens'), with "constant_norm" it is
    scaled to norm sqrt(d_in); `reconstruct` undoes that, while `decode` gives the normalised scale.

    Matching pursuit goes on until k features or until the rest's norm is not above `residual_threshold`; with
    `stop_on_repeat` also where it would choose a feature again, which then gets the second value too (SAELens').

    A temporal dictionary (`context` is set) takes out of each row what the rows before it in its sample let foresee,
    and describes with its features what is new: W_enc then reads λ times that. So it reads whole samples in order, and
    whatever takes rows takes `runs` too, the lengths of the samples that they are, one after another; rows
    [samples, positions, d_in] are samples as they stand.

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
    context: Context | None = None
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
        if self.of_k and not (self.k and 1 <= self.k <= d_sae):
            raise AuditorError(f"A {self.arch} dictionary needs k between 1 and {d_sae}, not {self.k}.")
        if self.arch == "groupmax" and self.k and d_sae % self.k:
            raise AuditorError(f"The {d_sae} features of a GroupMax dictionary do not make {self.k} equal groups.")
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
        return not (self.hook_out or self.sources or self.context) and self.normalise == "none"

    @property
    def kind(self) -> str:
        """What it maps: a transcoder, a crosscoder, a temporal autoencoder, or an autoencoder."""
        if self.context is not None:
            return "temporal autoencoder"
        return "transcoder" if self.hook_out else "crosscoder" if self.sources else "autoencoder"

    @property
    def of_k(self) -> bool:
        """Whether it chooses a set number of features a row, so that codes are as wide in every batch."""
        return self.arch in _OF_K

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
        named |= {} if self.W_skip is None else {"W_skip": self.W_skip}
        return named | ({} if self.context is None else self.context.tensors)

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
        own = set(self.context.tensors) if self.context is not None else set()
        moved: dict[str, Any] = {name: t.to(device) for name, t in self.tensors().items() if name not in own}
        return replace(self, **moved, context=None if self.context is None else self.context.to(device))

    def centre(self, x: Tensor, runs: Sequence[int] | None = None) -> Tensor:
        """x [..., d_in] as W_enc takes it: normalised if this dictionary does so, less b_dec unless it transcodes; of a
        temporal dictionary, λ times what is new."""
        rows = self._less_b_dec(x)
        if self.context is None:
            return rows
        return (rows - self._foreseen(rows, runs)) * self.context.scale

    def _less_b_dec(self, x: Tensor) -> Tensor:
        self._check_width(x, self.d_in)
        rows = x.to(self.W_enc.dtype)
        if self.normalise != "none":
            mean, spread = self.moments(rows)
            rows = (rows - mean) / spread
        return rows if self.hook_out else rows - self.b_dec

    def _foreseen(self, rows: Tensor, runs: Sequence[int] | None) -> Tensor:
        assert self.context is not None
        if runs is None and rows.ndim == 3:
            runs = [rows.shape[1]] * len(rows)
        if runs is None:
            raise AuditorError(
                "This dictionary is temporal: it reads whole samples in order, and this works on rows one by one.",
                "Index it, search it by text, splice it or measure it; or choose a dictionary of another architecture.",
            )
        flat = rows.reshape(-1, self.d_in)
        return self.context.foreseen(flat, runs, self.W_enc, self.W_dec).reshape(rows.shape)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale [..., 1] of each row that `normalise` takes out of x [..., d_in]; 0 and 1 if it takes none."""
        if self.normalise == "none":
            return torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])
        if self.normalise == "constant_norm":
            return torch.zeros_like(x[..., :1]), x.norm(dim=-1, keepdim=True).clamp_min(1e-12) / x.shape[-1] ** 0.5
        return x.mean(-1, keepdim=True), x.std(-1, keepdim=True) + LAYER_NORM_EPS

    def pre(self, x: Tensor, runs: Sequence[int] | None = None) -> Tensor:
        """Pre-activations [..., d_sae] of raw activations x [..., d_in]."""
        return self.centre(x, runs) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor, runs: Sequence[int] | None = None) -> Tensor:
        """Feature activations [..., d_sae], zero where a feature is silent, of raw activations x [..., d_in]."""
        if self.arch == "matching_pursuit":
            values, ids = self.encode_sparse(x.reshape(-1, self.d_in))
            dense = torch.zeros(len(values), self.d_sae, dtype=values.dtype, device=values.device)
            return dense.scatter_add(1, ids, values).reshape(*x.shape[:-1], self.d_sae)
        return self.activate(self.pre(x, runs))

    def activate(self, pre: Tensor) -> Tensor:
        """The activations [..., d_sae] that pre-activations [..., d_sae] give; not for matching pursuit."""
        if self.arch == "matching_pursuit":
            raise AuditorError("Matching pursuit has no activation function of its pre-activations.", "Encode rows.")
        if self.of_k:
            values, ids = self._chosen(pre.reshape(-1, self.d_sae))
            dense = torch.zeros_like(pre).reshape(-1, self.d_sae).scatter(1, ids, values)
            return dense.reshape(pre.shape)
        if self.threshold is not None:
            return pre * (pre > self.threshold)
        return pre.relu()

    def encode_sparse(self, x: Tensor, runs: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """(values [B, K], ids int64 [B, K]) of the active features of x [B, d_in].

        K is k where k features are chosen, else the largest count in the batch; unused places hold value 0.
        """
        if x.ndim != 2:
            raise ValueError(f"encode_sparse takes [B, d_in], not {tuple(x.shape)}")
        blocks = list(self.blocks(len(x), runs))
        if self.of_k:
            parts = [self._fixed(x[part], some) for part, some in blocks]
            return torch.cat([v for v, _ in parts]), torch.cat([i for _, i in parts])
        return stack([compact(self.encode(x[part], some)) for part, some in blocks])

    def decode(self, z: Tensor) -> Tensor:
        """What activations z [..., d_sae] stand for, [..., d_out]: without a skip connection, on the scale that
        `normalise` sets."""
        self._check_width(z, self.d_sae)
        return z @ self.W_dec + self.b_dec

    def decode_sparse(self, values: Tensor, ids: Tensor) -> Tensor:
        """As `decode`, [B, d_out], of (values [B, K], ids [B, K])."""
        return functional.embedding_bag(ids, self.W_dec, per_sample_weights=values, mode="sum") + self.b_dec

    def complete(self, decoded: Tensor, x: Tensor, runs: Sequence[int] | None = None) -> Tensor:
        """The prediction [..., d_out] that `decoded` [..., d_out] makes for raw x [..., d_in]: on the raw scale, with
        the skip connection, and with what was foreseen."""
        rows = x.to(self.W_enc.dtype)
        if self.context is not None:
            decoded = decoded + self._foreseen(self._less_b_dec(rows), runs)
        if self.normalise != "none" and not self.hook_out:
            mean, spread = self.moments(rows)
            decoded = decoded * (spread - LAYER_NORM_EPS if self.normalise == "layer_norm" else spread) + mean
        return decoded if self.W_skip is None else decoded + rows @ self.W_skip

    def reconstruct(self, x: Tensor, runs: Sequence[int] | None = None) -> Tensor:
        """What the dictionary makes of raw x [..., d_in], [..., d_out], in blocks that bound memory."""
        if runs is None and x.ndim == 3 and self.context is not None:
            runs = [x.shape[1]] * len(x)
        flat = x.reshape(-1, x.shape[-1])
        found = []
        for part, some in self.blocks(len(flat), runs):
            decoded = self.decode_sparse(*self.encode_sparse(flat[part], some))
            found.append(self.complete(decoded, flat[part], some))
        return torch.cat(found).reshape(*x.shape[:-1], self.d_out).to(x.dtype)

    @property
    def block_rows(self) -> int:
        """Rows whose dense activations fit the memory that one block may take."""
        return max(1, _BLOCK_ELEMENTS // self.d_sae)

    def blocks(self, rows: int, runs: Sequence[int] | None = None) -> Iterator[tuple[slice, list[int] | None]]:
        """So many rows in blocks that bound memory, at least one. A temporal dictionary's have their runs, and none
        ends within one, so that it may be longer where a sample is."""
        return blocks(rows, self.block_rows, None if self.context is None else runs)

    def save(self, path: Path | str, *, half: bool = False) -> Path:
        """Write the folder `path` (SAELens v6 layout); `half` keeps the weights as float16 on disk."""
        from auditor.sae.formats import saelens

        self.path = saelens.write(self, Path(path), half=half)
        return self.path

    def _fixed(self, x: Tensor, runs: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        assert self.k is not None
        if self.arch != "matching_pursuit":
            return self._chosen(self.pre(x, runs))
        from auditor.sae.kernels.pursuit import pursue

        return pursue(self.centre(x), self.W_dec, self.k, self.residual_threshold, self.stop_on_repeat)

    def _chosen(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        assert self.k is not None
        values, ids = group_max(pre, self.k) if self.arch == "groupmax" else top_k(pre, self.k)
        return values.relu(), ids

    def _check_width(self, x: Tensor, width: int) -> None:
        if x.shape[-1] != width:
            raise AuditorError(
                f"This dictionary works on activations of width {width}, but was given width {x.shape[-1]}.",
                f"Choose the store or hook point it was trained on{f' ({self.hook})' if self.hook else ''}.",
            )


def blocks(rows: int, size: int, runs: Sequence[int] | None) -> Iterator[tuple[slice, list[int] | None]]:
    """So many rows in blocks of `size`, at least one; with `runs` in blocks of whole ones, which hold no more unless
    one alone does."""
    if runs is None:
        yield from ((slice(at, at + size), None) for at in range(0, max(rows, 1), size))
        return
    held: list[int] = []
    at = 0
    for run in runs:
        if held and sum(held) + run > size:
            yield slice(at, at + sum(held)), held
            at, held = at + sum(held), []
        held.append(run)
    yield slice(at, at + sum(held)), held


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
