"""What looks at dictionaries in the network they come from."""

from __future__ import annotations

import numpy as np

from auditor.data.sample import text_sample
from auditor.sae.train_config import TrainConfig
from auditor.tasks.splicing import Splicing
from tests.sae.memory_store import MemoryStore


def test_that_baselines_are_fitted_to_rows_from_all_over_the_store():
    rows = np.repeat(np.arange(60_000, dtype=np.float32)[:, None], 2, axis=1)
    splicing = Splicing(lambda: None, [text_sample("one two")], MemoryStore(rows, "h"), TrainConfig())
    taken = splicing._fitted_to("h").rows[:, 0]
    assert len(taken) == 8192
    # Of the mean of 8192 rows drawn from all 60,000, the deviation is 191.
    assert abs(float(taken.mean()) - 30_000) < 1000
