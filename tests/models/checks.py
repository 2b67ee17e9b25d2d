"""What every family has to pass, each check written once: a function of a `Case` that fails by an assertion.

A check gives True where it applied and False where the network has nothing that it could look at; an entry says of each
that does not apply why (`Tiny.lacks`). The test of families and docs/families.md both come from `CHECKS`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import torch
import transformers
from torch import Tensor
from transformers.activations import ACT2FN

from auditor.models import AddDirection, Edit, Patch
from auditor.models.edits.wiring import WRITES
from auditor.models.hook_points import MAP, PATTERN, RESIDUAL, as_rows
from tests.models.tiny import Case


class Changed(Edit):
    """An edit by a function of the values."""

    def __init__(self, hook: str, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(hook)
        self.change = change

    def apply(self, x: Tensor) -> Tensor:
        return self.change(x)


def bits(case: Case) -> bool:
    """Recording every hook point, attention patterns included, changes no bit of the result."""
    inputs = case.model.encode(case.samples)
    last = case.stored[-1]
    plain, full = case.model.run(inputs, record=[last]), case.model.run(inputs, record=list(case.model.hook_points))
    assert plain.logits is None or (full.logits is not None and torch.equal(plain.logits, full.logits))
    assert torch.equal(plain.records[last], full.records[last])
    for name in case.stored:
        rows, positions = full.rows(name), full.positions(name)
        assert rows.shape[-1] == case.model.hook_points[name].width, name
        assert positions.kind.shape == positions.unit.shape == rows.shape[:2], name
        assert bool(torch.isfinite(rows).all()), name
    return True


def states(case: Case) -> bool:
    """The recorded residual stream is the output_hidden_states of the network that was saved."""
    inputs = case.model.encode(case.samples[:1])
    with torch.no_grad():
        told = case.kept(case.tiny.states(case.source, inputs))
    run = case.model.run(inputs, record=[name for name in told if name in case.model.hook_points])
    assert any(name.endswith("resid_post") for name in run.records)
    for name, values in run.records.items():
        torch.testing.assert_close(values, told[name], atol=1e-6, rtol=1e-6, msg=named(name))
    return True


def sums(case: Case) -> bool:
    """What is written (by attention, MLP, mixer) adds up to the residual stream behind it, and in the middle if any."""
    run = case.model.run(case.model.encode(case.samples), record=case.stored)
    blocks = [block for block in case.has("resid_pre") if not case.normed_after(block)]
    for block in blocks:
        if case.tiny.sums is not None and not block.startswith("vision."):
            for made, told in case.tiny.sums(case.source, block, run.records):
                torch.testing.assert_close(made, told, **case.near(told), msg=named(block))
            continue
        stream: Tensor | None = None
        for name in case.stored:
            site, values = name.removeprefix(f"{block}."), run.records[name]
            if site in RESIDUAL and stream is not None:
                torch.testing.assert_close(stream, values, **case.near(values), msg=named(name))
            elif site in RESIDUAL:
                stream = values
            elif site in WRITES and stream is not None:
                stream = stream + values * case.tiny.written
    return bool(blocks)


def pattern(case: Case) -> bool:
    """Recorded attention patterns are the output_attentions of the network with the library's plain attention."""
    names = [name for name in case.names if case.model.hook_points[name].axes == PATTERN]
    if not names:
        return False
    inputs = case.model.encode(case.samples[:1])
    with torch.no_grad(), eager(case.source):
        told = case.kept(case.tiny.patterns(case.source, inputs))
    run = case.model.run(inputs, record=names)
    assert set(told) == set(names)
    for name in names:
        torch.testing.assert_close(run.records[name], told[name], atol=1e-5, rtol=1e-4, msg=named(name))
        assert run.records[name].shape[1] == case.model.hook_points[name].heads
    return True


