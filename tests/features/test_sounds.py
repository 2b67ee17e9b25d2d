"""Which features fire on a sound, and on what a decoder writes."""

from __future__ import annotations

import torch

from auditor.data import Sample
from auditor.features.fires import fires_on
from auditor.sae.sae import Sae
from tests.models.tiny import ALL, opened
from tests.models.tiny.encoders import two_sounds


def neurons(width: int, hook: str) -> Sae:
    """A dictionary with a feature for each channel."""
    both = torch.eye(width)
    return Sae("relu", both, both, torch.zeros(width), torch.zeros(width), hook=hook)


def test_that_features_fire_at_times_of_a_sound() -> None:
    model, sample = opened(ALL["whisper"]).model, two_sounds()[0]
    fires = fires_on(None, model, neurons(32, "encoder.blocks.1.resid_post"), sample)
    assert fires.tokens[:3] == [" 0.00s", " 0.02s", " 0.04s"] and {fire.kind for fire in fires} == {"text"}
    # 0.5 s of sound; the network reads on in silence, and nothing fires there. The first frame is like any other.
    assert max(fire.position for fire in fires) < 25
    run = model.run([sample], record=["encoder.blocks.1.resid_post"])
    rows = run.rows("encoder.blocks.1.resid_post")[0, :25]
    assert fires[0].activation == float(rows.max()) and fires[0].position == int(rows.max(1).values.argmax())


def test_that_features_of_a_decoder_fire_at_what_it_writes() -> None:
    model = opened(ALL["t5"]).model
    # As many tokens read as written, so that only the stream tells which are meant.
    sample = Sample("a", text="one two red", labels={"target": "cat sat one"})
    hook = "decoder.blocks.0.resid_post"
    inputs = model.encode([sample])
    assert inputs.target is not None and inputs.target.ids.shape == inputs.ids.shape
    fires = fires_on(None, model, neurons(32, hook), sample)
    assert fires.tokens == model.token_strings(inputs.target.ids[0])
