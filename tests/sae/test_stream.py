"""Training from a running network: the rows that a store would hold, without sinks, the same again after a stop."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.base.errors import AuditorError, Stop
from auditor.data import ImageRef, Sample, Samples, chunking, draw, open_samples
from auditor.models import open_model
from auditor.sae import stream as streams
from auditor.sae.plan import plan
from auditor.sae.quality import evaluate
from auditor.sae.sae import Sae
from auditor.sae.stream import Stream
from auditor.sae.trainer import TrainConfig, train
from auditor.store import recipe
from auditor.store.record import RecordConfig, record
from tests.models.tiny import ALL
from tests.sae.test_trainer import Listener, weights

HOOK = "blocks.0.resid_post"
WORDS = "the a cat sat on mat and ran over small hill to see moon rise while rain fell def return 12 + = )"
CONFIG = TrainConfig(
    hook=HOOK, d_sae=256, k=8, steps=30, batch_size=256, checkpoint_every=10, metrics_every=5, context=32,
    buffer_rows=1024, evaluate_rows=512, device="cpu", dead_after=5000,
)  # fmt: skip


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(1)
    words = np.array(WORDS.split())
    return [Sample(f"s{n}", text=" ".join(rng.choice(words, int(rng.integers(3, 60))))) for n in range(120)]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(streams, "_FIRST_WINDOW", 512)


def taken(stream, count, **how):
    batches = stream.batches(CONFIG.batch_size, **how)
    return [np.array(next(batches)) for _ in range(count)]


def test_that_a_stream_hands_out_the_rows_that_a_store_holds_and_no_sinks_or_special_tokens(
    tiny_llama, texts, tmp_path
):
    stream = Stream(CONFIG, tiny_llama, texts)
    held = {sample.id for sample in stream.held}
    learned = [text for text in texts if text.id not in held]
    assert len(held) == 6 and len(learned) == 114
    store = record(RecordConfig(model="m", samples="s", hooks=(HOOK,), context=32, store_dtype="float32"),
                   tiny_llama, learned, tmp_path / "a.store")  # fmt: skip
    assert store.counts()["special"] >= 114  # the first of each text, and sinks
    rows = store.rows(np.flatnonzero(store.positions().kind == 1))
    epoch = np.concatenate(taken(stream, len(rows) // 256, kinds=("text",)))
    ours, theirs = (np.sort(found.sum(1)) for found in (epoch, rows))
    # All but the last of an epoch: each row of the store once, up to what batches of other texts round differently.
    nearest = theirs[np.clip(np.searchsorted(theirs, ours), 0, len(theirs) - 1)]
    assert np.median(np.abs(ours - nearest)) < 1e-3
    assert np.linalg.norm(epoch, axis=1).max() < 1.01 * np.linalg.norm(rows, axis=1).max()
    assert stream.counts()["text"] == pytest.approx(len(rows), rel=0.5)


def test_that_of_a_large_corpus_as_many_texts_are_learned_from_as_training_takes(tiny_llama, texts, monkeypatch):
    for module in (draw, recipe):
        monkeypatch.setattr(module, "FEW", 16)
    monkeypatch.setattr(chunking, "_AT_ONCE", 8)
    samples = Samples("texts", texts)
    small = CONFIG.model_copy(update={"steps": 2, "batch_size": 128})
    some, all_ = (Stream(config, tiny_llama, samples) for config in (small, CONFIG))
    tokens = sum(some.learned.tokens)
    assert 1.25 * 256 <= tokens < 0.5 * sum(all_.learned.tokens) and 16 <= some.learned.drawn < 60
    assert all_.learned.drawn == 0 and not {s.id for s in some.held} & {s.id.split("#")[0] for s in all_.learned}
    assert some.meta["stream"]["tokens"] == 320 and some.digest != all_.digest
    assert "tokens" not in Stream(CONFIG, tiny_llama, texts[:10]).meta["stream"]
    first = taken(some, 2)
    assert all(np.array_equal(*pair) for pair in zip(first, taken(Stream(small, tiny_llama, samples), 2), strict=True))


def test_that_of_many_pictures_as_many_are_looked_at_as_training_takes(tmp_path, monkeypatch):
    """A picture has 4 patches and a class token, which is never learned from."""
    monkeypatch.setattr(recipe, "_FEW_PICTURES", 16)
    ALL["vit"].save(tmp_path / "model")
    model, rng = open_model(tmp_path / "model"), np.random.default_rng(0)
    for number in range(400):
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:03}.png")
    looked, facts = [], ImageRef.facts
    monkeypatch.setattr(ImageRef, "facts", lambda self: looked.append(self.name) or facts(self))
    small = CONFIG.model_copy(update={
        "steps": 2, "batch_size": 64, "hook": "vision.blocks.0.resid_post", "kinds": "image", "evaluate_rows": 16,
    })  # fmt: skip
    stream = Stream(small, model, open_samples(tmp_path))
    assert len(stream.learned) == len(looked) and 1.25 * 128 <= 4 * len(looked) < 1.25 * 128 + 4 * 16
    assert stream.n_rows == 16 and len(looked) < 80
    assert not {sample.id for sample in stream.held} & {sample.id for sample in stream.learned}
    again = Stream(small, model, open_samples(tmp_path))
    assert all(np.array_equal(*pair) for pair in zip(taken(stream, 2), taken(again, 2), strict=True))


def test_that_batches_start_anywhere_with_and_without_marks(tiny_llama, texts):
    whole = taken(Stream(CONFIG, tiny_llama, texts), 20, seed=3)
    for first in (1, 7, 13):
        again = Stream(CONFIG, tiny_llama, texts)
        for ours, wanted in zip(taken(again, 4, seed=3, start=first), whole[first:], strict=False):
            np.testing.assert_array_equal(ours, wanted)
    told = Stream(CONFIG, tiny_llama, texts)
    told.take_marks(again.marks())
    runs = counted(told)
    np.testing.assert_array_equal(taken(told, 1, seed=3, start=13)[0], whole[13])
    replayed = counted(fresh := Stream(CONFIG, tiny_llama, texts))
    taken(fresh, 1, seed=3, start=13)
    assert 0 < len(runs) < len(replayed)
    other = taken(Stream(CONFIG, tiny_llama, texts), 1, seed=4)[0]
    assert not np.array_equal(other, whole[0])


def counted(stream):
    """What the model is run on from here on."""
    runs, run_on = [], stream._run_on

    def counting(samples, *rest):
        runs.append(samples)
        return run_on(samples, *rest)

    stream._run_on = counting
    return runs


def test_that_each_epoch_has_another_order_and_rows_come_from_many_samples(tiny_llama, texts):
    stream = Stream(CONFIG, tiny_llama, texts)
    first, second = stream._order(0, 0), stream._order(0, 1)
    assert first != second and sorted(chain(*first)) == sorted(chain(*second)) == list(range(len(stream.learned)))
    assert first == Stream(CONFIG, tiny_llama, texts)._order(0, 0)


def test_that_a_stopped_stream_goes_on_to_the_same_bytes(tiny_llama, texts, tmp_path):
    whole = train(CONFIG, Stream(CONFIG, tiny_llama, texts), tmp_path / "whole")
    with pytest.raises(Stop):
        train(CONFIG, Stream(CONFIG, tiny_llama, texts), tmp_path / "parts", Listener(stop_at=17))
    again = Stream(CONFIG, tiny_llama, texts)
    train(CONFIG, again, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert whole.meta["model_digest"] == tiny_llama.digest
    other = CONFIG.model_copy(update={"buffer_rows": 2048})
    with pytest.raises(Stop):
        train(CONFIG, Stream(CONFIG, tiny_llama, texts), tmp_path / "third", Listener(stop_at=17))
    with pytest.raises(AuditorError, match="other settings: buffer_rows, store"):
        train(other, Stream(other, tiny_llama, texts), tmp_path / "third")


def test_that_a_stream_teaches_as_much_as_a_store_of_the_same_samples(tiny_llama, texts, tmp_path):
    config = CONFIG.model_copy(update={"steps": 150, "k": 16})
    stream = Stream(config, tiny_llama, texts)
    held = {sample.id for sample in stream.held}
    recipe = RecordConfig(model="m", samples="s", hooks=(HOOK,), context=32)
    store = record(recipe, tiny_llama, [t for t in texts if t.id not in held], tmp_path / "a.store")
    fresh = record(recipe, tiny_llama, stream.held, tmp_path / "b.store")
    streamed, stored = (train(config, source, tmp_path / str(n)) for n, source in enumerate((stream, store)))
    ours, theirs = (evaluate(sae, fresh).fvu for sae in (streamed, stored))
    assert ours == pytest.approx(theirs, rel=0.15) and theirs < 0.6
    # What the stream measures on is what was held out.
    told = streamed.meta["quality"]
    assert told["n_samples"] >= 6 and told["fvu"] == pytest.approx(ours, rel=0.1)


def test_that_several_hook_points_come_side_by_side(tiny_llama, texts):
    names = ["blocks.0.mlp_out", "blocks.1.resid_post"]
    config = CONFIG.model_copy(update={"hook": names[0], "target": names[1]})
    stream = Stream(config, tiny_llama, texts)
    both = taken(stream, 1, seed=1, hook=names)[0]
    for at, name in enumerate(names):
        single = taken(stream, 1, seed=1, hook=name)[0]
        np.testing.assert_array_equal(both[:, 576 * at : 576 * (at + 1)], single)
        assert stream.rows(np.arange(5), name).shape == (5, 576)
    assert not np.array_equal(stream.rows(np.arange(5), names[0]), stream.rows(np.arange(5), names[1]))


def test_that_a_sweep_runs_the_model_once_for_the_first_look(tiny_llama, texts):
    stream = Stream(CONFIG, tiny_llama, texts)
    found = plan(CONFIG.model_copy(update={"sweep": "k=4,8,16"}), stream)
    assert found.step_ms > 0 and stream.row_seconds() > 0
    assert found.minutes * 60e3 / CONFIG.steps > 1e3 * CONFIG.batch_size * stream.row_seconds() * 0.5


def test_that_samples_that_give_nothing_are_told(tiny_llama, texts):
    with pytest.raises(AuditorError, match="no rows of kind image"):
        next(Stream(CONFIG, tiny_llama, texts).batches(8, kinds=("image",)))
    with pytest.raises(AuditorError, match="two samples at least"):
        Stream(CONFIG, tiny_llama, texts[:1])
    with pytest.raises(AuditorError, match="no hook point"):
        Stream(CONFIG.model_copy(update={"hook": "blocks.9.resid_post"}), tiny_llama, texts)
    blind = Sae("relu", torch.zeros(9, 4), torch.zeros(4, 9), torch.zeros(4), torch.zeros(9), hook=HOOK)
    with pytest.raises(AuditorError, match="works on 9"):
        evaluate(blind, Stream(CONFIG, tiny_llama, texts))
