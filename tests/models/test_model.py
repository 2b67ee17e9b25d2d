"""Running, recording and editing on real weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, Sample, text_sample
from auditor.models import Ablate, AddDirection, Edit, Model, Patch, Scale

PROMPT = "The capital of France is"


def test_that_the_next_token_of_a_known_prompt_is_paris(smollm2: Model) -> None:
    run = smollm2.run(smollm2.encode([text_sample(PROMPT)]))
    assert run.logits is not None
    assert smollm2.token_strings([int(run.logits[0, -1].argmax())]) == [" Paris"]


def test_that_recording_every_hook_point_changes_no_bit_of_the_logits(smollm2: Model) -> None:
    inputs = smollm2.encode([text_sample(PROMPT), text_sample("Water")])
    plain, recorded = smollm2.run(inputs), smollm2.run(inputs, record=list(smollm2.hook_points))
    assert plain.logits is not None and recorded.logits is not None
    assert torch.equal(plain.logits, recorded.logits)
    assert set(recorded.records) == set(smollm2.hook_points)
    length = inputs.ids.shape[1]
    for name, point in smollm2.hook_points.items():
        if name.endswith(".pattern"):
            assert recorded.records[name].shape == (2, point.heads, length, length)
        else:
            assert recorded.rows(name).shape == (2, length, point.width)


def test_that_patterns_of_real_heads_are_those_of_the_library(tiny_llama: Model) -> None:
    names = [f"blocks.{number}.pattern" for number in range(2)]
    run = tiny_llama.run(tiny_llama.encode([text_sample(PROMPT)]), record=names)
    config = tiny_llama.network.config
    before, config._attn_implementation = config._attn_implementation, "eager"
    try:
        told = tiny_llama.network(input_ids=run.inputs.ids, output_attentions=True, use_cache=False).attentions
    finally:
        config._attn_implementation = before
    for name, pattern in zip(names, told, strict=True):
        torch.testing.assert_close(run.records[name], pattern, atol=1e-5, rtol=1e-4)


def test_that_heads_that_share_keys_have_patterns_of_their_own_where_there_is_one_position(tiny_llama: Model) -> None:
    """There the library lays out heads as queries of the key that they share."""
    inputs = tiny_llama.encode([text_sample(PROMPT)], max_tokens=1)
    clean = tiny_llama.run(inputs, record=["blocks.0.pattern", "blocks.0.z"])
    assert torch.equal(clean.records["blocks.0.pattern"], torch.ones(1, 9, 1, 1))
    none = Patch("blocks.0.pattern", torch.zeros(1, 9, 1, 1), columns=[4])
    z = tiny_llama.run(inputs, record=["blocks.0.z"], edits=[none]).records["blocks.0.z"]
    left = z.unflatten(-1, (9, 64))[0, 0].norm(dim=-1) > 0
    assert left.tolist() == [head != 4 for head in range(9)]


def test_that_the_residual_stream_is_the_sum_of_what_is_written_to_it(tiny_llama: Model) -> None:
    run = tiny_llama.run(tiny_llama.encode([text_sample(PROMPT)]), record=list(tiny_llama.hook_points))
    seen = run.records
    for block in ("blocks.0.", "blocks.1."):
        torch.testing.assert_close(seen[block + "resid_pre"] + seen[block + "attn_out"], seen[block + "resid_mid"])
        torch.testing.assert_close(seen[block + "resid_mid"] + seen[block + "mlp_out"], seen[block + "resid_post"])
    assert torch.equal(seen["embed"], seen["blocks.0.resid_pre"])
    hidden = tiny_llama.network(input_ids=run.inputs.ids, output_hidden_states=True, use_cache=False).hidden_states
    assert torch.equal(seen["blocks.0.resid_post"], hidden[1])
    assert tiny_llama.unembed is not None and run.logits is not None
    torch.testing.assert_close(seen["final_norm"] @ tiny_llama.unembed, run.logits)
    down = tiny_llama.network.get_submodule("model.layers.1.mlp.down_proj")
    torch.testing.assert_close(down(seen["blocks.1.mlp_hidden"]), seen["blocks.1.mlp_out"])


def test_that_a_padded_row_gives_the_logits_of_the_row_alone(tiny_llama: Model) -> None:
    short, long = text_sample("Hello"), text_sample("One two three four five six seven eight nine ten")
    batch = tiny_llama.run(tiny_llama.encode([short, long])).logits
    alone = tiny_llama.run(tiny_llama.encode([short])).logits
    assert batch is not None and alone is not None
    torch.testing.assert_close(batch[0, : alone.shape[1]], alone[0], atol=2e-4, rtol=1e-4)


def test_that_positions_tell_what_stands_where(tiny_llama: Model) -> None:
    inputs = tiny_llama.encode([text_sample(PROMPT), text_sample("Hi")])
    assert inputs.kind[1].tolist() == [PositionKind.SPECIAL, PositionKind.TEXT] + [PositionKind.PAD] * 4
    assert inputs.unit[0].tolist() == [-1, 0, 1, 2, 3, 4]
    assert inputs.ids[1, 2:].tolist() == [-1] * 4
    assert inputs.mask.sum(1).tolist() == [6, 2]
    assert tiny_llama.token_strings(inputs.ids[0])[1:] == ["The", " capital", " of", " France", " is"]


def test_that_a_run_without_logits_stops_after_the_deepest_hook_point(tiny_llama: Model) -> None:
    inputs = tiny_llama.encode([text_sample(PROMPT)])
    reached: list[str] = []
    handle = tiny_llama.network.get_submodule("model.layers.1").register_forward_hook(
        lambda *_: reached.append("deeper")
    )
    try:
        early = tiny_llama.run(inputs, record=["blocks.0.mlp_hidden", "blocks.0.resid_post"], logits=False)
    finally:
        handle.remove()
    assert early.logits is None and not reached
    full = tiny_llama.run(inputs, record=["blocks.0.resid_post"])
    assert torch.equal(early.records["blocks.0.resid_post"], full.records["blocks.0.resid_post"])


@pytest.mark.parametrize("name", ["resid_pre", "attn_out", "resid_mid", "mlp_hidden", "mlp_out", "resid_post"])
def test_that_an_edit_acts_where_it_stands(tiny_llama: Model, name: str) -> None:
    """The network is run by hand, in eager steps, with the edit put in at its place."""
    generator = torch.Generator().manual_seed(7)
    inputs = tiny_llama.encode([text_sample(PROMPT)])
    hook = f"blocks.1.{name}"
    push = torch.randn(tiny_llama.hook_points[hook].width, generator=generator)
    edited = tiny_llama.run(inputs, edits=[AddDirection(hook, push, 3.0)], record=["final_norm", hook])
    before = tiny_llama.run(inputs, record=[f"blocks.1.{n}" for n in ("resid_pre", "attn_out", "resid_mid", hook[9:])])
    assert torch.equal(edited.records[hook], before.records[hook])
    expected = second_block_by_hand(tiny_llama, inputs.ids, name, before.records["blocks.1.resid_pre"], 3.0 * push)
    torch.testing.assert_close(edited.records["final_norm"], expected, atol=2e-4, rtol=1e-4)


def second_block_by_hand(model: Model, ids: Tensor, name: str, resid: Tensor, push: Tensor) -> Tensor:
    """The final norm's output with `push` added at one point of the last block."""
    block = model.network.get_submodule("model.layers.1")
    add = {key: push if key == name else torch.zeros(()) for key in ALL}
    resid = resid + add["resid_pre"]
    places = torch.arange(ids.shape[1])[None]
    rotary = model.network.get_submodule("model.rotary_emb")(resid, position_ids=places)
    attention = block.self_attn(block.input_layernorm(resid), position_embeddings=rotary, attention_mask=None)[0]
    middle = resid + attention + add["attn_out"] + add["resid_mid"]
    x = block.post_attention_layernorm(middle)
    hidden = torch.nn.functional.silu(block.mlp.gate_proj(x)) * block.mlp.up_proj(x) + add["mlp_hidden"]
    post = middle + block.mlp.down_proj(hidden) + add["mlp_out"] + add["resid_post"]
    return model.network.get_submodule("model.norm")(post)


