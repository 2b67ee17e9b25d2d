"""EleutherAI's sparsify."""

from __future__ import annotations

import importlib.metadata

import torch
from sparsify import SparseCoder, SparseCoderConfig


class Coder:
    """Its SparseCoder in an Adam loop (its own trainer runs on the hook points of a model only)."""

    coefficient = None

    def __init__(self, spec):
        self.version, self.spec = importlib.metadata.version("eai-sparsify"), spec
        settings = SparseCoderConfig(k=spec.k, num_latents=spec.d_sae, activation="topk")
        self.coder = SparseCoder(spec.data.shape[1], settings, device=spec.device)
        self.coder.b_dec.data = torch.from_numpy(spec.data[:8192]).mean(0).to(spec.device)
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=spec.lr, fused=True)

    def step(self, x, step):
        self.optimiser.param_groups[0]["lr"] = self.spec.rate(step)
        self.coder.set_decoder_norm_to_unit_norm()
        # On a GPU its forward is in autocast by itself, and its trainer puts the whole step there.
        with torch.autocast("cuda", torch.bfloat16, enabled=self.spec.device == "cuda"):
            out = self.coder(x)
        self.optimiser.zero_grad()
        out.fvu.backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()

    def finish(self):
        self.coder.set_decoder_norm_to_unit_norm()

    def encode_decode(self, x):
        out = self.coder(x)
        z = torch.zeros(len(x), self.spec.d_sae, device=x.device)
        return z.scatter_(1, out.latent_indices.long(), out.latent_acts.float()), out.sae_out
