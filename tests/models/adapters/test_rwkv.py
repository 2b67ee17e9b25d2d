"""RWKV without the library's halving of its residual stream."""

from __future__ import annotations

from pathlib import Path

import torch

from auditor.models import open_model
from tests.models.tiny.encoders import made
from tests.models.tiny.entry import Tiny, two_texts


def test_that_the_stream_goes_on_from_block_to_block_and_logits_are_the_librarys(tmp_path: Path) -> None:
    settings = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 5, "intermediate_size": 24}
    source = Tiny("rwkv", made("Rwkv", "ForCausalLM", **settings, context_length=40, rescale_every=2)).save(tmp_path)
    model = open_model(tmp_path)
    inputs = model.encode(two_texts()[:1])
    run = model.run(inputs, record=[name for name in model.hook_points if "resid" in name])
    with torch.no_grad():
        told = source(inputs.ids, output_hidden_states=True)
    torch.testing.assert_close(run.logits, told.logits, atol=1e-4, rtol=1e-4)
    for number in range(4):
        after, before = run.rows(f"blocks.{number}.resid_post"), run.rows(f"blocks.{number + 1}.resid_pre")
        assert torch.equal(after, before)
    halved = told.hidden_states[3]
    torch.testing.assert_close(run.rows("blocks.3.resid_post"), 4 * halved, atol=1e-4, rtol=1e-4)
