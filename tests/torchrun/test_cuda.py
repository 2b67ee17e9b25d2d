"""The exchange over NCCL, as far as one GPU can show it: a group of one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import Stop
from tests.torchrun.processes import together
from tests.torchrun.runs import learn, learn_alone

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CUDA = {"device": "cuda"}


@pytest.mark.parametrize("changed", [CUDA, CUDA | {"arch": "batchtopk"}], ids=["topk", "batchtopk"])
@pytest.mark.parametrize("how", ["rows", "features"])
def test_that_one_process_of_a_group_learns_what_one_alone_does(how, changed, tmp_path):
    alone = together(1, learn_alone, tmp_path / "alone", changed, device="cuda")[0]
    assert isinstance(together(1, learn, how, tmp_path / "d", changed, 13, device="cuda")[0], Stop)
    curve = together(1, learn, how, tmp_path / "d", changed, device="cuda")[0][0]
    # bfloat16 products are added in another order, and a feature that dies a step later takes AuxK with it.
    np.testing.assert_allclose(np.array(curve)[:, 1:4], np.array(alone[0])[:, 1:4], rtol=0.05)
