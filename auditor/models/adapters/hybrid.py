"""Llama-shaped decoders some of whose blocks mix positions otherwise than by attention: LFM2 by a short gated
convolution, Qwen3-Next and Qwen3.5 by a gated delta rule (Yang et al. 2024, arXiv:2412.06464), Kimi Linear and Ling 3
by one whose gates differ by channel (arXiv:2510.26692), Granite 4 and Bamba by Mamba 2, Jamba by Mamba.

Such a block has ``mixer_out``, what its mixer writes to the residual stream, and before that ``mixer_hidden``, what
enters the mixer's last projection, in the place of attention's hook points.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from auditor.models.adapters.decoder import Decoder, like
from auditor.models.adapters.deepseek import DeepseekV2Adapter
from auditor.models.adapters.gates import gated_by, gated_queries, with_gates
from auditor.models.adapters.llama import LlamaAdapter, llama_blocks
from auditor.models.adapters.post_norm import TRAILING
from auditor.models.hook_points import Blocks, HookPoint, Part, Site, block_points


def with_mixers(points: Iterable[HookPoint], network: nn.Module, mixer: str, last: str = "out_proj") -> list[HookPoint]:
    """`points`, and those of the modules called `mixer`, with their projection `last`, in blocks without attention."""
    listed, found = list(points), list[HookPoint]()
    attends = {point.name.rpartition(".")[0] for point in listed if point.name.endswith(".attn_out")}
    for point in listed:
        block, _, site = point.name.rpartition(".")
        if site == "resid_mid" and block not in attends:
            path = f"{point.module.rpartition('.')[0]}.{mixer}"
            projection: Any = network.get_submodule(f"{path}.{last}")
            hidden = replace(
                point, name=f"{block}.mixer_hidden", width=int(projection.in_features), module=f"{path}.{last}",
                shared=False,
            )  # fmt: skip
            found += [
                hidden,
                replace(hidden, name=f"{block}.mixer_out", width=point.width, module=path, tensor="output"),
            ]
        found.append(point)
    return found


class HybridAdapter(LlamaAdapter):
    """Subclasses say what the mixer is called, and its last projection."""

    mixer: ClassVar[str]
    last: ClassVar[str] = "out_proj"
    frozen = None

    def hook_points(self) -> list[HookPoint]:
        return with_mixers(super().hook_points(), self.network, self.mixer, self.last)


class Lfm2Adapter(HybridAdapter):
    family = "lfm2"
    config_class = "Lfm2Config"
    architectures = ("Lfm2ForCausalLM",)
    mixer = "conv"
    blocks = replace(
        llama_blocks(),
        resid_mid=Site("ffn_norm", "input", shared=True),
        mlp_hidden=Site("feed_forward.w2", "input"),
        mlp_out=Site("feed_forward"),
        final_norm=Site("model.embedding_norm"),
        z=Site("self_attn.out_proj", "input"),
        mlp_pre=Site("feed_forward.w1"),
        mlp_linear=Site("feed_forward.w3"),
    )

    def mlp_width(self) -> int:
        gate: Any = self.network.get_submodule("model.layers.0.feed_forward.w1")
        return int(gate.out_features)


class Lfm2MoeAdapter(Lfm2Adapter):
    """Mixtures of experts after the first blocks."""

    family = "lfm2_moe"
    config_class = "Lfm2MoeConfig"
    architectures = ("Lfm2MoeForCausalLM",)
    blocks = replace(
        Lfm2Adapter.blocks,
        router=Site("feed_forward.gate", "inside", inside="linear"),
        expert_weights=Site("feed_forward.experts", "expert_weights"),
    )

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size)


class Lfm3Adapter(Lfm2Adapter):
    """Norms stand behind what mixers, attention and MLP give, and `z` is what a head gives times the sigmoid of its
    ``attn_gate``."""

    family = "lfm3"
    config_class = "Lfm3Config"
    architectures = ("Lfm3ForCausalLM",)
    blocks = replace(
        Lfm2Adapter.blocks, z=Site("self_attn.o_proj", "input"), attn_out=Site("post_operator_norm"),
        mlp_out=Site("post_ffn_norm"),
    )  # fmt: skip

    def hook_points(self) -> list[HookPoint]:
        points = _mixing(LlamaAdapter.hook_points(self), self.mixes(), self.network, "conv.out_proj")
        return gated_by(points, "g_proj", "z", by_head=True) if self.config.use_attention_gate else points

    def mixes(self) -> set[str]:
        return {f"blocks.{number}" for number, kind in enumerate(self.config.layer_types) if kind == "conv"}


class KimiLinearAdapter(DeepseekV2Adapter):
    """Some blocks attend as DeepSeek-V2's do, the others mix by a delta rule; mixtures of experts after the first."""

    family = "kimi_linear"
    config_class = "KimiLinearConfig"
    architectures = ("KimiLinearForCausalLM",)
    plain = False  # some blocks also give their pattern

    def hook_points(self) -> list[HookPoint]:
        kinds = enumerate(self.config.layer_types)
        mixes = {f"blocks.{number}" for number, kind in kinds if kind == "linear_attention"}
        return _mixing(super().hook_points(), mixes, self.network, "self_attn.o_proj")


