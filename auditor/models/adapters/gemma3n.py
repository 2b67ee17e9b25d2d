"""Gemma 3n's language model: four residual streams side by side, of which each block computes with one (AltUp: Baykal
et al. 2023, arXiv:2301.13310), and a vector of each token's own for every block.

Google DeepMind 2025, https://ai.google.dev/gemma/docs/gemma-3n.
"""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.decoder import Decoder
from auditor.models.adapters.post_norm import SANDWICHED
from auditor.models.hook_points import TOKENS, HookPoint, Kind, Site


class Gemma3nTextAdapter(Decoder):
    """`resid_pre` and `resid_post` are the four streams one after the other, as wide as four. A block makes one
    of them for itself; `attn_out`, ``laurel_out`` (a way around attention) and `mlp_out` are what it computes from
    that, in sums with factors, and what comes of it and ``per_layer_out`` are given to the streams. ``joined`` is what
    becomes of the last four for the final norm.

    The last blocks have no keys and values of their own. `v` is behind its norm. In blocks whose MLPs are sparse,
    `mlp_pre` is what is left above the threshold.
    """

    family = "gemma3n_text"
    config_class = "Gemma3nTextConfig"
    architectures = ("Gemma3nForCausalLM",)
    blocks = replace(SANDWICHED, v=Site("self_attn.v_norm"))

    def mlp_width(self) -> int:
        sizes = self.config.intermediate_size
        return int(sizes[0] if isinstance(sizes, (list, tuple)) else sizes)

    def hook_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        for point in super().hook_points():
            block, _, site = point.name.rpartition(".")
            if site == "resid_post":
                found.append(self._beside(point, "per_layer_out", "post_per_layer_input_norm"))
            if not block:
                found += [self._at("joined", "model.norm", "input")] if site == "final_norm" else []
            found.append(self._own(point, site))
            if site == "resid_pre":
                found.append(self._beside(point, "laurel_out", "laurel"))
        return found

    def _own(self, point: HookPoint, site: str) -> HookPoint:
        """A point of the table, as its block has it."""
        if site in ("resid_pre", "resid_post"):
            lanes = int(self.config.altup_num_inputs)
            return replace(point, width=lanes * self.d_model, lanes=lanes)
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
