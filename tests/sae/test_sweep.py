"""Several dictionaries on one pass: what a sweep means, and that sharing the pass changes none of them."""

from __future__ import annotations

import pytest

from auditor.base.errors import AuditorError
from auditor.sae.baselines import Components
from auditor.sae.sweep import expand, label
from auditor.sae.trainer import Trainer, train, train_all
from tests.sae.memory_store import MemoryStore, known
from tests.sae.test_trainer import SMALL, Listener, weights


@pytest.fixture(scope="module")
def store():
    return MemoryStore(known(4000)[0])


def swept(text, **changes):
    return expand(SMALL.model_copy(update={"sweep": text, **changes}))


def test_that_a_sweep_is_every_combination_in_the_order_it_is_written():
    made = swept(" k = 2, 4 ; seed=0,1,2; lr=1e-3")
    assert [(one.k, one.seed, one.lr) for one in made] == [(k, s, 1e-3) for k in (2, 4) for s in (0, 1, 2)]
    assert all(one.sweep == "" and one.data_seed == SMALL.seed for one in made)
    assert [label(one, made) for one in made[:2]] == ["k=2, seed=0", "k=2, seed=1"]
    assert swept("") == [SMALL] and label(SMALL, [SMALL]) == ""
    assert [one.arch for one in swept("arch=topk,relu; d_sae=32,64")] == ["topk", "topk", "relu", "relu"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("k", "cannot be read"), ("k=", "cannot be read"), ("steps=1,2", "cannot be read"),
        ("k=1;k=2", "cannot be read"), ("k=two", "no number"), ("k=0", "k"), ("arch=none", "arch"),
        ("seed=" + ",".join(map(str, range(65))), "65 dict"),
    ],
)  # fmt: skip
def test_that_what_cannot_be_swept_is_told(text, told):
    with pytest.raises(AuditorError, match=told):
        swept(text)


def test_that_each_of_a_sweep_is_bit_for_bit_what_it_would_be_alone(store, tmp_path):
    made = swept("k=2,3; seed=0,1; arch=topk,relu", d_sae=32, steps=20)
    store.served.clear()
    outs = [tmp_path / str(number) for number in range(len(made))]
    train_all(made, store, outs)
    assert [number for seed, number in store.served if seed == SMALL.seed] == list(range(20))  # one pass
    for number in (0, 3, 6):
        alone = tmp_path / f"alone-{number}"
        train(made[number], store, alone)
        assert weights(alone) == weights(outs[number])
    assert len({weights(out) for out in outs}) == 6  # k means nothing to ReLU


def test_that_components_are_found_once_a_seed_in_whatever_order_a_sweep_is_written(store, tmp_path, monkeypatch):
    found, of = [], Components.of
    monkeypatch.setattr(Components, "of", lambda *given: found.append(given) or of(*given))
    made = swept("k=2,3; seed=0,1", d_sae=32, steps=10, evaluate_rows=600)
    saes = train_all(made, store, [tmp_path / str(number) for number in range(len(made))])
    assert len(found) == 2
    alone = train(made[3], store, tmp_path / "alone")
    assert alone.meta["quality"] == saes[3].meta["quality"] != saes[2].meta["quality"] and len(found) == 3


def test_that_a_mishap_of_one_halves_its_rate_alone_and_the_others_end_as_ever(store, tmp_path, monkeypatch):
    made = swept("k=2,3", steps=30)
    train_all(made, store, [tmp_path / "a", tmp_path / "b"])
    update, spoilt = Trainer.update, []

    def spoil(self, outcome, **how):
        update(self, outcome, **how)
        if self.config.k == 3 and self.progress.step == 15 and not spoilt:
            spoilt.append(self.progress.parameters.decoder.detach().fill_(float("nan")))

    monkeypatch.setattr(Trainer, "update", spoil)
    listener = Listener()
    saes = train_all(made, store, [tmp_path / "c", tmp_path / "d"], listener)
    assert weights(tmp_path / "a") == weights(tmp_path / "c")
    assert weights(tmp_path / "b") != weights(tmp_path / "d")
    assert saes[0].meta["mishaps"] == [] and saes[1].meta["mishaps"] == [{"step": 15, "back_to": 10, "rate": 0.5}]
    (told,) = [data for kind, data in listener.told if kind == "warning"]
    assert told["run"] == "k=3"


def test_that_curves_and_densities_are_told_for_each(store, tmp_path):
    listener = Listener()
    train_all(swept("k=2,3", steps=10), store, [tmp_path / "a", tmp_path / "b"], listener)
    for kind in ("curve", "density"):
        told = [(data["run"], data["step"]) for name, data in listener.told if name == kind]
        assert told == [("k=2", 5), ("k=3", 5), ("k=2", 10), ("k=3", 10)]
    # The step's own figures are of the first.
    assert [step for step, _ in listener.metrics] == [5, 10]


def test_that_architectures_that_read_otherwise_do_not_share_a_pass(tmp_path):
    rows = known(500)[0]
    store, outs = MemoryStore({"a": rows, "b": rows[::-1]}), [tmp_path / "a", tmp_path / "b"]
    for settings, told in (({"target": "b"}, "Only transcoders"), ({"target": ""}, "none is named")):
        with pytest.raises(AuditorError, match=told):
            train_all(swept("arch=topk,transcoder", hook="a", **settings), store, outs)
    assert not list(tmp_path.iterdir())
