"""Training whose features are sharded over processes: the curve and the dictionary of one process.

Tolerance: loss, FVU and L0 of every step within 1e-4 of one process' (relative); weights within 2e-3 after 30 steps of
Adam at a rate of 3e-3. 128 features on 3 processes are 43, 43 and 42.
"""

from __future__ import annotations

import numpy as np
import pytest

from auditor.base.errors import AuditorError, Stop
from auditor.sae import load
from tests.torchrun.processes import together
from tests.torchrun.runs import learn
from tests.torchrun.test_data_parallel import assert_same_curve


@pytest.fixture(scope="module", params=["topk", "batchtopk"])
def alone(request, tmp_path_factory):
    """An architecture, and what one process learns with it."""
    changed = {"arch": request.param}
    return changed, learn(None, "features", tmp_path_factory.mktemp("alone") / "d", changed)


@pytest.mark.parametrize("size", [2, 3])
def test_that_the_dictionary_is_that_of_one_process(size, alone, tmp_path):
    changed, (curve, tensors, _) = alone
    given = together(size, learn, "features", tmp_path / "d", changed)
    assert curve[-1][4] > 0, "no feature died, so AuxK was not tried"
    for member in given:
        assert_same_curve(member[0], curve)
    assert given[0][1].keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(given[0][1][name], tensor, rtol=2e-3, atol=2e-3, err_msg=name)
    held = [member[1]["W_dec"].shape[0] for member in given[1:]]
    assert held == ([64] if size == 2 else [43, 42])
    np.testing.assert_array_equal(load(tmp_path / "d").W_enc.numpy(), given[0][1]["W_enc"])


def test_that_a_run_goes_on_sharded_and_not_on_any_number(alone, tmp_path):
    changed, (curve, tensors, _) = alone
    out = tmp_path / "d"
    assert [type(end) for end in together(3, learn, "features", out, changed, 7)] == [Stop] * 3
    with pytest.raises(Stop):
        learn(None, "rows", out, changed, 12)
    assert [type(end) for end in together(2, learn, "features", out, changed, 17)] == [Stop] * 2
    if changed["arch"] == "topk":  # which rows a batch of BatchTopK is chosen over would change
        assert [type(end) for end in together(2, learn, "rows", out, changed, 22)] == [Stop] * 2
    found = together(4, learn, "features", out, changed)[0]
    assert_same_curve(found[0], curve)
    np.testing.assert_allclose(found[1]["W_dec"], tensors["W_dec"], rtol=2e-3, atol=2e-3)
    assert [place.name for place in tmp_path.iterdir()] == ["d"]


def test_that_what_cannot_be_sharded_is_told(tmp_path):
    for changed, said in [({"arch": "relu"}, "relu cannot be sharded"), ({"d_sae": 5}, "cannot be sharded over 4")]:
        ends = together(4, learn, "features", tmp_path / "d", changed)
        assert all(isinstance(end, AuditorError) and said in end.message for end in ends)
