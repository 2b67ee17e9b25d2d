"""Mamba, Falcon's and Mamba 2: a stack of state-space layers, each with one sum into the residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.hook_points import TOKENS, HookPoint, Part, Site


class MambaAdapter(TextAdapter):
    """A block's hook points: ``resid_pre``; ``gate``, before its activation function; ``mixer_hidden``, what the state
    space gives times the gate, before the output projection; ``mixer_out``, what is written to the residual stream;
    ``resid_post``. All are computed by transformers' plain code, which needs none of Mamba's own kernels."""

    family = "mamba"
    config_class = "MambaConfig"
    architectures = ("MambaForCausalLM", "MambaModel")

    @property
    def prefix(self) -> str:
        return "backbone." if hasattr(self.network, "backbone") else ""

    def width(self) -> int:
        """Channels of the state space."""
        return int(self.config.intermediate_size)

    def within_block(self) -> dict[str, tuple[Site, int]]:
        """Sites with their widths, in the order of the forward pass."""
        width = self.width()
        return {
            "gate": (Site("mixer.in_proj", part=Part(1, 2 * width, width, 2 * width)), width),
            "mixer_hidden": (Site("mixer.out_proj", "input"), width),
            "mixer_out": (Site("mixer"), self.d_model),
        }

    def hook_points(self) -> list[HookPoint]:
        rows = [("embed", Site(f"{self.prefix}embeddings"), self.d_model)]
        for number in range(self.n_layers):
            at = f"{self.prefix}layers.{number}"
            rows.append((f"blocks.{number}.resid_pre", Site(at, "input"), self.d_model))
            for name, (site, width) in self.within_block().items():
                rows.append(
                    (f"blocks.{number}.{name}", Site(f"{at}.{site.module}", site.tensor, part=site.part), width)
                )
            rows.append((f"blocks.{number}.resid_post", Site(at), self.d_model))
        rows.append(("final_norm", Site(f"{self.prefix}norm_f"), self.d_model))
        return [
            HookPoint(name, width, TOKENS, site.module, depth, site.tensor, part=site.part)
            for depth, (name, site, width) in enumerate(rows)
        ]

    def unembed(self) -> Tensor | None:
        return head_weight(self.network, "lm_head") if self.prefix else None

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{self.prefix}norm_f")


class FalconMambaAdapter(MambaAdapter):
    family = "falcon_mamba"
    config_class = "FalconMambaConfig"
    architectures = ("FalconMambaForCausalLM", "FalconMambaModel")


class Mamba2Adapter(MambaAdapter):
    """Also has ``ssm_out``, what the state space gives before the gate."""

    family = "mamba2"
    config_class = "Mamba2Config"
    architectures = ("Mamba2ForCausalLM", "Mamba2Model")

    def width(self) -> int:
        return int(self.config.expand * self.config.hidden_size)

    def within_block(self) -> dict[str, tuple[Site, int]]:
        width = self.width()
        states = 2 * int(self.config.n_groups) * int(self.config.state_size)
        whole = 2 * width + states + int(self.config.num_heads)
        return {
            "gate": (Site("mixer.in_proj", part=Part(1, whole, 0, width)), width),
            "ssm_out": (Site("mixer.norm", "input"), width),
            "mixer_hidden": (Site("mixer.out_proj", "input"), width),
            "mixer_out": (Site("mixer"), self.d_model),
        }