ALL = ("resid_pre", "attn_out", "resid_mid", "mlp_hidden", "mlp_out", "resid_post")


def test_that_edits_apply_in_order_and_at_their_positions_only(tiny_llama: Model) -> None:
    inputs = tiny_llama.encode([text_sample(PROMPT)])
    hook = "blocks.0.resid_post"
    clean = tiny_llama.run(inputs, record=[hook]).records[hook]
    value = torch.randn(2, clean.shape[-1], generator=torch.Generator().manual_seed(1))
    edits: list[Edit] = [Scale(hook, 2.0, positions=[1]), Ablate(hook, positions=[2]), Patch(hook, value, [-2, -1])]
    edits.append(Scale(hook, 3.0))
    after = tiny_llama.run(inputs, edits=edits, record=["blocks.1.resid_pre"]).records["blocks.1.resid_pre"]
    expected = 3 * clean.clone()
    expected[0, 1] *= 2
    expected[0, 2] = 0
    expected[0, -2:] = 3 * value
    torch.testing.assert_close(after, expected)


def test_that_mean_ablation_and_patching_back_are_exact(tiny_llama: Model) -> None:
    inputs = tiny_llama.encode([text_sample(PROMPT)])
    clean = tiny_llama.run(inputs, record=["blocks.0.resid_post"])
    patched = tiny_llama.run(inputs, edits=[Patch("blocks.0.resid_post", clean.records["blocks.0.resid_post"])])
    assert clean.logits is not None and patched.logits is not None
    assert torch.equal(clean.logits, patched.logits)
    mean = torch.randn(576, generator=torch.Generator().manual_seed(2))
    after = tiny_llama.run(inputs, edits=[Ablate("blocks.0.mlp_out", "mean", mean)], record=["blocks.0.resid_mid"])
    post = tiny_llama.run(inputs, edits=[Ablate("blocks.0.mlp_out", "mean", mean)], record=["blocks.0.resid_post"])
    torch.testing.assert_close(post.records["blocks.0.resid_post"], after.records["blocks.0.resid_mid"] + mean)