class BailingHybridAdapter(KimiLinearAdapter):
    """`z` is what a head gives times the sigmoid of its ``attn_gate``."""

    family = "bailing_hybrid"
    config_class = "BailingHybridConfig"
    architectures = ("BailingHybridForCausalLM",)

    def table(self) -> Blocks:
        return replace(super().table(), q=Site("self_attn.q_proj"))

    def hook_points(self) -> list[HookPoint]:
        return gated_by(super().hook_points(), "g_proj", "z", by_head=True)


def _mixing(points: Iterable[HookPoint], mixes: set[str], network: nn.Module, last: str) -> list[HookPoint]:
    """`points`, where in the blocks that `mixes` names `attn_out` is a mixer's, whose last projection is at `last`."""
    found: list[HookPoint] = []
    for point in points:
        block, _, site = point.name.rpartition(".")
        if block in mixes and site == "attn_out":
            path = f"{point.module.rpartition('.')[0]}.{last}"
            projection: Any = network.get_submodule(path)
            hidden = replace(point, name=f"{block}.mixer_hidden", module=path, tensor="input")
            found += [replace(hidden, width=int(projection.in_features)), replace(point, name=f"{block}.mixer_out")]
        elif block not in mixes or site not in ("q", "k", "v", "pattern", "z"):
            found.append(point)
    return found


class JambaAdapter(HybridAdapter):
    """A block's MLP may be a mixture, whether it attends or not."""

    family = "jamba"
    config_class = "JambaConfig"
    architectures = ("JambaForCausalLM",)
    mixer = "mamba"
    blocks = replace(
        llama_blocks(),
        resid_mid=Site("pre_ff_layernorm", "input", shared=True),
        mlp_hidden=Site("feed_forward.down_proj", "input"),
        mlp_out=Site("feed_forward"),
        final_norm=Site("model.final_layernorm"),
        mlp_pre=Site("feed_forward.gate_proj"),
        mlp_linear=Site("feed_forward.up_proj"),
        router=Site("feed_forward.router", "inside", inside="linear"),
        expert_weights=Site("feed_forward.experts", "expert_weights"),
    )


class BambaAdapter(JambaAdapter):
    family = "bamba"
    config_class = "BambaConfig"
    architectures = ("BambaForCausalLM",)
    plain = False  # a block also gives its pattern


