"""Edges cut, against the same arithmetic by hand, in every form of block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data import PositionKind
from auditor.models import Ablate, Inputs, Model, Patch
from auditor.models.edits import CutEdge, Edit
from auditor.models.edits.wiring import WRITES, named, wiring_of
from tests.models.edits.networks import PLAIN, See, close, head_columns, inputs_of, logits_of, network
from tests.models.tiny import ALL, opened
from tests.models.tiny.decoders import DECODERS

# What stands after each sum, by the family's own names.
AFTER = {
    "bert": ("", "bert.encoder.layer.{}.", ("attention.output.LayerNorm", "output.LayerNorm")),
    "distilbert": ("", "distilbert.transformer.layer.{}.", ("sa_layer_norm", "output_layer_norm")),
    "openai-gpt": ("", "transformer.h.{}.", ("ln_1", "ln_2")),
    "opt 350m form": ("", "model.decoder.layers.{}.", ("self_attn_layer_norm", "final_layer_norm")),
    "bart": ("decoder.", "model.decoder.layers.{}.",
             ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")),
    # Two blocks share the weights of a group.
    "albert": ("", "albert.encoder.albert_layer_groups.{}.albert_layers.0.",
               ("attention.LayerNorm", "full_layer_layer_norm")),
}  # fmt: skip
# Five read the stream by nothing that is one linear map, one what its norm gives times a number, one beside the
# embeddings; of the last, MLP, router and experts read it apart.
TOGETHER = (
    "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite", "mistral4", "falcon_h1", "zamba2",
    "gemma4_text mixture",
)  # fmt: skip
EVERY = [
    *((tiny.name, "") for tiny in DECODERS if tiny.name not in (*AFTER, *TOGETHER)),
    ("t5", "encoder."), ("t5", "decoder."), ("whisper", "encoder."), ("vit", "vision."), ("dinov2", "vision."),
    ("clip vision", "vision."), ("paligemma", "vision."), ("smolvlm", ""), ("smolvlm", "vision."),
    ("qwen2_5_vl", "vision."), ("idefics", ""), ("idefics second blocks", ""), ("gemma4", ""), ("gemma4", "vision."),
    ("gemma3n", ""),
]  # fmt: skip


def sources(model: Model, prefix: str, place: str) -> list[str]:
    """Everything that is written to the stream before a place of it."""
    until, written = model.hook_points[place].depth, ("embed", *WRITES)
    names = [name for name, point in model.hook_points.items() if point.depth < until]
    return [name for name in names if named(name)[0] == prefix and named(name)[2] in written]


def of_nothing(model: Model, inputs: Inputs, hook: str, stream: Tensor) -> Tensor | None:
    """What a component computes at `hook` of a `stream` of zeros; None where it does not read it by one linear map."""
    point, wiring = model.hook_points[hook], wiring_of(model, inputs)
    norm, row = wiring.before.get(point.module), torch.zeros(1, 1, stream.shape[-1])
    read = wiring.read.get(norm or point.module)
    if point.tensor != "output" or read is None or wiring.stream(read, hook.partition("blocks")[0]) is None:
        return None
    row = row if norm is None else model.network.get_submodule(norm)(row)
    made = model.network.get_submodule(point.module)(row)
    return made if point.part is None else point.part.take(made)


@pytest.mark.parametrize(("name", "prefix"), EVERY)
def test_that_cutting_all_edges_into_a_component_is_ablating_its_input(name: str, prefix: str) -> None:
    case = opened(ALL[name])
    model, inputs = case.model, case.model.encode(case.samples)
    count, compared = (
        sum(name.endswith(".resid_post") and name.startswith(f"{prefix}blocks") for name in model.hook_points),
        0,
    )
    at = f"{prefix}blocks.{count - 1}."
    stream = model.run(inputs, record=[f"{at}resid_pre"]).rows(f"{at}resid_pre")
    parts = [("mlp", "resid_mid", ("mlp_pre", "mlp_linear", "router")), ("attn", "resid_pre", ("q", "k", "v"))]
    crossing = next((block for block in reversed(case.has("cross_q")) if block.startswith(f"{prefix}blocks.")), "")
    parts += [("cross_q", "cross_resid_pre", ("cross_q",))] if crossing else []
    for part, place, reads in parts:
        at = f"{crossing}." if part == "cross_q" else f"{prefix}blocks.{count - 1}."
        every = sources(model, prefix, at + (place if at + place in model.hook_points else "resid_pre"))
        cuts: list[Edit] = [CutEdge(source, at + part) for source in every]
        for hook in [at + read for read in reads if at + read in model.hook_points]:
            see, run = See(hook), model.run(inputs, record=[hook])
            there = run.positions(hook).kind != PositionKind.PAD if prefix == "vision." else ...
            clean = run.rows(hook)[there]
            model.run(inputs, edits=[*cuts, see])
            expected, size = of_nothing(model, inputs, hook, stream), float(clean.abs().max())
            if expected is not None:
                compared += 1
                assert float((see.x[there] - expected.flatten()).abs().max()) < 1e-4 * size
                assert float((clean - expected.flatten()).abs().max()) > 1e-1 * size
    assert compared


@pytest.mark.parametrize("norm", ["frozen", "live"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_that_one_head_is_taken_out_of_what_one_mlp_reads(name: str, norm: str) -> None:
    model = network(name)
    inputs, columns = inputs_of(model), head_columns(model, "blocks.0.z", 2)
    names = ["blocks.0.z", "blocks.2.resid_mid", "blocks.2.mlp_out", "blocks.2.attn_out"]
    clean = model.run(inputs, record=names)
    cut = CutEdge("blocks.0.z", "blocks.2.mlp", columns=columns, norm=norm)  # type: ignore[arg-type]
    run = model.run(inputs, edits=[cut], record=names)
    out = model.network.get_submodule(model.hook_points["blocks.0.z"].module)
    z = clean.rows("blocks.0.z").clone()
    rest = [at for at in range(z.shape[-1]) if at not in columns]
    z[..., rest] = 0
    weight = out.weight.T if name == "llama" else out.weight
    c, r = z @ weight, clean.rows("blocks.2.resid_mid")
    block = model.network.get_submodule("model.layers.2" if name == "llama" else "transformer.h.2")
    layer = block.post_attention_layernorm if name == "llama" else block.ln_2
    if norm == "live":
        read = layer(r - c)
    elif name == "llama":
        scale = torch.rsqrt(r.pow(2).mean(-1, keepdim=True) + layer.variance_epsilon)
        read = (r - c) * scale * layer.weight
    else:
        scale = torch.rsqrt(r.var(-1, unbiased=False, keepdim=True) + layer.eps)
        read = (r - c - (r - c).mean(-1, keepdim=True)) * scale * layer.weight + layer.bias
    close(run.rows("blocks.2.mlp_out"), block.mlp(read))
    # Nothing else reads less.
    for same in ("blocks.0.z", "blocks.2.resid_mid", "blocks.2.attn_out"):
        assert torch.equal(run.rows(same), clean.rows(same))
    assert not torch.allclose(run.rows("blocks.2.mlp_out"), clean.rows("blocks.2.mlp_out"), atol=1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_that_only_the_named_head_of_q_k_or_v_reads_less(name: str) -> None:
    model = network(name)
    inputs = inputs_of(model)
    for part in ("q", "k", "v"):
        hook = f"blocks.2.{part}"
        see, clean = See(hook), model.run(inputs, record=[hook]).rows(hook)
        columns = head_columns(model, "blocks.0.z", 1)
        model.run(inputs, edits=[CutEdge("blocks.0.z", hook, columns=columns, heads=[0], positions=[2, 3]), see])
        own = head_columns(model, hook, 0)
        rest = [at for at in range(clean.shape[-1]) if at not in own]
        assert torch.equal(see.x[..., rest], clean[..., rest])
        assert torch.equal(see.x[:, [0, 1, 4, 5]], clean[:, [0, 1, 4, 5]])
        assert not torch.allclose(see.x[:, 2:4][..., own], clean[:, 2:4][..., own], atol=1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_that_frozen_cuts_of_parts_add_up_to_the_cut_of_the_whole(name: str) -> None:
    """Heads of an attention layer, and neurons of an MLP, together with their bias are what it writes."""
    model = network(name)
    inputs = inputs_of(model)
    q = model.run(inputs, record=["blocks.2.q"]).rows("blocks.2.q")

    def change(*cuts: CutEdge) -> Tensor:
        see = See("blocks.2.q")
        model.run(inputs, edits=[*cuts, see])
        return see.x - q

    heads = range(model.hook_points["blocks.1.z"].heads)
    each = [CutEdge("blocks.1.z", "blocks.2.q", columns=head_columns(model, "blocks.1.z", head)) for head in heads]
    alone = [change(cut) for cut in each]
    close(change(*each), sum(alone[1:], alone[0]))
    close(change(CutEdge("blocks.1.z", "blocks.2.q")), change(*each))
    out = model.network.get_submodule(model.hook_points["blocks.1.z"].module)
    if getattr(out, "bias", None) is None:
        close(change(CutEdge("blocks.1.attn_out", "blocks.2.q")), change(*each), 1e-3)


def test_that_an_edge_to_the_logits_is_the_direct_effect() -> None:
    model = network("llama")
    inputs = inputs_of(model)
    run = model.run(inputs, record=["blocks.1.mlp_out", "blocks.2.resid_post", "final_norm"])
    norm = model.network.get_submodule("model.norm")
    r = run.rows("blocks.2.resid_post")
    scale = torch.rsqrt(r.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    assert run.logits is not None and model.unembed is not None
    direct = (run.rows("blocks.1.mlp_out") * scale * norm.weight) @ model.unembed
    close(logits_of(model, inputs, CutEdge("blocks.1.mlp_out", "final_norm")), run.logits - direct)


def test_that_a_path_is_patched_with_what_the_source_writes_in_another_run() -> None:
    model = network("llama")
    inputs = inputs_of(model)
    other = model.run(inputs_of(model, "cat three one one two red"), record=["blocks.0.z"])
    columns = head_columns(model, "blocks.0.z", 3)
    own = model.run(inputs, record=["blocks.0.z"])
    same = CutEdge("blocks.0.z", "blocks.2.mlp", columns=columns, instead=own.rows("blocks.0.z"))
    close(logits_of(model, inputs, same), logits_of(model, inputs), 1e-5)
    see, cut, put = See("blocks.2.mlp_pre"), See("blocks.2.mlp_pre"), See("blocks.2.mlp_pre")
    edge = {"source": "blocks.0.z", "target": "blocks.2.mlp_pre", "columns": columns}
    model.run(inputs, edits=[CutEdge(**edge, instead=other.rows("blocks.0.z")), see])
    model.run(inputs, edits=[CutEdge(**edge), cut])
    model.run(inputs, edits=[put])
    # Cut, and the other run's contribution through this run's norm put in its place.
    patched = model.run(
        inputs, edits=[Patch("blocks.0.z", other.rows("blocks.0.z"), columns=columns)], record=["blocks.0.attn_out"]
    )
    written = patched.rows("blocks.0.attn_out") - model.run(
        inputs, edits=[Ablate("blocks.0.z", columns=columns)], record=["blocks.0.attn_out"]
    ).rows("blocks.0.attn_out")
    r = model.run(inputs, record=["blocks.2.resid_mid"]).rows("blocks.2.resid_mid")
    block = model.network.get_submodule("model.layers.2")
    norm = block.post_attention_layernorm
    share = written * torch.rsqrt(r.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight
    close(see.x - cut.x, block.mlp.gate_proj(share))


def test_that_what_a_source_writes_is_seen_after_its_own_edits_and_cuts_before_those_of_the_reader() -> None:
    model = network("llama")
    inputs = inputs_of(model)
    cut = CutEdge("blocks.0.mlp_out", "blocks.1.q")
    nothing = logits_of(model, inputs, cut, Ablate("blocks.0.mlp_out"))
    torch.testing.assert_close(nothing, logits_of(model, inputs, Ablate("blocks.0.mlp_out")))
    gone = [Ablate("blocks.1.q"), cut]
    torch.testing.assert_close(logits_of(model, inputs, *gone), logits_of(model, inputs, Ablate("blocks.1.q")))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("blocks.2.z", "blocks.1.mlp", "does not reach"),
        ("blocks.1.q", "blocks.2.mlp", "straight line"),
        ("blocks.0.z", "blocks.2.resid_post", "does not read the residual stream"),
        ("blocks.0.zz", "blocks.2.mlp", "no hook point"),
        ("blocks.0.z", "blocks.9.mlp", "."),
    ],
)
def test_that_edges_that_are_not_there_are_told(source: str, target: str, said: str) -> None:
    model = network("llama")
    with pytest.raises(AuditorError, match=said):
        model.run(inputs_of(model), edits=[CutEdge(source, target)])


@pytest.mark.parametrize("part", ["q", "k", "mlp_pre"])
def test_that_a_head_or_neuron_that_the_reader_lacks_is_told(part: str) -> None:
    """Nothing would change, and that would look like a finding."""
    model = network("llama")
    point = model.hook_points[f"blocks.2.{part}"]
    count, what = (point.heads, "head") if point.heads else (point.width, "neuron")
    with pytest.raises(AuditorError, match=f"no {what} {count}: it has {count}"):
        model.run(inputs_of(model), edits=[CutEdge("blocks.0.z", point.name, heads=[0, count])])


def chain(model: Model, inputs: Inputs, name: str, last: int, middle: bool) -> tuple[Tensor, list[tuple[str, Any]]]:
    """The embeddings, and what is written before block `last` (before its MLP if `middle`) with the norm over each."""
    prefix, at, norms = AFTER[name]
    steps = []
    for number in range(last + 1):
        written = [part for part in WRITES if f"{prefix}blocks.{number}.{part}" in model.hook_points]
        for part, norm in zip(written, norms, strict=True):
            if number < last or (middle and part != "mlp_out"):
                module = model.network.get_submodule(at.format(number // 2 if name == "albert" else number) + norm)
                steps.append((f"{prefix}blocks.{number}.{part}", module))
    return model.run(inputs, record=[f"{prefix}embed"]).rows(f"{prefix}embed"), steps


def read_without(
    start: Tensor, steps: list[tuple[str, Any]], rows: dict[str, Tensor], cuts: dict[str, Tensor], norm: str
) -> Tensor:
    """The stream computed again step by step without `cuts`; frozen: less what they are under clean denominators."""
    embed = cuts.get("embed", torch.zeros(()))
    clean, live, part = start, start - embed, embed
    for name, module in steps:
        x, c = clean + rows[name], cuts.get(name, torch.zeros(()))
        part = part + c
        scale = torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + module.eps)
        part = (part - part.mean(-1, keepdim=True)) * scale * module.weight if part.ndim else part
        clean, live = module(x), module(live + rows[name] - c)
    return live if norm == "live" else clean - part


@pytest.mark.parametrize("norm", ["frozen", "live"])
@pytest.mark.parametrize("name", AFTER)
def test_that_an_edge_under_norms_after_each_sum_is_the_stream_computed_again_without_it(name: str, norm: str) -> None:
    case, prefix = opened(ALL[name]), AFTER[name][0]
    model, inputs = case.model, case.model.encode(case.samples[:1])
    last = sum(hook.endswith("resid_post") and hook.startswith(f"{prefix}blocks") for hook in model.hook_points) - 1
    columns = head_columns(model, f"{prefix}blocks.0.z", 1)
    out = model.network.get_submodule(model.hook_points[f"{prefix}blocks.0.z"].module)
    z = model.run(inputs, record=[f"{prefix}blocks.0.z"]).rows(f"{prefix}blocks.0.z")
    kept = torch.zeros_like(z)
    kept[..., columns] = z[..., columns]
    # Of blocks that share weights also one that is not the first call of its module.
    readers = [(1, "q"), (1, "mlp_pre"), (2, "q")] if name == "albert" else [(last, "q"), (last, "mlp_pre")]
    for last, site in readers:
        hook, middle = f"{prefix}blocks.{last}.{site}", site == "mlp_pre"
        start, steps = chain(model, inputs, name, last, middle)
        names = [step for step, _ in steps]
        run = model.run(inputs, record=[*names, hook])
        rows = {step: run.rows(step) for step in names}
        point = model.hook_points[hook]
        module, part = model.network.get_submodule(point.module), point.part
        one = {f"{prefix}blocks.0.mlp_out": rows[f"{prefix}blocks.0.mlp_out"]}
        head = {f"{prefix}blocks.0.attn_out": out(kept) - out.bias}
        for edges, cuts in (
            ([CutEdge(f"{prefix}blocks.0.mlp_out", hook, norm=norm)], one),
            ([CutEdge(f"{prefix}blocks.0.z", hook, columns=columns, norm=norm)], head),
            ([CutEdge(f"{prefix}embed", hook, norm=norm)], {"embed": start}),
            ([CutEdge(source, hook, norm=norm) for source in (f"{prefix}embed", *names)], rows | {"embed": start}),
        ):  # fmt: skip
            see = See(hook)
            after = model.run(inputs, edits=[*edges, see], record=names).records
            told = module(read_without(start, steps, rows, cuts, norm))
            close(see.x, told if part is None else part.take(told))
            # Little is left of the first writes after some norms.
            assert not torch.allclose(see.x, run.rows(hook), atol=2e-5, rtol=0)
            assert all(torch.equal(after[step].view(rows[step].shape), rows[step]) for step in names)


@pytest.mark.parametrize("name", ["opt 350m form", "bert"])
def test_that_a_head_without_a_norm_before_it_reads_less(name: str) -> None:
    case = opened(ALL[name])
    model, inputs = case.model, case.model.encode(case.samples[:1])
    start, steps = chain(model, inputs, name, model.n_layers - 1, True)
    last = model.network.get_submodule(AFTER[name][1].format(model.n_layers - 1) + AFTER[name][2][-1])
    steps.append((f"blocks.{model.n_layers - 1}.mlp_out", last))
    rows = {step: model.run(inputs, record=[step]).rows(step) for step, _ in steps}
    cuts = {"blocks.1.mlp_out": rows["blocks.1.mlp_out"]}
    logits = logits_of(model, inputs, CutEdge("blocks.1.mlp_out", "logits"))
    read = read_without(start, steps, rows, cuts, "frozen")
    source = case.source
    told = source.lm_head(source.model.decoder.project_out(read)) if name != "bert" else source.cls(read)
    close(logits, told)
    assert not torch.allclose(logits, logits_of(model, inputs), atol=1e-3)


def test_that_blocks_without_branches_and_streams_that_are_changed_between_blocks_are_refused() -> None:
    for name, source, target, said in (
        ("resnet", "vision.blocks.0.resid_post", "vision.blocks.2.mlp", "cannot be told from the rest"),
        ("swin", "vision.blocks.0.mlp_out", "vision.blocks.3.mlp", "changed between"),
        ("qwen3_vl", "blocks.0.mlp_out", "blocks.2.mlp", "changed between"),
    ):
        case = opened(ALL[name])
        with pytest.raises(AuditorError, match=said):
            case.model.run(case.model.encode(case.samples), edits=[CutEdge(source, target)])


def test_that_a_feature_of_an_mlps_hidden_values_is_cut_as_its_neurons_are() -> None:
    model = network("llama")
    inputs, see, same = inputs_of(model), See("blocks.2.q"), See("blocks.2.q")

    def some(x: Tensor) -> Tensor:
        return torch.cat([x[..., :5], torch.zeros_like(x[..., 5:])], -1)

    model.run(inputs, edits=[CutEdge("blocks.0.mlp_hidden", "blocks.2.q", write=some), see])
    model.run(inputs, edits=[CutEdge("blocks.0.mlp_hidden", "blocks.2.q", columns=range(5)), same])
    close(see.x, same.x, 1e-6)


def test_that_the_control_of_a_cut_is_as_long() -> None:
    model = network("llama")
    inputs, hook = inputs_of(model), "blocks.2.mlp_pre"
    edit: Edit = CutEdge("blocks.0.z", hook, columns=head_columns(model, "blocks.0.z", 1))
    control = edit.control([5])
    assert control is not None
    source = next(part for part in control.bound(model, inputs) if part.hook == "blocks.0.z")
    own = next(part for part in edit.bound(model, inputs) if part.hook == "blocks.0.z")
    z = model.run(inputs, record=["blocks.0.z"]).rows("blocks.0.z")
    source.apply(z), own.apply(z)
    a, b = source.contribution(), own.contribution()  # type: ignore[attr-defined]
    torch.testing.assert_close(a.norm(dim=-1), b.norm(dim=-1))
    assert float(torch.nn.functional.cosine_similarity(a, b, dim=-1).abs().max()) < 0.9
