"""Every architecture on an NVIDIA GPU explains as much as on the processor."""

from __future__ import annotations

import pytest
import torch

from auditor.sae.quality import evaluate
from auditor.sae.train_config import ARCHS
from auditor.sae.trainer import train
from tests.sae.test_training_archs import config_of, world

__all__ = ["world"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("arch", ARCHS)
def test_that_training_explains_as_much_as_on_the_processor(arch, world, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        config = config_of(arch, steps=300, batch_size=128, d_sae=96, dead_after=5000, device=device)
        found[device] = evaluate(train(config, world, tmp_path / device), world, 2000)
    assert found["cuda"].fvu < max(1.1 * found["cpu"].fvu, found["cpu"].fvu + 0.02)
    assert found["cuda"].l0 == pytest.approx(found["cpu"].l0, rel=0.15)