class OlmoHybridAdapter(HybridAdapter):
    """Blocks that attend norm what attention and MLP give, as OLMo 2 does, those of the gated delta rule what these
    read."""

    family = "olmo_hybrid"
    config_class = "OlmoHybridConfig"
    architectures = ("OlmoHybridForCausalLM",)
    mixer = "linear_attn"

    def hook_points(self) -> list[HookPoint]:
        sizes = self.n_layers, self.d_model, self.mlp_width()
        norms_before, norms_after = (
            block_points(table, *sizes, heads=self.heads(), within=self.network) for table in (self.blocks, TRAILING)
        )
        attends = {
            point.name.rpartition(".")[0] for point in norms_before if point.name.endswith(".attn_out")
        }  # those of the delta rule have no self_attn
        both = sorted(
            (point for points, of in ((norms_before, False), (norms_after, True)) for point in points
             if (point.name.rpartition(".")[0] in attends) == of),
            key=_place,
        )  # fmt: skip
        return with_mixers(both, self.network, self.mixer, "o_proj")


def _place(point: HookPoint) -> tuple[float, float]:
    """Embeddings first, blocks in turn, the last norm last; inside a block as they stand."""
    block = point.name.split(".")[1:2]
    return (float(block[0]) if block else (-1.0 if point.name == "embed" else float("inf"))), point.depth


class Qwen3NextAdapter(HybridAdapter):
    """`z` is what the heads give times the sigmoid of ``attn_gate``: what enters the output projection."""

    family = "qwen3_next"
    config_class = "Qwen3NextConfig"
    architectures = ("Qwen3NextForCausalLM",)
    mixer = "linear_attn"
    gain_offset = 1.0

    def table(self) -> Blocks:
        return replace(llama_blocks(), q=gated_queries(self.heads().count))

    def hook_points(self) -> list[HookPoint]:
        return with_gates(super().hook_points())


class GraniteMoeHybridAdapter(HybridAdapter):
    """`attn_out`, `mixer_out` and `mlp_out` enter the sum times the residual multiplier. In a mixture `mlp_out` is the
    sum of the experts and of the MLP that all positions share."""

    family = "granitemoehybrid"
    config_class = "GraniteMoeHybridConfig"
    architectures = ("GraniteMoeHybridForCausalLM",)
    mixer = "mamba"

    def mlp_width(self) -> int:
        return int(self.config.shared_intermediate_size)

    def logit_scale(self) -> float:
        return 1.0 / float(self.config.logits_scaling)

    def scaled(self, hook: str) -> float:
        written = hook.endswith(("attn_out", "mixer_out", "mlp_out"))
        return float(self.config.residual_multiplier) if written else 1.0

    def table(self) -> Blocks:
        plain = replace(llama_blocks(), embed=Site("model.layers.0", "input"))
        if not self.experts():
            gate, linear = (Site("shared_mlp.input_linear", part=Part(1, 2, at, at + 1)) for at in (0, 1))
            hidden = Site("shared_mlp.output_linear", "input")
            return replace(plain, mlp_pre=gate, mlp_linear=linear, mlp_hidden=hidden, mlp_out=Site("shared_mlp"))
        both = Site("", "inside", inside="add", after="shared_mlp") if self.mlp_width() else Site("block_sparse_moe")
        return replace(
            plain,
            mlp_pre=None,
            mlp_linear=None,
            mlp_hidden=None,
            mlp_out=both,
            router=Site("block_sparse_moe.router", "inside", inside="linear"),
            expert_weights=Site("block_sparse_moe.experts", "expert_weights"),
        )


HYBRID: tuple[type[Decoder], ...] = (
    Lfm2Adapter,
    Lfm2MoeAdapter,
    Lfm3Adapter,
    KimiLinearAdapter,
    BailingHybridAdapter,
    Qwen3NextAdapter,
    like(Qwen3NextAdapter, "qwen3_5_text", "Qwen3_5TextConfig"),
    like(Qwen3NextAdapter, "qwen3_5_moe_text", "Qwen3_5MoeTextConfig"),
    GraniteMoeHybridAdapter,
    like(GraniteMoeHybridAdapter, "granitemoeshared", "GraniteMoeSharedConfig"),
    JambaAdapter,
    BambaAdapter,
    OlmoHybridAdapter,
)
