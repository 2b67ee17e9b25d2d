"""Gemma 3n's language model: four residual streams side by side, of which each block computes with one (AltUp: Baykal
et al. 2023, arXiv:2301.13310), and a vector of each token's own for every block.

Google DeepMind 2025, https://ai.google.dev/gemma/docs/gemma-3n.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from auditor.models import linearise
from auditor.models.adapters.altup import AltUp, frozen_magnitudes
from auditor.models.adapters.decoder import Decoder, Frozen
from auditor.models.adapters.gemma4_text import shared_beyond
from auditor.models.adapters.post_norm import GEMMA, SANDWICHED
from auditor.models.hook_points import TOKENS, HookPoint, Kind, Lane, Site
from auditor.models.linearise import LinearPart

NORMS = (*GEMMA.norms, "laurel.post_laurel_norm", "post_per_layer_input_norm", "self_attn.v_norm")
PREDICTED = "matmul contiguous"
"""What the block's first step, a product of the streams with their factors, gives."""


def sparse_gated_mlp(module: nn.Module, argument: Any) -> Any:
    """As `linearise.gated_mlp`; what is below the threshold stays out, whose slope is that of mean and spread."""

    def forward(self: Any, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = self._gaussian_topk(gate) if self.activation_sparsity > 0.0 else gate
        opened = linearise.secant(gate, self.act_fn(gate))
        result: Tensor = self.down_proj(linearise.shared_product(opened, self.up_proj(x)))
        return result

    return forward


class Gemma3nTextAdapter(Decoder):
    """`resid_pre` and `resid_post` are the stream that blocks compute with, ``streams_pre`` and ``streams_post`` all
    of them, one after the other. A block begins with ``predicted``, a mixture of all; (``predicted`` + ``laurel_out``,
    a way around attention, + `attn_out`) / √2 is `resid_mid`; `resid_mid` + `mlp_out` is ``activated``, and what
    that is other than ``predicted`` is given to each stream times a factor, ``per_layer_out`` to all but the first.
    ``joined`` is what becomes of the last streams for the final norm. What each of these adds to what is read later is
    told by `AltUp`.

    The last blocks have no keys and values of their own. `v` is behind its norm. In blocks whose MLPs are sparse,
    `mlp_pre` is what is left above the threshold.
    """

    root: ClassVar[str] = "model"
    """The path of the language model."""
    family = "gemma3n_text"
    config_class = "Gemma3nTextConfig"
    architectures = ("Gemma3nForCausalLM",)
    blocks = replace(SANDWICHED, v=Site("self_attn.v_norm"))
    frozen = Frozen(NORMS, linearise.activation, "mlp", sparse_gated_mlp)

    def mlp_width(self) -> int:
        sizes = self.config.intermediate_size
        return int(sizes[0] if isinstance(sizes, (list, tuple)) else sizes)

    def mixing(self) -> AltUp:
        count, active = int(self.config.altup_num_inputs), int(self.config.altup_active_idx)
        return AltUp(self.network, self.root, count, active, self.n_layers)

    def notes(self) -> list[str]:
        return [
            *super().notes(),
            "Its blocks compute with one of several streams, which are mixed by factors that depend on the input: what "
            "a feature does to the logits is told of a run, as an edge to final_norm, and of no feature alone.",
        ]

    def beyond(self, hook: str) -> str:
        site = hook.rpartition(".")[2]
        if hook.startswith("blocks.") and not site.startswith("streams_"):
            return "it is one of several streams side by side, or a mixture of them"
        as_one = hook.replace("streams_", "resid_")
        return shared_beyond(as_one, self.config)

    def hook_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        for point in super().hook_points():
            block, _, site = point.name.rpartition(".")
            whole = self.d_model * int(self.config.altup_num_inputs)
            lane = replace(point, part=Lane(int(self.config.altup_active_idx)))
            streams = replace(
                point, name=f"{block}.streams_{site.removeprefix('resid_')}", width=whole,
                lanes=int(self.config.altup_num_inputs),
            )  # fmt: skip
            if site == "resid_pre":
                predicted = replace(lane, name=f"{block}.predicted", tensor="inside", inside=PREDICTED)
                found += [lane, streams, predicted, self._beside(point, "laurel_out", "laurel")]
            elif site == "resid_post":
                ended = self._beside(point, "activated", "altup.router_norm", "input")
                found += [replace(ended, shared=True, call=1)]
                found += [self._beside(point, "per_layer_out", "post_per_layer_input_norm"), streams, lane]
            elif not block:
                found += [self._at("joined", f"{self.root}.norm", "input")] if site == "final_norm" else []
                found.append(point)
            else:
                found.append(self._own(point, site))
        return found

    def linear_parts(self) -> list[LinearPart]:
        parts = [
            *super().linear_parts(),
            LinearPart(self.root, frozen_magnitudes),
            # What a token's own vectors take from its embedding counts as their own.
            LinearPart(f"{self.root}.per_layer_model_projection", linearise.constant),
        ]
        for number in range(self.n_layers):
            at = f"{self.root}.layers.{number}"
            parts.append(LinearPart(f"{at}.altup.modality_router", linearise.constant))
            parts.append(LinearPart(f"{at}.act_fn", linearise.activation))
        return parts

    def _own(self, point: HookPoint, site: str) -> HookPoint:
        """A point of the table, as its block has it."""
        if site not in ("mlp_pre", "mlp_linear", "mlp_hidden"):
            return point
        module, _, _ = point.module.rpartition(".")
        mlp = self.network.get_submodule(module)
        point = replace(point, width=int(mlp.intermediate_size))  # type: ignore[arg-type]
        sparse = site == "mlp_pre" and float(mlp.activation_sparsity) > 0  # type: ignore[arg-type]
        return replace(point, module=module, tensor="inside", inside="relu") if sparse else point

    def _beside(self, point: HookPoint, name: str, module: str, tensor: Kind = "output") -> HookPoint:
        """Another point of the block whose input or output `point` is."""
        return self._at(f"{point.name.rpartition('.')[0]}.{name}", f"{point.module}.{module}", tensor)

    def _at(self, name: str, module: str, tensor: Kind) -> HookPoint:
        return HookPoint(name, self.d_model, TOKENS, module, 0, tensor)