def test_that_hooks_are_gone_after_an_error_inside_an_edit(tiny_llama: Model) -> None:
    class Failing(Edit):
        def apply(self, x: Tensor) -> Tensor:
            raise RuntimeError("deliberate")

    def hooks() -> int:
        # transformers keeps hooks of its own once hidden states were asked for.
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny_llama.network.modules())

    inputs, before = tiny_llama.encode([text_sample(PROMPT)]), hooks()
    with pytest.raises(RuntimeError, match="deliberate"):
        tiny_llama.run(inputs, edits=[Failing("blocks.0.attn_out")], record=["embed"])
    assert hooks() == before


def test_that_gradients_reach_records_and_what_an_edit_brings(tiny_llama: Model) -> None:
    """Against central differences, along a random direction at each place."""
    inputs = tiny_llama.encode([text_sample(PROMPT)])
    amount = torch.zeros((), requires_grad=True)
    direction = torch.randn(576, generator=torch.Generator().manual_seed(3))
    for name in ("resid_mid", "mlp_out"):
        hook = f"blocks.1.{name}"
        edit = AddDirection(hook, direction, amount)
        run = tiny_llama.run(inputs, record=["embed", hook], edits=[edit], grad=True)
        assert run.logits is not None
        logit = run.logits[0, -1, 100]
        by_amount, by_record = torch.autograd.grad(logit, [amount, run.records[hook]])
        torch.testing.assert_close((by_record * direction).sum(), by_amount, atol=1e-3, rtol=1e-3)
        with torch.no_grad():
            step = 0.1
            sides = [tiny_llama.run(inputs, edits=[AddDirection(hook, direction, s)]).logits for s in (step, -step)]
        assert sides[0] is not None and sides[1] is not None
        slope = (sides[0][0, -1, 100] - sides[1][0, -1, 100]) / (2 * step)
        torch.testing.assert_close(by_amount, slope, atol=2e-2, rtol=2e-2)


def test_that_an_unknown_hook_point_is_told_with_its_neighbours(tiny_llama: Model) -> None:
    inputs = tiny_llama.encode([text_sample("a")])
    with pytest.raises(AuditorError, match=r"blocks\.0\.resid_pst.*resid_post"):
        tiny_llama.run(inputs, record=["blocks.0.resid_pst"])


