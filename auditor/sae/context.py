"""What a temporal dictionary foresees of each row from the rows before it in its sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

PROJECTIONS = ("q_target", "k_ctx", "v_ctx", "c_proj")
# What SAELens adds to a norm before it divides by it.
LEAST_NORM = 1e-6


@dataclass(frozen=True)
class Context:
    """Attention of each row over the features of the rows before it (Lubana et al. 2025, arXiv 2511.01836; SAELens'
    `temporal`).

    With r_t the row less b_dec, plus `offset` [d_in] where there is one, h = ReLU(λ r W_enc) and s_t = h_{t-1}
    (s_0 = 0), a layer foresees z = ReLU(attention(queries of h, keys and values of s)), of which as much is taken as
    lies along the row: p_t = (r_t · z_t W_dec) / ‖z_t W_dec‖² · z_t W_dec. What is left goes to the next layer, and
    after the last one to the features. λ is `scale`, 1 / (4 d_in).

    `tensors` has for each layer i and each of `PROJECTIONS` “attn_layers.i.NAME.weight” and “….bias”, as
    torch.nn.Linear has them: q_target and k_ctx [width, d_sae], v_ctx and c_proj [d_sae, d_sae].
    """

    tensors: dict[str, Tensor]
    heads: int
    scale: float
    offset: Tensor | None = None
    least: float = LEAST_NORM

    @property
    def layers(self) -> int:
        return len(self.tensors) // (2 * len(PROJECTIONS))

    def to(self, device: str | torch.device) -> Context:
        """The same on `device`."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return replace(self, tensors=moved, offset=None if self.offset is None else self.offset.to(device))

    def foreseen(self, rows: Tensor, runs: Sequence[int], W_enc: Tensor, W_dec: Tensor) -> Tensor:
        """What the rows before each one tell of it, [n, d_in], of `rows` [n, d_in] less b_dec: samples of `runs` rows,
        one after another, each in order and from its first position on."""
        if sum(runs) != len(rows):
            raise ValueError(f"runs of {sum(runs)} rows in all for {len(rows)}")
        found = list(torch.split(rows, list(runs)))
        for some in _alike(runs):
            told = self._of_samples([found[number] for number in some], W_enc, W_dec)
            for number, sample in zip(some, told, strict=True):
                found[number] = sample
        return torch.cat([rows[:0], *found])

    def _of_samples(self, samples: list[Tensor], W_enc: Tensor, W_dec: Tensor) -> tuple[Tensor, ...]:
        lengths = [len(sample) for sample in samples]
        # Rows behind a sample's last do not reach the earlier ones, so shorter samples can be filled up.
        start = pad_sequence(samples, batch_first=True)
        left = start = start if self.offset is None else start + self.offset
        for layer in range(self.layers):
            here = ((left * self.scale) @ W_enc).relu()
            before = functional.pad(here[:, :-1], (0, 0, 1, 0))
            seen = self._attend(layer, before, here).relu() @ W_dec
            share = (seen * left).sum(-1, keepdim=True) / (seen.norm(dim=-1, keepdim=True) + self.least).square()
            left = left - share * seen
        real = torch.arange(start.shape[1], device=start.device) < torch.tensor(lengths, device=start.device)[:, None]
        return torch.split((start - left)[real], lengths)

    def _attend(self, layer: int, before: Tensor, here: Tensor) -> Tensor:
        samples, length, width = here.shape

        def projected(name: str, x: Tensor) -> Tensor:
            named = f"attn_layers.{layer}.{name}"
            return functional.linear(x, self.tensors[f"{named}.weight"], self.tensors[f"{named}.bias"])

        def by_head(x: Tensor) -> Tensor:
            return x.view(samples, length, self.heads, -1).transpose(1, 2)

        q, k, v = projected("q_target", here), projected("k_ctx", before), projected("v_ctx", before)
        mixed = functional.scaled_dot_product_attention(by_head(q), by_head(k), by_head(v), is_causal=True)
        return projected("c_proj", mixed.transpose(1, 2).reshape(samples, length, width))


def _alike(runs: Sequence[int]) -> list[list[int]]:
    """Numbers of the runs that have rows, in groups of like length: filled up to its longest, none takes more than
    twice the memory of its rows."""
    groups: list[list[int]] = []
    for number in sorted(range(len(runs)), key=runs.__getitem__, reverse=True):
        if groups and 2 * runs[number] >= runs[groups[-1][0]]:
            groups[-1].append(number)
        elif runs[number]:
            groups.append([number])
    return groups
