"""Networks that do not fit: which blocks stay in main memory, and that nothing else changes. A real GPU is in
tests/gpu; here the memory is a made-up budget, and what is brought over is a copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.base.errors import AuditorError
from auditor.data import text_sample
from auditor.models import Ablate, Model, open_model
from auditor.models.edits.weight import EditWeight
from auditor.models.placement import blocks_of, plan
from tests.models.tiny import ALL

CPU = torch.device("cpu")
SAMPLES = [text_sample("one two red cat sat"), text_sample("cat three")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("placement") / "llama"
    ALL["llama"].save(folder)
    return open_model(folder)


def size(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in (*module.parameters(), *module.buffers()))


def budget(model: Model, blocks: int) -> int:
    """Bytes for what is no block, `blocks` blocks, and one that is brought over."""
    each = size(model.network.get_submodule("model.layers.0"))
    return size(model.network) - (model.n_layers - blocks - 1) * each


@pytest.fixture(scope="module")
def split(whole: Model) -> Model:
    return open_model(whole.path, most_bytes=budget(whole, 1))


def test_that_as_many_blocks_are_held_as_fit(whole: Model) -> None:
    names = [f"model.layers.{number}" for number in range(3)]
    assert blocks_of(whole.network) == names
    for held in range(2):
        found = plan(whole.network, CPU, budget(whole, held))
        assert found.brought == tuple(names[held:])
        assert found.bytes_held + found.bytes_brought == size(whole.network)
        assert found.bytes_held + size(whole.network.get_submodule(names[0])) <= budget(whole, held)
        assert f"{held} of 3 blocks on cpu" in str(found)
    assert plan(whole.network, CPU, size(whole.network)).brought == ()
    assert plan(whole.network, CPU, None).brought == ()


def test_that_too_little_for_one_block_is_told(whole: Model) -> None:
    with pytest.raises(AuditorError, match="at least"):
        open_model(whole.path, most_bytes=budget(whole, 0) - 1)


def test_that_values_gradients_and_edits_are_those_of_the_whole(whole: Model, split: Model) -> None:
    hooks = [name for name in whole.hook_points if not name.endswith("pattern")]
    inputs = whole.encode(SAMPLES)
    ours, theirs = split.run(inputs, record=hooks), whole.run(inputs, record=hooks)
    assert torch.equal(ours.logits, theirs.logits)  # type: ignore[arg-type]
    assert all(torch.equal(ours.records[hook], theirs.records[hook]) for hook in hooks)
    weight = EditWeight("model.layers.2.mlp.down_proj.weight", "scale", 0.5)
    for edits in ([Ablate("blocks.1.mlp_out")], [weight]):
        changed = split.run(inputs, edits=edits).logits
        assert torch.equal(changed, whole.run(inputs, edits=edits).logits)  # type: ignore[arg-type]
        assert not torch.equal(changed, theirs.logits)  # type: ignore[arg-type]
    found = []
    for model in (split, whole):
        run = model.run(inputs, record=["embed"], grad=True)
        assert run.logits is not None
        found.append(torch.autograd.grad(run.logits[0, -1, 5], run.records["embed"])[0])
    assert torch.equal(*found)


def test_that_a_block_is_brought_once_a_run_and_goes_home_however_the_run_ends(whole: Model, split: Model) -> None:
    assert [one.runs for one in split.brought] == [split.brought[0].runs] * 2
    inputs, before = whole.encode(SAMPLES), [one.runs for one in split.brought]
    homes = [list(one.tensors()) for one in split.brought]
    there: list[bool] = []

    def look(module: nn.Module, args: object, output: object) -> None:
        held = [list(one.tensors()) for one in split.brought]
        there.extend(any(a is not b for a, b in zip(x, y, strict=True)) for x, y in zip(held, homes, strict=True))

    handle = split.network.get_submodule("model.layers.2.mlp").register_forward_hook(look)
    split.run(inputs)
    handle.remove()
    assert there == [False, True], "only the block that runs is there"
    split.run(inputs, record=["blocks.1.attn_out"], logits=False)
    with pytest.raises(AuditorError, match="Position 99"):
        split.run(inputs, edits=[Ablate("blocks.2.attn_out", positions=[99])])
    assert [one.runs - start for one, start in zip(split.brought, before, strict=True)] == [3, 2]
    assert all(
        a is b for one, home in zip(split.brought, homes, strict=True) for a, b in zip(one.tensors(), home, strict=True)
    )


def test_that_8_bit_weights_and_adapters_are_brought_too() -> None:
    from tests.models.peft.make_fixtures import FIXTURES
    from tests.models.test_overlay import inputs

    model = open_model(FIXTURES / "lora", base=FIXTURES / "base-llama", dtype="int8")
    most = size(model.network) - size(model.network.get_submodule("model.layers.0"))
    parted = open_model(FIXTURES / "lora", base=FIXTURES / "base-llama", dtype="int8", most_bytes=most + 2000)
    assert parted.brought
    assert torch.equal(parted.run(inputs()).logits, model.run(inputs()).logits)  # type: ignore[arg-type]