def test_that_bad_edits_and_samples_are_told(tiny_llama: Model) -> None:
    inputs = tiny_llama.encode([text_sample("a")])
    with pytest.raises(AuditorError, match="Position 9"):
        tiny_llama.run(inputs, edits=[Ablate("embed", positions=[9])])
    with pytest.raises(AuditorError, match="has no text"):
        tiny_llama.encode([Sample("picture")])
    with pytest.raises(AuditorError, match="at most 8192"):
        tiny_llama.encode([text_sample("word " * 9000)])
    assert tiny_llama.encode([text_sample("word " * 9000)], max_tokens=16).ids.shape == (1, 16)


def test_that_bfloat16_records_the_same_to_its_precision(tiny_llama_folder: object) -> None:
    from auditor.models import open_model

    model = open_model(str(tiny_llama_folder), dtype="bfloat16")
    full = open_model(str(tiny_llama_folder))
    sample = [text_sample(PROMPT)]
    half = model.run(model.encode(sample), record=["blocks.1.resid_post"], logits=False).rows("blocks.1.resid_post")
    exact = full.run(full.encode(sample), record=["blocks.1.resid_post"], logits=False).rows("blocks.1.resid_post")
    assert half.dtype == torch.bfloat16
    cosine = torch.nn.functional.cosine_similarity(half.float(), exact, dim=-1)
    assert float(cosine.min()) > 0.999
    assert np.isfinite(half.float().numpy()).all()


class _Put(Edit):
    """Puts its rows in the place of what is there."""

    def __init__(self, hook: str, rows: Tensor) -> None:
        super().__init__(hook)
        self.rows = rows

    def apply(self, x: Tensor) -> Tensor:
        return self.rows


def test_that_a_run_from_given_rows_is_bit_for_bit_the_whole_run(smollm2: Model) -> None:
    inputs, hook = smollm2.encode([text_sample(PROMPT), text_sample("Water")]), "blocks.14.resid_post"
    whole = smollm2.run(inputs, record=[hook, "blocks.20.attn_out"])
    ran: list[int] = []
    blocks = smollm2.network.get_submodule("model.layers")
    handles = [
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(blocks)
    ]
    try:
        with smollm2.given(hook):
            rest = smollm2.run(inputs, record=["blocks.20.attn_out"], edits=[_Put(hook, whole.rows(hook))])
    finally:
        for handle in handles:
            handle.remove()
    assert ran == list(range(15, 30))
    assert whole.logits is not None and rest.logits is not None and torch.equal(whole.logits, rest.logits)
    assert torch.equal(whole.rows("blocks.20.attn_out"), rest.rows("blocks.20.attn_out"))
    again = smollm2.run(inputs)
    assert again.logits is not None and torch.equal(again.logits, whole.logits)


def test_that_nothing_shallower_can_be_asked_of_a_run_from_given_rows(tiny_llama: Model) -> None:
    inputs = tiny_llama.encode([text_sample(PROMPT)])
    with tiny_llama.given("blocks.1.resid_post"), pytest.raises(AuditorError, match="is not computed where"):
        tiny_llama.run(inputs, record=["blocks.0.mlp_out"])
    assert tiny_llama.run(inputs, record=["blocks.0.mlp_out"]).rows("blocks.0.mlp_out").any()


def test_that_a_text_or_samples_run_as_their_encoded_batch_does(tiny_llama: Model) -> None:
    hook = "blocks.1.resid_post"
    texts = ["the cat sat", "on the mat and ran"]
    batch = tiny_llama.encode([text_sample(text) for text in texts])
    wanted = tiny_llama.run(batch, record=[hook]).records[hook]
    assert torch.equal(tiny_llama.run(texts, record=[hook]).records[hook], wanted)
    assert torch.equal(tiny_llama.run([text_sample(text) for text in texts], record=[hook]).records[hook], wanted)
    alone = tiny_llama.run(texts[1], record=[hook]).records[hook]
    torch.testing.assert_close(alone[0], wanted[1, : alone.shape[1]], atol=1e-5, rtol=1e-4)
