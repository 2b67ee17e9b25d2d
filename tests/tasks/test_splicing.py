"""What looks at dictionaries in the network they come from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from auditor.base.reporter import Reporter
from auditor.data.sample import Sample, text_sample
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


def test_that_looks_are_at_as_many_samples_as_planned_or_as_before_where_a_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore(np.zeros((60, 2), dtype=np.float32), "h")
    texts = [text_sample(f"one {number}") for number in range(20)]
    splicing = Splicing(lambda: None, texts, store, TrainConfig(splice_samples=12, look_samples=0))
    looked = list[list[str]]()

    def loss(sae: object, samples: list[Sample], reporter: Reporter) -> SimpleNamespace:
        looked.append([sample.text or "" for sample in samples])
        figures = dict.fromkeys(("increase", "recovered", "kl", "fvu"), 0.5)
        return SimpleNamespace(**figures, intervals={"kl": (0.1, 0.9)}, baselines={}, n=7, n_samples=12, rows=3)

    monkeypatch.setattr(splicing, "_loss", loss)
    new, went_on = SimpleNamespace(meta={"probed": []}), SimpleNamespace(meta={"probed": [{"samples": 8.0}]})
    splicing.probe(new, Reporter())
    splicing.looked_at = 12
    told = splicing.probe(new, Reporter())
    splicing.probe(went_on, Reporter())
    asked = Splicing(lambda: None, texts, store, TrainConfig(splice_samples=12, look_samples=6))
    monkeypatch.setattr(asked, "_loss", loss)
    asked.probe(went_on, Reporter())
    assert [len(held) for held in looked] == [4, 12, 8, 6] and looked[0] == looked[1][:4] and looked[2] == looked[1][:8]
    assert (told["samples"], told["kl_low"], told["kl_high"]) == (12, 0.1, 0.9)


@pytest.mark.parametrize(
    ("four", "eight", "seconds", "each"), [(2.0, 3.0, 2.0, 0.25), (9.0, 4.0, 4.0, 0.5)], ids=["usual", "held up"]
)
def test_that_no_sample_of_a_look_is_said_to_take_no_time(tiny_llama, monkeypatch, four, eight, seconds, each):
    hook, width = "blocks.0.resid_post", tiny_llama.hook_points["blocks.0.resid_post"].width
    texts = [text_sample(f"one {number}") for number in range(20)]
    store = MemoryStore(np.random.default_rng(0).normal(size=(60, width)).astype(np.float32), hook)
    splicing, took = Splicing(lambda: tiny_llama, texts, store, TrainConfig(splice_samples=12)), {4: four, 8: eight}
    monkeypatch.setattr(splicing, "_seconds", lambda sae, samples: took[samples])
    look = splicing.tried(SimpleNamespace(hook=hook, hook_out=""))
    assert (look.samples, look.most, look.seconds, look.sample_seconds) == (4, 12, seconds, each)
    assert look.end_seconds == seconds + 8 * each