def heads(case: Case) -> bool:
    """Each head's output is its pattern times its values; queries, keys and values of one head reach no other."""
    stems = case.stems("v", "pattern", "z")
    inputs = case.model.encode(case.samples[:1])
    for stem in stems:
        every = ("q", "attn_gate", "k", "v", "pattern", "z")
        sites = [stem + site for site in every if stem + site in case.model.hook_points]
        clean = case.model.run(inputs, record=sites, logits=False).records
        count = case.model.hook_points[f"{stem}z"].heads
        z = clean[f"{stem}z"]
        torch.testing.assert_close(z, mixed(case, stem, clean[f"{stem}pattern"], clean), **case.near(z))
        for site in ("q", "k", "v"):
            if stem + site not in case.model.hook_points or (site != "v" and case.tiny.normed_together):
                continue
            ways = case.model.hook_points[stem + site].heads
            for head in (0, ways - 1):
                push = Changed(stem + site, lambda x, at=head, of=ways: pushed(x, at, of))
                edited = case.model.run(inputs, record=sites, edits=[push], logits=False).records
                seen = edited[f"{stem}pattern"] - clean[f"{stem}pattern"]
                if site == "v":
                    seen = (edited[f"{stem}z"] - clean[f"{stem}z"]).unflatten(-1, (count, -1)).transpose(1, 2)
                touched = (seen.abs().amax(dim=(0, 2, 3)) > 1e-6).tolist()
                assert touched == [number // (count // ways) == head for number in range(count)], (stem, site, head)
    return bool(stems)


def frozen(case: Case) -> bool:
    """A pattern can be edited: its own changes no bit, the identity gives the values, a cut stays in its row."""
    stems = case.stems("v", "pattern", "z")
    inputs = case.model.encode(case.samples[:1])
    stacks: dict[str, list[str]] = {}
    for stem in stems:
        stacks.setdefault(re.sub(r"\d+", "N", stem), []).append(stem)
    for stem in [stem for stack in stacks.values() for stem in stack[:1] + stack[1:][-1:]]:
        name, z = f"{stem}pattern", f"{stem}z"
        record = [f"{stem}v", name, z, *([f"{stem}attn_gate"] if f"{stem}attn_gate" in case.model.hook_points else [])]
        clean = case.model.run(inputs, record=record)
        own = clean.records[name]
        again = case.model.run(inputs, record=record, edits=[Changed(name, lambda x, own=own: own)])
        assert torch.equal(again.records[z], clean.records[z])
        assert clean.logits is None or (again.logits is not None and torch.equal(again.logits, clean.logits))
        # Between pictures nothing can be looked at, whatever an edit puts there.
        same = torch.eye(own.shape[-2], own.shape[-1]) * (own != 0)
        identity = Changed(name, lambda x, same=same: same)
        alone = case.model.run(inputs, record=record, edits=[identity], logits=False).records
        torch.testing.assert_close(alone[z], mixed(case, stem, same, clean.records), **case.near(alone[z]))
        cut = case.model.run(inputs, record=record, edits=[Changed(name, cut_one)])
        moved = (cut.records[z] - clean.records[z]).unflatten(-1, (own.shape[1], -1)).abs().amax(dim=-1)[0] > 1e-7
        assert moved.nonzero().tolist() == [[own.shape[-2] - 1, 1]]
        # What a picture's last patch gets in the last block may be read by nothing.
        read = stem == stems[0] and clean.logits is not None
        assert not read or (cut.logits is not None and not torch.equal(cut.logits, clean.logits))
    return bool(stems)


def mlp(case: Case) -> bool:
    """The MLP's hidden values are the activation function of what enters it, times the other factor if it is gated."""
    stems = case.stems("mlp_pre", "mlp_hidden")
    run = case.model.run(case.model.encode(case.samples), record=case.stored)
    for stem in stems:
        told = ACT2FN[case.activation_of(stem)](run.records[f"{stem}mlp_pre"])
        told = told * run.records.get(f"{stem}mlp_linear", torch.ones(()))
        torch.testing.assert_close(run.records[f"{stem}mlp_hidden"], told, **case.near(told))
    return bool(stems)


def experts(case: Case) -> bool:
    """Experts with the greatest logits are weighted; pushing a logit chooses its expert; weights of 0 write nothing."""
    blocks = case.has("router", "expert_weights")
    inputs = case.model.encode(case.samples)
    for block in blocks:
        router, weights, out = (f"{block}.{site}" for site in ("router", "expert_weights", case.tiny.gives))
        clean = case.model.run(inputs, record=[router, weights, out]).records
        chosen = clean[weights] != 0
        number = int(chosen[0, 0].sum())
        assert 0 < number < chosen.shape[-1] and bool((chosen.sum(-1) == number).all())
        assert bool(chosen.gather(-1, clean[router].topk(number).indices).all())
        least = int(clean[router].mean(dim=(0, 1)).argmin())
        push = AddDirection(router, torch.eye(chosen.shape[-1])[least], 100.0)
        pushed = case.model.run(inputs, record=[router, weights, out], edits=[push]).records
        assert bool((pushed[weights][..., least] > 0.3).all()) and not torch.allclose(pushed[out], clean[out])
        assert torch.equal(pushed[router], clean[router])
        silent, double = (
            case.model.run(inputs, record=[out], edits=[Changed(weights, lambda x, by=by: by * x)]).records[out]
            for by in (0.0, 2.0)
        )
        if case.tiny.reads_weighted:
            assert all(not torch.allclose(given, clean[out], atol=1e-3) for given in (silent, double))
            continue
        # Experts are linear in their weights, whatever stands beside them.
        torch.testing.assert_close(double - clean[out], clean[out] - silent, **case.near(clean[out]))
    return bool(blocks)


def early(case: Case) -> bool:
    """A run that is asked for one hook point alone ends there, in front of all later blocks, with its values."""
    inputs = case.model.encode(case.samples)
    full = case.model.run(inputs, record=case.stored).records
    points = case.model.hook_points
    # Of a network with trained weights only some are looked at, but all are run.
    every = list(dict.fromkeys(name.rpartition(".")[0] for name in points if "blocks." in name))
    before = [points.get(f"{block}.resid_pre") or points[f"{block}.resid_post"] for block in every]
    blocks = [point.module for point in before]
    counts = [0] * len(blocks)
    handles = [
        case.model.network.get_submodule(path).register_forward_pre_hook(
            lambda *_, at=at: counts.__setitem__(at, counts[at] + 1)
        )
        for at, path in enumerate(blocks)
    ]
    with contextlib.ExitStack() as taken:
        for handle in handles:
            taken.callback(handle.remove)
        for name in case.names:
            counts[:] = [0] * len(blocks)
            seen = case.model.run(inputs, record=[name], logits=False).records[name]
            if name in full:
                assert torch.equal(seen, full[name]), name
            block = name.rpartition(".")[0]
            if block in every:
                at = every.index(block)
                # Blocks may be one module, called once for each of them; some names are of what stands before one.
                begun = at + (points[name].depth >= before[at].depth)
                told = [blocks[:begun].count(path) for path in blocks[at:]]
                assert counts[at:] == told, name
    return True


def order(case: Case) -> bool:
    """Hook points are listed in the order in which the network comes to them."""
    inputs = case.model.encode(case.samples)
    names = case.names
    for number in range(0, len(names), 7):
        part = names[: number + 1]
        assert set(case.model.run(inputs, record=part, logits=False).records) == set(part)
    seen: list[str] = []
    edits = [Changed(name, lambda x, name=name: (seen.append(name), x)[1]) for name in names]
    case.model.run(inputs, edits=edits)
    assert seen == names
    return True


def padding(case: Case) -> bool:
    """A sample in a padded batch, and each of two copies of it, has the values that it has alone."""
    record = [name for name in case.stored if name.endswith(("resid_post", ".z", "cross_z", "mlp_hidden"))]
    batch = case.model.run(case.model.encode(case.samples), record=record, logits=False)
    for row, sample in enumerate(case.samples):
        inputs = case.model.encode([sample])
        alone = case.model.run(inputs, record=record, logits=False)
        twice = case.model.run(case.model.copies(inputs, 2), record=record, logits=False)
        for name in record:
            kept = alone.rows(name)[0]
            largest = max(1.0, float(kept.abs().max())) if len(kept) else 1.0
            for found in (batch.rows(name)[row, : len(kept)], *twice.rows(name)):
                torch.testing.assert_close(found, kept, atol=1e-4 * largest, rtol=1e-4)
    return True


def edits(case: Case) -> bool:
    """Own values put back change no bit, others change the result; the middle of the stream is what attention wrote."""
    inputs = case.model.encode(case.samples)
    clean = case.model.run(inputs, record=case.stored)
    last = case.stored[-1]
    generator = torch.Generator().manual_seed(9)
    for name in case.stored:
        if name.rpartition(".")[0] in case.alike:
            continue
        point = case.model.hook_points[name]
        patch, kept = Patch(name, clean.rows(name)), clean.rows(name).clone()
        own = case.model.run(inputs, record=[last], edits=[patch])
        assert torch.equal(patch.value, kept), f"{name}: the network wrote into the patch"
        exact = 0.0 if point.tensor != "expert_weights" else 1e-4
        torch.testing.assert_close(
            own.records[last], clean.records[last], atol=exact, rtol=exact, msg=lambda t, n=name: f"{n}: {t}"
        )
        if name.startswith(case.tiny.unread):
            continue
        # Not the same at every position: the same for all keys would change no pattern.
        noise = torch.randn(clean.records[name].shape, generator=generator).flatten(1, -2)
        pushed = case.model.run(inputs, record=[last], edits=[Changed(name, lambda x, by=noise: x + by)])
        # A tower that the last hook point does not hear of is heard of by the result.
        ends = [] if name == last else [(pushed.records[last], clean.records[last])]
        ends += [(pushed.logits, clean.logits)] if pushed.logits is not None and clean.logits is not None else []
        assert not ends or any(not torch.allclose(moved, before, atol=1e-5) for moved, before in ends), name
    for stem in case.stems("resid_mid", "resid_post"):
        if "sums" in case.tiny.lacks or case.normed_after(stem):
            continue
        after, middle = f"{stem}resid_post", f"{stem}resid_mid"
        before = case.stored[: case.stored.index(middle)]
        last_written = [name for name in before if name.endswith(("attn_out", "mixer_out"))][-1]
        push = torch.randn(case.model.hook_points[after].width, generator=generator)
        there, written = (
            case.model.run(inputs, record=[after], edits=[AddDirection(name, push, by)], logits=False).records[after]
            for name, by in ((middle, 2.0 * case.tiny.written), (last_written, 2.0))
        )
        torch.testing.assert_close(there, written, **case.near(written))
    return True


def gradients(case: Case) -> bool:
    """Gradients reach every recorded tensor, and tell what a small edit there does."""
    inputs = case.model.encode(case.samples[:1])
    last = case.stored[-1]
    blocks = [block for block in case.blocks if not f"{block}.".startswith(case.tiny.unread)][1:2]
    blocks += [*case.has("cross_q")[:1], *(block for block in case.blocks if block.startswith("resampler."))][:2]
    names = [name for name in case.names if name.rpartition(".")[0] in blocks]
    weigh = torch.randn(case.model.hook_points[last].width, generator=torch.Generator().manual_seed(3))
    run = case.model.run(inputs, record=[*names, last], grad=True)
    found = torch.autograd.grad((run.records[last] * weigh).sum(), [run.records[name] for name in names])
    for name, gradient in zip(names, found, strict=True):
        told, size = float(gradient.norm()), float(run.records[name].detach().norm())
        # A router whose nearest experts are far apart (Phi-MoE) has none.
        towards = gradient / told if told else torch.ones_like(gradient) / gradient.numel() ** 0.5
        towards = as_rows(towards) if case.model.hook_points[name].axes == MAP else towards
        # Where an activation function has a kink, numbers are large, or little comes of a step, one size of step alone
        # can be off.
        sizes = (share * size for share in (1e-3, 1e-2, 1e-4, 1e-1))
        slopes = (slope(case, name, last, towards, weigh, step) for step in sizes)
        assert any(abs(each - told) <= 0.03 * told for each in slopes), (name, told)
    return bool(names)


def slope(case: Case, name: str, last: str, towards: Tensor, weigh: Tensor, step: float) -> float:
    """What the weighted result gains for one step along a direction at a hook point, from two edits."""
    inputs = case.model.encode(case.samples[:1])
    up, down = (
        case.model.run(inputs, record=[last], edits=[push], logits=False).records[last]
        for push in (Changed(name, lambda x, by=by: x + by * towards) for by in (step, -step))
    )
    return float(((up - down) * weigh).sum()) / (2 * step)


def unembedding(case: Case) -> bool:
    """Logits are read off the last norm's output, whose channels that norm multiplies with its gain."""
    if case.model.unembed is None:
        return False
    run = case.model.run(case.model.encode(case.samples), record=case.stored[-2:])
    assert run.logits is not None and case.model.final_norm is not None
    normed = run.records[case.stored[-1]]
    torch.testing.assert_close(case.model.readout(normed), run.logits, **case.near(run.logits))
    steep = case.model.unembed.T @ normed[0, -1]
    head = getattr(case.source, "lm_head", None)
    assert steep.argmax() == run.logits[0, -1].argmax() or getattr(head, "bias", None) is not None
    gain = 1.0 if case.model.norm_gain is None else case.model.norm_gain
    bias = getattr(case.model.final_norm, "bias", None)
    direction = (normed if bias is None else normed - bias) / gain
    x = run.records[case.stored[-2]]
    centred = x - x.mean(-1, keepdim=True) if bias is not None or not rms(direction, x) else x
    along = torch.cosine_similarity(direction, centred, dim=-1)
    torch.testing.assert_close(along, torch.ones(x.shape[:2]), atol=1e-4, rtol=1e-4)
    return True


def rms(direction: Tensor, x: Tensor) -> bool:
    """Whether a norm without bias leaves out the mean."""
    along = torch.cosine_similarity(direction, x, dim=-1)
    return bool(torch.allclose(along, torch.ones(x.shape[:2]), atol=1e-4, rtol=1e-4))


def given(case: Case) -> bool:
    """Where a block's output is put in place, the blocks before it can be left out, and nothing after it changes."""
    blocks = [block for block in case.blocks if not block.startswith("vision.")] or case.blocks
    hook, last = f"{blocks[1]}.resid_post", case.stored[-1]
    left_out = case.model._adapter.before(hook)
    if not left_out:
        return False
    inputs = case.model.encode(case.samples)
    clean = case.model.run(inputs, record=[hook, last])
    calls: list[int] = []
    sites = (f"{blocks[0]}.{site}" for site in ("attn_out", "mixer_out"))
    inner = next(case.model.hook_points[site].module for site in sites if site in case.model.hook_points)
    handle = case.model.network.get_submodule(inner).register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with case.model.given(hook):
            again = case.model.run(inputs, record=[last], edits=[Patch(hook, clean.records[hook])])
    finally:
        handle.remove()
    assert torch.equal(again.records[last], clean.records[last]) and not calls
    return True


def linearised(case: Case) -> bool:
    """A linearised run keeps values; without biases, embeddings times the gradient of a logit sum to the logit."""
    if not case.model._adapter.linear_parts():
        return False
    model = case.anew()
    for name, parameter in model.network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    inputs = model.encode(case.samples[:1])
    plain = model.run(inputs, record=["embed", "final_norm"], grad=True)
    with model.linearised():
        linear = model.run(inputs, record=["embed", "final_norm"], grad=True)
    assert plain.logits is not None and linear.logits is not None and model.unembed is not None
    torch.testing.assert_close(linear.logits, plain.logits, atol=1e-5, rtol=1e-5)
    totals, logit = [], 0.0
    for run in (linear, plain):
        # The product with the unembedding, to which some families add a soft cap.
        product = run.records["final_norm"][0, -1] @ model.unembed[:, 5]
        gradient = torch.autograd.grad(product, run.records["embed"])[0]
        totals.append(float((gradient * run.records["embed"]).sum().detach()))
        logit = float(product.detach())
    assert abs(totals[0] - logit) < 1e-4 * (1 + abs(logit)) < abs(totals[1] - logit)
    return True


CHECKS: dict[str, Callable[[Case], bool]] = {
    check.__name__: check
    for check in (
        bits, states, sums, pattern, heads, frozen, mlp, experts, early, order, padding, edits, gradients, unembedding,
        given, linearised,
    )
}  # fmt: skip


def named(name: str) -> Callable[[str], str]:
    return lambda text: f"{name}: {text}"


def mixed(case: Case, stem: str, weights: Tensor, records: dict[str, Tensor]) -> Tensor:
    """Σ over keys of pattern × values, head by head, through its gate if it has one: [B, query, heads × size]."""
    values = records[f"{stem}v"].unflatten(-1, (case.model.hook_points[f"{stem}v"].heads, -1)).transpose(1, 2)
    values = values.repeat_interleave(weights.shape[1] // values.shape[1], dim=1)
    given, gate = (weights @ values).transpose(1, 2).flatten(2), records.get(f"{stem}attn_gate")
    if gate is None:
        return given
    # One for each channel, or for each head.
    return given * case.tiny.gate(gate).repeat_interleave(given.shape[-1] // gate.shape[-1], dim=-1)


def pushed(x: Tensor, head: int, ways: int) -> Tensor:
    """x with other values in one of its heads."""
    x = x.clone().unflatten(-1, (ways, -1))
    x[..., head, :] = x[..., head, :] * torch.linspace(-1, 1, x.shape[-1]) + 1
    return x.flatten(-2)


def cut_one(weights: Tensor) -> Tensor:
    """Head 1 no longer looks from the last position to where it looks most."""
    weights = weights.clone()
    weights[:, 1, -1, weights[0, 1, -1].argmax()] = 0
    return weights


@contextlib.contextmanager
def eager(network: transformers.PreTrainedModel) -> Iterator[None]:
    """The network with the library's own plain attention."""
    held = [m.config for m in network.modules() if hasattr(m, "config")]
    configs = {id(config): config for config in held if isinstance(config, transformers.PreTrainedConfig)}
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
