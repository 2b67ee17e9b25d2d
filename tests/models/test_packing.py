"""Packed texts: each text's rows are those it has alone, in every family that can keep texts apart."""

from __future__ import annotations

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, Sample, text_sample
from auditor.models import Model
from auditor.models.packing import in_sequences, must_keep_apart, packed
from tests.models.tiny import ALL, GROUPS, opened

TEXTS = ("one two red cat sat", "cat three", "red red two", "sat", "three two one cat cat sat")


def test_that_texts_fill_sequences_in_turn() -> None:
    assert in_sequences([4, 3, 3, 9, 1, 1, 8], 10) == [3, 2, 2]
    assert in_sequences([10, 10], 10) == [1, 1] and in_sequences([], 10) == []


def test_that_a_packed_batch_says_whose_each_position_is(tiny_llama: Model) -> None:
    alone = tiny_llama.encode([text_sample(text) for text in TEXTS])
    lengths = alone.mask.sum(1).tolist()
    together = packed(alone, sum(lengths[:3]))
    assert together.document is not None and together.place is not None
    assert int(together.mask.sum()) == sum(lengths) and len(together.ids) < len(TEXTS)
    for number, length in enumerate(lengths):
        own = together.document == number
        assert together.place[own].tolist() == list(range(length))
        for name in ("ids", "kind", "unit"):
            assert getattr(together, name)[own].tolist() == getattr(alone, name)[number, :length].tolist()
    assert not together.mask[together.document < 0].any()


@pytest.mark.parametrize("name", [tiny.name for group in ("Decoders", "Encoders") for tiny in GROUPS[group]])
def test_that_a_family_keeps_packed_texts_apart_or_says_that_it_cannot(name: str) -> None:
    model = opened(ALL[name]).model
    hook = list(model.hook_points)[-1]
    if model.hook_points[hook].stream != "text" or "text" not in model.modalities:
        pytest.skip("reads more than one text")
    alone = model.encode([text_sample(text) for text in TEXTS])
    together = packed(alone, 14)
    assert together.document is not None
    rows, wanted = (model.run(inputs, record=[hook]).rows(hook) for inputs in (together, alone))
    found = [rows[together.document == number] for number in range(len(TEXTS))]
    apart = all(
        torch.allclose(mine, wanted[number, : len(mine)], rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        for number, mine in enumerate(found)
    )
    try:
        must_keep_apart(model, hook)
        refused = False
    except AuditorError as error:
        refused = "apart" in error.message
    assert refused != apart
    if name in ("llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "gptj", "phi", "mixtral"):
        assert apart


def test_that_images_are_not_packed(tiny_paired: Model) -> None:
    picture = ImageRef.of(torch.full((40, 40, 3), 9, dtype=torch.uint8).numpy())
    with pytest.raises(AuditorError, match="Only texts can be packed"):
        packed(tiny_paired.encode([Sample("a", image=picture)]), 40)
