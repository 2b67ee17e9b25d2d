"""Texts that are not packed are run without a wait for the GPU, and as the library runs them by itself."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from auditor.data.sample import text_sample
from auditor.models import open_model
from auditor.models.unpacked import nothing_packed
from tests.models.tiny import ALL

TEXTS = ("red cat two", "one")


class Asked(TorchDispatchMode):
    """Counts what asks a tensor for a number: on a GPU, the program then waits until all that came before is done."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "mixtral", "opt", "bloom", "llava"])
def test_that_a_batch_of_texts_asks_for_no_number_and_gives_the_librarys_logits(family, tmp_path):
    ALL[family].save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    inputs = model.encode([text_sample(text) for text in TEXTS])
    with Asked() as asked, torch.no_grad():
        logits = model.run(inputs).logits
    assert asked.count == 0
    with Asked() as asked, torch.no_grad():
        theirs = model.network(input_ids=inputs.ids.clamp(min=0), use_cache=False).logits
    assert torch.equal(logits, theirs)
    if family in ("llama", "gemma3_text", "mixtral"):
        assert asked.count >= 1, "else the library looks no more, and auditor.models.unpacked is needless"


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1]], ids=["padded", "full"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "t5", "qwen2_vl"])
def test_that_a_gpu_is_not_asked_where_there_is_padding(family, texts, tmp_path):
    ALL[family].save(tmp_path / "model")
    model = open_model(tmp_path / "model")
    inputs = model.encode([text_sample(text) for text in texts])
    assert inputs.ragged == (len(texts) > 1)
    hook = next(name for name in model.hook_points if name.endswith("blocks.1.resid_post"))
    with Asked() as asked, torch.no_grad():
        run = model.run(inputs, record=[hook])
    assert asked.count == 0
    with Asked() as asked, torch.no_grad():  # nothing is known of the padding: the library looks
        theirs = model.run(replace(inputs, ragged=None), record=[hook])
    assert torch.equal(run.records[hook], theirs.records[hook]) and torch.equal(run.logits, theirs.logits)
    assert asked.count >= 1, "else the library looks no more, and this is needless"


def test_that_the_library_looks_by_itself_in_other_threads_and_afterwards():
    from transformers import masking_utils

    packed = torch.tensor([[0, 1, 0, 1]])
    found = []

    def look() -> None:
        found.append(masking_utils.find_packed_sequence_indices(packed))

    with nothing_packed():
        with nothing_packed():
            look()
        look()
        beside = threading.Thread(target=look)
        beside.start()
        beside.join()
    look()
    assert found[:2] == [None, None]
    assert [one.tolist() for one in found[2:]] == [[[0, 0, 1, 1]]] * 2
