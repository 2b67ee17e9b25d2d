"""What architectures do on a GPU and nowhere else, on tensors that say they lie on one and hold no numbers: types and
devices fit one another under CUDA's autocast, and nothing asks for a number, which would make the step wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from auditor.sae.archs import ARCHITECTURES
from auditor.sae.parameters import Parameters
from auditor.sae.train_config import ARCHS
from auditor.sae.trainer import Trainer
from tests.sae.memory_store import MemoryStore
from tests.sae.test_training_archs import config_of

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def store():
    rng, widths = np.random.default_rng(), {"a": 24, "b": 24, "y": 16, "z": 16}
    return MemoryStore({name: rng.standard_normal((200, width)) for name, width in widths.items()})


@pytest.fixture
def pretended(monkeypatch):
    """Autocast takes it that there is a GPU."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU)


# Temporal dictionaries ask where samples end.
@pytest.mark.parametrize("arch", [arch for arch in ARCHS if ARCHITECTURES.get(arch).takes != "samples"])
def test_that_a_step_mixes_no_types_or_devices_and_waits_for_nothing(arch, store, pretended):
    trainer = Trainer(config_of(arch, batch_size=32), store)
    architecture, here = trainer.architecture, trainer.batch(next(trainer.batches()))
    with pretended:
        named = {name: moved(tensor).requires_grad_() for name, tensor in trainer.progress.parameters.named().items()}
        four = {name: named.pop(name) for name in ("encoder", "decoder", "b_enc", "b_dec")}
        parameters = Parameters(**four, more=named)
        x = moved(here.x)
        batch = replace(here, x=x, target=x if here.target is here.x else moved(here.target), dead=moved(here.dead))
        for name, value in vars(architecture).items():
            if isinstance(value, torch.Tensor):
                setattr(architecture, name, moved(value))
        architecture.device, architecture.step = GPU, None
        outcome = architecture.by_hand(parameters, batch) or architecture.loss(parameters, batch)
        for tensor in parameters.named().values():
            tensor.grad = moved(tensor)
        architecture.before_update(parameters)
        architecture.after_update(parameters)
        architecture.observe(parameters, batch, outcome)
    assert {tensor.device for tensor in vars(outcome).values() if tensor is not None} == {GPU}
    assert outcome.loss.dtype == outcome.squared_error.dtype == torch.float32 and outcome.loss.shape == ()
    assert outcome.counts.shape == trainer.progress.silent.shape and outcome.counts.dtype == torch.int64
