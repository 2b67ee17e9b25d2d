"""Cross-layer transcoders: features that read one layer's MLP input and write to the MLP outputs of that layer and all
later ones (Ameisen et al. 2025, “Circuit Tracing”)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import ArchConfig, Architecture, Batch, Outcome, outcome_of
from auditor.sae.archs.jump import Jump, reluctance, spread
from auditor.sae.clt import CrossLayerTranscoder, Dictionary
from auditor.sae.kernels.blocks import starting_bias
from auditor.sae.parameters import Parameters, geometric_median, leaves
from auditor.sae.scaling import Scaling

# As for JumpReLU: the tanh's slope, weight of what pulls dead features up, thresholds and active share at the start.
_SLOPE, _REVIVE, _START, _ACTIVE, _LEAST = 4.0, 3e-6, 1.0, 1 / 32, 1e-4
_SAMPLE_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class CrossLayerConfig(ArchConfig):
    """`d_sae` counts the features of one layer. `l1`: weight λ of the sparsity penalty; `bandwidth`: width of the
    kernel that lets thresholds learn, in units of a typical activation; `steps`: of the whole training, over which λ
    rises."""

    l1: float
    bandwidth: float
    steps: int


class CrossLayer(Architecture):
    """Mean over rows of Σ_l ‖y'_l - y_l‖² + λ Σ_l Σ_i tanh(c ‖d_i^l‖ z_i^l) + λ_P Σ_dead ReLU(θ_i^l - π_i^l) ‖d_i^l‖
    (Ameisen et al. 2025, section 2.2 and appendix on training), with z^l = JumpReLU(π^l), π^l = x_l W_enc^l + b_enc^l,
    y'_j = Σ_{l≤j} z^l W_dec^{l→j} + b_dec^j, and d_i^l all that feature i of layer l writes, as one vector.

    The jump's gradients reach all weights (`jump`), ε = `bandwidth` times the spread of the inputs along a direction; λ
    rises over the whole training. Of `Parameters`, `encoder` [L m, d] has
    each layer's rows in turn, and so has `decoder`, in which feature i of layer l owns L - l rows [d_out], one for each
    output that it writes to.
    """

    name = "clt"
    config: CrossLayerConfig
    config_class = CrossLayerConfig
    takes = "layers"
    continues = ("clt",)

    def __init__(self, config: CrossLayerConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        widths = {width for _, width in scaling.reading.sources}, {width for _, width in scaling.reading.targets}
        if any(len(found) != 1 for found in widths):
            raise AuditorError(
                "The hook points of a cross-layer transcoder have different widths.", "Name those of one kind."
            )
        self.layers, self.d = len(scaling.reading.sources), scaling.reading.sources[0][1]
        self.d_out = scaling.reading.targets[0][1]
        self._typical = spread(sample.x, sample.x.mean(0))
        self._bandwidth = config.bandwidth * self._typical

    def begin(self, sample: Batch) -> Parameters:
        width = self.config.d_sae
        generator = torch.Generator().manual_seed(self.config.seed)
        reads = torch.randn(self.layers * width, self.d, generator=generator)
        encoder = reads / reads.norm(dim=1, keepdim=True) / 2
        decoder = []
        for layer in range(self.layers):
            writes = torch.randn(width, (self.layers - layer) * self.d_out, generator=generator)
            decoder.append((writes / writes.norm(dim=1, keepdim=True)).reshape(-1, self.d_out))
        start, nothing = _START * self._typical, torch.zeros(self.d)
        columns, rows = torch.split(sample.x[:_SAMPLE_ROWS], self.d, 1), torch.split(encoder, width)
        biases = [starting_bias(x, e, nothing, _ACTIVE, start) for x, e in zip(columns, rows, strict=True)]
        bias = torch.cat(biases)
        tensors = {
            "encoder": encoder, "decoder": torch.cat(decoder), "b_enc": bias, "b_dec": geometric_median(sample.target),
            "log_threshold": torch.full_like(bias, start).log(),
        }
        return leaves(tensors, self.device)

    def adopt(self, sae: Dictionary) -> Parameters:
        size = self.layers, self.config.d_sae, self.d, self.d_out
        if not isinstance(sae, CrossLayerTranscoder):
            raise AuditorError(f"A dictionary of kind “{sae.arch}” cannot be trained on as clt.", "Start from a clt.")
        if (sae.n_layers, sae.width, sae.W_enc.shape[1], sae.b_dec.shape[1]) != size:
            raise AuditorError(
                f"The cross-layer transcoder to start from has {sae.n_layers} layers of {sae.width} features, from "
                f"width {sae.W_enc.shape[1]} to {sae.b_dec.shape[1]}; asked for are {size}.", "Choose one that fits.",
            )
        read, written = self._scales()
        threshold = torch.zeros_like(sae.b_enc) if sae.threshold is None else sae.threshold
        tensors = {
            "encoder": (sae.W_enc.cpu() / read[:, :, None]).transpose(1, 2).flatten(0, 1),
            "decoder": torch.cat([(d.cpu() * written[layer:]).flatten(0, 1) for layer, d in enumerate(sae.W_dec)]),
            "b_enc": sae.b_enc.cpu().flatten(), "b_dec": (sae.b_dec.cpu() * written).flatten(),
            "log_threshold": threshold.cpu().flatten().clamp_min(_LEAST * self._typical).log(),
        }
        return leaves(tensors, self.device)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p, log_threshold = parameters, parameters.more["log_threshold"]
        decoders = self._decoders(p.decoder)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            pre = (self._by_layer(batch.x, p.encoder) + p.b_enc).float()
            z = Jump.apply(pre, log_threshold, self._bandwidth, True)  # type: ignore[no-untyped-call]
            out = list(torch.split(p.b_dec - batch.target, self.d_out, 1))
            for layer, (part, decoder) in enumerate(zip(torch.split(z, self.config.d_sae, 1), decoders, strict=True)):
                for later, written in enumerate(torch.split(part @ decoder, self.d_out, 1), layer):
                    out[later] = out[later] + written
        squared = torch.stack([residual.float().pow(2).sum() for residual in out]).sum()
        norm = torch.cat([decoder.norm(dim=1) for decoder in decoders])
        rise = (batch.step + 1) / self.config.steps
        loss = squared / len(batch.x) + self.config.l1 * rise * torch.tanh(_SLOPE * z * norm).sum(1).mean()
        loss = loss + _REVIVE * reluctance(pre, log_threshold.exp(), norm, batch.dead)
        return outcome_of(loss, squared, z.detach() > 0)

    def finish(self, parameters: Parameters) -> CrossLayerTranscoder:
        p = {name: tensor.detach().cpu().float() for name, tensor in parameters.named().items()}
        read, written = self._scales()
        decoders = [
            decoder.reshape(len(decoder), -1, self.d_out) / written[layer:]
            for layer, decoder in enumerate(self._decoders(p["decoder"]))
        ]
        # Features are brought to unit norm of what they write, as rows of other dictionaries are.
        norm = torch.stack([decoder.flatten(1).norm(dim=1).clamp_min(1e-12) for decoder in decoders])
        by_layer = (self.layers, self.config.d_sae)
        encoder = p["encoder"].reshape(*by_layer, self.d) * read[:, None, :] * norm[:, :, None]
        reading = self.scaling.reading
        return CrossLayerTranscoder(
            encoder.transpose(1, 2).contiguous(),
            tuple(decoder / of[:, None, None] for decoder, of in zip(decoders, norm, strict=True)),
            p["b_enc"].reshape(by_layer) * norm, p["b_dec"].reshape(self.layers, self.d_out) / written,
            p["log_threshold"].exp().reshape(by_layer) * norm,
            tuple(name for name, _ in reading.sources), tuple(name for name, _ in reading.targets),
        )

    def _by_layer(self, x: Tensor, encoder: Tensor) -> Tensor:
        """x [B, L d] times each layer's encoder, [B, L m]."""
        parts = zip(torch.split(x, self.d, 1), torch.split(encoder, self.config.d_sae), strict=True)
        return torch.cat([columns @ rows.T for columns, rows in parts], 1)

    def _decoders(self, decoder: Tensor) -> list[Tensor]:
        """What each layer's features write, [m, (L - l) d_out]."""
        width = self.config.d_sae
        rows = torch.split(decoder, [width * (self.layers - layer) for layer in range(self.layers)])
        return [part.reshape(width, -1) for part in rows]

    def _scales(self) -> tuple[Tensor, Tensor]:
        """Factors of inputs [L, d] and outputs [L, d_out]."""
        scaling = self.scaling
        return scaling.input.reshape(self.layers, self.d), scaling.output.reshape(self.layers, self.d_out)
