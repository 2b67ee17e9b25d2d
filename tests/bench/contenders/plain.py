"""A dense loop of each architecture, as one writes it first."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

BANDWIDTH = 0.5


class Jump(torch.autograd.Function):
    """z·[z > θ], with the rectangle kernel's pseudo-derivative for θ (Rajamanoharan et al. 2024, eq. 11)."""

    @staticmethod
    def forward(ctx, z, threshold):
        ctx.save_for_backward(z, threshold)
        return z * (z > threshold)

    @staticmethod
    def backward(ctx, gradient):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < BANDWIDTH / 2).float()
        return gradient * (z > threshold), -(threshold / BANDWIDTH * near * gradient).sum(0)


class Count(torch.autograd.Function):
    """[z > θ], likewise (eq. 12)."""

    @staticmethod
    def forward(ctx, z, threshold):
        ctx.save_for_backward(z, threshold)
        return (z > threshold).float()

    @staticmethod
    def backward(ctx, gradient):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < BANDWIDTH / 2).float()
        return torch.zeros_like(z), -(near * gradient).sum(0) / BANDWIDTH


class Plain:
    """Encoder and decoder as dense products, gradients by autograd, Adam fused."""

    version = torch.__version__

    def __init__(self, spec):
        generator = torch.Generator().manual_seed(spec.seed)
        weight = functional.normalize(torch.randn(spec.d_sae, spec.data.shape[1], generator=generator), dim=1)
        mean = torch.from_numpy(spec.data[:8192]).mean(0)
        tensors = [weight * 0.5, weight, torch.zeros(spec.d_sae), mean]
        if spec.arch == "jumprelu":
            tensors.append(torch.full((spec.d_sae,), math.log(BANDWIDTH)))
        self.p = [torch.nn.Parameter(t.to(spec.device, copy=True)) for t in tensors]
        self.spec, self.threshold, self.training = spec, torch.zeros((), device=spec.device), True
        self.coefficient = spec.coefficient or {"relu": 3.0, "jumprelu": 10.0}.get(spec.arch)
        self.optimiser = torch.optim.Adam(self.p, lr=spec.lr, fused=True)

    def encode(self, x):
        encoder, _, b_enc, b_dec = self.p[:4]
        pre = functional.linear(x - b_dec, encoder, b_enc)
        if self.spec.arch == "topk":
            values, ids = pre.topk(self.spec.k, dim=1, sorted=False)
            return torch.zeros_like(pre).scatter(1, ids, values.relu())
        z = pre.relu()
        if self.spec.arch == "relu":
            return z
        if self.spec.arch == "jumprelu":
            return Jump.apply(z, self.p[4].exp())
        if not self.training:
            return z * (z > self.threshold)
        values, ids = z.flatten().topk(self.spec.k * len(z), sorted=False)
        least = values.detach().min()
        self.threshold = torch.where(self.threshold > 0, 0.9 * self.threshold + 0.1 * least, least)
        return torch.zeros_like(z.flatten()).scatter(0, ids, values).view_as(z)

    def encode_decode(self, x):
        z = self.encode(x)
        return z, z @ self.p[1] + self.p[3]

    def penalty(self, z, step):
        rise = min(1, (step + 1) / (0.05 * self.spec.steps))
        if self.spec.arch == "relu":
            return rise * self.coefficient * (z @ self.p[1].norm(dim=1)).mean()
        return rise * self.coefficient * Count.apply(z, self.p[4].exp()).sum(1).mean()

    def step(self, x, step):
        self.optimiser.param_groups[0]["lr"] = self.spec.rate(step)
        z, out = self.encode_decode(x)
        loss = (out - x).pow(2).sum(1).mean()
        if self.coefficient is not None:
            loss = loss + self.penalty(z, step)
        self.optimiser.zero_grad()
        loss.backward()
        decoder, unit = self.p[1], self.spec.arch != "relu"
        with torch.no_grad():
            if unit:
                decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
            self.optimiser.step()
            if unit:
                decoder /= decoder.norm(dim=1, keepdim=True)

    def finish(self):
        self.training = False
